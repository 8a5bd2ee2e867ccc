"""What experiments of many cells share: cells that are kept, runs of so many minutes, tables.

A cell is a training or a measurement with figures of its own, which go to a JSON file in a folder
and are not made again while it lies there.
"""

import argparse
import fnmatch
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from babeldraw.errors import UserError
from babeldraw.runs.compiled import use_compilation_cache
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.train.evaluation import Evaluated, TrainedRun, evaluated
from babeldraw.train.loop import train
from babeldraw.train.metrics import last_timing, read_scalars

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORTS = ROOT / "docs" / "reports"
# Steps whose pace says how many fit into a cell's minutes.
PACE = 60
QUICK = "runlocal"

Figures = dict[str, Any]
# A cell's figures, of the script's arguments.
Cell = Callable[[argparse.Namespace], Figures]


# ------------------------------------------------------------------ cells


def arguments(about: str) -> argparse.ArgumentParser:
    """What such a script asks."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="runs and pictures")
    parser.add_argument("--out", type=pathlib.Path, help="figures; docs/reports unless --quick")
    parser.add_argument("--cells", default="*", help="names or patterns, separated by commas")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    return parser


def few(count: int, args: argparse.Namespace) -> int:
    """So many of something that is measured, or two in a quick run."""
    return 2 if args.quick else count


def folder_of_figures(args: argparse.Namespace, name: str) -> pathlib.Path:
    """Where the figures of an experiment go; it is made."""
    folder = (args.out or (args.workdir / "figures" if args.quick else REPORTS)) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_cells(
    cells: Mapping[str, tuple[Cell, float]], args: argparse.Namespace, name: str
) -> dict[str, Figures]:
    """Makes the cells that `--cells` names and that have no figures yet, in their order.

    Each of several is a process of its own, so that its memory is its own too.

    Args:
      cells: by name, with the minutes that each takes by estimate.
      args: of `arguments`.
      name: of the experiment.

    Returns:
      The figures of all cells that have some.

    Raises:
      UserError: there is no such cell.
    """
    # Else a run's pace, its training, its judges and each stop would compile anew.
    use_compilation_cache(None, str(args.workdir / name))
    folder, asked = folder_of_figures(args, name), chosen(cells, args.cells)
    open_cells = [cell for cell in asked if not (folder / f"{cell}.json").exists()]
    if open_cells and not args.quick:
        whole = sum(cells[cell][1] for cell in open_cells)
        print(f"{len(open_cells)} of {len(cells)} cells are to be made: about {whole:.0f} minutes")
    for cell in open_cells:
        if len(open_cells) > 1 and not args.quick:
            # Of a flag that stands there twice the last counts.
            subprocess.run([sys.executable, *sys.argv, f"--cells={cell}"], check=True)
        else:
            write_json(folder / f"{cell}.json", cells[cell][0](args))
    files = {cell: folder / f"{cell}.json" for cell in cells}
    return {cell: json.loads(file.read_text()) for cell, file in files.items() if file.exists()}


def chosen(cells: Mapping[str, Any], patterns: str) -> list[str]:
    """The cells that `--cells` names. Raises `UserError`: none has such a name."""
    for pattern in patterns.split(","):
        if not fnmatch.filter(cells, pattern):
            raise UserError(f"--cells names {pattern!r}; the cells are {', '.join(cells)}")
    asked = {cell for pattern in patterns.split(",") for cell in fnmatch.filter(cells, pattern)}
    return [cell for cell in cells if cell in asked]


# ------------------------------------------------------------------ runs


def trained_and_judged(
    config: Any, folder: pathlib.Path, judges: Sequence[str], minutes: float = 0
) -> tuple[Figures, dict[str, Evaluated]]:
    """Trains a run, or goes on with it, and has its end judged.

    Args:
      config: of the run; it is changed.
      folder: of the run.
      judges: evaluators, with the fields that the config gives them.
      minutes: of training, evaluations and compilation apart, by the pace of a short run; a run
        that has begun keeps its steps. 0: the config's own steps.

    Returns:
      What it cost, its losses, and `quality`, the figures of each evaluator; and all that these
      found.
    """
    run, sections = RunFolder.of(str(folder)), {name: config.evaluators[name] for name in judges}
    config.train.eval_every = 0
    config.evaluators = dict.fromkeys(config.evaluators)
    if run.config_file.exists():
        set_steps(config, run.read_config()["train"]["steps"])
    elif minutes:
        set_steps(config, max(PACE, round(60 * minutes / seconds_per_step(config, folder))))
    train(config, str(folder), label=folder.name)
    found = judged(folder, sections)
    quality = {name: one.record["figures"] for name, one in found.items()}
    parameters = TrainedRun.open(str(folder)).state.params
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    return {**cost(run), "parameters": count, "quality": quality}, found


def judged(folder: pathlib.Path, sections: Mapping[str, Any]) -> dict[str, Evaluated]:
    """What evaluators, by name and the config's section of each, find of a run's end."""
    fields = {name: _given(section) for name, section in sections.items()}
    return evaluated(TrainedRun.open(str(folder)), [*sections], fields)


def _given(section: Any) -> dict[str, Any]:
    """The fields of an evaluator, but for `sampling`, which is the run's."""
    fields = {} if section is None else section.to_dict()
    return {name: value for name, value in fields.items() if name != "sampling"}


def seconds_per_step(config: Any, folder: pathlib.Path) -> float:
    """Of a short run of the same config, beside the folder."""
    short = config.copy_and_resolve_references()
    set_steps(short, PACE)
    short.train.log_every = PACE // 3
    beside = folder.parent / "pace" / folder.name
    train(short, str(beside), label=f"{folder.name}, its pace")
    return last_timing(RunFolder.of(str(beside)))["step_seconds"]


def set_steps(config: Any, steps: int) -> None:
    """Another length, with the schedules that go with it."""
    schedule = config.optimizer.schedule
    for name in ("anneal_start", "anneal_end"):
        if "prediction" in config and name in config.prediction:
            config.prediction[name] = config.prediction[name] * steps // config.train.steps
    config.train.steps = schedule.decay_end = steps
    schedule.warmup_steps = schedule.decay_start = min(schedule.warmup_steps, steps // 5)


def cost(run: RunFolder) -> Figures:
    """What a finished run took, and how its loss fell."""
    lines = [line for line in read_scalars(run) if "train/loss" in line]
    timing = last_timing(run)
    peak = timing.get("memory_gib/peak_of_device", timing.get("memory_gib/peak_of_process"))
    return {
        "steps": lines[-1]["step"],
        "minutes": lines[-1]["seconds"] / 60,
        "step_seconds": timing["step_seconds"],
        "peak_gib": peak,
        "losses": [[line["step"], line["train/loss"]] for line in lines],
    }


# ------------------------------------------------------------------ tables


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is of words, the others are of numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(figure: Mapping[str, Any]) -> str:
    """A share in percent, with its interval of 95 % where it has one."""
    if "interval" not in figure:
        return f"{100 * figure['value']:.1f} %"
    low, high = figure["interval"]
    return f"{100 * figure['value']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def with_interval(figure: Mapping[str, Any], form: str) -> str:
    """A figure with its interval; JSON holds none that is not finite, as PSNR of equal pictures."""
    low, high = figure["interval"]
    if None in (figure["value"], low, high):
        return "not finite"
    return f"{figure['value']:{form}} [{low:{form}}, {high:{form}}]"
