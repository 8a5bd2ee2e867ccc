"""Several runs side by side: a table in Markdown and a page with their pictures."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.config import first_difference
from babeldraw.data.image import write_whole
from babeldraw.pages import render
from babeldraw.runs.folder import write_json
from babeldraw.train.evaluation import Evaluated, TrainedRun

# Of a grid, the rows of pictures that the page shows; the first of several is the same of all runs.
STRIPS = {("reconstruction", "reconstructions"): (0, 1), ("samples", "grid"): (0,)}
NONE = "–"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A run and what was found of it.

    Attributes:
      name: as people call it.
      height: of its pictures, in pixels.
      found: by evaluator.
    """

    name: str
    height: int
    found: dict[str, Evaluated]

    @classmethod
    def of(cls, workdir: str, run: TrainedRun, found: dict[str, Evaluated]) -> "Judged":
        return cls(workdir, run.context.image_size[0], found)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [evaluated.record for evaluated in self.found.values()]


def write_table(folder: Path, runs: Sequence[Judged]) -> None:
    """Writes table.md, index.html, which opens offline, and figures.json."""
    rows, notes = [*table_rows(runs)], [*differences(runs)]
    names = [run.name for run in runs]
    write_whole(folder / "table.md", markdown(names, rows, notes).encode(errors="replace"))
    page = render("runs.html", names=names, rows=rows, notes=notes, strips=[*strips(runs)])
    write_whole(folder / "index.html", page.encode(errors="replace"))
    write_json(folder / "figures.json", {run.name: run.records for run in runs})


def table_rows(runs: Sequence[Judged]) -> Iterator[tuple[str, list[str]]]:
    """A figure's name and its value of each run, in words; then what the runs cost."""
    yield from figure_rows([run.records for run in runs])
    firsts = [run.records[0] if run.records else {} for run in runs]
    yield "step", [f"{first['step']:,}" if first else NONE for first in firsts]
    yield "weights", [first["weights"] if first else NONE for first in firsts]
    yield "parameters", [f"{first['parameters']:,}" if first else NONE for first in firsts]
    training = [first["training"] if first else {} for first in firsts]
    minutes = [_divided(own.get("seconds"), 60) for own in training]
    yield "minutes of training", [_number(value) for value in minutes]
    rates = [own.get("pictures_per_second") for own in training]
    yield "pictures per second, training", [_number(value) for value in rates]
    yield "pictures per second, drawing", [_drawing(run) for run in runs]
    peaks = [own.get("peak_gib") for own in training]
    yield "peak GiB, training", [_number(value) for value in peaks]
    yield "peak GiB, evaluation", [_peak(run) for run in runs]


def figure_rows(
    records: Sequence[Sequence[Mapping[str, Any]]],
) -> Iterator[tuple[str, list[str]]]:
    """`EVALUATOR/NAME` and its value in each column, in words, of the records of each column."""
    figures = [
        {
            f"{record['evaluator']}/{name}": value
            for record in of_column
            for name, value in record["figures"].items()
        }
        for of_column in records
    ]
    for name in dict.fromkeys(name for own in figures for name in own):
        yield name, [_figure(own[name]) if name in own else NONE for own in figures]


def differences(runs: Sequence[Judged]) -> Iterator[str]:
    """A sentence for each evaluator whose figures were not measured in the same way."""
    first, *others = runs
    for name, own in first.found.items():
        for run in others:
            if name not in run.found:
                continue
            parts = (e.record["protocol"] for e in (own, run.found[name]))
            if different := first_difference(*parts, name):
                where, before, now = different
                yield (
                    f"not measured alike: {where} is {before!r} of {first.name} and {now!r} of "
                    f"{run.name}"
                )


def strips(runs: Sequence[Judged]) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
    """For each kind of pictures its title and rows of pictures, each of a run."""
    for (evaluator, key), lines in STRIPS.items():
        rows = []
        for run in runs:
            picture = run.found[evaluator].pictures.get(key) if evaluator in run.found else None
            if picture is None:
                continue
            cut = [picture[run.height * i : run.height * (i + 1)] for i in lines]
            if len(cut) > 1 and not rows:
                rows.append(("original", cut[0]))
            rows.append((run.name, cut[-1]))
        if rows:
            yield f"{evaluator}: {', '.join(_conditions(runs, evaluator)) or key}", rows


def _conditions(runs: Sequence[Judged], evaluator: str) -> list[str]:
    """What the pictures of a row were drawn of."""
    record = next(run.found[evaluator].record for run in runs if evaluator in run.found)
    conditions = record["protocol"].get("conditions", {"first": []})
    return [str(word) for word in conditions["first"][:8]]


def markdown(
    names: Sequence[str], rows: Sequence[tuple[str, list[str]]], notes: Sequence[str] = ()
) -> str:
    """A table of rows with a column for each name, and a sentence for each note under it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [line(["", *names]), line(["---", *["---:"] * len(names)])]
    lines += [line([name, *values]) for name, values in rows]
    lines += ["", "In brackets the interval of 95 %.", *(f"\n{note}." for note in notes)]
    return "\n".join(lines) + "\n"


def _figure(figure: dict[str, Any]) -> str:
    value = _number(figure["value"])
    if "interval" not in figure:
        return value
    low, high = map(_number, figure["interval"])
    return f"{value} [{low}, {high}]"


def _number(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _drawing(run: Judged) -> str:
    found = [r["pictures_per_second"] for r in run.records if r["pictures_per_second"]]
    return _number(found[-1] if found else None)


def _peak(run: Judged) -> str:
    """The most of this run; a bound where an earlier one may have held it."""
    if not run.records:
        return NONE
    machine = max((r["machine"] for r in run.records), key=lambda own: own["peak_bytes"])
    only_bounds = all(r["machine"]["peak_is_bound"] for r in run.records)
    value = machine["peak_bytes"] / 2**30
    text = _number(value) if math.isfinite(value) else NONE
    return f"at most {text}" if only_bounds else text
