"""The measures on pictures and codes whose figures are known."""

import jax
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


def test_perplexity_is_the_number_of_codes_that_are_equally_frequent():
    assert measures.perplexity(np.array([5, 0, 5, 5, 0])) == pytest.approx(3)
    assert measures.perplexity(np.array([0, 7])) == pytest.approx(1)
    # Entropy of (1/2, 1/4, 1/4) is 1.5 bits.
    assert measures.perplexity(np.array([2, 1, 1])) == pytest.approx(2**1.5)


def test_uniform_draws_reach_what_they_do_when_drawn():
    rng, vocab, draws = np.random.default_rng(0), 50, 60
    reached = [len(np.unique(rng.integers(0, vocab, draws))) for _ in range(2000)]
    assert measures.uniform_usage((vocab,), draws) == pytest.approx(np.mean(reached) / vocab, 0.01)
    assert measures.uniform_usage((8192,), 1) == pytest.approx(1 / 8192)
    # Of two factors each has as many draws.
    assert measures.uniform_usage((1, 1000), 1) == pytest.approx(2 / 1001)


def test_the_use_of_each_place_is_over_what_uniform_draws_reach():
    codes = np.random.default_rng(0).integers(0, 64, (300, 400), dtype=np.int32)
    codes[:, 7] = 3
    found = measures.used_by_place(codes, 64)
    assert np.delete(found, 7).mean() == pytest.approx(1, abs=0.01)
    assert found[7] == pytest.approx(1 / 64, rel=0.02) and found.argmin() == 7
