"""How far pictures lie from their originals, and how a codebook is used: figures per picture.

Pure functions of arrays, to be jitted with what surrounds them. Pictures are float32 in [0, 1],
[B, height, width, C]; each function gives float32 [B], so that padding can be masked out.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Wang et al. 2004, section III-B: an 11 x 11 Gaussian of deviation 1.5, K1 = 0.01, K2 = 0.03.
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03


def l1(images: jax.Array, originals: jax.Array) -> jax.Array:
    """Mean absolute error."""
    return jnp.mean(jnp.abs(images - originals), axis=(1, 2, 3))


def l2(images: jax.Array, originals: jax.Array) -> jax.Array:
    """Mean squared error."""
    return jnp.mean(jnp.square(images - originals), axis=(1, 2, 3))


def psnr_db(squared_error: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error; the peak is 1. Infinite for no error."""
    return math.inf if squared_error == 0 else -10 * math.log10(squared_error)


def ssim(images: jax.Array, originals: jax.Array) -> jax.Array:
    """Structural similarity, at most 1, the mean over windows that lie inside and over channels.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE TIP 2004, equation 13, with the paper's window and constants
    (`skimage.metrics.structural_similarity` with gaussian_weights and without
    use_sample_covariance). The paper measures luminance; here each of R, G, B is measured and the
    mean taken, as is usual for colour. Sides of at least 11 pixels are needed.
    """
    mean_a, mean_b = _local_mean(images), _local_mean(originals)
    variance_a = _local_mean(jnp.square(images)) - jnp.square(mean_a)
    variance_b = _local_mean(jnp.square(originals)) - jnp.square(mean_b)
    covariance = _local_mean(images * originals) - mean_a * mean_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    luminance = (2 * mean_a * mean_b + c1) / (jnp.square(mean_a) + jnp.square(mean_b) + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _local_mean(x: jax.Array) -> jax.Array:
    """The Gaussian-weighted mean of each window inside: [B, H, W, C] -> [B, H-10, W-10, C]."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * np.square(offsets / SSIM_SIGMA))
    weights = weights / weights.sum()
    # Rows and columns one after the other, as sums of shifted pictures: exact on every device,
    # where the convolution of a TPU rounds to bfloat16 and a variance would be lost.
    for axis in (1, 2):
        length = x.shape[axis] - SSIM_WINDOW + 1
        x = sum(
            float(weight) * jax.lax.slice_in_dim(x, first, first + length, axis=axis)
            for first, weight in enumerate(weights)
        )
    return x


def code_counts(ids: jax.Array, mask: jax.Array, size: int) -> jax.Array:
    """int32 [V]: how often each of `size` codes occurs in int32 [B, ...] where mask [B] is True."""
    weights = jnp.expand_dims(mask.astype(jnp.int32), tuple(range(1, ids.ndim)))
    weights = jnp.broadcast_to(weights, ids.shape)
    return jnp.zeros(size, jnp.int32).at[ids.reshape(-1)].add(weights.reshape(-1))


def perplexity(counts_V: np.ndarray) -> float:
    """exp of the entropy of the codes: 1 where one code is all, V where all are as frequent."""
    counts_V = np.asarray(counts_V, np.float64)
    shares = counts_V[counts_V > 0] / counts_V.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
