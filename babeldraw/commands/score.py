"""Scores how complex each picture of a data set is, and writes the level that each goes into.

Scorers of captions: `regressor`, a run of `babeldraw score train` (--workdir), and
`language_model`, behind any endpoint that speaks as OpenAI's does (--url, --model; the key is read
from the environment). Scorers of pictures, to compare with: `jpeg` and `squared_error`. Each score
is kept in --scores as soon as it is there, with its reasons; the command goes on where it stopped.

With --tokenizer and --thresholds, or --target codes on average, each picture gets a level. A folder
is told it by the list complexity.jsonl, shards of `babeldraw prepare` by a column beside each.
With --prompts, texts are scored in place of data: --scores is then a table for `sample --prompts`,
beside which the scores themselves are kept.

Example:
  babeldraw score measure --workdir=runs/cat --source=folder --path=my_pictures --out=errors.jsonl
  babeldraw score train --errors=errors.jsonl --workdir=runs/complexity
  babeldraw score --workdir=runs/complexity --source=folder --path=my_pictures \\
      --scores=scores.jsonl --tokenizer=runs/cat --target=64
  babeldraw score --scorer=language_model --url=http://localhost:8000/v1 --model=my_model \\
      --source=folder --path=my_pictures --scores=by_model.jsonl
  babeldraw score report --errors=errors.jsonl --scores=scores.jsonl,jpeg.jsonl --out=levels
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from babeldraw.commands.flags import as_flags, required
from babeldraw.complexity.base import ComplexityScorer
from babeldraw.complexity.baselines import QUALITY, JpegSize, SquaredError
from babeldraw.complexity.choosing import check_reads_words
from babeldraw.complexity.endpoint import Endpoint
from babeldraw.complexity.language_model import LanguageModel
from babeldraw.complexity.lines import Lines
from babeldraw.complexity.measured import codes_by_level
from babeldraw.complexity.regressor import RegressorRun
from babeldraw.complexity.scoring import Reading, Texts, class_scores, score_all
from babeldraw.data.complexity import (
    LIST,
    LevelThresholds,
    check_target,
    check_thresholds,
    levels_of,
    mean_codes,
    thresholds_for,
    write_complexity,
)
from babeldraw.data.config import DataConfig
from babeldraw.data.image import write_whole
from babeldraw.data.records import Source, classes_of
from babeldraw.data.sources import open_source
from babeldraw.drawing.captioning import CaptionerRun
from babeldraw.drawing.prompts import read_prompts
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.say import ProgressReport, say
from babeldraw.tokenizers.kinds import read_tokenizer

SCORERS = ("regressor", "language_model", "jpeg", "squared_error")
# Sources whose records can be told their level.
WITH_COLUMNS = ("folder", "shards")
STRINGS = {
    "workdir": (None, "A run folder of `babeldraw score train`, of the scorer regressor."),
    "url": ("", "Of a language model, up to /v1; its key stands in the environment."),
    "model": ("", "Its name there."),
    "key_variable": ("OPENAI_API_KEY", "The environment's variable of the key; empty: no key."),
    "captioner": ("", "A captioner's run, for pictures without a caption and without a class."),
    "scores": (None, "The .jsonl file that keeps the scores; of --prompts a .tsv table."),
    "prompts": ("", "A file of texts, as of sample, in place of data."),
    "tokenizer": ("", "A run folder of a tokenizer of several levels; none: scores alone."),
}


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_enum("scorer", "regressor", SCORERS, "Who scores.", flag_values=values)
    for name, (default, told) in STRINGS.items():
        flags.DEFINE_string(name, default, told, flag_values=values)
    define_data(values)
    flags.DEFINE_list("thresholds", [], "Scores between levels, ascending.", flag_values=values)
    flags.DEFINE_float("target", 0.0, "Codes of a picture on average.", flag_values=values)
    flags.DEFINE_integer("quality", QUALITY, "Of JPEG files.", flag_values=values)
    flags.DEFINE_integer("side", 16, "Of squares of one colour, in pixels.", flag_values=values)
    flags.DEFINE_float("seconds", 60.0, "For one answer.", flag_values=values)
    flags.DEFINE_integer("attempts", 5, "To get an answer.", flag_values=values)
    flags.DEFINE_integer("per_minute", 0, "Requests at most; 0: no limit.", flag_values=values)
    flags.DEFINE_integer("workers", 4, "Requests at the same time.", flag_values=values)


def define_data(values: flags.FlagValues) -> None:
    """The flags that say which pictures."""
    flags.DEFINE_string("source", "folder", "folder, shards, tfds, shapes.", flag_values=values)
    flags.DEFINE_string("path", "", "The folder, or the TFDS name.", flag_values=values)
    flags.DEFINE_string("split", "all", "The part of the data.", flag_values=values)
    flags.DEFINE_integer("num", 0, "Records at most; 0: all.", flag_values=values, lower_bound=0)
    flags.DEFINE_integer(
        "size", 0, "Side of the pictures; 0: as they are.", flag_values=values, lower_bound=0
    )


def run(values: flags.FlagValues) -> int:
    out = required(values, "scores")
    scorer = make_scorer(values)
    codes = _codes(values.tokenizer)
    thresholds = _thresholds(values, codes)
    if values.prompts:
        return _score_prompts(values, scorer, codes, thresholds)
    source = open_data(values, values.size or 64)
    count = min(values.num or len(source), len(source))
    size = (values.size, values.size) if values.size else None
    reading = Reading(source, size, _teller(values.captioner))
    # What a score hangs on beside scorer and data; a flag that is not given is not named.
    more = {"captioner": values.captioner} if values.captioner else {}
    if scorer.reads_pictures and size:
        more["size"] = values.size
    scores_N = _scored(scorer, reading, count, out, more)
    if np.isnan(scores_N).all():
        raise UserError(f"none of {count} records of {source.name} got a score")
    if values.target:
        thresholds = thresholds_for(scores_N, [*codes.values()], values.target)
    levels = LevelThresholds(tuple(codes), thresholds)
    _tell(scores_N, levels, codes)
    _write_columns(values, source, scores_N, scorer.identity, levels)
    return 0


def _scored(
    scorer: ComplexityScorer, reading: Reading, count: int, file: str, more: Mapping[str, Any]
) -> np.ndarray:
    """`score_all` with a line on the terminal; scores are kept in the file as they come."""
    head = {"scorer": scorer.identity, "data": reading.source.name, **more}
    lines, report = Lines(file, head, "--scores"), ProgressReport("score", count, unit="records")
    scores_N = score_all(scorer, reading, count, lines, report.update)
    report.close()
    return scores_N


# ------------------------------------------------------------------ what the flags ask for


def make_scorer(values: flags.FlagValues) -> ComplexityScorer:
    """The scorer that the flags ask for."""
    if values.scorer == "jpeg":
        return JpegSize(values.quality)
    if values.scorer == "squared_error":
        return SquaredError(values.side)
    if values.scorer == "regressor":
        return RegressorRun.open(required(values, "workdir"))
    with as_flags({"key": "key_variable"}):
        endpoint = Endpoint(
            required(values, "url"),
            required(values, "model"),
            os.environ.get(values.key_variable, ""),
            seconds=values.seconds,
            attempts=values.attempts,
            per_minute=values.per_minute,
        )
    return LanguageModel(endpoint, workers=values.workers)


def open_data(values: flags.FlagValues, side: int) -> Source:
    """The pictures; those without a caption are kept."""
    data = DataConfig(source=values.source, path=values.path, split=values.split)
    if data.source == "tokens":
        raise UserError(
            "--source=tokens are codes already; score the pictures that they were made of"
        )
    return open_source(data, data.split, side, 0, require_captions=False)


def _codes(workdir: str) -> dict[str, int]:
    """Codes by level of a tokenizer's run; none of no run."""
    if not workdir:
        return {}
    config = RunFolder.to_read(workdir).read_config()
    if config["objective"] != "image_tokenizer":
        raise UserError(f"--tokenizer={workdir} is a run of {config['objective']}")
    return codes_by_level(read_tokenizer(config))


def _thresholds(values: flags.FlagValues, codes: dict[str, int]) -> tuple[float, ...]:
    """Those that are given; () where they are to be chosen, or no levels are asked for."""
    if bool(values.thresholds) + bool(values.target) != bool(codes):
        raise UserError(
            "levels need --tokenizer and one of --thresholds and --target; scores alone none of "
            "the three"
        )
    if values.target and values.prompts:
        raise UserError("--target is of a data set; for --prompts give the --thresholds of theirs")
    if values.target:
        check_target(values.target, [*codes.values()])
    if not values.thresholds:
        return ()
    try:
        given = tuple(map(float, values.thresholds))
    except ValueError as error:
        raise UserError(f"--thresholds={','.join(values.thresholds)}: numbers, please") from error
    check_thresholds(given, len(codes), "--thresholds")
    return given


def _teller(workdir: str):
    """A captioner, as `Reading` takes it; None of no run."""
    if not workdir:
        return None
    captioner = CaptionerRun.open(workdir)
    return lambda images: [caption.text for caption in captioner.caption(images)]


# ------------------------------------------------------------------ what is written


def _tell(scores_N: np.ndarray, levels: LevelThresholds, codes: dict[str, int]) -> None:
    """How many pictures go into each level."""
    if missing := int(np.isnan(scores_N).sum()):
        where = f" and go into level {levels.names[0]}" if levels.names else ""
        say(f"{missing} of {len(scores_N)} records have no score{where}")
    if not levels.names:
        return
    counts = np.bincount(levels_of(scores_N, levels.thresholds), minlength=len(levels.names))
    told = ", ".join(f"{n} of level {name}" for n, name in zip(counts, levels.names, strict=True))
    mean = mean_codes(scores_N, levels.thresholds, [*codes.values()])
    between = ", ".join(f"{threshold:g}" for threshold in levels.thresholds)
    say(f"{told}; {mean:.2f} codes on average; thresholds {between}")


def _write_columns(
    values: flags.FlagValues,
    source: Source,
    scores_N: np.ndarray,
    scorer: str,
    levels: LevelThresholds,
) -> None:
    """What the data themselves are told."""
    if values.source not in WITH_COLUMNS:
        say(f"--source={values.source} has no place for a column; the scores are in --scores")
        return
    if values.split != "all" or len(scores_N) < len(source):
        say("of a part of the data no column is written; the scores are in --scores")
        return
    if not levels.names and getattr(source, "levels", None) is not None:
        say("the data have levels, which scores alone would erase: they are in --scores only")
        return
    if values.source == "shards":
        write_complexity(Path(values.path), source.counts, scores_N, scorer, levels)
        say(f"columns beside the shards in {values.path}")
        return
    if not Path(values.path).is_dir():
        say(f"{values.path} is no folder to write a list into; the scores are in --scores")
        return
    _write_list(Path(values.path) / LIST, source, scores_N, levels)


def _write_list(file: Path, source: Source, scores_N: np.ndarray, levels: LevelThresholds) -> None:
    """A row for each picture of a folder: its file, captions, score and level.

    The captions are those that it has, for a list that named none would be none.
    """
    lines, labels = [], []
    for (name, _, listed, label), score in zip(source.entries(), scores_N, strict=True):
        row = {"file": name, "caption": listed}
        if np.isfinite(score):
            row["complexity"] = float(f"{score:.6g}")
        if levels.names:
            row["level"] = levels.name_of(score)
        lines.append(json.dumps(row) + "\n")
        labels.append(label)
    write_whole(file, "".join(lines).encode())
    say(f"a list of {len(lines)} pictures in {file}")
    classes = classes_of(source)
    if levels.names and classes:
        means = class_scores(scores_N, labels, len(classes))
        for name, score in zip(classes, means, strict=True):
            say(f"class {name}: score {score:.2f}, level {levels.name_of(score)}")


def _score_prompts(
    values: flags.FlagValues,
    scorer: ComplexityScorer,
    codes: dict[str, int],
    thresholds: tuple[float, ...],
) -> int:
    """A table of texts with their levels, as `sample --prompts` reads it; scores lie beside it."""
    out = values.scores
    if not codes:
        raise UserError("--prompts needs --tokenizer and --thresholds, to have levels")
    if not out.lower().endswith(".tsv"):
        raise UserError(f"--scores={out} is the table of --prompts; give it a name in .tsv")
    check_reads_words(scorer)
    # Words alone: a tab would end a column, and `sample` reads quotation marks as they are.
    texts = [" ".join(prompt.text.split()) for prompt in read_prompts(values.prompts)]
    scores_N = _scored(scorer, Reading(Texts(texts)), len(texts), f"{out}.jsonl", {})
    levels = LevelThresholds(tuple(codes), thresholds)
    _tell(scores_N, levels, codes)
    rows = zip(texts, map(levels.name_of, scores_N), strict=True)
    table = "".join(f"{text}\t{level}\n" for text, level in (("Prompt", "Level"), *rows))
    write_whole(out, table.encode("utf-8", "replace"))
    say(f"levels of {len(texts)} texts in {out}")
    return 0
