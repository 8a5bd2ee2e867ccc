"""Llama: cached decoding, causality, what the prefix is, factors, the streamed loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.llama import open_magvit2
from babeldraw.convert.table import write
from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.layers.dropout import example_keys
from babeldraw.layers.stack import unstack
from babeldraw.models.conditions import ClassCondition, TextCondition
from babeldraw.models.factors import joined, split
from babeldraw.models.features import FeaturesCondition
from babeldraw.models.head import HeadCompute
from babeldraw.models.llama import LlamaConfig, LlamaGenerator
from babeldraw.models.several import SeveralConditions
from babeldraw.prediction.base import Given
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.prediction.next_token import NextToken
from babeldraw.tokenizers.base import Codes
from tests import networks
from tests.llama_layers import logits_open_magvit2
from tests.statements import softmax

STACK = TransformerConfig(
    blocks=2, heads=2, dim=16, hidden=24, activation="silu", compute=ComputeConfig(scan=False)
)
INTRA = dataclasses.replace(STACK, blocks=1)
CODES = Codes((2, 3), (12,))
T = CODES.length
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.integers(0, 12, (3, T)), jnp.int32)
CLASSES = jnp.array([0, 2, 3], jnp.int32)
PIECES = jnp.array([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]], jnp.int32)
STATES = {
    "states": jnp.asarray(RNG.normal(size=(3, 4, 5)), jnp.float32).at[2].set(0.0),
    "count": jnp.array([4, 2, 3], jnp.int32),
}
CLASS, TEXT = ClassCondition(3), TextCondition(20, 4)
FEATURES = FeaturesCondition(4, 5, encoder="t5")
# Name: what differs in the config, what is drawn from, three of it of which the last says nothing.
CASES = {
    "class": ({}, CLASS, CLASSES),
    "adaptive": ({"adaptive": True, "gate_spread": 0.1}, CLASS, CLASSES),
    "text": ({"prefix": "plain"}, TEXT, PIECES),
    "adaptive text": ({"adaptive": True, "prefix": "plain"}, TEXT, PIECES),
    "features": ({}, FEATURES, STATES),
    "factors": ({"factors": (3, 4)}, CLASS, CLASSES),
    "intra": ({"factors": (3, 4), "intra": INTRA}, CLASS, CLASSES),
}
# What two pieces divide.
EVEN = {"intra of even sizes": ({"factors": (2, 6), "intra": INTRA}, CLASS, CLASSES)}


@functools.cache
def generator(case):
    more, condition, _ = (CASES | EVEN)[case]
    found = LlamaGenerator(LlamaConfig(STACK, **more), condition, CODES)
    found.check()
    return found


@functools.cache
def params(case):
    return networks.random_params(generator(case))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_cached_decoding_is_the_full_forward_at_one_place_or_many(case):
    network, whole, condition = generator(case), params(case), CASES[case][2]
    full = jax.jit(network.logits)(whole, condition, IMAGES)

    @jax.jit
    def run(params, late):
        def step(cache, t):
            index = jnp.clip(t - late, 0, T - 1)
            before = jnp.broadcast_to(jnp.maximum(index - 1, 0), (3,))
            codes = IMAGES[jnp.arange(3), before]
            found, cache = networks.step(network, params, codes, index, cache)
            return cache, found

        return jax.lax.scan(step, networks.start(network, params, condition), jnp.arange(T + 3))[1]

    for late in (jnp.int32(0), jnp.array([0, 3, 1])):
        found = run(unstack(whole), late)
        for row, begin in enumerate(np.broadcast_to(late, 3)):
            np.testing.assert_allclose(found[begin : begin + T, row], full[row], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["adaptive", "intra"])
def test_a_code_is_predicted_from_those_before_it(case):
    network, first = generator(case), CASES[case][2][:1]
    same = jax.jit(network.nll)(params(case), first, IMAGES[:1])[0][0]
    for place in range(T):
        other = IMAGES[:1].at[0, place].set((IMAGES[0, place] + 7) % 12)
        found = jax.jit(network.nll)(params(case), first, other)[0][0]
        changed = np.abs(found - same) > 1e-7
        assert changed[place] and changed[place + 1 :].all() and not changed[:place].any()


def test_what_is_no_word_has_no_effect():
    network, whole = generator("features"), params("features")
    nll = jax.jit(lambda said: network.nll(whole, said, IMAGES)[0])
    same = nll(STATES)
    # Of the second two states are words.
    found = nll({**STATES, "states": STATES["states"].at[1, 2:].add(1.0)})
    np.testing.assert_array_equal(found, same)
    found = nll({**STATES, "states": STATES["states"].at[1, 1].add(1.0)})
    assert np.abs(found - same)[1].min() > 1e-6
    np.testing.assert_array_equal(found[jnp.array([0, 2])], same[jnp.array([0, 2])])
    unsaid = FEATURES.nothing(STATES)
    np.testing.assert_array_equal(unsaid["count"], STATES["count"])
    np.testing.assert_array_equal(nll(unsaid)[2], same[2])


@pytest.mark.slow
def test_dropout_is_of_each_example_and_off_without_keys():
    stack = dataclasses.replace(STACK, dropout=0.2)
    intra = dataclasses.replace(INTRA, dropout=0.2)
    config = LlamaConfig(stack, (3, 4), intra, token_dropout=0.3)
    network = dataclasses.replace(generator("intra"), config=config)
    nll, keys = jax.jit(network.nll), example_keys(jax.random.key(1), 3)
    plain = nll(params("intra"), CLASSES, IMAGES)[0]
    dropped = nll(params("intra"), CLASSES, IMAGES, keys)[0]
    np.testing.assert_array_equal(
        plain, jax.jit(generator("intra").nll)(params("intra"), CLASSES, IMAGES)[0]
    )
    assert np.abs(dropped - plain).min() > 1e-6
    alone = nll(params("intra"), CLASSES[1:2], IMAGES[1:2], keys[1:2])[0]
    np.testing.assert_allclose(alone[0], dropped[1], atol=1e-5)


# ------------------------------------------------------------------ factors


def test_a_code_s_factors_are_its_digits_the_first_the_lowest():
    codes = jnp.arange(64 * 4096, dtype=jnp.int32)
    factors = split(codes, (64, 4096))
    np.testing.assert_array_equal(factors[..., 0], codes & 63)
    np.testing.assert_array_equal(joined([factors[..., 0], factors[..., 1]], (64, 4096)), codes)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["factors", "intra"])
def test_factors_are_drawn_by_their_exact_joint_distribution(case):
    network, whole = generator(case), params(case)
    # Of every code at the first place its probability, by the loss.
    every = jnp.zeros((12, T), jnp.int32).at[:, 0].set(jnp.arange(12))
    same = jnp.zeros(12, jnp.int32)
    share = np.exp(-np.asarray(jax.jit(network.nll)(whole, same, every)[0][:, 0]))
    assert share.sum() == pytest.approx(1, abs=1e-5)
    count, rest = 20_000, jnp.zeros((20_000, T), jnp.int32)
    given = Given(rest, jnp.ones((count, T), bool).at[:, 0].set(False))
    draw = jax.jit(functools.partial(NextToken().draw, network, guided=False))
    keys, settings = jax.random.split(jax.random.key(2), count), SamplingConfig().traced()
    found = np.bincount(draw(whole, same[:1], keys, settings, given)[:, 0], minlength=12)
    expected = count * share
    seen = expected > 5
    chi = ((found - expected) ** 2 / expected)[seen].sum() / max(seen.sum() - 1, 1)
    # 11 degrees of freedom: five standard deviations of the mean square.
    assert seen.sum() > 4 and chi < 1 + 5 * np.sqrt(2 / (seen.sum() - 1))
    # The factors are no product of their shares.
    table = share.reshape(4, 3)
    assert np.abs(table - table.sum(1, keepdims=True) * table.sum(0, keepdims=True)).max() > 0.015


# ------------------------------------------------------------------ the streamed loss


def in_pieces(case, pieces):
    config = dataclasses.replace(generator(case).config, compute=HeadCompute(pieces))
    found = dataclasses.replace(generator(case), config=config)
    found.check()
    return found


@pytest.mark.parametrize(("case", "pieces"), [("class", 3), ("intra of even sizes", 2)])
def test_the_loss_in_pieces_is_the_whole_one(case, pieces):
    whole = params(case)

    def run(network):
        def loss(params):
            nll, right = network.nll(params, CLASSES, IMAGES)
            return nll.sum(), (nll, right)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(whole)

    (_, plain), plain_slope = run(generator(case))
    (_, found), slope = run(in_pieces(case, pieces))
    np.testing.assert_allclose(found[0], plain[0], atol=1e-5)
    np.testing.assert_array_equal(found[1], plain[1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), slope, plain_slope
    )


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_second_factor_s_loss_knows_the_first_as_stated_in_numpy(pieces):
    network, whole = in_pieces("intra of even sizes", pieces), params("intra of even sizes")
    nll, right = jax.jit(network.nll)(whole, CLASSES, IMAGES)
    theirs = write(open_magvit2(network.config), whole)
    weights = {name: tensor.astype(np.float64) for name, tensor in theirs.items()}
    for row, codes in enumerate(np.asarray(IMAGES)):
        logits = logits_open_magvit2(weights, CLASSES[row], codes)
        chances = [softmax(one) for one in logits]
        post, pre = np.divmod(codes, 2)
        each = [chance[np.arange(T), ids] for chance, ids in zip(chances, (pre, post), strict=True)]
        np.testing.assert_allclose(nll[row], -np.log(each[0] * each[1]), atol=1e-5)
        likeliest = (chances[0].argmax(-1) == pre) & (chances[1].argmax(-1) == post)
        np.testing.assert_array_equal(right[row], likeliest)
        # Had the last place another first factor, its second one would be another likely.
        other = np.append(codes[:-1], codes[-1] ^ 1)
        changed = softmax(logits_open_magvit2(weights, CLASSES[row], other)[1])
        np.testing.assert_array_equal(changed[:-1], chances[1][:-1])
        assert np.abs(changed[-1] - chances[1][-1]).max() > 1e-3


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"factors": (3, 5)}, "factors is \\(3, 5\\), whose product is 15, and the .* of 12;"),
        ({"factors": (12,)}, "factors is \\(12,\\); at least two sizes"),
        ({"intra": INTRA}, "intra is set and a code is one number of 12; set factors"),
        ({"gate_spread": 0.1}, "gate_spread is 0.1 and adaptive False; "),
        ({"token_dropout": 1.0}, "token_dropout is 1.0; a rate in"),
        ({"prefix": "blind"}, "prefix is 'blind'; the choices are zeros, plain"),
        ({"compute": HeadCompute(5)}, "compute.pieces is 5, which does not divide the 12 values"),
        ({"factors": (3, 4), "intra": dataclasses.replace(INTRA, dim=8)}, "intra.dim is 8 and "),
    ],
)
def test_a_mistake_is_named(more, message):
    with pytest.raises(UserError, match=message):
        LlamaGenerator(LlamaConfig(STACK, **more), CLASS, CODES).check()


def test_heads_that_rotary_positions_cannot_cut_are_refused():
    stack = dataclasses.replace(STACK, dim=12)
    with pytest.raises(UserError, match="decoder has heads of 6 values .* a multiple of 4"):
        LlamaGenerator(LlamaConfig(stack), CLASS, CODES).check()


def test_pieces_of_a_text_that_all_slots_would_see_alike_are_refused():
    both = SeveralConditions(
        {"class": {"kind": "class", "num_classes": 3}, "text": {"kind": "text"}}
    )
    for condition in (TEXT, both):
        generator = LlamaGenerator(LlamaConfig(STACK), condition, CODES)
        with pytest.raises(UserError, match="prefix is 'zeros', by .* prefix='plain'"):
            generator.check_new()
        # A run that was trained so can be read.
        generator.check()
        dataclasses.replace(generator, config=LlamaConfig(STACK, prefix="plain")).check_new()
    LlamaGenerator(LlamaConfig(STACK), FEATURES, CODES).check_new()
