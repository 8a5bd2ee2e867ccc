"""Masked prediction: as published step by step, rows that do not meet, holes, the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.maskgit import MaskGITConfig, MaskGITGenerator
from babeldraw.prediction.base import Given
from babeldraw.prediction.masked import (
    SCORE_MASKS,
    MaskedPrediction,
    MaskedSampling,
    score_masks,
)
from babeldraw.prediction.masking import halton_places
from babeldraw.tokenizers.base import Codes
from tests.networks import random_params
from tests.statements import softmax

B, T, V = 3, 12, 13
STACK = TransformerConfig(2, 2, 16, 32, compute=ComputeConfig(scan=False))
GENERATOR = MaskGITGenerator(MaskGITConfig(STACK), ClassCondition(5, 0.1), Codes((3, 4), (V,)))
TWO = MaskGITGenerator(MaskGITConfig(STACK), ClassCondition(5, 0.1), Codes((T,), (5, 4)))
MASKED = MaskedPrediction()
CLASSES, KEYS = jnp.int32([0, 3, 5]), jax.random.split(jax.random.key(0), B)
RNG = np.random.default_rng(0)
OLD = jnp.int32(RNG.integers(0, V, (B, T)))
# Nothing, some and all but one place.
KEPT = jnp.asarray(np.arange(T)[None] < np.array([0, 5, 11])[:, None])
TRACES = []


@functools.partial(jax.jit, static_argnums=5)
def compiled(params, condition, keys, settings, given=None, guided=True):
    TRACES.append(settings.steps)
    return MASKED.draw(GENERATOR, params, condition, keys, settings, given, guided)


@pytest.fixture(scope="module")
def params():
    """Random, and such that what is known elsewhere counts."""
    found = random_params(GENERATOR, seed=1)
    blocks = found["stack"]["blocks"]
    attention = jax.tree.map(lambda leaf: 1.5 * leaf, blocks["attention"])
    return {**found, "stack": {"blocks": {**blocks, "attention": attention}}}


def draw(params, condition=CLASSES, keys=KEYS, given=None, guided=True, **sampling):
    settings = MaskedSampling(**sampling).traced()
    return np.asarray(compiled(params, condition, keys, settings, given, guided))


@jax.jit
def logits_of(params, condition, codes, known):
    hidden = GENERATOR.hidden(params, GENERATOR.read(params, condition), codes, known)
    return GENERATOR.factor_logits(params, hidden)


# ------------------------------------------------------------------ as published


def uniforms(number, step, shape):
    """What is drawn for each row: codes are number 0, how sure they are number 1."""
    keys = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, step), number))(KEYS)
    return np.stack([np.asarray(jax.random.uniform(key, shape)) for key in keys])


def gumbel(uniform):
    return -np.log(np.maximum(-np.log(np.maximum(uniform, 1e-20)), 1e-20))


def sampled(params, steps, ids_and_sure, left):
    """A published sampler: codes, of which the least sure are masked again, to the last step."""
    codes, known = np.zeros((B, T), np.int64), np.zeros((B, T), bool)
    for step in range(steps):
        gone = (step + 1) / steps
        both = [
            np.asarray(logits_of(params, said, jnp.int32(codes), jnp.asarray(known)), np.float64)
            for said in (CLASSES, jnp.full_like(CLASSES, 5))
        ]
        ids, sure = ids_and_sure(*both, step, gone)
        codes = np.where(known, codes, ids)
        if step == steps - 1:
            return codes
        sure = np.where(known, np.inf, sure)
        for row in range(B):
            count = max(1, min((~known[row]).sum() - 1, int(left(gone))))
            known[row] = sure[row] > np.sort(sure[row])[count - 1]


def at(values, ids):
    return np.take_along_axis(values, ids[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("form", ["linear", "power cosine"])
def test_it_is_titok_s_sampler(params, form):
    """L-32 and B-64 guide by the first form, S-128 by the second: titok.py's `generate`."""
    steps, scale, noise = 5, 4.5, 3.0

    def ids_and_sure(told, untold, step, gone):
        if form == "linear":
            logits = told + step / steps * scale * (told - untold)
        else:
            risen = (1 - np.cos(np.pi * (step / steps) ** 3.0)) / 2 * (scale - 1) + 1
            logits = untold + risen * (told - untold)
        logits = logits / (0.5 + 0.8 * (1 - gone))
        weight = noise * (1 - gone)
        ids = np.argmax(logits + weight * gumbel(uniforms(0, step, (T, V))), axis=-1)
        return ids, at(logits, ids) + weight * gumbel(uniforms(1, step, (T,)))

    expected = sampled(
        params, steps, ids_and_sure, lambda gone: np.floor(T * np.arccos(gone) / (np.pi / 2))
    )
    guidance = (
        {"guidance": 1 + scale, "guidance_schedule": "linear"}
        if form == "linear"
        else {"guidance": scale, "guidance_schedule": "power_cosine", "guidance_power": 3.0}
    )
    found = draw(
        params,
        steps=steps,
        order="logit",
        temperature=noise,
        temperature_schedule="linear",
        choice_temperature=noise,
        logits_temperature=0.5,
        logits_annealing=0.8,
        **guidance,
    )
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 4


def test_it_is_maskgit_s_sampler(params):
    def ids_and_sure(told, untold, step, gone):
        del untold
        ids = np.argmax(told + gumbel(uniforms(0, step, (T, V))), axis=-1)
        noise = 4.5 * (1 - gone) * gumbel(uniforms(1, step, (T,)))
        return ids, np.log(at(softmax(told), ids)) + noise

    expected = sampled(params, 5, ids_and_sure, lambda gone: np.floor(T * np.cos(np.pi / 2 * gone)))
    found = draw(params, guided=False, steps=5, schedule="cosine")
    np.testing.assert_array_equal(found, expected)


def steps_of(params, given=None, guided=False, keys=KEYS, condition=CLASSES, **sampling):
    """Of how many conditions each reading is, and the known places that each step begins with."""
    reads, steps = [], []

    class Told(MaskGITGenerator):
        def read(self, params, condition):
            jax.debug.callback(reads.append, condition.shape[0], ordered=True)
            return super().read(params, condition)

        def hidden(self, params, context, codes, known):
            jax.debug.callback(lambda known: steps.append(np.asarray(known)), known, ordered=True)
            return super().hidden(params, context, codes, known)

    generator = Told(GENERATOR.config, GENERATOR.condition, GENERATOR.codes)
    settings = MaskedSampling(**sampling).traced()
    draw = jax.jit(functools.partial(MASKED.draw, generator, guided=guided))
    jax.block_until_ready(draw(params, condition, keys, settings, given))
    jax.effects_barrier()
    return reads, steps


def test_the_condition_is_read_once_whatever_the_steps(params):
    keys = jax.random.split(jax.random.key(0), 4)
    reads, steps = steps_of(params, guided=True, keys=keys, condition=CLASSES[:2], steps=5)
    # Two classes, and two times nothing, for four pictures.
    assert reads == [4]
    assert [known.shape for known in steps] == 5 * [(8, T)]


def test_how_many_stay_masked_is_each_row_s_own(params):
    _, steps = steps_of(params, Given(OLD, KEPT), steps=4)
    masked = np.array([(~known).sum(axis=1) for known in steps])
    # floor(n share) of 12, 7 and 1, at least one until the last step: shares .839 .667 .460.
    np.testing.assert_array_equal(masked, [[12, 7, 1], [10, 5, 1], [8, 4, 1], [5, 3, 1]])
    for before, after in zip(steps, steps[1:], strict=False):
        assert np.all(after >= before)


def test_halton_s_order_is_of_places_whatever_is_drawn(params):
    _, steps = steps_of(params, Given(OLD, KEPT), steps=4, order="halton")
    order = halton_places((3, 4))
    for known in steps:
        for row in range(B):
            drawn = known[row] & ~np.asarray(KEPT[row])
            masked = [place for place in order if not KEPT[row, place]]
            assert {*np.flatnonzero(drawn)} == {*masked[: drawn.sum()]}
    other = draw(params, steps=4, order="halton", choice_temperature=0.0)
    np.testing.assert_array_equal(draw(params, steps=4, order="halton"), other)


# ------------------------------------------------------------------ rows, holes, guidance


def test_a_row_s_codes_are_its_own_in_any_batch(params):
    given = Given(OLD, KEPT)
    together = draw(params, given=given, guidance=2.0)
    turned = Given(OLD[::-1], KEPT[::-1])
    np.testing.assert_array_equal(
        draw(params, CLASSES[::-1], KEYS[::-1], turned, guidance=2.0)[::-1], together
    )
    for row in range(B):
        own = slice(row, row + 1)
        alone = draw(params, CLASSES[own], KEYS[own], Given(OLD[own], KEPT[own]), guidance=2.0)
        np.testing.assert_array_equal(alone[0], together[row])


def test_pictures_of_one_class_share_its_reading(params):
    keys = jax.random.split(jax.random.key(3), 6)
    together = draw(params, keys=keys, guidance=2.0)
    apart = draw(params, jnp.repeat(CLASSES, 2), keys, guidance=2.0)
    np.testing.assert_array_equal(together, apart)


def test_kept_codes_stay_and_a_hole_knows_both_sides(params):
    kept = jnp.ones((B, T), bool).at[:, 5:8].set(False)
    likeliest = {"temperature": 0.0, "choice_temperature": 0.0, "steps": 3}
    found = draw(params, given=Given(OLD, kept), **likeliest)
    np.testing.assert_array_equal(found[:, :5], OLD[:, :5])
    np.testing.assert_array_equal(found[:, 8:], OLD[:, 8:])
    # The first that stays is the likeliest of all that the hole could hold.
    logits = np.asarray(logits_of(params, CLASSES, OLD, kept))[:, 5:8]
    first = softmax(logits).max(-1).argmax(-1)
    np.testing.assert_array_equal(
        found[np.arange(B), 5 + first], logits.argmax(-1)[np.arange(B), first]
    )
    for side in (slice(0, 5), slice(8, T)):
        other = OLD.at[:, side].set((OLD[:, side] + 1) % V)
        changed = draw(params, given=Given(other, kept), **likeliest)[:, 5:8]
        assert np.any(changed != found[:, 5:8])
    whole = draw(params, given=Given(OLD, jnp.ones((B, T), bool)))
    np.testing.assert_array_equal(whole, OLD)


def test_guidance_of_one_is_none_and_of_more_changes_what_is_asked_for(params):
    plain = draw(params, guided=False)
    np.testing.assert_array_equal(draw(params, guidance=1.0), plain)
    guided = draw(params, guidance=6.0)
    # The last asks for no class.
    assert np.any(guided != plain, axis=1).tolist() == [True, True, False]


def test_settings_compile_nothing_but_steps_do(params):
    draw(params)
    before = len(TRACES)
    for more in (
        {"order": "halton", "schedule": "linear", "guidance": 3.0, "guidance_schedule": "cosine"},
        {"order": "logit", "temperature": 0.0, "logits_temperature": 0.5, "logits_annealing": 0.8},
    ):
        draw(params, **more)
    assert len(TRACES) == before
    draw(params, steps=7)
    assert TRACES[before:] == [7]


@pytest.mark.slow
def test_factors_are_drawn_one_given_the_other():
    params = random_params(TWO)
    settings = MaskedSampling(steps=1, temperature=0.0).traced()
    found = MASKED.draw(TWO, params, CLASSES, KEYS, settings, guided=False)
    nothing = jnp.zeros((B, T), bool)
    hidden = TWO.hidden(params, TWO.read(params, CLASSES), jnp.zeros((B, T, 2), jnp.int32), nothing)
    first = jnp.argmax(TWO.factor_logits(params, hidden), axis=-1).astype(jnp.int32)
    second = jnp.argmax(TWO.factor_logits(params, hidden, first[..., None]), axis=-1)
    np.testing.assert_array_equal(found, np.stack([first, second], axis=-1))


def test_a_step_is_a_pass_over_all_places(params):
    settings = MaskedSampling(steps=6)
    step, inputs, steps = MASKED.step(TWO, random_params(TWO), CLASSES, 2, settings)
    assert steps == 6
    logits = jax.eval_shape(step, random_params(TWO), *inputs)
    assert [found.shape for found in logits] == [(2 * B, T, 5), (2 * B, T, 4)]


# ------------------------------------------------------------------ the loss and the score


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_loss_is_the_weighted_mean_over_masked_and_other_places(params, weight):
    told = {}

    class Told(MaskGITGenerator):
        def masked_nll(self, params, condition, codes, known, keys, smoothing):
            found = super().masked_nll(params, condition, codes, known, keys, smoothing)
            told.update(known=np.asarray(known), smoothing=smoothing, found=found)
            return found

    generator = Told(GENERATOR.config, GENERATOR.condition, GENERATOR.codes)
    keys = jax.random.split(jax.random.key(1), 64)
    codes, classes = jnp.int32(RNG.integers(0, V, (64, T))), jnp.int32(RNG.integers(0, 6, 64))
    prediction = MaskedPrediction(unmasked_weight=weight, smoothing=0.2)
    loss, metrics = prediction.loss(generator, params, classes, codes, keys, jnp.int32(0))
    masked, (nll, right) = ~told["known"], map(np.asarray, told["found"])
    weights = np.where(masked, 1, weight)
    assert loss == pytest.approx((nll * weights).sum() / weights.sum(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right[masked].mean(), rel=1e-5)
    assert told["smoothing"] == 0.2
    # Each row's own number, from one to all.
    counts = masked.sum(axis=1)
    assert counts.min() >= 1 and counts.max() <= T and len(np.unique(counts)) > 6
    # E[arccos(t)] / (pi / 2) = 2 / pi of the places.
    assert counts.mean() / T == pytest.approx(2 / np.pi, abs=0.1)


def test_the_score_is_the_mean_over_masks_that_are_the_same_for_all(params):
    score = jax.jit(lambda *args: MASKED.score(GENERATOR, params, *args))
    found = np.asarray(score(CLASSES, OLD))
    each = [
        np.asarray(
            GENERATOR.masked_nll(params, CLASSES, OLD, jnp.broadcast_to(~mask[None], (B, T)))[0]
        )[:, mask].mean(axis=1)
        for mask in score_masks(T)
    ]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5)
    np.testing.assert_allclose(score(CLASSES[1:2], OLD[1:2]), found[1:2], rtol=1e-5)
    assert len(each) == SCORE_MASKS and np.ptp(score_masks(T).sum(axis=1)) >= T / 2


def test_knowing_nothing_the_score_is_that_of_even_chances(params):
    flat = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(MASKED.score(GENERATOR, flat, CLASSES, OLD), np.log(V), rtol=1e-6)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"steps": 0}, "steps is 0; at least 1"),
        ({"schedule": "sine"}, "schedule is 'sine'; the choices are arccos, cosine, linear"),
        ({"order": "raster"}, "order is 'raster'; the choices are logit, probability, halton"),
        ({"temperature_schedule": "cosine"}, "the choices are constant, linear"),
        ({"choice_temperature": -1.0}, "choice_temperature is -1.0; at least 0"),
        ({"logits_temperature": 0.0}, "logits_temperature is 0.0; more than 0"),
        ({"guidance_schedule": "power"}, "guidance_schedule is 'power'; the choices are"),
    ],
)
def test_settings_that_make_no_sense_are_told(fields, line):
    with pytest.raises(UserError, match=line):
        MaskedSampling(**fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"schedule": "sine"}, "schedule is 'sine'; the choices are arccos"),
        ({"smoothing": 1.0}, "smoothing is 1.0; a number from 0, below 1, is needed"),
        ({"unmasked_weight": 1.5}, "unmasked_weight is 1.5; a number from 0, up to 1, is needed"),
    ],
)
def test_a_prediction_that_makes_no_sense_is_told(fields, line):
    with pytest.raises(UserError, match=line):
        MaskedPrediction(**fields)


def test_more_steps_than_tokens_are_refused():
    MASKED.check_sampling(MaskedSampling(steps=T), GENERATOR)
    line = "config.sampling.steps is 13 and a picture has 12 tokens, of which each step draws one"
    with pytest.raises(UserError, match=line):
        MASKED.check_sampling(MaskedSampling(steps=T + 1), GENERATOR, "config.sampling.")
