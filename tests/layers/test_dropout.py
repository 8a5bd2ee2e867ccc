"""Dropout's masks: as many zeros as asked for, and nothing to be seen between any two of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.dropout import _bits, dropout, example_keys, fold

B, T, D = 4, 64, 512
ONES = jnp.ones((B, T, D))


def kept(rate, place=0, layer=0, seed=0):
    """bool [B, T, D]."""
    keys = fold(example_keys(jax.random.key(seed), B), layer)
    return np.asarray(dropout(ONES, rate, keys, place)) > 0


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_asked_share_is_dropped_and_the_mean_stays(rate):
    masks = kept(rate)
    deviation = np.sqrt(rate * (1 - rate))
    # Of each example, each position and each feature, not of the whole alone.
    for axes in ((1, 2), (0, 2), (0, 1)):
        count = np.prod([masks.shape[axis] for axis in axes])
        apart = (masks.mean(axes) - (1 - rate)) / (deviation / np.sqrt(count))
        assert np.abs(apart).max() < 5 and apart.std() < 1.6
    keys = example_keys(jax.random.key(0), B)
    assert float(dropout(ONES, rate, keys, 0).max()) == pytest.approx(1 / (1 - rate))


def test_no_two_masks_are_alike():
    """Correlation of masks that differ in one thing, or by a step along one dimension."""
    base = kept(0.5)
    others = [kept(0.5, place=1), kept(0.5, layer=1), kept(0.5, seed=1), base[::-1]]
    others += [np.roll(base, by, axis) for axis in (1, 2) for by in (1, 2, 16)]
    signs = [np.where(mask, 1.0, -1.0).ravel() for mask in (base, *others)]
    for one, other in itertools.combinations(signs, 2):
        assert abs(one @ other) / np.sqrt(one.size) < 5


def test_every_bit_is_even():
    bits = np.asarray(_bits(jax.random.key(3), (256, 1024)))
    share = np.unpackbits(bits.view(np.uint8)).reshape(-1, 32).mean(0)
    assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(bits.size)
