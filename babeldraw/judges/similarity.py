"""Structural similarity: how alike two pictures are in luminance, contrast and structure.

Pure functions of pictures, float32 in [0, 1], [B, height, width, C], each to float32 [B]; they
have gradients, so that a tokenizer may be trained by them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require

# Wang et al. 2004, section III-B: an 11 x 11 Gaussian of deviation 1.5, K1 = 0.01, K2 = 0.03.
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
# Wang, Simoncelli and Bovik 2003, section 3.2: beta of each scale, from the finest.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The least that a scale is worth: below lie those that are unlike, whose powers are no numbers.
LEAST = 1e-6


def ssim(images: jax.Array, originals: jax.Array) -> jax.Array:
    """Structural similarity, at most 1, the mean over windows that lie inside and over channels.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE TIP 2004, equation 13, with the paper's window and constants
    (`skimage.metrics.structural_similarity` with gaussian_weights and without
    use_sample_covariance). The paper measures luminance; here each of R, G, B is measured and the
    mean taken, as is usual for colour. Sides of at least 11 pixels are needed.
    """
    _check_sizes(images, originals)
    luminance, structure = _terms(images, originals)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def ms_ssim(images: jax.Array, originals: jax.Array) -> jax.Array:
    """Multi-scale structural similarity, in [0, 1], the mean over channels.

    Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment",
    2003, equation 7: contrast and structure at each scale, luminance at the coarsest; a scale is
    the mean of each 2 x 2 of the one before, a last odd row or column left out.

    Five scales need sides of 176 pixels. Smaller pictures have as many as leave 11 at the coarsest
    (`scales`), and the weights of those, made to sum to 1.

    Raises:
      UserError: a side has less than 11 pixels, or the two are of different sizes.
    """
    _check_sizes(images, originals)
    count = scales(images.shape[1:3])
    require(
        count > 0,
        f"MS-SSIM needs pictures of at least {SSIM_WINDOW} px on each side; they are "
        f"{images.shape[1:3]}",
    )
    weights, similarity_BC = np.array(SCALE_WEIGHTS[:count]), None
    for scale, weight in enumerate(weights / weights.sum()):
        if scale:
            images, originals = _halved(images), _halved(originals)
        luminance, structure = _terms(images, originals)
        found = luminance * structure if scale == count - 1 else structure
        power_BC = jnp.maximum(jnp.mean(found, axis=(1, 2)), LEAST) ** float(weight)
        similarity_BC = power_BC if similarity_BC is None else similarity_BC * power_BC
    return jnp.mean(similarity_BC, axis=1)


def scales(size: tuple[int, int]) -> int:
    """How many scales, at most five, pictures of (height, width) have; 0 of very small ones."""
    fitting = (min(size) >> scale >= SSIM_WINDOW for scale in range(len(SCALE_WEIGHTS)))
    return sum(fitting)


def _check_sizes(images: jax.Array, originals: jax.Array) -> None:
    require(
        images.shape == originals.shape,
        f"pictures of {images.shape} are compared with originals of {originals.shape}; bring both "
        "to one size first",
    )


def _terms(images: jax.Array, originals: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Luminance, and contrast times structure, of each window: [B, height-10, width-10, C]."""
    mean_a, mean_b = _local_mean(images), _local_mean(originals)
    variance_a = _local_mean(jnp.square(images)) - jnp.square(mean_a)
    variance_b = _local_mean(jnp.square(originals)) - jnp.square(mean_b)
    covariance = _local_mean(images * originals) - mean_a * mean_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    luminance = (2 * mean_a * mean_b + c1) / (jnp.square(mean_a) + jnp.square(mean_b) + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return luminance, structure


def _local_mean(x: jax.Array) -> jax.Array:
    """The Gaussian-weighted mean of each window inside: [B, H, W, C] -> [B, H-10, W-10, C]."""
    # Rows and columns one after the other, each as one product with a banded matrix. At its highest
    # precision: rounded to a TPU's bfloat16 a variance would be lost. As sums of shifted pictures
    # the gradient takes a CPU more than ten times as long, and the compiler five times.
    for axis in (1, 2):
        band = _band(x.shape[axis]).astype(x.dtype)
        product = jnp.tensordot(x, band, ((axis,), (0,)), precision=jax.lax.Precision.HIGHEST)
        x = jnp.moveaxis(product, -1, axis)
    return x


def _band(side: int) -> jax.Array:
    """The weights of each window along a side, float32 [side, side - 10]."""
    places, windows = np.arange(side), np.arange(side - SSIM_WINDOW + 1)
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * np.square(offsets / SSIM_SIGMA))
    within = jnp.asarray(places)[:, None] - jnp.asarray(windows)[None]
    inside = (within >= 0) & (within < SSIM_WINDOW)
    return jnp.where(inside, jnp.float32(weights / weights.sum())[within % SSIM_WINDOW], 0.0)


def _halved(x: jax.Array) -> jax.Array:
    """The mean of each 2 x 2."""
    b, h, w, c = x.shape
    even = x[:, : h // 2 * 2, : w // 2 * 2]
    return jnp.mean(even.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
