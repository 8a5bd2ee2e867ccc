"""Norms that a vector moves: adaptive layer norm, per example or per slot."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Modulation(nn.Module):
    """A vector to a shift, a scale and a gate of a part of a block, each float32 [B, 1 or T, D].

    Adaptive layer norm with a gate that begins at zero, so that each part begins as the identity
    (adaLN-Zero; Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023, section 3.2).

    Attributes:
      dim: D.
      zero: begins with zeros; else as a plain product.
    """

    dim: int
    zero: bool = True

    @nn.compact
    def __call__(self, vector: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """vector: float [B, C], of each example, or [B, T, C], of each slot."""
        init = nn.initializers.zeros if self.zero else nn.initializers.normal(0.02)
        shape, axes = (vector.shape[-1], 3, self.dim), ("embed", None, "activation_embed")
        weight_CKD = self.param("weight", nn.with_logical_partitioning(init, axes), shape)
        init = nn.with_logical_partitioning(nn.initializers.zeros, axes[1:])
        bias_KD = self.param("bias", init, shape[1:])
        slots_BTC = vector if vector.ndim == 3 else vector[:, None]
        made = jnp.einsum("BTC,CKD->KBTD", slots_BTC.astype(jnp.float32), weight_CKD)
        shift, scale, gate = made + jnp.broadcast_to(bias_KD[:, None, None], made.shape)
        return shift, scale, gate


def moved(x_BTD: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (1 + scale) + shift, float32."""
    shift, scale = (jnp.broadcast_to(a, x_BTD.shape) for a in (shift, scale))
    return x_BTD.astype(jnp.float32) * (1 + scale) + shift
