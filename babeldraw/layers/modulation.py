"""Norms that a vector moves: adaptive layer norm, per example or per slot."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.linear import standardized
from babeldraw.layers.packing import Packing


class Modulation(nn.Module):
    """A vector to a shift, a scale and a gate of a part of a block, each float32 [B, 1 or T, D].

    The product is in the vector's type. Adaptive layer norm with a gate that begins at zero, so
    that each part begins as the identity (adaLN-Zero; Peebles and Xie, "Scalable Diffusion Models
    with Transformers", 2023, section 3.2).

    Attributes:
      dim: D.
      zero: begins with zeros; else as a plain product.
      count: how many it makes, if not these three.
      spread: deviation of the weights of each as they begin, in place of `zero`; empty: by that.
      backwards: its weights make the gate first and the shift last, as in IBQ.
      packing: of rows whose pictures have a vector each, [R, P, C], one product for all slots of a
        picture; None: rows are one picture's.
    """

    dim: int
    zero: bool = True
    count: int = 3
    spread: tuple[float, ...] = ()
    backwards: bool = False
    packing: Packing | None = None

    @nn.compact
    def __call__(self, vector: jax.Array) -> tuple[jax.Array, ...]:
        """vector: float [B, C], of each example, or [B, T, C], of each slot."""
        init = nn.initializers.zeros if self.zero else nn.initializers.normal(0.02)
        if self.spread:
            init = self._spread
        shape, axes = (vector.shape[-1], self.count, self.dim), ("embed", None, "activation_embed")
        weight_CKD = self.param("weight", nn.with_logical_partitioning(init, axes), shape)
        init = nn.with_logical_partitioning(nn.initializers.zeros, axes[1:])
        bias_KD = self.param("bias", init, shape[1:])
        slots_BTC = vector if vector.ndim == 3 else vector[:, None]
        made = jnp.einsum("BTC,CKD->KBTD", slots_BTC, weight_CKD.astype(slots_BTC.dtype))
        bias_K11D = bias_KD[:, None, None].astype(jnp.float32)
        made = tuple(made.astype(jnp.float32) + jnp.broadcast_to(bias_K11D, made.shape))
        if self.packing is not None:
            made = tuple(map(self.packing.spread, made))
        return made[::-1] if self.backwards else made

    def _spread(self, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32):
        deviation_1K1 = jnp.asarray(self.spread, dtype)[None, :, None]
        return jax.random.normal(key, shape, dtype) * jnp.broadcast_to(deviation_1K1, shape)


def moved(x_BTD: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (1 + scale) + shift, float32."""
    shift, scale = (jnp.broadcast_to(a, x_BTD.shape) for a in (shift, scale))
    return x_BTD.astype(jnp.float32) * (1 + scale) + shift


class Standardized(nn.Module):
    """A layer norm without weights, for parts that a vector moves."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        return standardized(x_BTD)


class AdaptiveNorm(nn.Module):
    """A layer norm that a vector alone scales and shifts, as DiT's before its output.

    Attributes:
      dim: D.
      norm: makes the norm that is moved, if not one without weights.
      spread: as of `Modulation`, of the scale and of the shift.
      backwards: its weights make the shift first, as in DiT.
      packing: as of `Modulation`.
    """

    dim: int
    norm: Callable[..., nn.Module] = Standardized
    spread: tuple[float, ...] = ()
    backwards: bool = False
    packing: Packing | None = None

    @nn.compact
    def __call__(self, x_BTD: jax.Array, vector: jax.Array) -> jax.Array:
        """float32 [B, T, D], by a vector as `Modulation` takes it."""
        modulation = Modulation(
            self.dim,
            count=2,
            spread=self.spread,
            backwards=self.backwards,
            packing=self.packing,
            name="modulation",
        )
        scale, shift = modulation(vector)
        return moved(self.norm(name="norm")(x_BTD), shift, scale)
