"""Transformer blocks: normalise, attend or transform, add (pre-LN)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.attention import Attention, KeyValue, empty_key_value
from babeldraw.layers.dropout import dropout
from babeldraw.layers.feed_forward import ACTIVATIONS, FeedForward
from babeldraw.layers.kernels import KERNELS, Seen
from babeldraw.layers.linear import LayerNorm
from babeldraw.layers.masks import AttentionPattern, Causal, ring_mask
from babeldraw.layers.stack import POLICIES

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Fields of `TransformerConfig` that say how a network is computed and not what it is: a run may
# change them on resuming, and tokens do not hang on them (`dtype` can move one at a tie).
COMPUTED = ("dtype", "scan", "remat", "kernel")


def without_computed(section: Any) -> Any:
    """A section of a config, or any value in it, without the fields of `COMPUTED`, at any depth."""
    if not isinstance(section, Mapping):
        return section
    kept = {name: value for name, value in section.items() if name not in COMPUTED}
    return {name: without_computed(value) for name, value in kept.items()}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """One stack of blocks.

    Attributes:
      blocks, heads, dim, hidden: number of blocks, attention heads, D and F.
      dropout: rate, on the output of each attention and feed-forward; `CausalBlock` drops more.
      activation: of the feed-forward: relu, gelu or tanh.
      bias: biases in the feed-forward.
      dtype: of attention projections, feed-forward and the residual stream: float32 or bfloat16.
        Norms and softmax are float32 always.
      scan: one compiled block looped over, or all blocks written out (quicker for small stacks).
      remat: what the backward pass recomputes: none, dots (all but matrix products), full, context
        (all but attention), outputs (all but attention and what is added to the residual stream),
        hidden (all but these and the feed-forward's hidden values), gathered (all but these and
        what in-layer parallelism gathers from a split width).
      kernel: of attention over whole sequences: short or splash (TPU), cudnn (GPU), plain, or auto,
        the best that the device has and that can do the pattern.
    """

    blocks: int
    heads: int
    dim: int
    hidden: int
    dropout: float = 0.0
    activation: str = "relu"
    bias: bool = False
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    kernel: str = "auto"

    def __post_init__(self):
        for name in ("blocks", "heads", "dim", "hidden"):
            value = getattr(self, name)
            require(value >= 1, f"{name} is {value}; at least 1 is needed")
        require(
            self.dim % self.heads == 0,
            f"dim is {self.dim}, which heads={self.heads} does not divide; choose a multiple",
        )
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}; a rate in [0, 1) is needed")
        choices = {
            "activation": ACTIVATIONS,
            "dtype": DTYPES,
            "remat": POLICIES,
            "kernel": KERNELS,
        }
        for name, valid in choices.items():
            value = getattr(self, name)
            require(value in valid, f"{name} is {value!r}; the choices are {', '.join(valid)}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def _attention(config: TransformerConfig) -> Attention:
    return Attention(config.heads, config.head_dim, config.dim, DTYPES[config.dtype], config.kernel)


def _feed_forward(config: TransformerConfig) -> FeedForward:
    return FeedForward(
        config.dim, config.hidden, config.activation, config.bias, DTYPES[config.dtype]
    )


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward."""

    config: TransformerConfig

    def setup(self):
        self.attention_norm, self.ffn_norm = LayerNorm(), LayerNorm()
        self.attention = _attention(self.config)
        self.ffn = _feed_forward(self.config)

    def __call__(
        self, x_BTD: jax.Array, mask: jax.Array | None, keys: jax.Array | None = None
    ) -> jax.Array:
        add = functools.partial(_add, self.config.dropout, keys)
        y_BTD = self.attention_norm(x_BTD)
        x_BTD = add(x_BTD, self.attention(y_BTD, None, mask), 0)
        return add(x_BTD, self.ffn(self.ffn_norm(x_BTD)), 1)


@flax.struct.dataclass
class DecoderCache:
    """What one decoder block keeps between steps: its own past, as a ring, and the text."""

    past: KeyValue
    text: KeyValue


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the text, feed-forward."""

    config: TransformerConfig
    pattern: AttentionPattern = Causal()

    def setup(self):
        self.self_norm, self.text_norm, self.ffn_norm = LayerNorm(), LayerNorm(), LayerNorm()
        self.self_attention = _attention(self.config)
        self.text_attention = _attention(self.config)
        self.ffn = _feed_forward(self.config)

    def __call__(
        self,
        x_BTD: jax.Array,
        text_BSD: jax.Array,
        text_mask: jax.Array,
        keys: jax.Array | None = None,
        layer: jax.Array | int = 0,
    ) -> jax.Array:
        """All T slots at once, as in training."""
        add = functools.partial(_add, self.config.dropout, keys)
        mask = Seen(self.pattern, layer)
        y_BTD = self.self_norm(x_BTD)
        x_BTD = add(x_BTD, self.self_attention(y_BTD, None, mask), 0)
        y_BTD = self.text_norm(x_BTD)
        x_BTD = add(x_BTD, self.text_attention(y_BTD, text_BSD, text_mask), 1)
        return add(x_BTD, self.ffn(self.ffn_norm(x_BTD)), 2)

    def empty_cache(
        self, text_PSD: jax.Array, samples: int, length: int, layer: int
    ) -> DecoderCache:
        """A cache for `length` slots of `samples` pictures of each of P texts.

        The texts' keys and values are computed here, once.
        """
        rows = text_PSD.shape[0] * samples
        past = _empty_past(self.config, self.pattern, rows, length, layer)
        return DecoderCache(past=past, text=self.text_attention.key_value(text_PSD))

    def step(
        self,
        x_B1D: jax.Array,
        cache: DecoderCache,
        index: jax.Array,
        text_mask: jax.Array,
        layer: int = 0,
    ) -> tuple[jax.Array, DecoderCache]:
        """One slot, `index` (int32 scalar). Rows of one text stand together in the batch."""
        add = functools.partial(_add, 0.0, None)
        y_B1D, past = _look_back(
            self.self_attention, self.self_norm(x_B1D), cache.past, index, self.pattern, layer
        )
        x_B1D = add(x_B1D, y_B1D, 0)
        # The pictures of one text look at it together, as if they were slots of one sequence.
        y_PnD = jnp.reshape(self.text_norm(x_B1D), (cache.text.key.shape[0], -1, x_B1D.shape[-1]))
        seen_PnD = self.text_attention.attend(y_PnD, cache.text, text_mask)
        x_B1D = add(x_B1D, jnp.reshape(seen_PnD, x_B1D.shape), 1)
        return add(x_B1D, self.ffn(self.ffn_norm(x_B1D)), 2), cache.replace(past=past)


class CausalBlock(nn.Module):
    """Causal self-attention and feed-forward: a decoder-only model's block.

    Dropout as in VIM: on the output of attention, on the feed-forward's activation and its output.
    """

    config: TransformerConfig
    pattern: AttentionPattern = Causal()

    def setup(self):
        self.attention_norm, self.ffn_norm = LayerNorm(), LayerNorm()
        self.attention = _attention(self.config)
        self.ffn = _feed_forward(self.config)

    def __call__(
        self, x_BTD: jax.Array, keys: jax.Array | None = None, layer: jax.Array | int = 0
    ) -> jax.Array:
        """All T slots at once, as in training."""
        add = functools.partial(_add, self.config.dropout, keys)
        mask = Seen(self.pattern, layer)
        y_BTD = self.attention_norm(x_BTD)
        x_BTD = add(x_BTD, self.attention(y_BTD, None, mask), 0)
        drop = functools.partial(dropout, rate=self.config.dropout, keys_B=keys, place=2)
        return add(x_BTD, self.ffn(self.ffn_norm(x_BTD), drop), 1)

    def empty_cache(self, batch: int, length: int, layer: int) -> KeyValue:
        """A cache for `length` slots, as a ring."""
        return _empty_past(self.config, self.pattern, batch, length, layer)

    def step(
        self, x_B1D: jax.Array, cache: KeyValue, index: jax.Array, layer: int = 0
    ) -> tuple[jax.Array, KeyValue]:
        """One slot, `index` (int32 scalar)."""
        y_B1D, past = _look_back(
            self.attention, self.attention_norm(x_B1D), cache, index, self.pattern, layer
        )
        x_B1D = _add(0.0, None, x_B1D, y_B1D, 0)
        return _add(0.0, None, x_B1D, self.ffn(self.ffn_norm(x_B1D)), 1), past


def _empty_past(
    config: TransformerConfig, pattern: AttentionPattern, rows: int, length: int, layer: int
) -> KeyValue:
    window = pattern.window(length, layer)
    return empty_key_value(rows, window, config.heads, config.head_dim, DTYPES[config.dtype])


def _look_back(
    attention: Attention,
    y_B1D: jax.Array,
    past: KeyValue,
    index: jax.Array,
    pattern: AttentionPattern,
    layer: int,
) -> tuple[jax.Array, KeyValue]:
    """Writes slot `index` into the ring and attends from it to what it sees there."""
    window = past.key.shape[2]
    with jax.named_scope("cache_update"):
        past = past.write(index % window, attention.key_value(y_B1D))
    mask = ring_mask(pattern, window, index, layer)[None, None, None]
    return attention.attend(y_B1D, past, mask), past


def _add(rate: float, keys: jax.Array | None, x: jax.Array, y: jax.Array, place: int) -> jax.Array:
    """The residual sum, in the type of x."""
    return x + dropout(y.astype(x.dtype), rate, keys, place)
