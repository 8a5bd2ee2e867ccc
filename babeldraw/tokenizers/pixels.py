"""What a decoder's output channels mean: raw colours, or a logit-Laplace distribution of them.

Ramesh et al., "Zero-Shot Text-to-Image Generation" (DALL-E), appendix A.3: pixels lie in (0, 1),
so their logit is taken as Laplace-distributed, with a mean and a scale per value. The logit has no
bound at 0 and 1, so pixels are mapped to [epsilon, 1 - epsilon] before.
"""

import jax

from babeldraw.layers.pictures import depth_to_space
from babeldraw.layers.pictures import to_float as to_float

# Of a picture.
CHANNELS = 3
# Output channels of each kind: colours; or means of logits, then logarithms of scales.
OUTPUTS = {"rgb": 3, "logit_laplace": 6}
# DALL-E, appendix A.3.
EPSILON = 0.1
# Below exp(-6) a scale says more than 8-bit pixels hold: one step of 1/255 is 0.0125 to 0.035 in
# the logit. Without a floor, flat areas draw the likelihood to infinity. Not published.
LOG_SCALE_FLOOR = -6.0


def map_pixels(images: jax.Array) -> jax.Array:
    """[0, 1] -> [epsilon, 1 - epsilon]: (1 - 2 epsilon) x + epsilon."""
    return (1 - 2 * EPSILON) * images + EPSILON


def unmap_pixels(mapped: jax.Array) -> jax.Array:
    """The inverse of `map_pixels`; what lies outside of [epsilon, 1 - epsilon] leaves [0, 1]."""
    return (mapped - EPSILON) / (1 - 2 * EPSILON)


def to_images(raw_BhwC: jax.Array, output: str) -> jax.Array:
    """What a decoder draws, float32 [B, height, width, 3], near [0, 1] but not clipped.

    Args:
      raw_BhwC: the decoder's values without any activation, C as `OUTPUTS` says.
      output: `rgb`: the values themselves, centred on 1/2; `logit_laplace`: the sigmoid of the
        means, the only activation at an output (ViT-VQGAN, section 3.1), mapped back.
    """
    if output == "rgb":
        return 0.5 * (raw_BhwC + 1)
    return unmap_pixels(jax.nn.sigmoid(raw_BhwC[..., :3]))


def logit_laplace_parameters(raw_BhwC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean mu of the logit and ln b of its scale, each [B, height, width, 3], of six channels."""
    floor = LOG_SCALE_FLOOR
    return raw_BhwC[..., :3], floor + jax.nn.softplus(raw_BhwC[..., 3:] - floor)


def to_patches(images: jax.Array, patch: int) -> jax.Array:
    """[B, height, width, C] -> [B, h * w, patch * patch * C], raster order."""
    b, height, width, c = images.shape
    grid = images.reshape(b, height // patch, patch, width // patch, patch, c)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def from_patches(patches: jax.Array, grid: tuple[int, int], patch: int) -> jax.Array:
    """The inverse of `to_patches`."""
    return depth_to_space(patches.reshape(patches.shape[0], *grid, -1), patch)
