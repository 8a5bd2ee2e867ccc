"""Draws what lives where in the 3B and the 20B, and how a pipeline runs.

    python docs/examples/layout_pictures.py

writes docs/images/layout_3b.png, layout_20b.png and pipeline_schedule.png. Sizes and cuts are read
from the configs and from the shardings that training takes, over devices that need not exist.
"""

import dataclasses
import math
import pathlib

import jax
import matplotlib
import numpy as np

from babeldraw.layers.block import DTYPES
from babeldraw.optim.adafactor import AdafactorState
from babeldraw.sharding.constraint import divisible, entry_axes
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import abstract_mesh
from babeldraw.sharding.pipeline import Schedule, make_schedule
from babeldraw.sharding.rules import partition_spec
from babeldraw.tokenizers.vit_vqgan import ViTVQGANTokenizer
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from babeldraw.train.step import state_shardings

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

DOCS = pathlib.Path(__file__).resolve().parents[1]
# The devices that the paper names: 4-way by 128-way, 16 stages by 64-way.
MODELS = {"3b": 512, "20b": 1024}
HERE, ELSEWHERE, LINE, TEXT = "#e8590c", "#e9ecef", "#868e96", "#212529"
# More pieces than this are drawn as the first few, dots, and the last.
DRAWN = 16


@dataclasses.dataclass(frozen=True)
class Array:
    """An array, where it lives, and which two of its dimensions are drawn, downwards and across.

    shape is of the whole array; names are of its dimensions, as a reader knows them.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    place: jax.sharding.NamedSharding
    drawn: tuple[int, int]

    @property
    def here(self) -> tuple[int, ...]:
        """Shape of the share of one device."""
        return self.place.shard_shape(self.shape)

    def pieces(self, dim: int) -> int:
        return self.shape[dim] // self.here[dim]

    def label(self, dim: int) -> str:
        name, size, pieces = self.names[dim], self.shape[dim], self.pieces(dim)
        if pieces == 1:
            return f"{name} {size:,}, whole"
        axes = entry_axes(self.place.spec[dim])
        over = " x ".join(axis for axis in axes if self.place.mesh.shape[axis] > 1)
        return f"{name} {size:,}: {self.here[dim]:,} each, over {over}"

    def told(self) -> str:
        lines = []
        for what, shape in (("whole", self.shape), ("one device", self.here)):
            lines.append(f"{what}: {self.dtype} {list(shape)}, {_bytes(shape, self.dtype)}")
        return "\n".join(lines)


class Model:
    """A config on the mesh that its devices make."""

    def __init__(self, name: str, devices: int):
        config = load_config(f"../configs/babeldraw/{name}.py", DOCS / "examples")
        self.experiment = parse(config)
        mesh = abstract_mesh(self.experiment.mesh, devices)
        self.layout = make_layout(self.experiment.mesh, mesh)
        self.experiment.check_layout(self.layout)
        objective = self.experiment.make_objective()
        self.abstract = jax.eval_shape(objective.init, jax.random.key(0))
        self.places = state_shardings(objective, self.layout)
        self.axes = objective.axes()
        self.stack = self.experiment.model.decoder
        self.dtype = np.dtype(DTYPES[self.stack.dtype])
        self.batch = self.experiment.train.batch_size
        self.tokens = ViTVQGANTokenizer(self.experiment.tokenizer).tokens

    @property
    def mesh(self) -> jax.sharding.AbstractMesh:
        return self.layout.mesh

    def parameter(self, path: str, drawn: tuple[int, int]) -> Array:
        """As it rests between steps."""
        leaf, place, names = (_at(t.params, path) for t in (self.abstract, self.places, self.axes))
        return Array(names, leaf.shape, leaf.dtype, place, drawn)

    def moment(self, path: str) -> dict[str, Array]:
        """Adafactor's state of a stacked matrix."""
        leaf, place = (_at(_adafactor(t.opt_state), path) for t in (self.abstract, self.places))
        names = _at(self.axes.params, path)
        parts = {
            "first moment": (leaf.moment.value, place.moment.value, names, (1, 2)),
            "row factor": (leaf.row, place.row, names[:-1], (1, 0)),
            "column factor": (leaf.column, place.column, (names[0], names[2]), (0, 1)),
            "scales": (leaf.moment.scale, place.moment.scale, (names[0], names[2]), (0, 1)),
        }
        return {name: Array(n, a.shape, a.dtype, p, d) for name, (a, p, n, d) in parts.items()}

    def read_weight(self, path: str) -> Array:
        """As the step reads it: a pipeline the layers of its stage, others a layer at a time."""
        leaf, names = _at(self.abstract.params, path), _at(self.axes.params, path)[1:]
        used = partition_spec(names, self.layout.preset.used)
        if self.layout.pipelined:
            schedule = make_schedule(leaf.shape[0], self.layout)
            shape = (schedule.rounds, schedule.stages, *leaf.shape[1:])
            spec, names, drawn = jax.P(None, "stage", *used), ("round", "stage", *names), (0, 1)
        else:
            shape, spec, drawn = leaf.shape[1:], used, (0, 1)
        return self._array(names, shape, self.dtype, spec, drawn)

    def activation(self, last: str, size: int, dtype: np.dtype) -> Array:
        """[batch, length, size], `last` the logical name of its last dimension."""
        names = ("batch", "length", last)
        spec = partition_spec(names, self.layout.preset.used)
        names = ("batch", "length", last.removeprefix("activation_"))
        return self._array(names, (self.batch, self.codes.length, size), dtype, spec, (0, 2))

    def microbatches(self) -> Array:
        """What all stages of all data groups work on in one iteration."""
        groups, stages = self.mesh.shape["data"], self.mesh.shape["stage"]
        names = ("data group", "stage", "examples", "length", "embed")
        shape = (groups, stages, self.batch // groups // self.layout.microbatches)
        shape = (*shape, self.codes.length, self.stack.dim)
        return self._array(names, shape, self.dtype, jax.P("data", "stage"), (0, 1))

    def kept(self) -> Array:
        """Inputs of blocks that backward computes anew from: one per iteration."""
        schedule = make_schedule(self.stack.blocks, self.layout)
        *groups, examples, length, dim = self.microbatches().shape
        shape = (schedule.iterations, math.prod(groups) * examples, length, dim)
        names = ("iteration", "examples", "length", "embed")
        return self._array(names, shape, self.dtype, jax.P(None, ("data", "stage")), (0, 1))

    def _array(self, names, shape, dtype, spec, drawn) -> Array:
        place = jax.NamedSharding(self.mesh, divisible(spec, shape, self.mesh))
        return Array(names, shape, np.dtype(dtype), place, drawn)


def _at(tree, path: str):
    for part in path.split("/"):
        tree = tree[part]
    return tree


def _adafactor(opt_state):
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, AdafactorState))
    (found,) = (node for node in nodes if isinstance(node, AdafactorState))
    return found.leaves


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> str:
    size = math.prod(shape) * dtype.itemsize
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:,.0f} {unit}" if size >= 10 or size % 1 == 0 else f"{size:.1f} {unit}"
        size /= 1024


# ------------------------------------------------------------------ what lives where


def draw_model(name: str, devices: int) -> None:
    model = Model(name, devices)
    up, blocks = "image_decoder/stack/blocks/ffn/up/weight", f"{model.stack.blocks} layers"
    query = "image_decoder/stack/blocks/self_attention/query/weight"
    table = model.parameter("text_encoder/embed/table", (0, 1))
    logits = model.activation("activation_vocab", model.codes.vocab_size, np.dtype("float32"))
    read = model.read_weight(up)
    figure, axes = plt.subplots(3, 3, figsize=(13.5, 11.6), layout="constrained")
    panels = iter(axes.flat)
    draw_mesh(next(panels), model)
    draw(next(panels), "feed-forward weight at rest", model.parameter(up, (1, 2)), blocks)
    if model.layout.pipelined:
        draw(next(panels), "the same as a step reads it: each number a layer", read)
        number_layers(axes.flat[2], read)
    else:
        draw(next(panels), "the same as a step reads it: one layer", read)
    draw(next(panels), "attention weight (query) at rest", model.parameter(query, (1, 2)), blocks)
    draw(next(panels), "embedding table of the text, at rest", table)
    draw_moment(next(panels), model.moment(up), blocks)
    if model.layout.pipelined:
        title = "inside the decoder's stack, one iteration:\neach cell a microbatch"
        draw(next(panels), title, model.microbatches())
        draw(next(panels), "kept for the backward pass: inputs of blocks", model.kept())
    else:
        stream = model.activation("activation_embed", model.stack.dim, model.dtype)
        hidden = model.activation("activation_mlp", model.stack.hidden, model.dtype)
        draw(next(panels), "between blocks: the residual stream", stream)
        draw(next(panels), "inside a feed-forward", hidden)
    draw(next(panels), "outside of the stacks: logits", logits)
    rules, zero1 = model.experiment.mesh.rules, ", zero1" if model.experiment.mesh.zero1 else ""
    figure.suptitle(
        f"Babeldraw {name.upper()} on {devices:,} devices, rules {rules}{zero1}: the share of one "
        "device in orange",
        fontsize=15,
        color=TEXT,
    )
    figure.savefig(DOCS / "images" / f"layout_{name}.png", dpi=95)


def draw(axes, title: str, array: Array, behind: str = "") -> None:
    """One array: a rectangle, cut as the mesh cuts it."""
    _frame(axes, title)
    down, across = array.drawn
    _cut(axes, array, (0, 0, 1, 0.62), behind=bool(behind))
    if behind:
        axes.text(1.045, 0.69, behind, ha="right", va="bottom", fontsize=9, color=LINE)
    axes.text(0.5, -0.03, array.label(across), ha="center", va="top", fontsize=9.5)
    side = array.label(down).replace(", over", ",\nover")
    axes.text(-0.03, 0.31, side, ha="right", va="center", ma="center", rotation=90, fontsize=9.5)
    axes.text(0, -0.13, array.told(), ha="left", va="top", fontsize=9.5, color=TEXT)


def number_layers(axes, array: Array) -> None:
    """Layer numbers into the cells of [rounds, stages]."""
    rounds, stages = array.shape[:2]
    for layer in range(rounds * stages):
        down, across = (layer // stages + 0.5) / rounds, (layer % stages + 0.5) / stages
        colour = LINE if layer % stages else "white"
        axes.text(
            across, 0.62 * (1 - down), str(layer), ha="center", va="center", size=8, color=colour
        )


def draw_moment(axes, state: dict[str, Array], behind: str) -> None:
    """Adafactor: the first moment, its row factor on the left, its column factor above."""
    _frame(axes, "Adafactor's state of that feed-forward weight")
    moment, row, column = (state[n] for n in ("first moment", "row factor", "column factor"))
    _cut(axes, moment, (0.12, 0, 0.88, 0.5), behind=True)
    _cut(axes, row, (0, 0, 0.07, 0.5), across=False)
    _cut(axes, column, (0.12, 0.56, 0.88, 0.07), down=False)
    axes.text(0.56, 0.645, "column factor, float32", ha="center", va="bottom", fontsize=9)
    axes.text(-0.02, 0.25, "row factor, float32", ha="right", va="center", rotation=90, fontsize=9)
    axes.text(0.56, 0.25, f"first moment, {moment.dtype}", ha="center", va="center", fontsize=10)
    axes.text(1.045, 0.645, behind, ha="right", va="bottom", fontsize=9, color=LINE)
    lines = [f"{n}: {list(a.here)} here, {_bytes(a.here, a.dtype)}" for n, a in state.items()]
    axes.text(0, -0.04, "\n".join(lines), ha="left", va="top", fontsize=9.5, color=TEXT)


def draw_mesh(axes, model: Model) -> None:
    """Devices as a grid: data downwards, the other split axis across."""
    sizes = dict(model.mesh.shape)
    other = max(("stage", "model"), key=sizes.get)
    _frame(axes, "the mesh: each cell a device")
    names, shape = ("data", other), (sizes["data"], sizes[other])
    place = jax.NamedSharding(model.mesh, jax.P("data", other))
    _cut(axes, Array(names, shape, np.dtype("int8"), place, (0, 1)), (0, 0, 1, 0.62))
    axes.text(0.5, -0.03, f"{other} {sizes[other]}", ha="center", va="top", fontsize=9.5)
    axes.text(-0.03, 0.31, f"data {sizes['data']}", ha="right", va="center", rotation=90)
    told = {
        "model": "Neighbours along model share every layer:\neach has a slice of each weight.",
        "stage": "Neighbours along stage share the depth of a stack;\n"
        "outside of the stacks they are more data parallelism.",
    }
    axes.text(0, -0.13, told[other], ha="left", va="top", fontsize=9.5, color=TEXT)


def _frame(axes, title: str) -> None:
    axes.set(xlim=(-0.13, 1.08), ylim=(-0.36, 0.76))
    axes.axis("off")
    axes.set_title(title, fontsize=12, color=TEXT, loc="left")


def _cut(axes, array: Array, box, behind=False, down=True, across=True) -> None:
    """A box in pieces, the first of which, that of one device, is coloured."""
    left, bottom, width, height = box
    for shift in (0.045, 0.03, 0.015) if behind else ():
        axes.add_patch(
            Rectangle((left + shift, bottom + shift), width, height, fc="white", ec=LINE, lw=0.8)
        )
    axes.add_patch(Rectangle((left, bottom), width, height, fc=ELSEWHERE, ec=LINE, lw=0.8))
    rows = _slots(array.pieces(array.drawn[0])) if down else _slots(1)
    columns = _slots(array.pieces(array.drawn[1])) if across else _slots(1)
    high, wide = height / len(rows), width / len(columns)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if row is None or column is None:
                continue
            at = left + j * wide, bottom + height - (i + 1) * high
            colour = HERE if (row, column) == (0, 0) else ELSEWHERE
            axes.add_patch(Rectangle(at, wide, high, fc=colour, ec=LINE, lw=0.6))
    for i in [i for i, row in enumerate(rows) if row is None]:
        _leave_out(axes, (left, bottom + height - (i + 1) * high, width, high))
    for j in [j for j, column in enumerate(columns) if column is None]:
        _leave_out(axes, (left + j * wide, bottom, wide, height))


def _leave_out(axes, box) -> None:
    """White with three dots along its short side, for the pieces that are not drawn."""
    left, bottom, width, height = box
    axes.add_patch(Rectangle((left, bottom), width, height, fc="white", ec=LINE, lw=0.6))
    for along in (-0.25, 0, 0.25):
        x = left + width * (0.5 + along * (width < height))
        y = bottom + height * (0.5 + along * (width >= height))
        axes.plot([x], [y], marker=".", markersize=3, color=LINE)


def _slots(pieces: int) -> list[int | None]:
    """Numbers of the pieces that are drawn; None for those left out."""
    return [*range(pieces)] if pieces <= DRAWN else [*range(5), None, pieces - 1]


# ------------------------------------------------------------------ the schedule


def draw_schedules() -> None:
    """A small schedule with all its numbers, and those of the 20B."""
    model = Model("20b", MODELS["20b"])
    stacks = model.experiment.model
    figure, axes = plt.subplots(
        3, 1, figsize=(12, 8.6), layout="constrained", height_ratios=[1.15, 1.6, 1.6]
    )
    small = Schedule(stages=4, rounds=2, segments=2)
    title = "a colour per microbatch, numbers are rounds"
    draw_schedule(axes[0], small, title, numbers=True)
    decoder = make_schedule(stacks.decoder.blocks, model.layout)
    encoder = make_schedule(stacks.encoder.blocks, model.layout)
    draw_schedule(axes[1], encoder, "encoder of the 20B", last=decoder.iterations)
    draw_schedule(axes[2], decoder, "decoder of the 20B")
    figure.savefig(DOCS / "images" / "pipeline_schedule.png", dpi=95)


def draw_schedule(axes, schedule: Schedule, title: str, numbers=False, last: int = 0) -> None:
    """Time to the right, stages downwards, a colour per microbatch, the round as a number."""
    stages, times = np.arange(schedule.stages)[:, None], np.arange(schedule.iterations)[None]
    valid, round_, segment, number = map(np.asarray, schedule.item(stages, times))
    microbatch = segment * schedule.stages + number
    # Without its grey, which is the bubble's.
    few = np.delete(matplotlib.colormaps["tab10"].colors, 7, axis=0)
    many = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, schedule.microbatches))[:, :3]
    colours = (few if numbers else many)[microbatch]
    image = np.where(valid[..., None], colours, 0.93)
    axes.imshow(image, aspect="auto", interpolation="nearest")
    axes.set_xticks(np.arange(-0.5, schedule.iterations), minor=True)
    axes.set_yticks(np.arange(-0.5, schedule.stages), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2 if numbers else 0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlim(-0.5, max(last, schedule.iterations) - 0.5)
    axes.set(xlabel="iteration", ylabel="stage")
    axes.set_yticks(range(0, schedule.stages, 1 if numbers else 5))
    axes.set_xticks(range(0, schedule.iterations, 1 if numbers else 10))
    axes.spines[:].set_visible(False)
    rounds = f"{schedule.rounds} round" + ("s" if schedule.rounds > 1 else "")
    axes.set_title(
        f"{title}: {schedule.stages} stages, {schedule.microbatches} microbatches, {rounds}: "
        f"{schedule.iterations} iterations, bubble (grey) {schedule.bubble:.0%}",
        loc="left",
        color=TEXT,
    )
    bold = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
    for stage, time in np.argwhere(valid) if numbers else ():
        axes.text(time, stage, str(round_[stage, time] + 1), **bold)
    for number in () if numbers else range(schedule.rounds):
        middle = schedule.stages / 2 - 0.5
        at = (number + 0.5) * schedule.microbatches - 0.5 + middle
        axes.text(at, middle, f"round {number + 1}", **bold, fontsize=12)


def main() -> None:
    for name, devices in MODELS.items():
        draw_model(name, devices)
    draw_schedules()


if __name__ == "__main__":
    main()
