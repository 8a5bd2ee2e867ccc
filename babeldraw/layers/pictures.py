"""Pictures as networks take them."""

import jax
import jax.numpy as jnp


def to_float(images: jax.Array) -> jax.Array:
    """uint8 images, as hosts send them, to float32 in [0, 1]; floats pass through."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images


def downsample(images: jax.Array, factor: int) -> jax.Array:
    """The mean of each cell of factor x factor pixels: [B, H, W, C] -> [B, H / f, W / f, C].

    The area resize that Parti's tokenizer data have (DALL-E's listing).
    """
    b, height, width, channels = images.shape
    shape = (b, height // factor, factor, width // factor, factor, channels)
    return jnp.mean(images.reshape(shape), axis=(2, 4))


def enlarge(x_BhwC: jax.Array, factor: int) -> jax.Array:
    """Nearest: each pixel becomes factor x factor. [B, h, w, C] -> [B, factor h, factor w, C]."""
    return jnp.repeat(jnp.repeat(x_BhwC, factor, axis=1), factor, axis=2)


def depth_to_space(x_BhwC: jax.Array, factor: int) -> jax.Array:
    """[B, h, w, factor * factor * C] -> [B, factor h, factor w, C] (pixel shuffle).

    The last dimension is (row, column, C) of the cell that it becomes.
    """
    b, h, w, channels = x_BhwC.shape
    cells = x_BhwC.reshape(b, h, w, factor, factor, channels // factor**2)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, -1)


def space_to_depth(x_BHWC: jax.Array, factor: int) -> jax.Array:
    """The inverse of `depth_to_space`: [B, H, W, C] -> [B, H / f, W / f, f * f * C]."""
    b, height, width, channels = x_BHWC.shape
    h, w = height // factor, width // factor
    cells = x_BHWC.reshape(b, h, factor, w, factor, channels).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(b, h, w, factor * factor * channels)
