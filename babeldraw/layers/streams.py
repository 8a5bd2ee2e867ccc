"""Streams: runs of slots of one sequence that have weights of their own and attend to each other.

A text and a picture with their own projections and feed-forwards and one attention (Esser et al.
2024, MM-DiT); projections for fine codes beside a frozen stack's for the coarse (CogView2's
`attention_plus`).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.attention import KeyValue, SelfAttention
from babeldraw.layers.inputs import Inputs
from babeldraw.layers.modulation import Modulation


@dataclasses.dataclass(frozen=True)
class Streams:
    """Attributes:
    names: of the streams, in the order of their slots; their weights lie under these.
    lengths: how many slots each has; the last has all that follow.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]

    def __post_init__(self):
        if len(self.names) != len(self.lengths) + 1:
            raise ValueError(f"{len(self.names)} streams and the lengths {self.lengths}")

    def runs(self, length: int) -> Iterator[tuple[str, slice]]:
        """Each stream's name and its slots, of the first `length` of a sequence; none is empty."""
        begins = (0, *self._ends)
        for name, begin, end in zip(self.names, begins, (*begins[1:], length), strict=True):
            if begin < length:
                yield name, slice(begin, min(end, length))

    def chosen(self, index: jax.Array, of_each: list[Any]) -> Any:
        """Of what each stream makes of slot `index`, int32 [] or [B], what the slot's own made."""
        streams = sum((index >= end).astype(jnp.int32) for end in self._ends)

        def choose(*leaves):
            which = streams.reshape(streams.shape + (1,) * (leaves[0].ndim - streams.ndim))
            conditions = [jnp.broadcast_to(which == n, leaf.shape) for n, leaf in enumerate(leaves)]
            return jnp.select(conditions, leaves)

        return jax.tree.map(choose, *of_each)

    @property
    def _ends(self) -> tuple[int, ...]:
        return tuple(sum(self.lengths[: n + 1]) for n in range(len(self.lengths)))


class PerStream(nn.Module):
    """A part of a block, or a norm, with weights for each stream.

    A part as a feed-forward, which makes each slot of itself alone. A step computes all streams and
    keeps its own's: fit for two or three. Dropout of hidden values, where a part has it, drops the
    same in the first slots of each stream.

    Attributes:
      layer: makes one stream's.
      streams: see `Streams`.
    """

    layer: Callable[[], nn.Module]
    streams: Streams

    def setup(self):
        for name in self.streams.names:
            setattr(self, name, self.layer())

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """A norm of whole sequences; of single steps there is none."""
        runs = self.streams.runs(x_BTD.shape[1])
        return jnp.concatenate([getattr(self, name)(x_BTD[:, run]) for name, run in runs], axis=1)

    def whole(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        """All T slots at once."""
        runs = self.streams.runs(x_BTD.shape[1])
        made = [getattr(self, name).whole(x_BTD[:, run], inputs) for name, run in runs]
        return jnp.concatenate(made, axis=1)

    def start(self, inputs: Inputs, rows: int, length: int) -> tuple[()]:
        """It keeps nothing between steps."""
        del inputs, rows, length
        return ()

    def fill(
        self, x_BPD: jax.Array, cache: tuple[()], inputs: Inputs
    ) -> tuple[jax.Array, tuple[()]]:
        """The first P slots."""
        return self.whole(x_BPD, inputs), cache

    def step(
        self, x_B1D: jax.Array, cache: tuple[()], index: jax.Array, inputs: Inputs
    ) -> tuple[jax.Array, tuple[()]]:
        """One slot."""
        made = [getattr(self, n).step(x_B1D, (), index, inputs)[0] for n in self.streams.names]
        return self.streams.chosen(index, made), cache


class StreamModulation(nn.Module):
    """A vector of each example to shifts, scales and gates, by weights of each stream.

    Attributes:
      dim: D.
      streams: see `Streams`.
      length: T, slots of all streams together.
    """

    dim: int
    streams: Streams
    length: int

    @nn.compact
    def __call__(self, vector_BC: jax.Array) -> tuple[jax.Array, ...]:
        """Each float32 [B, T, D]; see `Modulation`."""
        made = []
        for name, run in self.streams.runs(self.length):
            shape = (vector_BC.shape[0], run.stop - run.start, self.dim)
            of_slots = Modulation(self.dim, name=name)(vector_BC)
            made.append([jnp.broadcast_to(one, shape) for one in of_slots])
        return tuple(jnp.concatenate(parts, axis=1) for parts in zip(*made, strict=True))


class StreamAttention(nn.Module):
    """Attention of a whole sequence to itself, its projections and norms those of each stream.

    Attributes:
      layer: makes one stream's `SelfAttention`; the first's pattern, and what it adds to logits,
        is that of the whole sequence.
      streams: see `Streams`.
    """

    layer: Callable[[], SelfAttention]
    streams: Streams

    def setup(self):
        for name in self.streams.names:
            setattr(self, name, self.layer())

    @property
    def first(self) -> SelfAttention:
        return getattr(self, self.streams.names[0])

    def whole(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        """All T slots at once."""
        query_BNTH, keys = self._heads(x_BTD, inputs)
        return self._found(query_BNTH, keys, inputs)

    def start(self, inputs: Inputs, rows: int, length: int) -> KeyValue:
        """A cache for `length` slots of all streams together."""
        return self.first.start(inputs, rows, length)

    def fill(self, x_BPD: jax.Array, past: KeyValue, inputs: Inputs) -> tuple[jax.Array, KeyValue]:
        """The first P slots at once, and the cache with them."""
        query_BNPH, keys = self._heads(x_BPD, inputs)
        past = past.write(jnp.zeros((), jnp.int32), keys)
        return self._found(query_BNPH, keys, inputs), past

    def step(
        self, x_B1D: jax.Array, past: KeyValue, index: jax.Array, inputs: Inputs
    ) -> tuple[jax.Array, KeyValue]:
        """One slot."""
        position = inputs.at_slot("positions", index, index[..., None])
        layers = [getattr(self, name) for name in self.streams.names]
        made = [layer.heads(x_B1D, position) for layer in layers]
        query_BN1H, new = self.streams.chosen(index, made)
        past, found_BN1H = self.first.looked_back(query_BN1H, new, past, index, inputs)
        return self.streams.chosen(index, [layer.joined(found_BN1H) for layer in layers]), past

    def _heads(self, x_BTD: jax.Array, inputs: Inputs) -> tuple[jax.Array, KeyValue]:
        positions, made = inputs.named("positions"), []
        positions = jnp.arange(x_BTD.shape[1]) if positions is None else positions
        for name, run in self.streams.runs(x_BTD.shape[1]):
            made.append(getattr(self, name).heads(x_BTD[:, run], positions[..., run]))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=2), *made)

    def _found(self, query_BNTH: jax.Array, keys: KeyValue, inputs: Inputs) -> jax.Array:
        length = query_BNTH.shape[2]
        added = self.first.added_to(inputs, jnp.arange(length))
        mask, drop = self.first.mask(inputs), inputs.drop_weights
        out_BNTH = self.first.look(query_BNTH, keys, mask, added, drop)
        runs = self.streams.runs(length)
        made = [getattr(self, name).joined(out_BNTH[:, :, run]) for name, run in runs]
        return jnp.concatenate(made, axis=1)


class AttentionBeside(nn.Module):
    """Attention of a stream to itself and to another that ends here, each by its own projections.

    As of the last block of two streams, after which only the one is read; not for steps.

    Attributes:
      layer: makes one stream's `SelfAttention`.
      name_of_own: of the stream that goes on.
      source: name of the other, and of what the context holds of it, [B, S, D].
    """

    layer: Callable[[], SelfAttention]
    name_of_own: str
    source: str

    def setup(self):
        for name in (self.source, self.name_of_own):
            setattr(self, name, self.layer())

    def whole(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        """All T slots at once."""
        own, other = getattr(self, self.name_of_own), getattr(self, self.source)
        query_BNTH, keys = own.heads(x_BTD)
        # The other's queries find nothing that is read; published weights have them.
        _, others = other.heads(inputs.context[self.source])
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=2), others, keys)
        return own.joined(own.look(query_BNTH, both, None, drop=inputs.drop_weights))
