"""The part of `babeldraw sample` that draws classes: flags, pictures, manifest, grid."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from absl import flags

from babeldraw.commands.flags import make_folder, required
from babeldraw.data.image import decode, save_png, to_grid
from babeldraw.data.sources import BadRecord
from babeldraw.errors import UserError
from babeldraw.sampling.class_sampler import ClassSampler, Prefix, rows_of_tokens
from babeldraw.train.progress import ProgressReport, say


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "class", [], "Classes by number, separated by commas; or all, or none.", flag_values=values
    )
    flags.DEFINE_string(
        "prefix", "", "With --class: a picture to go on from, kept at its top.", flag_values=values
    )
    flags.DEFINE_integer("prefix_rows", 0, "Rows of tokens kept.", flag_values=values)
    flags.DEFINE_integer("prefix_tokens", 0, "Tokens kept, row by row.", flag_values=values)
    flags.DEFINE_string(
        "classifier_run", "", "With --class: a classifier that rejects.", flag_values=values
    )
    flags.DEFINE_float(
        "acceptance", 1.0, "With --class: share of the pictures that is kept.", flag_values=values
    )


def refuse_without_class(values: flags.FlagValues) -> None:
    """Raises `UserError` for flags that only classes go with."""
    for name in ("prefix", "prefix_rows", "prefix_tokens", "classifier_run"):
        if values[name].value:
            raise UserError(f"--{name} goes with --class; give --class, or leave it out")
    if values.acceptance != 1:
        raise UserError("--acceptance goes with --class; give --class, or leave it out")


def run(values: flags.FlagValues, changed: dict[str, Any]) -> int:
    """Draws and writes; `changed` are the sampling settings that flags give."""
    for name in ("prompt", "prompts", "super_resolution"):
        if values[name].value:
            raise UserError(f"--{name} does not go with --class; leave one out")
    sampler = ClassSampler.from_run(
        required(values, "workdir"), values.tokenizer_run, values.classifier_run
    )
    classes = read_classes(values["class"].value, sampler.num_classes)
    settings = dataclasses.replace(sampler.defaults, **changed)
    prefix = _prefix(values, sampler)
    # A generator: checks are made before the folder is.
    drawn = sampler.sample(
        classes, values.num, values.seed, settings, values.batch_size, prefix, values.acceptance
    )
    first = next(drawn)
    folder = make_folder(Path(values.out), f"--out={values.out}")
    report = ProgressReport("sample", len(classes) * values.num, unit="pictures")
    pictures = []
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for picture in (first, *drawn):
            name = f"{len(pictures):05d}_class{picture.label}_seed{picture.seed}.png"
            line = {
                "class": picture.label,
                "file": name,
                "seed": picture.seed,
                "step": sampler.step,
                **dataclasses.asdict(settings),
                "prefix": values.prefix,
                "prefix_tokens": 0 if prefix is None else prefix.length,
                "acceptance": values.acceptance,
                "score": picture.score,
            }
            text = {key: str(value) for key, value in line.items() if key != "file"}
            save_png(folder / name, picture.image, text)
            manifest.write(json.dumps(line, ensure_ascii=False) + "\n")
            pictures.append(picture.image)
            report.update(len(pictures))
    report.close()
    columns = values.num if values.num > 1 else 8
    save_png(folder / "grid.png", to_grid(pictures, columns))
    say(f"{len(pictures)} pictures, grid.png and manifest.jsonl in {folder}")
    return 0


def read_classes(words: list[str], num_classes: int) -> list[int]:
    """Numbers of classes; `all` is each class once, `none` the no-class.

    Raises:
      UserError: a word that is no number, or all of no classes.
    """
    classes: list[int] = []
    for word in words:
        if word == "all":
            classes += range(num_classes)
        elif word == "none":
            classes.append(num_classes)
        elif word.isdigit():
            classes.append(int(word))
        else:
            raise UserError(f"--class={word}: a number, all or none is needed")
    if not classes:
        raise UserError("--class=all: the model knows no class; take none")
    return classes


def _prefix(values: flags.FlagValues, sampler: ClassSampler) -> Prefix | None:
    """The picture to go on from, and how much of it is kept."""
    rows, tokens = values.prefix_rows, values.prefix_tokens
    if not values.prefix:
        if rows or tokens:
            raise UserError("--prefix_rows and --prefix_tokens need a picture; give --prefix")
        return None
    if (rows != 0) == (tokens != 0):
        raise UserError("--prefix needs one of --prefix_rows and --prefix_tokens, above 0")
    try:
        image = decode(Path(values.prefix))
    except BadRecord as error:
        raise UserError(f"--prefix={values.prefix} cannot be read: {error.reason}") from error
    length = rows_of_tokens(rows, sampler.generator.tokens) if rows else tokens
    return Prefix(image, length)
