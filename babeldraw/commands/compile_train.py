"""A config's training step, compiled for TPUs that are not here, and what the compiler says."""

import collections
import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.errors import UserError
from babeldraw.estimate.aot import topologies_near, topology_devices, wires
from babeldraw.estimate.chips import CHIPS
from babeldraw.estimate.collective_costs import Wires
from babeldraw.estimate.estimate import Estimate, estimate
from babeldraw.estimate.kernel_costs import kernel_cost
from babeldraw.objectives.base import Objective
from babeldraw.runs.checkpoints import placed
from babeldraw.say import waiting
from babeldraw.sharding.batch import batch_sharding
from babeldraw.sharding.layout import Layout, make_layout
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.sharding.pipeline import make_schedule
from babeldraw.train.experiment import Experiment
from babeldraw.train.flops import ModelFlops
from babeldraw.train.overview import count
from babeldraw.train.requirements import without_kernel
from babeldraw.train.start import whole_objective
from babeldraw.train.step import make_step, state_shardings

GIB = 2**30


@dataclasses.dataclass
class Report:
    """What one chip holds, sends and does in a step. Times are estimates.

    Attributes:
      topology, slices, chips: as asked for, such as v4:4x4x8, and how many chips these are.
      mode: train, or decode, where a step is the drawing of a batch of pictures.
      mesh: devices along each axis, and the rules.
      batch_size: examples in a step.
      steps: of the config's schedule; 0 for decode.
      parameters: trained, and frozen, by part.
      hbm_gib: `arguments` (state and batch), `temporaries`, `peak`, which is all that is set aside,
        `live`, the most of it that is in use at once, and the `limit` that the compiler allows,
        GiB; where the step does not fit, `peak` is what it would need.
      fits: whether it compiled.
      largest: where it does not fit, the largest arrays of the program as it was traced.
      flops: `model` and `executed` by each chip in a step, `rematerialized` of these; `parts` and
        `formula` of the model's, for one example.
      step_seconds, mfu: `raw` and `capped`, see `sharding.estimate`.
      seconds_by_part: of the capped figure, what the core does.
      seconds_by_scope: of the capped figure, what part of the step it is for.
      examples_per_second: by the capped figure, over all chips; `days` of the config's schedule.
      collectives: of the capped figure, by kind: `count`, `bytes`, `seconds` on the links,
        `exposed` seconds and `overlapped`, the share of the seconds that are not.
      pipeline: schedule of each pipelined stack.
      tokens: steps of drawing a picture, for decode: its tokens, where each is drawn by itself.
      floor_seconds: per token, what reading weights and caches takes at least, for decode.
      notes: what the estimate leaves out.
      compile_seconds: on this machine.
    """

    topology: str
    slices: int
    chips: int
    mode: str
    mesh: dict[str, Any]
    batch_size: int
    pipeline: dict[str, dict[str, Any]]
    steps: int = 0
    parameters: dict[str, int] = dataclasses.field(default_factory=dict)
    hbm_gib: dict[str, float] = dataclasses.field(default_factory=dict)
    fits: bool = False
    compile_seconds: float = 0.0
    largest: list[str] = dataclasses.field(default_factory=list)
    flops: dict[str, Any] = dataclasses.field(default_factory=dict)
    step_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    mfu: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds_by_part: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds_by_scope: dict[str, float] = dataclasses.field(default_factory=dict)
    examples_per_second: float = 0.0
    days: float = 0.0
    collectives: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    tokens: int = 0
    floor_seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)


# Parts of a step by the names that operations carry; the first that is found counts.
_SCOPES = {
    "tokenizer": r"\btokenizer\b",
    "discriminator": "discriminator",
    "perceptual network": "perceptual|LPIPS",
    "cross-attention": "cross_attention",
    "self-attention": r"self_attention|\battention\b",
    "feed-forward": "ffn",
    "logits and loss": "logits|loss|cross_entropy",
    "norms, residual sums, dropout": "Block|stack",
}


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """What an estimate is made from.

    Attributes:
      text: of the compiled program, scheduled.
      wires: the chip and the links of its slice.
      needed: operations that the step cannot do without, for one example; None leaves the MFU out.
    """

    text: str
    wires: Wires
    needed: ModelFlops | None


def compile_step(
    experiment: Experiment, topology: str, slices: int = 1
) -> tuple[Report, Scheduled | None]:
    """Compiles the real step for a real topology; no chip is needed.

    Args:
      experiment: a parsed config.
      topology: see `estimate.aot.topology_devices`.
      slices: number of such slices, along `data`.

    Returns:
      The report, and the program that it speaks of; None where it does not fit.

    Raises:
      UserError: the topology is unknown, libtpu is missing, or the config does not fit the mesh.
    """
    devices = topology_devices(topology, slices)
    layout = make_layout(experiment.mesh, _mesh(experiment.mesh, devices, topology, slices))
    experiment.check_layout(layout)
    report = Report(
        topology=topology,
        slices=slices,
        chips=len(devices),
        mode="train",
        mesh={**layout.mesh.shape, "rules": experiment.mesh.rules, "zero1": experiment.mesh.zero1},
        batch_size=experiment.train.batch_size,
        pipeline=_pipelines(experiment, layout),
        steps=experiment.train.steps,
    )
    began = time.monotonic()
    with waiting(f"compiling for {topology}"):
        lowered, state = lowered_step(whole_objective(experiment), layout)
        report.parameters = _parameters(state)
        program = fill(report, lowered, layout, experiment.flops())
    report.notes += without_kernel(layout, experiment.stacks)
    report.compile_seconds = time.monotonic() - began
    return report, program


def _mesh(config: MeshConfig, devices: list, topology: str, slices: int) -> jax.sharding.Mesh:
    try:
        return make_mesh(config, devices)
    except UserError as error:
        wanted = config.stage * config.model * max(config.data, 1) // slices
        near = ", ".join(topologies_near(topology.partition(":")[0], wanted))
        raise UserError(f"{error}; or take a topology of about {wanted} chips: {near}") from error


def lowered_step(objective: Objective, layout: Layout) -> tuple[Any, Any]:
    """The training step, lowered, and its abstract state."""
    state, batch, key = abstract_inputs(objective, layout)
    places = state_shardings(objective, layout)
    return make_step(objective, layout, places).lower(state, batch, key), state


def abstract_inputs(objective: Objective, layout: Layout) -> tuple[Any, Any, Any]:
    """State, batch and key of a step, abstract, each with its place on the mesh."""
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
    return state, batch, key


@dataclasses.dataclass(frozen=True)
class _TooLarge:
    needed: float
    largest: list[str]


def _compile(lowered: Any) -> Any:
    """The compiled program, or what was too large."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message:
            raise
        # The compiler has two ways to say it.
        found = re.search(r"([\d.]+)([GM])\)? (?:of|exceeds)", message)
        needed = float("nan")
        if found:
            needed = float(found.group(1)) / (1 if found.group(2) == "G" else 1024)
        return _TooLarge(needed, largest_arrays(lowered.as_text()))


def largest_arrays(text: str, number: int = 5) -> list[str]:
    """The largest arrays of a lowered program (StableHLO), as it was traced: over all chips."""
    found = collections.Counter(re.findall(r"tensor<((?:\d+x)+)([a-z]+)(\d+)>", text))

    def size(array: tuple[str, str, str]) -> int:
        dims, _, bits = array
        return math.prod(int(n) for n in dims.split("x") if n) * int(bits) // 8

    return [
        f"{size(array) / GIB:,.1f} GiB over all chips: {array[1]}{array[2]}"
        f"[{array[0].rstrip('x').replace('x', ', ')}], in {found[array]} places"
        for array in sorted(found, key=size, reverse=True)[:number]
    ]


def fill(
    report: Report, lowered: Any, layout: Layout, needed: ModelFlops | None
) -> Scheduled | None:
    """Compiles a program and adds to the report what the compiler says of it.

    Args:
      report: says what it is that is compiled.
      lowered: of `jax.jit(...).lower(...)`, over the layout's mesh.
      layout: mesh and rules.
      needed: operations that it cannot do without, for one of `report.batch_size` examples; None
        leaves the MFU out.

    Returns:
      The program; None where it does not fit.
    """
    generation = report.topology.partition(":")[0]
    report.hbm_gib = {"limit": CHIPS[generation].hbm_gib}
    compiled = _compile(lowered)
    report.fits = not isinstance(compiled, _TooLarge)
    if isinstance(compiled, _TooLarge):
        report.hbm_gib["peak"], report.largest = compiled.needed, compiled.largest
        return None
    report.hbm_gib |= memory(compiled)
    devices = list(layout.mesh.devices.flat)
    program = Scheduled(compiled.as_text(), wires(generation, devices), needed)
    estimate_again(report, program)
    return program


def estimate_again(report: Report, program: Scheduled) -> None:
    """Sets what the report estimates from what the program's text says."""
    generation, needed = report.topology.partition(":")[0], program.needed
    found = estimate(
        program.text, program.wires, lambda instruction: kernel_cost(instruction, generation)
    )
    raw, capped = found["raw"], found["capped"]
    report.step_seconds = {name: one.seconds for name, one in found.items()}
    report.seconds_by_part = capped.parts
    report.seconds_by_scope = _by_scope(capped.sources)
    report.flops = {"executed": capped.flops, "rematerialized": capped.remat_flops}
    report.collectives = _collectives(capped)
    report.notes = _notes(capped)
    if capped.seconds:
        report.examples_per_second = report.batch_size / capped.seconds
    report.days = report.steps * capped.seconds / 86400
    if needed is not None:
        per_chip = needed.per_example * report.batch_size / report.chips
        report.flops |= {"model": per_chip, "parts": needed.parts, "formula": needed.formula}
        peak = CHIPS[generation].peak
        report.mfu = {
            name: per_chip / one.seconds / peak for name, one in (("raw", raw), ("capped", capped))
        }


def _by_scope(sources: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for source, seconds in sources.items():
        named = (scope for scope, words in _SCOPES.items() if re.search(words, source))
        scope = next(named, "the rest: optimizer, embeddings, layout")
        found[scope] = found.get(scope, 0.0) + seconds
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _collectives(found: Estimate) -> dict[str, dict[str, float]]:
    shown = {}
    for kind, total in sorted(found.communication.items()):
        # Waiting for another one before it counts as exposed too.
        hidden = max(1 - total.exposed / total.seconds, 0.0) if total.seconds else 0.0
        shown[kind] = {**dataclasses.asdict(total), "overlapped": hidden}
    return shown


def _notes(found: Estimate) -> list[str]:
    notes = []
    if found.unknown_loops:
        notes.append(f"{found.unknown_loops} loops of unknown length were counted once each")
    if found.unknown_kernels:
        notes.append(
            f"{found.unknown_kernels} kernels of unknown cost were counted at what they declare"
        )
    return notes


def memory(compiled: Any) -> dict[str, float]:
    """GiB on each device by what the compiler says: arguments, temporaries, and both together."""
    found = compiled.memory_analysis()
    given, made = found.argument_size_in_bytes, found.temp_size_in_bytes
    # What is set aside. The compiler's own peak counts what is alive at once, without the gaps.
    total = given + made + found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        "arguments": given / GIB,
        "temporaries": made / GIB,
        "live": found.peak_memory_in_bytes / GIB,
        "peak": total / GIB,
    }


def _parameters(state: Any) -> dict[str, int]:
    def parts(title: str, tree: Any) -> dict[str, int]:
        if not isinstance(tree, Mapping):
            return {}
        return {f"{title}/{name}": count(part) for name, part in tree.items()}

    return parts("trained", state.params) | parts("frozen", state.frozen)


def _pipelines(experiment: Experiment, layout: Layout) -> dict[str, dict[str, Any]]:
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
