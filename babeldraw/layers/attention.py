"""Multi-head attention, with keys and values as a value one can hold.

`KeyValue` is what a caller may keep: the text's keys and values, computed once for all image
tokens, or the growing cache of a decoder's own. Attention itself has no state.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from babeldraw.layers.linear import Einsum
from babeldraw.sharding.constraint import constrain


@flax.struct.dataclass
class KeyValue:
    """Keys and values of S positions: `key` and `value` are [B, N, S, H]."""

    key: jax.Array
    value: jax.Array

    def write(self, index: jax.Array, new: "KeyValue") -> "KeyValue":
        """These positions with `new` written from position `index` (int32 scalar) on."""
        at = (0, 0, index, 0)
        return KeyValue(
            key=jax.lax.dynamic_update_slice(self.key, new.key.astype(self.key.dtype), at),
            value=jax.lax.dynamic_update_slice(self.value, new.value.astype(self.value.dtype), at),
        )


def empty_key_value(batch: int, length: int, num_heads: int, head_dim: int, dtype) -> KeyValue:
    """A cache of `length` unwritten positions."""
    # Two arrays, not one twice: a donated buffer may be given only once.
    shape = (batch, num_heads, length, head_dim)
    return KeyValue(key=jnp.zeros(shape, dtype), value=jnp.zeros(shape, dtype))


def dot_product_attention(
    query_BNTH: jax.Array, keys: KeyValue, mask: jax.Array | None
) -> jax.Array:
    """softmax(query key^T / sqrt(H)) value; logits and softmax in float32.

    Args:
      query_BNTH: queries.
      keys: S keys and values.
      mask: bool, broadcastable by unit dimensions to [B, N, T, S]; True is visible. None: all.

    Returns:
      [B, N, T, H] in the type of the queries.
    """
    scale = query_BNTH.shape[-1] ** -0.5
    logits_BNTS = jnp.einsum(
        "BNTH,BNSH->BNTS", query_BNTH * scale, keys.key, preferred_element_type=jnp.float32
    )
    if mask is not None:
        logits_BNTS = jnp.where(mask, logits_BNTS, jnp.finfo(jnp.float32).min)
    weights_BNTS = jax.nn.softmax(logits_BNTS, axis=-1).astype(query_BNTH.dtype)
    return jnp.einsum("BNTS,BNSH->BNTH", weights_BNTS, keys.value)


class Attention(nn.Module):
    """Multi-head attention of full width: N heads of H, projections without bias."""

    num_heads: int
    head_dim: int
    dim: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        shape = (self.dim, self.num_heads, self.head_dim)
        axes = ("embed", "heads", "head_dim")
        self.query = Einsum("BTD,DNH->BNTH", shape, axes, dtype=self.dtype)
        self.key = Einsum("BSD,DNH->BNSH", shape, axes, dtype=self.dtype)
        self.value = Einsum("BSD,DNH->BNSH", shape, axes, dtype=self.dtype)
        self.out = Einsum(
            "BNTH,NHD->BTD",
            (*shape[1:], self.dim),
            ("heads", "head_dim", "embed"),
            dtype=self.dtype,
        )

    def key_value(self, source_BSD: jax.Array) -> KeyValue:
        """Keys and values of a source of S positions."""
        names = ("batch", "activation_heads", "length", "head_dim")
        return KeyValue(
            key=constrain(self.key(source_BSD), names),
            value=constrain(self.value(source_BSD), names),
        )

    def attend(self, x_BTD: jax.Array, keys: KeyValue, mask: jax.Array | None) -> jax.Array:
        """Looks from T queries at given keys and values. Returns [B, T, D]."""
        with jax.named_scope("attention"):
            query_BNTH = constrain(
                self.query(x_BTD), ("batch", "activation_heads", "length", "head_dim")
            )
            out_BNTH = checkpoint_name(dot_product_attention(query_BNTH, keys, mask), "context")
            out_BTD = constrain(self.out(out_BNTH), ("batch", "length", "activation_embed"))
            return checkpoint_name(out_BTD, "output")

    def __call__(
        self, x_BTD: jax.Array, source_BSD: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """Looks from x at a source (x itself for self-attention). Returns [B, T, D]."""
        return self.attend(x_BTD, self.key_value(source_BSD), mask)
