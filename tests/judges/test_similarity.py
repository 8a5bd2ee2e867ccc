"""Structural similarity, at one scale and at several, against a second implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from babeldraw.errors import UserError
from babeldraw.judges import similarity

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
    found = jax.jit(similarity.ssim)(SPOILED, ORIGINALS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ssim_of_equal_flat_and_inverted_pictures():
    ssim = jax.jit(similarity.ssim)
    np.testing.assert_allclose(ssim(ORIGINALS, ORIGINALS), 1, atol=1e-5)
    np.testing.assert_allclose(ssim(SPOILED, ORIGINALS), ssim(ORIGINALS, SPOILED), atol=1e-5)
    # Flat pictures: variances vanish and the term of luminance is left.
    flat = np.broadcast_to(np.float32([0.2, 0.5, 1.0]).reshape(3, 1, 1, 1), SHAPE)
    dark = np.zeros(SHAPE, np.float32)
    expected = 1e-4 / (np.float64([0.2, 0.5, 1.0]) ** 2 + 1e-4)
    np.testing.assert_allclose(ssim(flat, dark), expected, atol=1e-5)
    assert (ssim(1 - ORIGINALS, ORIGINALS) < 0).all()


# ------------------------------------------------------------------ several scales

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def reference_ms_ssim(a, b, count):
    """Of one channel in float64, by correlation with a window of two dimensions."""
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(x):
        views = np.lib.stride_tricks.sliding_window_view(x, (11, 11))
        return np.einsum("hwij,ij->hw", views, window)

    result, a, b = 1.0, a.astype(np.float64), b.astype(np.float64)
    weights = np.array(WEIGHTS[:count]) / sum(WEIGHTS[:count])
    for scale, weight in enumerate(weights):
        va, vb = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
        structure = (2 * (mean(a * b) - mean(a) * mean(b)) + 0.03**2) / (va + vb + 0.03**2)
        luminance = (2 * mean(a) * mean(b) + 1e-4) / (mean(a) ** 2 + mean(b) ** 2 + 1e-4)
        whole = scale == count - 1
        result *= max(np.mean(luminance * structure if whole else structure), 1e-6) ** weight
        height, width = a.shape[0] // 2, a.shape[1] // 2
        a, b = (
            sum(x[i : 2 * height : 2, j : 2 * width : 2] for i in (0, 1) for j in (0, 1)) / 4
            for x in (a, b)
        )
    return result


def of_channels(a, b, count):
    return np.mean([reference_ms_ssim(a[..., c], b[..., c], count) for c in range(3)])


@pytest.mark.parametrize(
    ("size", "count"),
    [((176, 177), 5), ((175, 200), 4), ((64, 64), 3), ((33, 24), 2), ((11, 40), 1)],
)
def test_ms_ssim_is_that_of_the_paper(size, count):
    originals = smooth((2, *size, 3))
    spoiled = np.clip(originals + RNG.normal(0, 0.2, originals.shape), 0, 1).astype(np.float32)
    expected = [of_channels(*pair, count) for pair in zip(spoiled, originals, strict=True)]
    found = jax.jit(similarity.ms_ssim)(spoiled, originals)
    assert similarity.scales(size) == count and 0.2 < min(expected) < 0.99
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if count == 1:
        np.testing.assert_allclose(found, jax.jit(similarity.ssim)(spoiled, originals), atol=1e-5)


@pytest.mark.slow
def test_its_gradient_is_the_slope_of_the_second_implementation():
    originals, direction = smooth((1, 48, 50, 3)), smooth((1, 48, 50, 3), seed=5) - 0.5
    spoiled = np.clip(originals + RNG.normal(0, 0.1, originals.shape), 0, 1).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: similarity.ms_ssim(x, originals)[0]))(spoiled)
    step = 1e-5 * direction[0].astype(np.float64)
    ends = [of_channels(spoiled[0] + sign * step, originals[0], 3) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-5
    assert abs(slope) > 1e-3
    assert float(np.sum(gradient * direction)) == pytest.approx(slope, rel=1e-3)


def test_unlike_and_equal_pictures_have_finite_gradients():
    checker = np.indices((1, 32, 32, 3)).sum(0) % 2 * np.float32(1)
    of = jax.jit(jax.value_and_grad(lambda x, y: jnp.sum(similarity.ms_ssim(x, y))))
    for first in (checker, 1 - checker, np.zeros_like(checker)):
        value, gradient = of(first, checker)
        assert 0 <= value <= 1 + 1e-5 and np.isfinite(gradient).all()
    assert of(checker, checker)[0] == pytest.approx(1, abs=1e-5)


def test_pictures_below_the_window_are_refused():
    small = np.zeros((1, 10, 64, 3), np.float32)
    with pytest.raises(UserError, match=r"at least 11 px on each side; they are \(10, 64\)"):
        similarity.ms_ssim(small, small)
    wide = np.zeros((1, 64, 48, 3), np.float32)
    for measure in (similarity.ssim, similarity.ms_ssim):
        with pytest.raises(UserError, match="compared with originals of"):
            measure(wide, wide[:, :, :40])
