"""Schedules, counts and orders of masked prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.prediction.masking import (
    SCHEDULES,
    halton_places,
    left_masked,
    random_mask,
    ranks,
)


def left(schedule, steps, length):
    """After each step but the last, of a picture of which nothing is known."""
    return left_masked(steps, length)[[*SCHEDULES].index(schedule), :-1, length].tolist()


@pytest.mark.parametrize(
    ("length", "counts"),
    [
        # As TiTok's published code masks.
        (32, [29, 26, 24, 21, 18, 14, 10]),
        (64, [58, 53, 48, 42, 36, 29, 20]),
        (128, [117, 107, 96, 85, 72, 58, 41]),
    ],
)
def test_arccos_leaves_as_many_masked_as_titok(length, counts):
    assert left("arccos", 8, length) == counts


def test_cosine_leaves_as_many_masked_as_maskgit():
    assert left("cosine", 8, 256) == [251, 236, 212, 181, 142, 97, 49]
    # cos(pi / 3) is below a half in float32.
    assert left("cosine", 12, 256) == [253, 247, 236, 221, 203, 181, 155, 127, 97, 66, 33]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_falls_from_all_to_none(name):
    gone = np.linspace(0, 1, 101)
    share = SCHEDULES[name](gone, np)
    assert share[0] == pytest.approx(1) and share[-1] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(share) < 0)
    np.testing.assert_allclose(SCHEDULES[name](jnp.float32(gone), jnp), share, atol=1e-6)


def test_a_random_mask_has_its_count_and_every_place_its_turn():
    keys, count = jax.random.split(jax.random.key(0), 2000), jnp.arange(2000) % 6
    mask = np.asarray(random_mask(keys, count, 5))
    np.testing.assert_array_equal(mask.sum(axis=1), count)
    # Of the thousand rows with one to three masked places, two in five of each place.
    some = mask[np.isin(count, (1, 2, 3))]
    np.testing.assert_allclose(some.mean(axis=0), 0.4, atol=0.05)


def test_equal_scores_are_ranked_by_place():
    scores = jnp.float32([[3, 1, 3, jnp.inf, 0], [2, 2, 2, 2, 2]])
    np.testing.assert_array_equal(ranks(scores), [[2, 1, 3, 4, 0], [0, 1, 2, 3, 4]])


def test_halton_s_places_are_the_cells_of_its_points():
    # 1/2 1/3, 1/4 2/3, 3/4 1/9, 1/8 4/9, 5/8 7/9, 3/8 2/9, 7/8 5/9, 1/16 8/9, ...
    rows, columns = np.divmod(halton_places((4, 3))[:7], 3)
    assert rows.tolist() == [2, 1, 3, 0, 2, 1, 3]
    assert columns.tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert halton_places((8,)).tolist() == [4, 2, 6, 1, 5, 3, 7, 0]


@pytest.mark.parametrize("shape", [(1,), (32,), (1, 1), (5, 7), (16, 16)])
def test_every_place_comes_once(shape):
    places = halton_places(shape)
    assert sorted(places.tolist()) == list(range(np.prod(shape)))


def test_a_quarter_of_a_grid_leaves_no_square_of_it_empty():
    grid = np.zeros((16, 16), bool)
    grid.flat[halton_places((16, 16))[:64]] = True
    assert grid.reshape(4, 4, 4, 4).any(axis=(1, 3)).all()
