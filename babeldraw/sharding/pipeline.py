"""A stack of layers as a pipeline with a circular schedule.

With G stages and R rounds, layer r * G + s is round r of stage s (Parti, section 3.2.2). Each data
group's batch is cut into M microbatches, which enter in segments of G: all rounds of one segment,
then the next, so that nothing waits outside the ring of stages. Stage s works at iteration t on
item t - s; there are R * M + G - 1 iterations, of which G - 1 are a bubble on each stage.

Outside the stack the stage axis is data parallelism: stage s holds examples of its own, which are
microbatch s of each segment. They lie in a second ring that turns the other way, one place per
iteration, so that each reaches stage 0 when its turn comes and is back at home, finished, in the
end. No device ever holds more than its own examples and the microbatch it works on.

Both directions are written out, each a loop inside `shard_map`. Backward runs the schedule in
reverse and computes each layer anew from its saved input; weights are read in their compute type
and their gradients summed in float32, in place.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from babeldraw.config import require
from babeldraw.sharding.constraint import without
from babeldraw.sharding.context import Shared, is_said
from babeldraw.sharding.layout import Layout, use
from babeldraw.sharding.rules import entry_axes

MANUAL = frozenset({"data", "stage"})
# A layer: (its parameters, its index, x, context) -> x.
Layer = Callable[[Any, jax.Array, jax.Array, tuple], jax.Array]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Attributes: stages G, rounds R, segments m = M / G."""

    stages: int
    rounds: int
    segments: int

    @property
    def microbatches(self) -> int:
        return self.segments * self.stages

    @property
    def iterations(self) -> int:
        return self.rounds * self.microbatches + self.stages - 1

    @property
    def bubble(self) -> float:
        """Share of the iterations in which a stage has nothing to do."""
        return (self.stages - 1) / self.iterations

    def item(self, stage: Any, iteration: Any) -> tuple[Any, Any, Any, Any]:
        """What a stage works on: (valid, round, segment, number within the segment)."""
        count = iteration - stage
        valid = (count >= 0) & (count < self.rounds * self.microbatches)
        count = jnp.clip(count, 0, self.rounds * self.microbatches - 1)
        turn = self.rounds * self.stages
        return valid, count // self.stages % self.rounds, count // turn, count % self.stages


def make_schedule(num_layers: int, layout: Layout) -> Schedule:
    """The schedule of a stack.

    Raises:
      UserError: the stages do not divide the layers.
    """
    stages = layout.mesh.shape["stage"]
    require(
        num_layers % stages == 0,
        f"config.mesh.stage is {stages}, which does not divide a stack of {num_layers} blocks; "
        "choose a divisor",
    )
    return Schedule(stages, num_layers // stages, layout.microbatches // stages)


def pipeline(
    layer: Layer,
    stacked: Any,
    specs: Any,
    x: jax.Array,
    context: Any,
    layout: Layout,
    dtype: jnp.dtype,
    poison: bool = False,
) -> jax.Array:
    """All layers of a stack, in a pipeline over the mesh's stages.

    Args:
      layer: one layer, a pure function; it must treat examples independently.
      stacked: its parameters, each with a leading dimension of layers.
      specs: where each of `stacked` lies between steps, a `PartitionSpec`.
      x: float [B, ...], the batch split over `data` and `stage`.
      context: a tree of arrays that say whose they are, see `sharding.context`; the layer gets the
        arrays.
      layout: a pipelined one.
      dtype: matrices are read in this type; vectors stay as they are.
      poison: fills bubbles with NaN, for a test that they cannot leak.

    Raises:
      UserError: the batch or the layers do not divide.
    """
    num_layers = jax.tree.leaves(stacked)[0].shape[0]
    schedule = make_schedule(num_layers, layout)
    groups = layout.mesh.shape["data"]
    require(
        x.shape[0] % (groups * schedule.microbatches) == 0,
        f"config.train.batch_size is {x.shape[0]}, which {groups} data groups of "
        f"{schedule.microbatches} microbatches do not divide; choose a multiple of "
        f"{groups * schedule.microbatches}",
    )
    streams = _Streams.split(context)
    run = _Run(layer, schedule, layout, streams, specs, dtype, poison)
    return run(stacked, x, streams.floats, streams.others)


@dataclasses.dataclass(frozen=True)
class _Streams:
    """Which arrays of a context go with examples; keeps the structure, not the arrays.

    kinds: per array: float, other (both with a leading batch) or shared.
    """

    structure: Any
    kinds: tuple[str, ...]
    floats: tuple = dataclasses.field(compare=False)
    others: tuple = dataclasses.field(compare=False)

    @classmethod
    def split(cls, context: Any) -> "_Streams":
        said, structure = jax.tree.flatten(context, is_leaf=is_said)

        def kind(leaf):
            if isinstance(leaf, Shared):
                return "shared"
            return "float" if jnp.issubdtype(leaf.array.dtype, jnp.floating) else "other"

        kinds = tuple(map(kind, said))
        floats = tuple(one.array for one, of in zip(said, kinds, strict=True) if of == "float")
        others = tuple(one.array for one, of in zip(said, kinds, strict=True) if of != "float")
        return cls(structure, kinds, floats, others)

    def join(self, floats: tuple, others: tuple) -> Any:
        """The context of these arrays, as arrays."""
        floats, others = iter(floats), iter(others)
        leaves = [next(floats) if kind == "float" else next(others) for kind in self.kinds]
        return jax.tree.unflatten(self.structure, leaves)

    def other_specs(self) -> tuple:
        kinds = [kind for kind in self.kinds if kind != "float"]
        return tuple(_BATCH if kind == "other" else PartitionSpec() for kind in kinds)

    def each_other(self, fn: Callable, others: tuple) -> tuple:
        """`others` with `fn` applied to those that go with examples."""
        kinds = [kind for kind in self.kinds if kind != "float"]
        return tuple(fn(a) if k == "other" else a for a, k in zip(others, kinds, strict=True))


_BATCH = PartitionSpec(("data", "stage"))


class _Run:
    """One pipeline: forward, backward and what both share."""

    def __init__(self, layer, schedule, layout, streams, specs, dtype, poison):
        self.layer, self.schedule, self.layout, self.streams = layer, schedule, layout, streams
        self.dtype, self.poison = dtype, poison
        # With nothing split over `model` the whole mesh is manual, which any backend supports.
        whole = layout.mesh.shape["model"] == 1
        self.manual = frozenset(layout.mesh.axis_names) if whole else MANUAL
        self.inner = dataclasses.replace(layout, manual=self.manual)
        auto = frozenset(layout.mesh.axis_names) - MANUAL
        self.specs = jax.tree.map(lambda spec: without(spec, auto), specs)
        self.call = jax.custom_vjp(self.forward_only)
        self.call.defvjp(self.forward, self.backward)

    def __call__(self, stacked, x, floats, others):
        return self.call(stacked, x, floats, others)

    def forward_only(self, stacked, x, floats, others):
        return self.forward(stacked, x, floats, others)[0]

    def forward(self, stacked, x, floats, others):
        weight_spec, saved_spec = PartitionSpec(None, "stage"), PartitionSpec(None, _BATCH[0])
        local = self._shard_map(
            self._forward,
            (self.specs, _BATCH, _BATCH, self.streams.other_specs()),
            (_BATCH, weight_spec, saved_spec),
        )
        y, weights, saved = local(stacked, x, floats, others)
        return y, (weights, saved, floats, others)

    def backward(self, residuals, dy):
        weights, saved, floats, others = residuals
        weight_spec, saved_spec = PartitionSpec(None, "stage"), PartitionSpec(None, _BATCH[0])
        local = self._shard_map(
            self._backward,
            (weight_spec, saved_spec, _BATCH, self.streams.other_specs(), _BATCH),
            (self.specs, _BATCH, _BATCH),
        )
        dstacked, dx, dfloats = local(weights, saved, floats, others, dy)
        return dstacked, dx, dfloats, None

    def _shard_map(self, fn, in_specs, out_specs):
        def traced(*args):
            with use(self.inner):
                return fn(*args)

        return jax.shard_map(
            traced,
            mesh=self.layout.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=self.manual,
            check_vma=False,
        )

    # ---------------------------------------------------------------- on one device

    def _forward(self, stacked, x, floats, others):
        schedule = self.schedule
        weights = jax.tree.map(self._gather, stacked, self.specs)
        floats, others = self._everywhere(floats, others)
        ring = x.reshape(schedule.segments, -1, *x.shape[1:])
        # A microbatch goes in two halves, so that one is on its way while the other is computed.
        halves = 2 if ring.shape[1] % 2 == 0 else 1
        nothing = jnp.full_like(ring[0], jnp.nan if self.poison else 0)

        def turn(t, received, ring):
            """What each half of a stage works on, and the ring."""
            rings = jnp.split(ring, halves, axis=1)
            xs = [self._enter(t, *pair)[0] for pair in zip(received, rings, strict=True)]
            return xs, self._enter(t, jnp.concatenate(received), ring)[1]

        def iterate(carry, t):
            # The first half was sent beside the last one's work; that one is sent now.
            *sent, last, ring = carry
            xs, ring = turn(t, [*sent, self._shift(last)], ring)
            ys = [
                self._stage(t, weights, x, floats, others, half, halves)
                for half, x in enumerate(xs)
            ]
            return (*map(self._shift, ys[:-1]), ys[-1], self._rotate(ring)), jnp.concatenate(xs)

        times = jnp.arange(schedule.iterations)
        start = (*jnp.split(nothing, halves), ring)
        (*sent, last, ring), saved = jax.lax.scan(iterate, start, times)
        ring = self._rotate(turn(schedule.iterations, [*sent, self._shift(last)], ring)[1])
        # A stage dimension, for what leaves shard_map.
        weights = jax.tree.map(lambda w: w[:, None], weights)
        return ring.reshape(x.shape), weights, saved

    def _backward(self, weights, saved, floats, others, dy):
        schedule = self.schedule
        weights = jax.tree.map(lambda w: w[:, 0], weights)
        floats, others = self._everywhere(floats, others)
        like = jax.ShapeDtypeStruct((schedule.segments, *saved.shape[1:]), dy.dtype)

        def entered_back(t, dx, dring):
            """Cotangents of (received, ring) before `_enter`, which is linear."""
            pair = jax.ShapeDtypeStruct(like.shape[1:], like.dtype), like
            return jax.linear_transpose(functools.partial(self._enter, t), *pair)((dx, dring))

        def iterate(carry, inputs):
            dreceived, dring, dweights, dfloats = carry
            t, x = inputs
            # On their way while the layer is computed anew.
            dy, dring = self._shift(dreceived, back=True), self._rotate(dring, back=True)
            # Both, or the ring would be left to the end, with too little beside it.
            dy, dring = jax.lax.optimization_barrier((dy, dring))
            dweights, dx, dfloats = self._stage_back(
                t, weights, x, floats, others, dy, dweights, dfloats
            )
            dreceived, dring = entered_back(t, dx, dring)
            return (dreceived, dring, dweights, dfloats), None

        zeros = functools.partial(jax.tree.map, lambda a: jnp.zeros(a.shape, jnp.float32))
        dring = self._rotate(dy.reshape(like.shape), back=True)
        start = entered_back(schedule.iterations, jnp.zeros_like(dring[0]), dring)
        start = (*start, zeros(weights), zeros(floats))
        inputs = (jnp.arange(schedule.iterations), saved)
        (_, dring, dweights, dfloats), _ = jax.lax.scan(iterate, start, inputs, reverse=True)
        dstacked = jax.tree.map(self._scatter, dweights, self.specs)
        dfloats = jax.tree.map(
            lambda d, f: self._home(d).astype(f.dtype).reshape(-1, *f.shape[3:]), dfloats, floats
        )
        return dstacked, dring.reshape(dy.shape), dfloats

    def _stage(self, t, weights, x, floats, others, half, halves):
        valid, round_, layer, context = self._item(t, floats, others, half, halves)
        if self.poison:
            x = jnp.where(valid, x, jnp.nan)
        params = jax.tree.map(lambda w: _at(w, round_), weights)
        return self.layer(params, layer, x, self.streams.join(*context))

    def _stage_back(self, t, weights, x, floats, others, dy, dweights, dfloats):
        """The layer once more and its gradient; sums of gradients with this one added."""
        valid, round_, layer, context = self._item(t, floats, others)
        if self.poison:
            x = jnp.where(valid, x, jnp.nan)

        def apply(params, x, floats):
            return self.layer(params, layer, x, self.streams.join(floats, context[1]))

        with jax.named_scope("recompute"):
            params = jax.tree.map(lambda w: _at(w, round_), weights)
            _, pull = jax.vjp(apply, params, x, context[0])
        dparams, dx, dcontext = pull(dy)

        def add(total, new, *where):
            """In place: only the round, or the microbatch, that was used is read and written."""
            new = jnp.where(valid, new.astype(total.dtype), 0)
            at = (*where, *(0,) * (total.ndim - len(where)))
            old = jax.lax.dynamic_slice(total, at, (*(1,) * len(where), *new.shape))
            new = jax.lax.expand_dims(new, range(len(where))) + old
            return jax.lax.dynamic_update_slice(total, new, at)

        stage = jax.lax.axis_index("stage")
        _, _, segment, number = self.schedule.item(stage, t)
        dweights = jax.tree.map(lambda total, new: add(total, new, round_), dweights, dparams)
        dfloats = jax.tree.map(lambda a, b: add(a, b, number, segment), dfloats, dcontext)
        return dweights, jnp.where(valid, dx, 0), dfloats

    def _item(self, t, floats, others, half=0, halves=1):
        """Of this device at iteration t: valid, round, layer, its (half) microbatch's context."""
        stage = jax.lax.axis_index("stage")
        valid, round_, segment, number = self.schedule.item(stage, t)
        layer = round_ * self.schedule.stages + stage

        def of_microbatch(a):
            return jnp.split(_at(_at(a, number), segment), halves)[half]

        context = tuple(map(of_microbatch, floats)), self.streams.each_other(of_microbatch, others)
        return valid, round_, layer, context

    def _everywhere(self, floats, others):
        """Each stage's examples on all stages: [G, segments, microbatch, ...]."""

        def gather(a):
            a = a.reshape(self.schedule.segments, -1, *a.shape[1:])
            return jax.lax.all_gather(a, "stage")

        return tuple(map(gather, floats)), self.streams.each_other(gather, others)

    def _home(self, total):
        """The sum over stages of [G, segments, microbatch, ...], own part."""
        return jax.lax.psum_scatter(total, "stage")

    def _enter(self, t, received, ring):
        """At stage 0: what was received is finished and goes home; the next in the ring starts.

        Elsewhere what was received goes on. Linear in (received, ring).
        """
        schedule, first = self.schedule, jax.lax.axis_index("stage") == 0
        turn = schedule.rounds * schedule.stages
        exchange = first & (t // schedule.stages % schedule.rounds == 0)
        leaving = (t - schedule.stages) // turn
        entering = jnp.minimum(t // turn, schedule.segments - 1)
        x = jnp.where(exchange & (t // turn < schedule.segments), _at(ring, entering), received)
        home = jnp.maximum(leaving, 0)
        kept = jnp.where(exchange & (t >= schedule.stages), received, _at(ring, home))
        return x, jax.lax.dynamic_update_index_in_dim(ring, kept, home, 0)

    def _shift(self, y, back: bool = False):
        """To the next stage, from the last to the first."""
        return self._permute(y, -1 if back else 1)

    def _rotate(self, ring, back: bool = False):
        return self._permute(ring, 1 if back else -1)

    def _permute(self, a, by: int):
        stages = self.schedule.stages
        pairs = [(stage, (stage + by) % stages) for stage in range(stages)]
        return jax.lax.ppermute(a, "stage", pairs)

    def _gather(self, leaf, spec):
        """From this device's slice of a stored parameter [L, ...] to [R, ...] of its stage."""
        schedule = self.schedule
        if leaf.ndim > 2:
            leaf = leaf.astype(self.dtype)
        leaf = leaf.reshape(schedule.rounds, schedule.stages, *leaf.shape[1:])
        dim, axes = _split(spec)
        if "stage" in axes:
            leaf = jax.lax.all_to_all(leaf, "stage", 1, dim + 1, tiled=True)
        else:
            leaf = jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index("stage"), 1, 1)
        if "data" in axes:
            leaf = jax.lax.all_gather(leaf, "data", axis=dim + 1, tiled=True)
        return leaf[:, 0]

    def _scatter(self, total, spec):
        """The transpose of `_gather`: a stage's gradients [R, ...], summed, to a stored slice."""
        dim, axes = _split(spec)
        total = total[:, None]
        if "data" in axes:
            # Slices in front: a TPU scatters what is narrower than its lanes by an all-reduce.
            shape, groups = total.shape, self.layout.mesh.shape["data"]
            slices = total.reshape(*shape[: dim + 1], groups, -1, *shape[dim + 2 :])
            total = jax.lax.psum_scatter(jnp.moveaxis(slices, dim + 1, 0), "data")
        else:
            total = jax.lax.psum(total, "data")
        if "stage" in axes:
            total = jax.lax.all_to_all(total, "stage", dim + 1, 1, tiled=True)
        else:
            total = jax.lax.all_gather(total, "stage", axis=1, tiled=True)
        return total.reshape(-1, *total.shape[2:])


def _split(spec: PartitionSpec) -> tuple[int, tuple[str, ...]]:
    """The dimension of a stored parameter that lies over `data` or `stage`, and over which."""
    found = [(dim, entry_axes(entry)) for dim, entry in enumerate(spec) if entry_axes(entry)]
    if not found:
        return 0, ()
    require(
        len(found) == 1
        and found[0][0] > 0
        and found[0][1] in (("data", "stage"), ("stage",), ("data",)),
        f"a pipelined parameter is stored as {spec}; one dimension after the first may be split, "
        "over data, stage or (data, stage)",
    )
    return found[0]


def _at(a: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(a, index, keepdims=False)
