"""The shift and scale of continuous codes, measured on a run's own data before its first step.

Kept in `codes.json` of the run folder, from which all hosts and every resume read them, and in the
run's config, from which drawing does.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.records import RecordReader, Source
from babeldraw.data.views import framed
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.hosts.joining import ALONE, Alone, Hosts
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.say import say, waiting
from babeldraw.train.base_experiment import Experiment

# Pictures made codes at a time, by one program: where they are fewer, some come twice.
AT_A_TIME = 32
# Channels that hardly vary are not blown up without end.
LEAST_DEVIATION = 1e-6


def with_code_scale(
    experiment: Experiment, folder: RunFolder, source: Source, hosts: Hosts | Alone = ALONE
) -> Experiment:
    """Completes an experiment whose prediction wants them: measures them, or reads what there is.

    Args:
      experiment: of any kind.
      folder: of the run.
      source: its data.
      hosts: all of which measure, for a tokenizer's run is opened by all or none; what the first
        finds counts.

    Raises:
      UserError: the tokenizer's codes are not finite, or the file holds no numbers.
    """
    if not _measures(experiment):
        return experiment
    # A run that has begun keeps what it began with.
    if not folder.config_file.exists():
        with waiting("measuring the tokenizer's codes"):
            found = measured(experiment, source)
        if hosts.index == 0:
            _keep(found, folder)
    hosts.meet("codes")
    return with_code_scale_kept(experiment, folder)


def _keep(found: dict[str, Any], folder: RunFolder) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.codes_file, found)
    say(
        f"codes of {found['pictures']} pictures: scale {_range(found['scale'])}, shift "
        f"{_range(found['shift'])}, in {folder.codes_file}"
    )


def with_code_scale_kept(experiment: Experiment, folder: RunFolder) -> Experiment:
    """The same of what was measured before; where nothing was, the experiment as it is.

    Raises:
      UserError: the file holds no numbers.
    """
    if not _measures(experiment) or not folder.codes_file.exists():
        return experiment
    try:
        kept = json.loads(folder.codes_file.read_text())
        shift, scale = (tuple(map(float, kept[name])) for name in ("shift", "scale"))
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder.codes_file} holds no shift and scale; set config.prediction.shift and scale "
            "to those of config.json"
        ) from None
    prediction = dataclasses.replace(experiment.prediction, shift=shift, scale=scale)
    return dataclasses.replace(experiment, prediction=prediction)


def measured(experiment: Experiment, source: Source) -> dict[str, Any]:
    """Mean and reciprocal deviation of each channel, over pictures from all of the data.

    Of a run that draws into several levels, over the codes of all, each level weighing alike.

    Raises:
      UserError: the tokenizer's codes are not finite.
    """
    wanted = np.linspace(0, len(source) - 1, min(experiment.prediction.pictures, len(source)))
    indices, levels = np.unique(wanted.astype(np.int64)), (experiment.level,)
    if experiment.levels is not None:
        levels = experiment.generator.levels.names
    found = [_moments(_codes(experiment, source, indices, level)) for level in levels]
    mean, square = np.mean(found, axis=0)
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
    require(
        bool(np.isfinite(deviation).all()),
        f"config.tokenizer_run={experiment.tokenizer_run}: the codes of its tokenizer are not "
        "finite; name one that was trained well",
    )
    return {
        "shift": _rounded(mean),
        "scale": _rounded(1 / np.maximum(deviation, LEAST_DEVIATION)),
        "pictures": len(indices),
        "sampled": experiment.prediction.sampled,
    }


def _moments(parts: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each channel, and that of its square, float64 [C]."""
    count, total, squares = 0, 0.0, 0.0
    for codes in parts:
        values = np.asarray(codes, np.float64).reshape(-1, codes.shape[-1])
        count, total = count + len(values), total + values.sum(0)
        squares = squares + np.square(values).sum(0)
    return total / count, squares / count


def _measures(experiment: Experiment) -> bool:
    """Whether there is something to measure; not where speed alone is, without a tokenizer."""
    prediction = getattr(experiment, "prediction", None)
    return prediction is not None and prediction.measures and bool(experiment.tokenizer_run)


def _codes(
    experiment: Experiment, source: Source, indices: np.ndarray, level: str
) -> Iterator[np.ndarray]:
    """Codes of some records at a level, a few at a time, as training reads them."""
    share = experiment.data.max_bad_share
    if experiment.data.source == "tokens":
        reader, levels = RecordReader(source, share), experiment.generator.levels
        for index in indices:
            codes = reader.read_at(int(index)).tokens[None]
            yield codes if levels is None else levels.stored.of_level(codes, level)
        return
    run = TokenizerRun.open(experiment.tokenizer_run, level=level)
    reader = RecordReader(
        source, share, lambda index: framed(source[index], run.image_size, 1, source.name)
    )
    sampled, key = experiment.prediction.sampled, jax.random.key(experiment.train.seed)
    for start in range(0, len(indices), AT_A_TIME):
        part = indices[start : start + AT_A_TIME]
        images = np.stack([reader.read_at(int(index)).image for index in part])
        padded = images[np.arange(AT_A_TIME) % len(images)]
        own = jax.random.fold_in(key, start)
        codes = run.sampled(padded, own) if sampled else run.encode(padded)
        yield np.asarray(codes)[: len(images)]


def _rounded(values: np.ndarray) -> list[float]:
    """To six digits, as people can read them; a run goes by what is written."""
    return [float(f"{value:.6g}") for value in values]


def _range(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"
