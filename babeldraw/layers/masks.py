"""Who may attend to whom. True means: this query sees this key.

Training needs a whole mask, cached decoding one row at a time, and both must be the same mask; so a
pattern is an object with both views. The conv-shaped pattern will be another such object.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp


class AttentionPattern(Protocol):
    """Which earlier tokens an image token sees."""

    def dense(self, length: int) -> jax.Array:
        """bool [T, T]: row t is the keys that query t sees."""
        ...

    def row(self, index: jax.Array, length: int) -> jax.Array:
        """bool [T]: row `index` (int32 scalar, traced) of `dense(length)`."""
        ...


@dataclasses.dataclass(frozen=True)
class Causal:
    """Every token sees itself and all tokens before it."""

    def dense(self, length: int) -> jax.Array:
        positions_T = jnp.arange(length)
        return positions_T[:, None] >= positions_T[None, :]

    def row(self, index: jax.Array, length: int) -> jax.Array:
        return jnp.arange(length) <= index


def padding_mask(ids_BS: jax.Array, pad_id: int = 0) -> jax.Array:
    """bool [B, 1, 1, S]: True where a text token is not padding.

    A text of nothing but padding, which is how classifier-free guidance spells "no prompt", keeps
    all its positions: a query must have something to look at.
    """
    real_BS = ids_BS != pad_id
    empty_B1 = ~jnp.any(real_BS, axis=-1, keepdims=True)
    return (real_BS | jnp.broadcast_to(empty_B1, real_BS.shape))[:, None, None, :]
