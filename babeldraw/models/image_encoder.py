"""A vision transformer that reads whole pictures: the image side of contrastive models."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.block import TransformerConfig, encoder_parts, make_stack
from babeldraw.layers.linear import Einsum, LayerNorm
from babeldraw.layers.positions import GridPositions
from babeldraw.sharding.constraint import constrain
from babeldraw.tokenizers.pixels import CHANNELS, to_patches


class ImageEncoder(nn.Module):
    """float32 [B, height, width, 3] in [0, 1] -> float32 [B, h * w, D].

    Attributes:
      config: of the stack.
      image_size: (height, width) in pixels.
      patch_size: side of the square patches, which divides both.
    """

    config: TransformerConfig
    image_size: tuple[int, int]
    patch_size: int

    @nn.compact
    def __call__(self, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        config, patch = self.config, self.patch_size
        shape = (patch**2 * CHANNELS, config.dim)
        embed = Einsum("BTP,PD->BTD", shape, ("patch", "embed"), bias=True, name="embed")
        # Networks see values centred on zero; images stay in [0, 1] outside.
        x_BTD = embed(to_patches(2 * images - 1, patch))
        grid = (self.image_size[0] // patch, self.image_size[1] // patch)
        x_BTD = x_BTD + GridPositions(grid, config.dim, name="positions")()[None]
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        x_BTD = make_stack(encoder_parts(config), config, "stack")(x_BTD, keys=keys)
        return LayerNorm(name="norm")(x_BTD)


def unit(x_BQ: jax.Array) -> jax.Array:
    """Each row over its Euclidean norm, float32."""
    x_BQ = x_BQ.astype(jnp.float32)
    return x_BQ * jax.lax.rsqrt(jnp.sum(jnp.square(x_BQ), axis=-1, keepdims=True) + 1e-12)
