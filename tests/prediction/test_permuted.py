"""Permuted prediction: its orders, their chance over training, what it asks of a network."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.dropout import example_keys
from babeldraw.models.vim import VIMConfig, VIMGenerator
from babeldraw.prediction.next_token import NextToken
from babeldraw.prediction.permuted import PermutedNextToken, draw_order
from babeldraw.tokenizers.base import Codes
from tests.models.test_rar import CLASS, ONE, STACK, T, generator, inputs

PREDICTION = PermutedNextToken(anneal_start=10, anneal_end=20)
KEYS = example_keys(jax.random.key(0), 3)


def loss(prediction, step, keys=KEYS, network=None, codes=None):
    whole, condition, own = inputs("class")
    run = jax.jit(functools.partial(prediction.loss, network or generator("class")))
    return run(whole, condition, own if codes is None else codes, keys, jnp.int32(step))


@functools.cache
def drawn():
    """The orders of a step at which all are random."""
    return np.asarray(jax.vmap(draw_order, (0, None, None))(KEYS, T, jnp.float32(1))[0])


def ordered(codes):
    """`ordered_nll` in these orders."""
    whole, condition, _ = inputs("class")
    return jax.jit(generator("class").ordered_nll)(whole, condition, codes, drawn(), KEYS)


def test_the_chance_falls_from_one_to_nothing():
    steps = [0, 9, 10, 11, 15, 19, 20, 1000]
    found = [float(PREDICTION.random_share(jnp.int32(step))) for step in steps]
    np.testing.assert_allclose(found, [1, 1, 1, 0.9, 0.5, 0.1, 0, 0], atol=1e-6)
    at_once = PermutedNextToken(anneal_start=7, anneal_end=7)
    assert [float(at_once.random_share(jnp.int32(step))) for step in (6, 7)] == [1, 0]


def test_orders_are_permutations_each_as_likely_as_another():
    keys = jax.random.split(jax.random.key(1), 6000)
    found = jax.vmap(draw_order, (0, None, None))(keys, 3, jnp.float32(0.5))
    orders, random = map(np.asarray, found)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile([0, 1, 2], (6000, 1)))
    assert np.all(orders[~random] == np.arange(3))
    # Five standard deviations of a share.
    assert abs(random.mean() - 0.5) < 5 * np.sqrt(0.25 / 6000)
    permuted = orders[random] @ [9, 3, 1]
    shares = np.unique(permuted, return_counts=True)[1] / permuted.size
    assert shares.size == 6 and np.all(abs(shares - 1 / 6) < 5 * np.sqrt(1 / 6 / permuted.size))


@pytest.mark.slow
def test_the_loss_is_that_of_the_orders_that_it_draws():
    found, metrics = loss(PREDICTION, step=0)
    assert metrics["permuted"] == 1 and np.any(drawn() != np.arange(T))
    nll, right = ordered(inputs("class")[2])
    np.testing.assert_allclose(found, nll.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)
    other = loss(PREDICTION, step=0, keys=example_keys(jax.random.key(5), 3))[0]
    assert abs(other - found) > 1e-3


def test_annealed_it_is_the_next_token():
    (annealed, metrics), (plain, expected) = (loss(p, step=20) for p in (PREDICTION, NextToken()))
    assert metrics["permuted"] == 0
    np.testing.assert_allclose(annealed, plain, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], expected["accuracy"], rtol=1e-6)
    assert PermutedNextToken.score is NextToken.score and PermutedNextToken.draw is NextToken.draw


@pytest.mark.slow
def test_codes_behind_their_end_do_not_count_in_any_order():
    ended = dataclasses.replace(generator("class"), codes=Codes((2, 3), (17,), end=5))
    codes = inputs("class")[2].at[:, 3:].set(5)
    assert not np.any(codes[:, :3] == 5)
    found = loss(PREDICTION, 0, network=ended, codes=codes)[0]
    np.testing.assert_allclose(found, ordered(codes)[0][:, :4].mean(), rtol=1e-6)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match="config.model.kind=vim has no ordered_nll; take a network"):
        PREDICTION.check(VIMGenerator(VIMConfig(STACK), CLASS, ONE))
    PREDICTION.check(generator("class"))
    with pytest.raises(UserError, match="anneal_end is 4 and anneal_start 5; it may not come befo"):
        PermutedNextToken(anneal_start=5, anneal_end=4)
    with pytest.raises(UserError, match="anneal_start is -1; at least 0 is needed"):
        PermutedNextToken(anneal_start=-1, anneal_end=4)
