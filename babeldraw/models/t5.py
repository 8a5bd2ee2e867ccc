"""The encoder of T5 1.1, which others trained on texts: a frozen network whose states are read.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
2020, in the version 1.1 of their code (gated GELU, no dropout before fine-tuning, untied softmax);
FLAN-T5 has the same layout. Norms have no mean and no bias, positions are a learned bias of the
logits by distance, which all layers share, and queries are not scaled.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.errors import UserError
from babeldraw.layers.attention import SelfAttention
from babeldraw.layers.block import DTYPES, Block, ComputeConfig, Residual
from babeldraw.layers.feed_forward import FeedForward
from babeldraw.layers.inputs import Inputs
from babeldraw.layers.linear import Embedding, RMSNorm
from babeldraw.layers.masks import padding_mask
from babeldraw.layers.stack import Stack
from babeldraw.runs.digest import digests
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample, Shared


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The encoder's sizes; those of v1_1-large unless told otherwise.

    Attributes:
      blocks, heads, head_dim, dim, hidden: blocks, heads, H, D and F; N H need not be D.
      vocab_size: rows of the table of pieces; T5's 32,000 are padded to 32,128.
      buckets: of distances, half for pieces before and half for those behind.
      max_distance: from which on all distances are alike.
      compute: how it is computed.
    """

    blocks: int = 24
    heads: int = 16
    head_dim: int = 64
    dim: int = 1024
    hidden: int = 2816
    vocab_size: int = 32_128
    buckets: int = 32
    max_distance: int = 128
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(
                field.name == "compute" or value >= 1,
                f"config.condition.encoder.{field.name} is {value}; at least 1 is needed",
            )
        require(
            self.buckets % 4 == 0 and self.max_distance > self.buckets // 4,
            f"config.condition.encoder.buckets is {self.buckets} and max_distance "
            f"{self.max_distance}; a multiple of 4 is needed, and more than a quarter of it",
        )


# google/t5-v1_1-*: blocks, heads, D, F; H is 64.
SIZES = {
    "small": (8, 6, 512, 1024),
    "base": (12, 12, 768, 2048),
    "large": (24, 16, 1024, 2816),
    "xl": (24, 32, 2048, 5120),
    "xxl": (24, 64, 4096, 10_240),
}


def published(size: str) -> T5Config:
    """The sizes of google/t5-v1_1-SIZE."""
    blocks, heads, dim, hidden = SIZES[size]
    return T5Config(blocks=blocks, heads=heads, dim=dim, hidden=hidden)


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """int32 [T, S]: the bucket of a key's distance from a query, both 0 to `length` - 1.

    Half of the buckets are for keys behind the query. Of each half the first half is a distance
    each, the others grow by powers up to `max_distance`.
    """
    places = np.arange(length)
    distance = places[None] - places[:, None]
    half, exact = buckets // 2, buckets // 4
    far = np.maximum(np.abs(distance), exact) / exact
    grown = exact + (np.log(far) / math.log(max_distance / exact) * (half - exact)).astype(int)
    near = np.abs(distance) < exact
    found = np.where(near, np.abs(distance), np.minimum(grown, half - 1))
    return (found + half * (distance > 0)).astype(np.int32)


class UnscaledAttention(SelfAttention):
    """softmax(query key^T + bias) value: without the division by sqrt(H)."""

    def _queries(self, query_BNTH: jax.Array, positions: jax.Array | None) -> jax.Array:
        # What every form of attention here divides by.
        return super()._queries(query_BNTH * self.head_dim**0.5, positions)


class SharedBias(nn.Module):
    """The context's `bias`, the same for all layers."""

    def __call__(self, inputs: Inputs, queries: jax.Array, keys: jax.Array) -> jax.Array:
        del queries, keys
        return inputs.context["bias"]


class T5Encoder(nn.Module):
    """int32 [B, S], zero is padding -> float32 [B, S, D]."""

    config: T5Config

    @nn.compact
    def __call__(self, text_BS: jax.Array) -> jax.Array:
        config = self.config
        x_BSD = Embedding(config.vocab_size, config.dim, stddev=1.0, name="embed")(text_BS)
        x_BSD = constrain(x_BSD, ("batch", "length", "activation_embed"))
        context = {
            "mask": PerExample(padding_mask(text_BS)),
            "bias": Shared(self._bias(text_BS.shape[1])),
        }
        return RMSNorm(name="norm")(self._stack()(x_BSD, context))

    def _bias(self, length: int) -> jax.Array:
        """float32 [1, N, T, S], added to the logits of every layer."""
        config = self.config
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), (None, "heads"))
        table_VN = self.param("relative_bias", init, (config.buckets, config.heads))
        buckets_TS = distance_buckets(length, config.buckets, config.max_distance)
        return jnp.transpose(table_VN[buckets_TS], (2, 0, 1))[None]

    def _stack(self) -> Stack:
        config, dtype = self.config, DTYPES[self.config.compute.dtype]

        def attention() -> nn.Module:
            sizes = (config.heads, config.head_dim, config.dim, dtype)
            return UnscaledAttention(*sizes, added=SharedBias)

        def feed_forward() -> nn.Module:
            sizes = (config.dim, config.hidden)
            return FeedForward(*sizes, activation="gelu", dtype=dtype, gated=True)

        parts = (
            Residual("attention", attention, "attention_norm", before=RMSNorm),
            Residual("ffn", feed_forward, "ffn_norm", before=RMSNorm),
        )
        return Stack(
            functools.partial(Block, parts),
            config.blocks,
            config.compute.scan,
            config.compute.remat,
            dtype,
            numbered=True,
            name="stack",
        )


@dataclasses.dataclass(frozen=True)
class FrozenT5:
    """The same as pure functions of its parameters."""

    config: T5Config

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes."""
        return T5Encoder(self.config).init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def __call__(self, params: Any, text_BS: jax.Array) -> jax.Array:
        """int32 [B, S], zero is padding -> float32 [B, S, D], without gradient."""
        states_BSD = T5Encoder(self.config).apply({"params": params}, text_BS)
        return jax.lax.stop_gradient(states_BSD)

    def shapes(self) -> Any:
        """Shapes and types of the parameters, a tree of dicts without boxes."""
        return nn.unbox(jax.eval_shape(self.init, jax.random.key(0)))


def config_of(arrays: Mapping[str, np.ndarray], name: str) -> T5Config:
    """The sizes of weights by name, as `babeldraw import` writes them; distances as published.

    Raises:
      UserError: they are not T5's; `name` is what the user calls them.
    """
    try:
        blocks, dim, heads, head_dim = arrays["stack/blocks/attention/query/weight"].shape
        hidden = arrays["stack/blocks/ffn/up/weight"].shape[-1]
        rows, buckets = len(arrays["embed/table"]), len(arrays["relative_bias"])
    except (KeyError, ValueError):
        raise UserError(f"{name} is not T5's; make it with `babeldraw import`") from None
    return T5Config(blocks, heads, head_dim, dim, hidden, rows, buckets)


def identity(params: Any) -> str:
    """16 hexadecimal digits of the weights; equal ones give equal states."""
    numbers = [int(number) for number in digests(params)]
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[:16]
