"""The measures on pictures and codes whose figures are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from babeldraw.evaluation import measures

RNG = np.random.default_rng(0)
SHAPE = (3, 24, 33, 3)


def smooth(shape=SHAPE, seed=0):
    """Pictures with some structure, float32 in [0, 1]."""
    noise = np.random.default_rng(seed).normal(0, 1, shape)
    blurred = ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    return np.clip(0.5 + blurred, 0, 1).astype(np.float32)


ORIGINALS = smooth()
SPOILED = np.clip(ORIGINALS + RNG.normal(0, 0.1, SHAPE), 0, 1).astype(np.float32)


def reference_ssim(a, b):
    """SSIM of one channel in float64, from SciPy's own Gaussian filter."""
    # Cut at 3.5 deviations, 5.25 pixels: the 11 x 11 window.
    mean = functools.partial(ndimage.gaussian_filter, sigma=1.5, truncate=3.5)
    a, b = a.astype(np.float64), b.astype(np.float64)
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    field = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return field[5:-5, 5:-5].mean()


def test_ssim_is_that_of_the_paper():
    expected = [
        np.mean([reference_ssim(x[..., c], y[..., c]) for c in range(3)])
        for x, y in zip(SPOILED, ORIGINALS, strict=True)
    ]
    assert 0.3 < min(expected) and max(expected) < 0.9
    found = jax.jit(measures.ssim)(SPOILED, ORIGINALS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ssim_of_equal_flat_and_inverted_pictures():
    ssim = jax.jit(measures.ssim)
    np.testing.assert_allclose(ssim(ORIGINALS, ORIGINALS), 1, atol=1e-5)
    np.testing.assert_allclose(ssim(SPOILED, ORIGINALS), ssim(ORIGINALS, SPOILED), atol=1e-5)
    # Flat pictures: variances vanish and the term of luminance is left.
    flat = np.broadcast_to(np.float32([0.2, 0.5, 1.0]).reshape(3, 1, 1, 1), SHAPE)
    dark = np.zeros(SHAPE, np.float32)
    expected = 1e-4 / (np.float64([0.2, 0.5, 1.0]) ** 2 + 1e-4)
    np.testing.assert_allclose(ssim(flat, dark), expected, atol=1e-5)
    assert (ssim(1 - ORIGINALS, ORIGINALS) < 0).all()


def test_errors_are_means_over_each_picture():
    difference = SPOILED.astype(np.float64) - ORIGINALS
    found = jax.jit(measures.l1)(SPOILED, ORIGINALS)
    np.testing.assert_allclose(found, np.abs(difference).mean((1, 2, 3)), atol=1e-5)
    found = jax.jit(measures.l2)(SPOILED, ORIGINALS)
    np.testing.assert_allclose(found, (difference**2).mean((1, 2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    ("error", "expected"), [(1.0, 0.0), (0.01, 20.0), (1 / 255**2, 48.1308), (0.0, np.inf)]
)
def test_psnr_of_known_errors(error, expected):
    assert measures.psnr_db(error) == pytest.approx(expected, abs=1e-4)


def test_codes_are_counted_where_the_mask_is():
    ids = jnp.asarray([[0, 1, 1], [2, 2, 2], [4, 4, 0]], jnp.int32)
    counts = measures.code_counts(ids, jnp.asarray([True, False, True]), 6)
    np.testing.assert_array_equal(counts, [2, 2, 0, 0, 2, 0])
    assert not measures.code_counts(ids, jnp.zeros(3, bool), 6).any()


def test_perplexity_is_the_number_of_codes_that_are_equally_frequent():
    assert measures.perplexity(np.array([5, 0, 5, 5, 0])) == pytest.approx(3)
    assert measures.perplexity(np.array([0, 7])) == pytest.approx(1)
    # Entropy of (1/2, 1/4, 1/4) is 1.5 bits.
    assert measures.perplexity(np.array([2, 1, 1])) == pytest.approx(2**1.5)
