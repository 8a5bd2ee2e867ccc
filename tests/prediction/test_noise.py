"""Noise on what a network reads in training: which codes are others, what is still predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.dropout import example_keys
from babeldraw.prediction.next_token import NextToken, noised
from babeldraw.prediction.permuted import PermutedNextToken
from babeldraw.tokenizers.base import Codes
from tests import networks
from tests.models import test_babeldraw, test_rar, test_vim

ROWS, PLACES = 4000, 32


def shares(most, what):
    """Of many examples the share of codes that are others, float [ROWS]."""
    codes = jnp.zeros((ROWS, PLACES, *what.each[1:]), jnp.int32)
    read = np.asarray(noised(codes, what, example_keys(jax.random.key(0), ROWS), most))
    places = (read != 0).reshape(ROWS, PLACES, -1)
    assert read.min() == 0 and read.max() == max(what.vocab) - 1
    return places.any(-1).mean(1)


@pytest.mark.parametrize("most", [1.0, 0.4])
def test_each_example_has_a_share_of_its_own_uniform_up_to_the_most(most):
    # One in 101 others is the same code again.
    shown = shares(most, Codes((4, 8), (101,))) * 101 / 100
    # Mean and variance of a binomial share whose chance is uniform in [0, most].
    variance = most**2 / 12 + (most / 2 - most**2 / 3) / PLACES
    assert abs(shown.mean() - most / 2) < 5 * np.sqrt(variance / ROWS)
    assert abs(shown.var() / variance - 1) < 0.1


def test_a_code_of_factors_is_another_as_a_whole():
    what = Codes((4, 8), (3, 50))
    codes = jnp.full((ROWS, PLACES, 2), 1, jnp.int32)
    read = np.asarray(noised(codes, what, example_keys(jax.random.key(1), ROWS), 1.0))
    others = read.reshape(-1, 2)[(read != 1).any(-1).reshape(-1)]
    counts = np.bincount(others[:, 0], minlength=3) / len(others)
    # (1, 1) is not told from what was there: of 150 pairs 49, 50 and 50 are.
    np.testing.assert_allclose(counts, np.array([50, 49, 50]) / 149, atol=0.01)
    assert others[:, 1].max() == 49 and others[:, 0].max() == 2


@pytest.mark.slow
def test_an_example_s_noise_hangs_on_its_key_alone():
    what, keys = Codes((2, 3), (17,)), example_keys(jax.random.key(2), 5)
    codes = jax.random.randint(jax.random.key(3), (5, 6), 0, 17)
    whole = noised(codes, what, keys, 1.0)
    np.testing.assert_array_equal(noised(codes[3:4], what, keys[3:4], 1.0), whole[3:4])
    assert (np.asarray(whole) != codes).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "generator, condition",
    [
        (test_babeldraw.GENERATOR, test_babeldraw.TEXT[:3]),
        (test_vim.generator("class"), jnp.array([1, 0, 2])),
        (test_rar.generator("class"), test_rar.inputs("class")[1]),
    ],
)
def test_what_is_predicted_stays_whatever_is_read(generator, condition):
    params, what = networks.random_params(generator), generator.codes
    rows = jax.tree.leaves(condition)[0].shape[0]
    codes = jax.random.randint(jax.random.key(4), (rows, what.length), 0, what.vocab[0])
    read = noised(codes, what, example_keys(jax.random.key(5), rows), 1.0)
    assert (np.asarray(read) != codes).any()

    @jax.jit
    def both(params, codes, read):
        logits = jax.nn.log_softmax(generator.logits(params, condition, read))
        stated = -jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
        return generator.nll(params, condition, codes, None, read)[0], stated

    np.testing.assert_allclose(*both(params, codes, read), atol=1e-5)


@pytest.mark.slow
def test_the_loss_is_of_the_noise_that_the_keys_draw():
    generator, params = test_babeldraw.GENERATOR, networks.random_params(test_babeldraw.GENERATOR)
    text, codes = test_babeldraw.TEXT, test_babeldraw.IMAGE
    keys = example_keys(jax.random.key(6), len(codes))

    def loss(noise):
        inputs = (params, text, codes, keys, jnp.int32(0))
        return jax.jit(NextToken(noise=noise).loss, static_argnums=0)(generator, *inputs)[0]

    read = noised(codes, generator.codes, keys, 0.7)
    stated = jnp.mean(jax.jit(generator.nll)(params, text, codes, keys, read)[0])
    np.testing.assert_allclose(loss(0.7), stated, rtol=1e-6)
    assert abs(loss(0.0) - stated) > 1e-3


def test_noise_that_cannot_be_is_refused():
    for noise in (-0.1, 1.5):
        with pytest.raises(UserError, match="prediction.noise is"):
            NextToken(noise=noise)
    with pytest.raises(UserError, match="only kind=next_token"):
        PermutedNextToken(anneal_start=1, anneal_end=2, noise=0.5)
