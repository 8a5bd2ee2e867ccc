"""Measures a config's training step on this machine, with random pictures and weights.

Parts are differences: of programs compiled for themselves (the loss; the loss with gradients; the
whole update, its state donated as in training) and of the loop around them (its bookkeeping; a new
batch for each step). XLA fuses across these borders, so a part says what it adds to the ones before
it, not what it would take alone, and one that hides behind the device's work may come out at or
below 0. Each is timed in several turns, of which the quickest counts; the ratio of two configs is
the median over the turns.

Example:
  babeldraw bench train --config=configs/folder/tokenizer.py --steps=20
  babeldraw bench train --config=configs/folder/tokenizer.py \\
      --compare=configs/folder/tokenizer.py --compare.train.batch_size=64
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import config_flags

from babeldraw.commands.bench_train_machine import free_bytes, matmul
from babeldraw.commands.bench_train_step import LESS, Bench
from babeldraw.commands.flags import required
from babeldraw.errors import UserError
from babeldraw.estimate.chips import CHIPS
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say, waiting
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.memory import peak_bytes
from babeldraw.sharding.mesh import make_mesh
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.clock import KINDS
from babeldraw.train.experiment import parse
from babeldraw.train.start import check_data, open_batches, open_train_source, resolve

# Each config is timed in so many turns, so that what else the machine does hits both.
TURNS = 5
GIB = 2**30


def define(values: flags.FlagValues, argv: list[str]) -> None:
    fields = [word for word in argv if re.match(r"--?compare\.", word)]
    if fields and not any(re.fullmatch(r"--?compare(=.*)?", word) for word in argv):
        raise UserError(f"{fields[0]} sets a field of --compare, which is missing; name a config")
    for name, text in (
        ("config", "A config file; FILE.py:runlocal for a tiny one; --config.FIELD=VALUE sets"),
        ("compare", "Another, or the same, measured in turns with it; --compare.FIELD=VALUE sets"),
    ):
        config_flags.DEFINE_config_file(
            name, None, f"{text} a field.", flag_values=values, sys_argv=argv
        )
    flags.DEFINE_integer("steps", 20, "Steps to time, of each stage.", flag_values=values)
    flags.DEFINE_bool("data", False, "Read the config's own data.", flag_values=values)
    flags.DEFINE_string("json", None, "File for the figures.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    names = ["config"] if values["compare"].value is None else ["config", "compare"]
    experiments = {name: _parsed(values, name) for name in names}
    if values.steps < 1:
        raise UserError(f"--steps is {values.steps}; at least 1 is needed")
    for experiment in experiments.values():
        # Before anything is opened or compiled.
        experiment.check_layout(make_layout(experiment.mesh, make_mesh(experiment.mesh)))
    with contextlib.ExitStack() as holding:
        benches = []
        for name, experiment in experiments.items():
            batches = None
            if values.data:
                experiment, batches = holding.enter_context(_own_data(experiment))
            with waiting(f"compiling --{name} for {jax.devices()[0].device_kind}"):
                benches.append(Bench(name, experiment, batches))
        check_memory(benches)
        report = measure(benches, values.steps)
    for bench in benches:
        file = config_flags.get_config_filename(values[bench.name])
        report["train"][bench.name] = {"file": file, **report["train"][bench.name]}
    print(described(report))
    if values.json:
        epath.Path(values.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measure(benches: list[Bench], steps: int) -> dict[str, Any]:
    """Times the configs in turns; nothing compiles any more once the first turn has begun.

    Returns:
      What --json holds.
    """
    dtypes = {bench.name: compute_dtype(bench.experiment) for bench in benches}
    with waiting("first steps"):
        mesh = benches[0].layout.mesh
        probes = {dtype: matmul(mesh, dtype) for dtype in set(dtypes.values())}
        for bench in benches:
            bench.begin()
        for probe in probes.values():
            probe()
    rates = {dtype: [] for dtype in probes}
    for turn, count in enumerate(_shares(steps), 1):
        for bench in benches:
            bench.turn(count)
        for dtype, probe in probes.items():
            rates[dtype].append(probe())
        shown = ", ".join(f"{b.name} {1 / b.seconds['whole'][-1]:.3g} steps/s" for b in benches)
        say(f"bench {turn}/{min(steps, TURNS)}: {shown}")
    matmuls = {dtype: max(each) for dtype, each in rates.items()}
    peak, whose = peak_bytes()
    return {
        "device": jax.devices()[0].device_kind,
        "devices": benches[0].devices,
        "matmul_flops_per_second": matmuls,
        "peak_gib": {whose: peak / GIB},
        "train": {b.name: figures(b, steps, dtypes[b.name], matmuls) for b in benches},
        "ratio": _ratio(benches),
    }


def figures(bench: Bench, steps: int, dtype: str, matmuls: dict[str, float]) -> dict[str, Any]:
    """Of one config, after its turns."""
    experiment, parts = bench.experiment, bench.parts()
    second = 1 / sum(parts.values())
    batch_size, needed = experiment.train.batch_size, experiment.flops()
    found = {
        "batch_size": batch_size,
        "data": "random" if bench.batches is None else experiment.data.source,
        "steps": steps,
        "steps_per_second": second,
        "images_per_second": batch_size * second,
        "ms": {name: 1e3 * seconds for name, seconds in parts.items()} | {"step": 1e3 / second},
        # The part called so holds all of these.
        "optimizer": list(bench.objective.after_gradients),
        "dtype": dtype,
        "memory_gib": bench.memory,
    }
    if experiment.train.watch.acts:
        found["optimizer"].append("watch")
    if needed is not None:
        rate = needed.per_example * batch_size * second
        found["model_flops_per_second"] = rate
        found["share_of_matmul"] = rate / matmuls[dtype]
        kind = jax.devices()[0].device_kind
        if kind in KINDS:
            found["mfu"] = rate / bench.devices / CHIPS[KINDS[kind]].peak
    return found


def check_memory(benches: list[Bench]) -> None:
    """Refuses what does not fit, before any array is made.

    Raises:
      UserError: saying how much is needed and how much there is.
    """
    device = jax.local_devices()[0]
    free = free_bytes(device)
    if free is None:
        return
    # On a CPU all devices share the machine's memory. A state stays while the other config runs.
    shared = len(jax.local_devices()) if device.platform == "cpu" else 1
    held = sum(bench.memory["arguments"] for bench in benches)
    needed = shared * max(b.needed - b.memory["arguments"] + held for b in benches)
    if needed * GIB > free:
        where = "this machine" if device.platform == "cpu" else "each device"
        flags_named = " and ".join(f"--{bench.name}" for bench in benches)
        raise UserError(
            f"a step of {flags_named} needs {_size(needed)} and {where} has {_size(free / GIB)} "
            f"free; {LESS}"
        )


def compute_dtype(experiment: Experiment) -> str:
    """What most of a step's products are in: of its stacks the narrowest; float32 without any."""
    dtypes = {stack.compute.dtype for stack in experiment.stacks.values()}
    return "bfloat16" if "bfloat16" in dtypes else "float32"


def described(report: dict[str, Any]) -> str:
    """The report for people: a table with a column per config, then rates and memory."""
    runs = report["train"]
    lines = [f"{report['device']}, {report['devices']} device(s)"]
    for name, run in runs.items():
        lines.append(f"--{name}={run['file']}, batches of {run['batch_size']}, data {run['data']}")
    names = list(runs)
    lines += ["", "| | " + " | ".join(names) + _ratio_cell(report, "ratio", "")]
    lines += ["|---" * (len(names) + 1 + bool(report["ratio"])) + "|"]
    for figure, title in (("steps_per_second", "steps/s"), ("images_per_second", "images/s")):
        cells = " | ".join(f"{run[figure]:.3f}" for run in runs.values())
        lines.append(f"| {title} | {cells}" + _ratio_cell(report, figure))
    for part in ("step", "data", "forward", "backward", "optimizer", "host"):
        holds = {", ".join(run["optimizer"]) for run in runs.values()}
        title = f"{' / '.join(sorted(holds))}, ms" if part == "optimizer" else f"{part}, ms"
        cells = " | ".join(f"{run['ms'][part]:.2f}" for run in runs.values())
        lines.append(f"| {title} | {cells}" + (" | |" if report["ratio"] else " |"))
    lines.append("")
    matmuls = report["matmul_flops_per_second"]
    for name, run in runs.items():
        lines.append(f"{name}: {_work(run, matmuls)}; {_memory(run['memory_gib'])}")
    for whose, peak in report["peak_gib"].items():
        lines.append(f"peak memory of the {whose}, all together: {_size(peak)}")
    return "\n".join(lines)


def _ratio_cell(report: dict[str, Any], figure: str, text: str | None = None) -> str:
    if not report["ratio"]:
        return " |"
    if text is None:
        found = report["ratio"][figure]
        text = f"{found['median']:.3f} ({min(found['each']):.3f} to {max(found['each']):.3f})"
    return f" | {text or 'compare / config'} |"


def _work(run: dict[str, Any], matmuls: dict[str, float]) -> str:
    measured = f"a matmul in {run['dtype']}: {matmuls[run['dtype']] / 1e9:,.1f} GFLOP/s"
    if "model_flops_per_second" not in run:
        return f"no formula for the model's operations; {measured}"
    text = (
        f"the model's operations {run['model_flops_per_second'] / 1e9:,.1f} GFLOP/s, "
        f"{run['share_of_matmul']:.1%} of {measured}"
    )
    return text + (f"; MFU of the published peak {run['mfu']:.1%}" if "mfu" in run else "")


def _memory(found: dict[str, float]) -> str:
    return (
        f"a device holds {_size(found['peak'])}: {_size(found['arguments'])} of state and batch, "
        f"{_size(found['temporaries'])} of temporaries"
    )


def _size(gib: float) -> str:
    return f"{gib:.2f} GiB" if gib >= 1 else f"{1024 * gib:.1f} MiB"


def _parsed(values: flags.FlagValues, name: str) -> Experiment:
    config = required(values, name)
    try:
        return parse(config)
    except UserError as error:
        if name == "config":
            raise
        # Both speak of config.FIELD.
        raise UserError(f"--{name}: {error}") from error


@contextlib.contextmanager
def _own_data(experiment: Experiment) -> Iterator[tuple[Experiment, Any]]:
    """A config whose vocabulary is that of its data, and the batches of these."""
    source = open_train_source(experiment)
    check_data(experiment, source)
    with tempfile.TemporaryDirectory() as folder:
        experiment, vocabulary = resolve(experiment, RunFolder.of(folder), source)
        with contextlib.closing(open_batches(experiment, vocabulary, source)) as batches:
            yield experiment, batches


def _shares(steps: int) -> list[int]:
    """Steps of each turn, as equal as can be."""
    turns = min(steps, TURNS)
    return [len(share) for share in np.array_split(np.arange(steps), turns)]


def _ratio(benches: list[Bench]) -> dict[str, dict[str, Any]]:
    """Of the second config over the first, turn by turn; empty where there is one alone."""
    if len(benches) < 2:
        return {}
    first, second = (np.array(bench.seconds["whole"]) for bench in benches)
    sizes = [bench.experiment.train.batch_size for bench in benches]
    found = {}
    for figure, scale in (("steps_per_second", 1.0), ("images_per_second", sizes[1] / sizes[0])):
        each = scale * first / second
        found[figure] = {"median": float(np.median(each)), "each": each.tolist()}
    return found
