"""Shows a config's parameters, shapes, axes and memory, and what a step costs; allocates nothing.

Example:
  babeldraw inspect --config=configs/babeldraw/3b.py

What lies on one of 1,024 devices, none of which need exist, and whether a step fits there:
  babeldraw inspect --config=configs/babeldraw/20b.py --devices=1024 --kind=v5p

The data as they enter the model, on a page to look at:
  babeldraw inspect --config=configs/folder/text_to_image.py --config.data.path=my_pictures \
    --data=data.html
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from babeldraw.commands.flags import required
from babeldraw.commands.inspect_cost import check_kind, describe_memory, describe_work, operations
from babeldraw.commands.inspect_data import write_data_page
from babeldraw.errors import UserError
from babeldraw.estimate.chips import CHIPS
from babeldraw.objectives.base import TrainState
from babeldraw.say import say
from babeldraw.sharding.batch import batch_sharding
from babeldraw.sharding.constraint import shardings
from babeldraw.sharding.layout import Layout, make_layout
from babeldraw.sharding.mesh import MeshConfig, abstract_mesh
from babeldraw.sharding.pipeline import make_schedule
from babeldraw.sharding.rules import entry_axes
from babeldraw.train.experiment import Experiment, parse
from babeldraw.train.overview import count, nbytes, overview
from babeldraw.train.start import whole_objective


def define(values: flags.FlagValues, argv: list[str]) -> None:
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A config file; --config.FIELD=VALUE sets a field.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_integer("depth", 2, "Levels of the parameter tree.", flag_values=values)
    flags.DEFINE_integer(
        "devices",
        0,
        "Shows what lies on each of so many devices, which need not exist; 0: nothing of that.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "kind",
        "v4",
        f"Kind of the devices whose time and memory are estimated: {', '.join(CHIPS)}.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data", "", "Writes this HTML page of the config's data instead.", flag_values=values
    )
    flags.DEFINE_string(
        "vocabulary",
        "",
        "With --data: the vocabulary of a run, its text.model; else one is trained for the page.",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> int:
    experiment = parse(required(values, "config"))
    experiment.check_new()
    if values.data:
        say(f"{write_data_page(experiment, values.data, values.vocabulary)}")
        return 0
    if values.devices < 0:
        raise UserError(f"--devices is {values.devices}; at least 1 is needed, or 0 for none")
    check_kind(values.kind)
    layout = _layout(experiment, values.devices) if values.devices else None
    objective = whole_objective(experiment)
    abstract = jax.eval_shape(objective.init, jax.random.key(0))
    axes = objective.axes()
    print(overview(abstract, axes, values.depth))
    parts = _parts(abstract, objective.batch_spec())
    for name, tree in parts.items():
        print(f"{name:<16} {count(tree):>18,} values {nbytes(tree) / 2**20:>14,.1f} MiB")
    per_parameter = nbytes((abstract.params, abstract.opt_state, abstract.ema)) / count(
        abstract.params
    )
    print(f"{'bytes per trained parameter':<36} {per_parameter:>18.2f}")
    flops = operations(experiment, objective, abstract)
    batch_size = experiment.train.batch_size
    print(describe_work(flops, batch_size, values.kind, max(values.devices, 1)))
    at_rest = sum(map(nbytes, parts.values()))
    if layout is not None:
        places = _places(layout, abstract, axes, objective.batch_spec())
        print(f"\n{_on_one_device(experiment, layout, abstract, parts, places, values.depth)}")
        at_rest = sum(_part_here(tree, places[name]) for name, tree in parts.items())
    print(describe_memory(experiment, layout, abstract, axes, at_rest, values.kind))
    return 0


def _parts(state: TrainState, batch: Any) -> dict[str, Any]:
    return {
        "parameters": state.params,
        "optimizer state": state.opt_state,
        "frozen": state.frozen,
        "extra": state.extra,
        **({} if state.ema is None else {"average": state.ema}),
        "one batch": batch,
    }


def _layout(experiment: Experiment, devices: int) -> Layout:
    """The config's layout, its sizes checked as training does."""
    layout = make_layout(experiment.mesh, abstract_mesh(experiment.mesh, devices))
    experiment.check_layout(layout)
    return layout


def _places(
    layout: Layout, abstract: TrainState, axes: TrainState, batch: Mapping[str, Any]
) -> dict[str, Any]:
    """Of each part of `_parts`, where its arrays lie."""
    state = shardings(axes, abstract, layout.mesh, layout.preset.stored)
    return _parts(
        state, {name: batch_sharding(layout.mesh, leaf.shape) for name, leaf in batch.items()}
    )


def _on_one_device(
    experiment: Experiment,
    layout: Layout,
    abstract: TrainState,
    parts: Mapping[str, Any],
    places: Mapping[str, Any],
    depth: int,
) -> str:
    """The mesh, a table of what is stored, the schedule of each pipeline, and totals."""
    rows = [("at rest", "largest array", "split over", "on one device", "MiB there")]
    rows += _rows("trained", abstract.params, places["parameters"], depth)
    rows += _rows("frozen", abstract.frozen, places["frozen"], depth)
    lines = [_describe(experiment.mesh, layout), *_columns(rows)]
    if layout.pipelined:
        share = experiment.train.batch_size // layout.mesh.shape["data"]
        share //= experiment.train.accumulation
        for path, stack in experiment.stacks.items():
            lines.append(f"{path}: {_schedule(stack.blocks, layout, share)}")
    for name, tree in parts.items():
        here = _part_here(tree, places[name])
        lines.append(f"{name:<16} on one device {here / 2**20:>14,.1f} MiB")
    return "\n".join(lines)


def _describe(config: MeshConfig, layout: Layout) -> str:
    sizes: Mapping[str, int] = layout.mesh.shape
    mesh = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    zero1 = ", zero1" if config.zero1 else ""
    return f"mesh {mesh} = {math.prod(sizes.values()):,} devices; rules {config.rules}{zero1}"


def _schedule(blocks: int, layout: Layout, share: int) -> str:
    """`share`: examples of a data group that go through the pipeline at once."""
    schedule = make_schedule(blocks, layout)
    return (
        f"{schedule.stages} stages, rounds {schedule.rounds}, {schedule.microbatches} microbatches "
        f"of {share // schedule.microbatches} examples, {schedule.iterations} iterations, bubble "
        f"{schedule.bubble:.0%}"
    )


def _rows(title: str, params: Any, places: Any, depth: int) -> list[tuple[str, ...]]:
    """A row per part of the tree, with its largest array and the bytes of all its arrays."""
    parts: dict[str, list] = {}
    leaves = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(places), strict=True)
    for (path, leaf), place in leaves:
        words = [title, *(str(getattr(key, "key", key)) for key in path)]
        parts.setdefault("/".join(words[: depth + 1]), []).append((leaf, place))
    rows = []
    for part, members in parts.items():
        leaf, place = max(members, key=lambda pair: math.prod(pair[0].shape))
        split = ["+".join(_cutting(entry, place)) or "-" for entry in place.spec]
        mebibytes = sum(_bytes_here(*member) for member in members) / 2**20
        rows.append(
            (
                part,
                f"{leaf.dtype} {list(leaf.shape)}",
                ", ".join(split),
                str(list(place.shard_shape(leaf.shape))),
                f"{mebibytes:,.1f}",
            )
        )
    return rows


def _cutting(entry: Any, place: jax.sharding.NamedSharding) -> list[str]:
    """The axes of an entry of a spec that have more than one device."""
    return [axis for axis in entry_axes(entry) if place.mesh.shape[axis] > 1]


def _part_here(tree: Any, places: Any) -> int:
    return sum(map(_bytes_here, jax.tree.leaves(tree), jax.tree.leaves(places)))


def _bytes_here(leaf: jax.ShapeDtypeStruct, place: jax.sharding.NamedSharding) -> int:
    return nbytes(jax.ShapeDtypeStruct(place.shard_shape(leaf.shape), leaf.dtype))


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=False))
        + f"  {row[-1]:>{widths[-1]}}"
        for row in rows
    ]
