"""Which pieces are masked, and how: shares by counting, and never padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.dropout import example_keys
from babeldraw.objectives.masked_text import mask_pieces

B, S, V = 4000, 24, 50
PIECES = 20
RNG = np.random.default_rng(0)
TEXT = RNG.integers(2, V, (B, S), dtype=np.int32)
TEXT[:, PIECES:] = 0


@pytest.fixture(scope="module")
def masked():
    keys = example_keys(jax.random.key(1), B)
    found = jax.jit(mask_pieces, static_argnums=2)(jnp.asarray(TEXT), keys, V)
    return jax.device_get(found)


def chosen_of(masked):
    """bool [B, S], by the places that are asked for."""
    chosen = np.zeros((len(masked.places_BK), masked.read_BS.shape[1]), bool)
    for row, places, asked in zip(chosen, masked.places_BK, masked.asked_BK, strict=True):
        row[places[asked]] = True
    return chosen


def within(found, share, count, deviations=4.5):
    """Whether a share of `count` draws is one that a fair coin gives."""
    return abs(found - share) < deviations * np.sqrt(share * (1 - share) / count)


def test_fifteen_in_a_hundred_pieces_are_chosen_and_no_padding(masked):
    chosen = chosen_of(masked)
    assert (chosen.sum(axis=1) == round(0.15 * PIECES)).all()
    assert not chosen[:, PIECES:].any()
    # Every place as often as another.
    for share in chosen[:, :PIECES].mean(axis=0):
        assert within(share, 0.15, B)


def test_eighty_ten_ten(masked):
    chosen, hidden = chosen_of(masked), masked.hidden_BS
    count = chosen.sum()
    assert not (hidden & ~chosen).any()
    assert within(hidden.sum() / count, 0.8, count)
    # One random piece in V - 2 is the piece that stood there.
    replaced = masked.read_BS != TEXT
    assert not (replaced & (~chosen | hidden)).any()
    assert within(replaced.sum() / count, 0.1 * (1 - 1 / (V - 2)), count)


def test_random_pieces_are_any_but_padding_and_the_unknown_one(masked):
    drawn = masked.read_BS[masked.read_BS != TEXT]
    assert drawn.min() == 2 and drawn.max() == V - 1
    counts = np.bincount(drawn, minlength=V)[2:]
    expected = len(drawn) / (V - 2)
    # Chi squared of 47 degrees of freedom is above 95 once in 30,000 times.
    assert ((counts - expected) ** 2 / expected).sum() < 95


def test_a_text_of_few_pieces_has_one_that_is_asked_for_and_an_empty_one_none():
    text = np.array([[7, 0, 0, 0, 0, 0, 0, 0], [0] * 8, [5, 6, 7, 8, 9, 2, 3, 4]], np.int32)
    found = mask_pieces(jnp.asarray(text), example_keys(jax.random.key(0), 3), 10, 0.4)
    assert found.asked_BK.sum(axis=1).tolist() == [1, 0, 3]
    assert found.places_BK[0, 0] == 0
    assert found.read_BS[1].tolist() == [0] * 8 and not found.hidden_BS[1].any()


def test_a_text_is_masked_by_its_own_key_alone(masked):
    keys = example_keys(jax.random.key(1), B)[7:9]
    found = mask_pieces(jnp.asarray(TEXT[7:9]), keys, V)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[7:9]), found, masked)
