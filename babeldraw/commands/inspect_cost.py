"""What a training step of a config costs, before anything is compiled: operations, time, memory."""

import jax

from babeldraw.errors import UserError
from babeldraw.estimate.chips import CHIPS
from babeldraw.objectives.base import Objective, TrainState
from babeldraw.sharding.layout import Layout
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.step_memory import held_in_step
from babeldraw.train.traced_flops import traced_flops

GIB = 2**30
# Of the peak: what large steps reach by the estimates of docs/compile.md, 0.35 to 0.53.
RATE = 0.4
# Of a chip's memory: what a compiler sets aside, with its gaps and padding, is 1.2 to 1.7 times
# what the trace tells (docs/compile.md).
SURE = 0.6


def check_kind(kind: str) -> None:
    """Raises `UserError` for a device whose rate and memory are not known."""
    if kind not in CHIPS:
        raise UserError(f"--kind is {kind!r}; the kinds of devices known are {', '.join(CHIPS)}")


def operations(experiment: Experiment, objective: Objective, abstract: TrainState) -> int:
    """Multiplications and additions of a step of the whole batch.

    By the recipe's formula, in which nothing counts twice for being computed again; traced where it
    has none.
    """
    needed = experiment.flops()
    if needed is not None:
        return needed.per_example * experiment.train.batch_size
    batch, key = objective.batch_spec(), jax.random.key(0)
    return traced_flops(objective.update, abstract, batch, key)


def describe_work(flops: int, batch_size: int, kind: str, devices: int) -> str:
    """Two lines: operations of a step, and its time at a usual share of the devices' peak.

    Args:
      flops: of a step, over all devices.
      batch_size: its examples.
      kind: of the devices, a key of `CHIPS`.
      devices: their number.
    """
    seconds = flops / devices / (RATE * CHIPS[kind].peak)
    chips = f"{devices:,} {kind} {'chip' if devices == 1 else 'chips'}"
    return (
        f"a step of {batch_size:,} examples: {_flops(flops)}\n"
        f"a step at {RATE:.0%} of the rate of {chips}: {_seconds(seconds)}, "
        f"{batch_size / seconds:,.0f} examples/s".replace("%", " %")
    )


def describe_memory(
    experiment: Experiment,
    layout: Layout | None,
    abstract: TrainState,
    axes: TrainState,
    at_rest: float,
    kind: str,
) -> str:
    """Gradients and activations on one device, all together, and whether that fits.

    Args:
      experiment, layout, abstract, axes: as of `train.step_memory.held_in_step`.
      at_rest: bytes of state and batch there.
      kind: of the device, a key of `CHIPS`.
    """
    try:
        held = held_in_step(experiment, layout, abstract, axes)
    except UserError as error:
        return f"the memory of a step on a TPU is not estimated: {error}"
    total, room = (at_rest + held.total) / GIB, CHIPS[kind].hbm_gib
    if total <= SURE * room:
        verdict = "fits"
    elif total <= room:
        verdict = "near the limit, `babeldraw compile` tells more"
    else:
        verdict = f"does NOT fit; what helps: {_helps(experiment)}"
    return (
        f"{'gradients':<16} on one device {held.weights / 2**20:>14,.1f} MiB\n"
        f"{'activations':<16} on one device {held.others / 2**20:>14,.1f} MiB, as traced: before "
        "fusions, gaps and padding\n"
        f"in all, on one device: {total:,.2f} GiB of the {room} of a {kind} chip: {verdict}"
    )


def _helps(experiment: Experiment) -> str:
    """What a user may set, each with its value now."""
    mesh, train = experiment.mesh, experiment.train
    stacks = [
        f"config.{path.removeprefix('config.')}.compute.remat=full ({stack.compute.remat})"
        for path, stack in experiment.stacks.items()
        if stack.compute.remat != "full"
    ]
    layout = [] if "fsdp" in mesh.rules else [f"config.mesh.rules=fsdp ({mesh.rules})"]
    smaller = [f"a smaller config.train.batch_size ({train.batch_size})", *stacks]
    return "; ".join([*smaller, "more --devices", *layout])


def _flops(flops: int) -> str:
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if flops >= size:
            return f"{flops / size:,.1f} {unit}"
    return f"{flops / 1e6:,.3g} MFLOP"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:,.2g} ms"
