"""RAR: one stack of causal blocks that may predict codes in any order, after a prefix.

Yu et al., "Randomized Autoregressive Visual Generation", 2024. Slots are a start, the condition's
prefix and codes in their order; each also knows the place that it predicts (target-aware
positions, section 3.2). The last of the prefix predicts the first code.

Norms are moved, and parts gated, by a vector of each slot (adaLN-Zero): what is drawn from plus a
vector of the slot's number, in the order of drawing. What is drawn from is the mean over the
prefix: of a class its embedding, as published; of a text the mean of its pieces with their
positions, padding among them, for which nothing is published.

Weights begin by their fan-in, not with a deviation of 0.02 as theirs do.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.block import (
    DTYPES,
    Residual,
    TransformerConfig,
    empty_caches,
    feed_forward,
    filled,
    make_stack,
    self_attention,
    through,
)
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import Embedding, LayerNorm
from babeldraw.layers.masks import Causal
from babeldraw.layers.modulation import AdaptiveNorm
from babeldraw.layers.stack import read_type
from babeldraw.models.condition import Condition
from babeldraw.models.head import CodeEmbedding, Head
from babeldraw.models.sequential import Sequential
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerSlot
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True)
class SpareRows:
    """Last rows of tables that are read by none.

    Published weights have such; with them these go back as they came.

    Attributes:
      codes: of the codes' vectors; 1 there, once meant for a mask.
      positions: of the places and of the targets; 1,022 there.
      times: of the slots' numbers; 98 there.
    """

    codes: int = 0
    positions: int = 0
    times: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(value >= 0, f"config.model.spare.{field.name} is {value}; at least 0 is needed")


@dataclasses.dataclass(frozen=True)
class RARConfig:
    """Attributes:
    decoder: the stack; its `bias` is attention's too.
    spare: see `SpareRows`.
    """

    decoder: TransformerConfig
    spare: SpareRows = SpareRows()
    kind: str = "rar"

    def tiny(self) -> "RARConfig":
        """The same for a first run."""
        return dataclasses.replace(self, decoder=self.decoder.tiny(), spare=SpareRows())


@flax.struct.dataclass
class Read:
    """Conditions as drawing needs them.

    Attributes:
      prefix: the slots before the codes, the start among them, float32 [P, S, D].
      pooled: the mean of what the condition makes of them, float32 [P, D].
    """

    prefix: jax.Array
    pooled: jax.Array


@flax.struct.dataclass
class Cache:
    """What decoding keeps between steps.

    Attributes:
      blocks: a cache per block.
      last: the last slot of the prefix, [B, D].
      pooled: see `Read`, [B, D].
    """

    blocks: tuple[Any, ...]
    last: jax.Array
    pooled: jax.Array


def rar_parts(config: TransformerConfig) -> tuple[Residual, ...]:
    """A block's: causal self-attention with normed heads and feed-forward, adaptive pre-norm."""
    norm = functools.partial(LayerNorm, axis="head_dim")
    attention = self_attention(config, Causal(), bias=config.bias, norm=norm)
    ffn = feed_forward(config)
    return (
        Residual("attention", attention, "attention_norm", adaptive="vector"),
        Residual("ffn", ffn, "ffn_norm", adaptive="vector", hidden_dropout=True),
    )


class RAR(nn.Module):
    """What predicts each code from those before it, in raster order or in any other.

    After the S slots of the prefix, slot S + t holds the t-th code of the order, with its place and
    that of the code after it, which it predicts.
    """

    config: RARConfig
    condition: Condition
    codes: Codes

    def setup(self):
        decoder, spare = self.config.decoder, self.config.spare
        slots = self.before + self.codes.length
        table = functools.partial(Embedding, dim=decoder.dim, axis="position")
        init = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
        self.start_slot = self.param("start", init, (decoder.dim,))
        self.prefix = self.condition.prefix(decoder.dim)
        self.embed = CodeEmbedding(self.codes, decoder.dim, spare.codes)
        # By slot in raster order: that of place p is row S + p. The targets' first S are spare too.
        self.places = table(slots + spare.positions)
        self.targets = table(slots + spare.positions)
        self.times = table(slots + spare.times)
        self.stack = make_stack(rar_parts(decoder), decoder)
        self.norm = AdaptiveNorm(decoder.dim)
        self.logits = Head(self.codes, decoder.dim, bias=True)

    @property
    def before(self) -> int:
        """S, slots before the codes: the start and the condition's."""
        return 1 + self.condition.prefix_length

    def __call__(
        self,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array | None = None,
        order_BT: jax.Array | None = None,
        read: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code given the condition and the codes before it; see `Head.nll`.

        Args:
          condition: a row for each example.
          codes: of pictures, in raster order.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.
          order_BT: int32, permutations: the code of place `order_BT[:, t]` is the t-th and sees
            those before it. None: raster order.
          read: without an order, the codes that are seen before each; None: the same.

        Returns:
          Both arrays in raster order, whatever the order of prediction.
        """
        if order_BT is None:
            seen = codes if read is None else read
            return self.logits.nll(self._outputs(condition, seen, keys), codes)
        codes = _taken(codes, order_BT)
        found = self.logits.nll(self._outputs(condition, codes, keys, order_BT), codes)
        return tuple(_taken(array, jnp.argsort(order_BT, axis=1)) for array in found)

    def first_logits(self, condition: Any, codes: jax.Array) -> jax.Array:
        """Of the first factor of each code, float32 [B, T, V]."""
        return self.logits.logits(self._outputs(condition, codes, None))

    def _outputs(
        self,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array | None,
        order_BT: jax.Array | None = None,
    ) -> jax.Array:
        """For each of the codes, which stand in the order, float32 [B, T, D]."""
        read, length = self.read(condition), codes.shape[1]
        places = jnp.arange(length)[None] if order_BT is None else order_BT
        held = self.embed(codes[:, :-1])
        held = held + jnp.broadcast_to(self.places(places[:, :-1] + self.before), held.shape)
        aware = jnp.concatenate([read.prefix[:, -1:], held], axis=1)
        aware = aware + jnp.broadcast_to(self.targets(places + self.before), aware.shape)
        x_BTD = jnp.concatenate([read.prefix[:, :-1], aware], axis=1)
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        vector_BTD = self._vectors(read.pooled, jnp.arange(x_BTD.shape[1])[None])
        x_BTD = self.stack(x_BTD, {"vector": PerSlot(vector_BTD)}, keys=keys)
        # Slots before the prefix's last predict nothing.
        return self.norm(x_BTD[:, -length:], vector_BTD[:, -length:])

    def _vectors(self, pooled_BD: jax.Array, slots: jax.Array) -> jax.Array:
        """What moves the norms of slots, int32 [1, T] or [B, T]: [B, T, D] in the stack's type."""
        times = self.times(slots)
        shape = (pooled_BD.shape[0], *times.shape[1:])
        both = jnp.broadcast_to(pooled_BD[:, None], shape) + jnp.broadcast_to(times, shape)
        return jax.nn.silu(both).astype(self.stack.dtype)

    def read(self, condition: Any) -> Read:
        """Conditions of P rows."""
        prefix = self.prefix(condition)
        start = jnp.broadcast_to(self.start_slot, (prefix.shape[0], 1, prefix.shape[2]))
        slots = jnp.concatenate([start, prefix], axis=1)
        slots = slots + jnp.broadcast_to(self.places(jnp.arange(self.before))[None], slots.shape)
        return Read(slots, jnp.mean(prefix, axis=1))

    def start(self, read: Read, samples: int = 1) -> Cache:
        """A cache in which the prefix is but its end."""
        read = jax.tree.map(lambda rows: jnp.repeat(rows, samples, axis=0), read)
        rows, early = read.prefix.shape[0], self.before - 1
        blocks = empty_caches(self.stack, {}, rows, early + self.codes.length)
        vector = self._vectors(read.pooled, jnp.arange(early)[None])
        _, blocks = filled(self.stack, read.prefix[:, :-1], blocks, {"vector": vector})
        return Cache(blocks, read.prefix[:, -1], read.pooled)

    def step(self, codes: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        place = jnp.reshape(index, (-1, 1))
        held = self.embed(codes)[:, None]
        before = self.places(jnp.maximum(place - 1, 0) + self.before)
        held = held + jnp.broadcast_to(before, held.shape)
        first = jnp.broadcast_to(place[..., None] == 0, held.shape)
        x_B1D = jnp.where(first, cache.last[:, None], held)
        x_B1D = x_B1D + jnp.broadcast_to(self.targets(place + self.before), x_B1D.shape)
        slot = self.before - 1 + index
        vector = self._vectors(cache.pooled, self.before - 1 + place)
        x_B1D, blocks = through(self.stack, x_B1D, cache.blocks, slot, {"vector": vector})
        return self.norm(x_B1D, vector), cache.replace(blocks=blocks)

    def next_logits(self, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        return self.logits.logits(x_B1D, earlier)


def _taken(rows: jax.Array, order_BT: jax.Array) -> jax.Array:
    """[B, T, ...], the entries of each row in an order of its own."""
    index = jnp.reshape(order_BT, order_BT.shape + (1,) * (rows.ndim - 2))
    return jnp.take_along_axis(rows, index, axis=1)


@dataclasses.dataclass(frozen=True)
class RARGenerator(Sequential):
    """A RAR as pure functions of its parameters; see `Generator` and `Sequential`."""

    config: RARConfig
    condition: Condition
    codes: Codes

    @property
    def network(self) -> RAR:
        return RAR(self.config, self.condition, self.codes)

    def ordered_nll(
        self,
        params: Any,
        condition: Any,
        codes: jax.Array,
        order_BT: jax.Array,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As `nll`, each code predicted in an order of its example's own; see `RAR.__call__`."""
        return self.network.apply({"params": params}, condition, codes, keys, order_BT)

    def for_reading(self, params: Any) -> Any:
        stack = read_type(params["stack"], DTYPES[self.config.decoder.compute.dtype])
        return {**params, "stack": stack}

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"decoder": self.config.decoder}

    def flops(self) -> dict[str, tuple[int, str]]:
        tokens, decoder = self.codes.length, self.config.decoder
        # The last code is read by none; in its place stands the start.
        slots, square = tokens + self.condition.prefix_length, decoder.dim**2
        return {
            "decoder": (
                blocks_forward(decoder, slots, causal=True),
                "blocks (8 T D^2 + 2 T^2 D + 4 T D F)",
            ),
            "modulation": (
                12 * decoder.blocks * slots * square + 4 * tokens * square,
                "blocks (12 T D^2) + (4 T D^2)",
            ),
            "logits": (2 * tokens * decoder.dim * self.codes.entries, "(2 T D V)"),
        }
