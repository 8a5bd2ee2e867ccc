"""Transformer blocks: normalise, attend or transform, add (pre-LN)."""

import dataclasses
import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.attention import Attention, KeyValue, empty_key_value
from babeldraw.layers.dropout import dropout
from babeldraw.layers.feed_forward import ACTIVATIONS, FeedForward
from babeldraw.layers.linear import LayerNorm
from babeldraw.layers.stack import POLICIES

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """One stack of blocks.

    Attributes:
      blocks, heads, dim, hidden: number of blocks, attention heads, D and F.
      dropout: rate, on the output of each attention and feed-forward.
      activation: of the feed-forward: relu, gelu or tanh.
      bias: biases in the feed-forward.
      dtype: of attention projections, feed-forward and the residual stream: float32 or bfloat16.
        Norms and softmax are float32 always.
      scan: one compiled block looped over, or all blocks written out (quicker for small stacks).
      remat: what the backward pass recomputes: none, dots (all but matrix products), full, context
        (all but attention), outputs (all but attention and what is added to the residual stream).
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

    def __post_init__(self):
        for name in ("blocks", "heads", "dim", "hidden"):
            value = getattr(self, name)
            require(value >= 1, f"{name} is {value}; at least 1 is needed")
        require(
            self.dim % self.heads == 0,
            f"dim is {self.dim}, which heads={self.heads} does not divide; choose a multiple",
        )
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}; a rate in [0, 1) is needed")
        for name, valid in (("activation", ACTIVATIONS), ("dtype", DTYPES), ("remat", POLICIES)):
            value = getattr(self, name)
            require(value in valid, f"{name} is {value!r}; the choices are {', '.join(valid)}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def _attention(config: TransformerConfig) -> Attention:
    return Attention(config.heads, config.head_dim, config.dim, DTYPES[config.dtype])


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
        x_BTD = add(x_BTD, self.attention(y_BTD, y_BTD, mask), 0)
        return add(x_BTD, self.ffn(self.ffn_norm(x_BTD)), 1)


@flax.struct.dataclass
class DecoderCache:
    """What one decoder block keeps between steps: its own past and the text."""

    past: KeyValue
    text: KeyValue


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the text, feed-forward."""

    config: TransformerConfig

    def setup(self):
        self.self_norm, self.text_norm, self.ffn_norm = LayerNorm(), LayerNorm(), LayerNorm()
        self.self_attention = _attention(self.config)
        self.text_attention = _attention(self.config)
        self.ffn = _feed_forward(self.config)

    def __call__(
        self,
        x_BTD: jax.Array,
        text_BSD: jax.Array,
        mask: jax.Array,
        text_mask: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """All T positions at once, as in training."""
        add = functools.partial(_add, self.config.dropout, keys)
        y_BTD = self.self_norm(x_BTD)
        x_BTD = add(x_BTD, self.self_attention(y_BTD, y_BTD, mask), 0)
        y_BTD = self.text_norm(x_BTD)
        x_BTD = add(x_BTD, self.text_attention(y_BTD, text_BSD, text_mask), 1)
        return add(x_BTD, self.ffn(self.ffn_norm(x_BTD)), 2)

    def empty_cache(self, text_BSD: jax.Array, length: int) -> DecoderCache:
        """A cache for `length` positions, the text's keys and values computed once."""
        config = self.config
        past = empty_key_value(
            text_BSD.shape[0], length, config.heads, config.head_dim, DTYPES[config.dtype]
        )
        return DecoderCache(past=past, text=self.text_attention.key_value(text_BSD))

    def step(
        self,
        x_B1D: jax.Array,
        cache: DecoderCache,
        index: jax.Array,
        row: jax.Array,
        text_mask: jax.Array,
    ) -> tuple[jax.Array, DecoderCache]:
        """One position. `index`: int32 scalar; `row`: bool [1, 1, 1, T], the keys it sees."""
        add = functools.partial(_add, 0.0, None)
        y_B1D = self.self_norm(x_B1D)
        with jax.named_scope("cache_update"):
            past = cache.past.write(index, self.self_attention.key_value(y_B1D))
        x_B1D = add(x_B1D, self.self_attention.attend(y_B1D, past, row), 0)
        y_B1D = self.text_norm(x_B1D)
        x_B1D = add(x_B1D, self.text_attention.attend(y_B1D, cache.text, text_mask), 1)
        return add(x_B1D, self.ffn(self.ffn_norm(x_B1D)), 2), cache.replace(past=past)


def _add(rate: float, keys: jax.Array | None, x: jax.Array, y: jax.Array, place: int) -> jax.Array:
    """The residual sum, in the type of x."""
    return x + dropout(y.astype(x.dtype), rate, keys, place)
