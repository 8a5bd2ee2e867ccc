"""Pictures as Pillow's bicubic resize gives them to a network, to the last bit, on any device.

Pillow keeps 8 bits: columns are resized, then rows, each to whole levels, by weights of 22 bits.
The same integers here, so that features of others' published pictures are those of others.
"""

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require

# Height and width of what CLIP and DINOv2 see.
SIDE = 224
# Keys' filter with a = -1/2, and how far it reaches, in pixels.
SLOPE, REACH = -0.5, 2.0
# Fraction of a weight: 32 bits less 8 of a level and 2 for sums beyond it.
BITS = 22


def cropped(images: jax.Array) -> jax.Array:
    """The shorter side to 224 px, then the 224 x 224 in the middle, as OpenAI's CLIP.

    The longer side is rounded down and a half pixel of the crop to the even one, as torchvision's
    `Resize` and `CenterCrop` do.

    Args:
      images: [B, height, width, 3], uint8 or float32 in [0, 1], which is rounded to 8 bits.

    Returns:
      float32 [B, 224, 224, 3] in [0, 1]; all NaN where a picture has a pixel that is not finite.
    """
    height, width = images.shape[1:3]
    short = min(height, width)
    size = tuple(int(SIDE * side / short) for side in (height, width))
    return _resized(images, size, tuple(round((side - SIDE) / 2) for side in size))


def squeezed(images: jax.Array) -> jax.Array:
    """The whole picture to 224 x 224 px, whatever its sides; as `cropped` else.

    As dgm-eval (Stein et al., "Exposing flaws of generative model evaluation metrics", 2023).
    """
    return _resized(images, (SIDE, SIDE), (0, 0))


def _resized(images: jax.Array, size: tuple[int, ...], first: tuple[int, ...]) -> jax.Array:
    """To `size` px, of which 224 x 224 from the pixel `first` on."""
    x_BHWC = _levels(images)
    for axis in (2, 1):
        begin = first[axis - 1]
        low, weights = pillow_weights(x_BHWC.shape[axis], size[axis - 1])
        x_BHWC = _along(x_BHWC, axis, low[begin : begin + SIDE], weights[begin : begin + SIDE])
    x_BHWC = x_BHWC.astype(jnp.float32) / 255
    if images.dtype == jnp.uint8:
        return x_BHWC
    whole_B111 = jnp.all(jnp.isfinite(images), axis=(1, 2, 3), keepdims=True)
    # Integers have no NaN, which whoever takes the features looks for.
    return jnp.where(jnp.broadcast_to(whole_B111, x_BHWC.shape), x_BHWC, jnp.nan)


def _levels(images: jax.Array) -> jax.Array:
    """int32, 0 to 255."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.int32)
    require(
        bool(jnp.issubdtype(images.dtype, jnp.floating)),
        f"pictures are {images.dtype}; uint8, or floats in [0, 1], are needed",
    )
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255).astype(jnp.int32)


def _along(x_BHWC: jax.Array, axis: int, low: np.ndarray, weights: np.ndarray) -> jax.Array:
    """One axis, a sum over the taps of each pixel of the result."""
    last, shape = x_BHWC.shape[axis] - 1, [1, 1, 1, 1]
    shape[axis] = len(low)
    total = jnp.int32(1 << (BITS - 1))
    for tap in range(weights.shape[1]):
        # Beyond the edge the weight is 0.
        part = jnp.take(x_BHWC, np.minimum(low + tap, last), axis=axis)
        weight = jnp.broadcast_to(weights[:, tap].reshape(shape), part.shape)
        total = total + part * weight
    return jnp.clip(total >> BITS, 0, 255)


def pillow_weights(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `wanted` pixels along an axis of `size`: the first it is made of, and weights.

    Returns:
      int32 [wanted], and int32 [wanted, taps] in units of 2^-22.
    """
    scale = size / wanted
    wide = max(scale, 1.0)
    support = REACH * wide
    centre = (np.arange(wanted) + 0.5) * scale
    low = np.maximum((centre - support + 0.5).astype(np.int32), 0)
    high = np.minimum((centre + support + 0.5).astype(np.int32), size)
    at = low[:, None] + np.arange(int(np.max(high - low)))
    weights = keys((at - centre[:, None] + 0.5) / wide, SLOPE) * (at < high[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    # Halves away from zero, as C's cast of a number moved by a half.
    fixed = np.trunc(weights * (1 << BITS) + np.copysign(0.5, weights))
    return low, fixed.astype(np.int32)


def keys(x: np.ndarray, slope: float) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981: the filter."""
    x, a = np.abs(x), slope
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
