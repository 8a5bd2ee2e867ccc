"""A config's training step, compiled for TPUs that are not here, and what the compiler says."""

import dataclasses
import re
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.runs.checkpoints import placed
from babeldraw.sharding.aot import HBM_GIB, topology_devices
from babeldraw.sharding.batch import batch_sharding
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import make_mesh
from babeldraw.sharding.pipeline import make_schedule
from babeldraw.sharding.program import collectives
from babeldraw.train.experiment import Experiment
from babeldraw.train.step import make_step, state_shardings

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Report:
    """What one chip holds and sends in a step.

    Attributes:
      topology: as asked for, such as v4:4x4x8.
      chips: how many.
      hbm_gib: `arguments` (state and batch), `temporaries`, `peak` and the `limit` that the
        compiler allows, GiB; where the step does not fit, `peak` is what it would need.
      fits: whether it compiled.
      collectives: by kind, how often each stands in the program (once in a loop counts once).
      pipeline: schedule of each pipelined stack.
      compile_seconds: on this machine.
    """

    topology: str
    chips: int
    hbm_gib: dict[str, float]
    fits: bool
    collectives: dict[str, dict[str, int]]
    pipeline: dict[str, dict[str, Any]]
    compile_seconds: float


def compile_step(experiment: Experiment, topology: str, slices: int = 1) -> Report:
    """Compiles the real step for a real topology; no chip is needed.

    Args:
      experiment: a parsed config.
      topology: see `sharding.aot.topology_devices`.
      slices: number of such slices, along `data`.

    Raises:
      UserError: the topology is unknown, libtpu is missing, or the config does not fit the mesh.
    """
    devices = topology_devices(topology, slices)
    layout = make_layout(experiment.mesh, make_mesh(experiment.mesh, devices))
    experiment.check_layout(layout)
    objective = experiment.make_objective()
    places = state_shardings(objective, layout)
    state = placed(jax.eval_shape(objective.init, jax.random.key(0)), places)
    batch = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=batch_sharding(layout.mesh, leaf.shape)
        )
        for name, leaf in objective.batch_spec().items()
    }
    whole = NamedSharding(layout.mesh, PartitionSpec())
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=whole)
    limit = HBM_GIB[topology.partition(":")[0]]
    began = time.monotonic()
    try:
        compiled = make_step(objective, layout, places).lower(state, batch, key).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _bytes_needed(str(error))
        if needed is None:
            raise
        memory, counts = {"peak": needed}, {}
    else:
        memory, counts = _memory(compiled), _counts(compiled.as_text())
    return Report(
        topology=topology,
        chips=len(devices),
        hbm_gib={**memory, "limit": limit},
        fits="temporaries" in memory,
        collectives=counts,
        pipeline=_pipelines(experiment, layout),
        compile_seconds=time.monotonic() - began,
    )


def describe(report: Report) -> str:
    """The report as lines of text."""
    memory = report.hbm_gib
    verdict = "fits" if report.fits else "does NOT fit"
    lines = [
        f"{report.topology}, {report.chips:,} chips; compiled in {report.compile_seconds:.0f} s",
        f"HBM per chip: {memory['peak']:.2f} GiB of {memory['limit']:.2f}, {verdict}",
    ]
    if report.fits:
        lines.append(
            f"  state and batch {memory['arguments']:.2f}, temporaries {memory['temporaries']:.2f}"
        )
    else:
        lines.append(
            "  what helps: mesh.rules=fsdp or mesh.zero1=true, remat=full, train.accumulation, "
            "more data groups"
        )
    for path, schedule in report.pipeline.items():
        shown = ", ".join(f"{name} {value}" for name, value in schedule.items())
        lines.append(f"{path}: {shown}")
    if report.collectives:
        lines.append("communication, in the program's text: kind, in a loop, outside of loops")
    for kind, count in report.collectives.items():
        lines.append(f"  {kind:<20} {count['in_loop']:>5} {count['outside']:>5}")
    return "\n".join(lines)


def _memory(compiled: Any) -> dict[str, float]:
    found = compiled.memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes / GIB,
        "temporaries": found.temp_size_in_bytes / GIB,
        "peak": found.peak_memory_in_bytes / GIB,
    }


def _bytes_needed(message: str) -> float | None:
    """GiB that the compiler wanted, from its message of running out of memory; else None."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"[Uu]sed ([\d.]+)([GM]) of", message)
    if found is None:
        return float("nan")
    return float(found.group(1)) / (1 if found.group(2) == "G" else 1024)


def _counts(text: str) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for found in collectives(text):
        own = counts.setdefault(found.kind, {"in_loop": 0, "outside": 0})
        own["in_loop" if found.in_loop else "outside"] += 1
    return dict(sorted(counts.items()))


def _pipelines(experiment: Experiment, layout) -> dict[str, dict[str, Any]]:
    if not layout.pipelined:
        return {}
    found = {}
    for path, stack in experiment.stacks.items():
        schedule = make_schedule(stack.blocks, layout)
        found[path] = {
            "stages": schedule.stages,
            "rounds": schedule.rounds,
            "microbatches": schedule.microbatches,
            "iterations": schedule.iterations,
            "bubble": round(schedule.bubble, 4),
        }
    return found
