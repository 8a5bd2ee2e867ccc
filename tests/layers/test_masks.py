"""Masks: both views of a pattern are one mask; padding is unseen, no prompt is seen whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.masks import Causal, padding_mask


@pytest.mark.parametrize("pattern", [Causal()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("length", [1, 2, 9])
def test_each_row_is_that_row_of_the_whole(pattern, length):
    dense = pattern.dense(length)
    assert dense.shape == (length, length) and dense.dtype == bool
    row = jax.jit(pattern.row, static_argnums=1)
    for index in range(length):
        np.testing.assert_array_equal(row(jnp.int32(index), length), dense[index])


@pytest.mark.parametrize("pattern", [Causal()], ids=lambda p: type(p).__name__)
def test_every_pattern_sees_itself_and_nothing_later(pattern):
    dense = np.asarray(pattern.dense(9))
    assert dense.diagonal().all() and not np.triu(dense, 1).any()


def test_causal_sees_all_that_came_before():
    np.testing.assert_array_equal(Causal().dense(7), np.tri(7, dtype=bool))


def test_padding_is_unseen_wherever_it_stands():
    ids = jnp.array([[3, 1, 2], [3, 1, 0], [0, 5, 0]], jnp.int32)
    mask = padding_mask(ids)
    assert mask.shape == (3, 1, 1, 3) and mask.dtype == bool
    expected = [[True, True, True], [True, True, False], [False, True, False]]
    np.testing.assert_array_equal(mask[:, 0, 0], expected)


def test_a_prompt_of_nothing_but_padding_is_seen_whole():
    mask = padding_mask(jnp.array([[0, 0, 0], [7, 0, 0]], jnp.int32))
    np.testing.assert_array_equal(mask[:, 0, 0], [[True] * 3, [True, False, False]])


def test_padding_may_be_another_id():
    mask = padding_mask(jnp.array([[9, 0, 9]], jnp.int32), pad_id=9)
    np.testing.assert_array_equal(mask[0, 0, 0], [False, True, False])
