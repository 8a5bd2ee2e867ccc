"""Refinement: CogView2's schedule by brute force, what stays and what is drawn, the loss."""

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
from babeldraw.prediction.refinement import (
    AT_ONCE,
    LOPAR,
    RefinementPrediction,
    RefinementSampling,
    pass_masks,
    ratio_masks,
)
from babeldraw.tokenizers.base import Codes
from tests.networks import random_params
from tests.statements import softmax

B, V, GRID = 2, 13, (6, 12)
T = GRID[0] * GRID[1]
STACK = TransformerConfig(1, 2, 16, 32, compute=ComputeConfig(scan=False))
GENERATOR = MaskGITGenerator(MaskGITConfig(STACK), ClassCondition(5, 0.1), Codes(GRID, (V,)))
TWO = MaskGITGenerator(MaskGITConfig(STACK), ClassCondition(5, 0.1), Codes(GRID, (5, 4)))
REFINEMENT = RefinementPrediction()
DIRECT = RefinementPrediction(tile=AT_ONCE, ratios=(1.0,))
CLASSES, KEYS = jnp.int32([0, 3]), jax.random.split(jax.random.key(0), B)
RNG = np.random.default_rng(0)
OLD = jnp.int32(RNG.integers(0, V, (B, T)))
NOTHING, ALL = jnp.zeros((B, T), bool), jnp.ones((B, T), bool)


@pytest.fixture(scope="module")
def params():
    return random_params(GENERATOR, seed=1)


@functools.partial(jax.jit, static_argnums=(0, 6))
def compiled(prediction, params, condition, keys, settings, given, guided):
    return prediction.draw(GENERATOR, params, condition, keys, settings, given, guided)


def draw(params, prediction=REFINEMENT, given=None, guided=False, **sampling):
    settings = RefinementSampling(**sampling).traced()
    return np.asarray(compiled(prediction, params, CLASSES, KEYS, settings, given, guided))


@jax.jit
def logits_of(params, codes, known):
    hidden = GENERATOR.hidden(params, GENERATOR.read(params, CLASSES), codes, known)
    return GENERATOR.factor_logits(params, hidden)


# ------------------------------------------------------------------ the schedule


def test_the_schedule_is_cogview2_s_by_walking_over_its_cells():
    masks = pass_masks(LOPAR, (60, 60))
    assert masks.shape == (6, 3600)
    for number in range(6):
        for place in range(0, 3600, 7):
            row, column = divmod(place, 60)
            assert masks[number, place] == (LOPAR[row % 6][column % 6] >= number + 1)
    np.testing.assert_allclose(masks.mean(1), [0.639, 0.528, 0.417, 0.278, 0.167, 0.056], atol=5e-4)
    # 13 of 36 never change, and a place that rests once does so to the end.
    assert (~masks.any(0)).sum() == 3600 * 13 / 36
    assert not (masks[1:] & ~masks[:-1]).any()


def test_of_the_published_list_of_likeliest_codes_each_pass_takes_its_own():
    published = [60, 40, 40, 40, 20, 20, 10]
    settings = RefinementSampling().traced()
    found = [int(settings.of_pass(jnp.int32(number)).top_k) for number in range(6)]
    assert found == [published[r] for r in range(1, 7)]
    assert int(settings.of_pass(jnp.int32(9)).top_k) == 10


def test_each_pass_draws_what_it_masks_from_all_the_rest(params):
    """By the likeliest codes, in NumPy over the network's own logits."""
    codes = np.asarray(OLD)
    for mask in pass_masks(LOPAR, GRID):
        known = jnp.broadcast_to(jnp.asarray(~mask)[None], (B, T))
        best = np.asarray(logits_of(params, jnp.int32(codes), known)).argmax(-1)
        codes = np.where(mask, best, codes)
    found = draw(params, given=Given(OLD, NOTHING, ALL), temperature=0.0)
    np.testing.assert_array_equal(found, codes)
    never = ~pass_masks(LOPAR, GRID).any(0)
    np.testing.assert_array_equal(found[:, never], np.asarray(OLD)[:, never])
    assert np.any(found != OLD)


# ------------------------------------------------------------------ what stands there


def test_what_is_kept_stays_and_what_is_empty_is_drawn_first(params):
    kept = ALL.at[:, 10:30].set(False)
    again = NOTHING.at[:, 20:30].set(True)
    found = draw(params, given=Given(OLD, kept, again))
    np.testing.assert_array_equal(found[:, :10], OLD[:, :10])
    np.testing.assert_array_equal(found[:, 30:], OLD[:, 30:])
    # Nothing is read of what stood at empty places.
    other = OLD.at[:, 10:20].set((OLD[:, 10:20] + 1) % V)
    np.testing.assert_array_equal(draw(params, given=Given(other, kept, again)), found)
    other = OLD.at[:, 20:30].set((OLD[:, 20:30] + 1) % V)
    assert np.any(draw(params, given=Given(other, kept, again)) != found)


def test_from_nothing_one_pass_draws_every_place_by_itself(params):
    found = draw(params, DIRECT, temperature=0.0)
    best = np.asarray(logits_of(params, OLD, NOTHING)).argmax(-1)
    np.testing.assert_array_equal(found, best)
    assert DIRECT.passes == 1 and REFINEMENT.passes == 6
    assert DIRECT.begins and not REFINEMENT.begins


def test_codes_are_among_the_likeliest(params):
    logits = np.asarray(logits_of(params, OLD, NOTHING))
    third = np.sort(logits, axis=-1)[..., -3]

    def drawn(top_ks):
        found = draw(params, DIRECT, temperature=5.0, top_ks=top_ks)
        return np.take_along_axis(logits, found[..., None], axis=-1)[..., 0]

    assert np.all(drawn("3") >= third) and np.any(drawn("3") < logits.max(-1))
    assert np.any(drawn("0") < third)


def test_codes_are_in_the_likeliest_clusters(params):
    """By the sums of a cluster's chances, in NumPy over the network's own logits."""
    labels = np.int32(np.arange(V) % 4)
    logits = np.asarray(logits_of(params, OLD, NOTHING))
    chances = softmax(logits / 5)
    mass = np.stack([chances[..., labels == one].sum(-1) for one in range(4)], axis=-1)
    second = np.sort(mass, axis=-1)[..., -2]

    def drawn(**sampling):
        settings = RefinementSampling(temperature=5.0, top_ks="0", **sampling).traced()
        settings = settings.replace(labels=jnp.asarray(labels))
        return np.asarray(compiled(DIRECT, params, CLASSES, KEYS, settings, None, False))

    def of(codes):
        return np.take_along_axis(mass, labels[codes][..., None], axis=-1)[..., 0]

    found = drawn(clusters=2, cluster_temperature=5.0)
    assert np.all(of(found) >= second) and np.any(of(found) < mass.max(-1))
    assert np.any(of(drawn()) < second)
    # Of one cluster and without a second temperature its likeliest code.
    best = np.where(labels == mass.argmax(-1)[..., None], logits, -np.inf).argmax(-1)
    np.testing.assert_array_equal(drawn(clusters=1, cluster_temperature=0.0), best)


def test_a_row_is_its_own_and_guidance_of_one_is_none(params):
    given = Given(OLD, NOTHING, ALL)
    plain = draw(params, given=given)
    settings = RefinementSampling().traced()
    own = Given(OLD[1:], NOTHING[1:], ALL[1:])
    alone = compiled(REFINEMENT, params, CLASSES[1:], KEYS[1:], settings, own, False)
    np.testing.assert_array_equal(alone[0], plain[1])
    np.testing.assert_array_equal(draw(params, given=given, guided=True, guidance=1.0), plain)
    assert np.any(draw(params, given=given, guided=True, guidance=9.0) != plain)


@pytest.mark.slow
def test_factors_are_drawn_one_given_the_other():
    params, settings = random_params(TWO), RefinementSampling(temperature=0.0).traced()
    draw = jax.jit(lambda p: DIRECT.draw(TWO, p, CLASSES, KEYS, settings, guided=False))
    hidden = TWO.hidden(params, TWO.read(params, CLASSES), jnp.zeros((B, T, 2), jnp.int32), NOTHING)
    first = jnp.argmax(TWO.factor_logits(params, hidden), axis=-1).astype(jnp.int32)
    second = jnp.argmax(TWO.factor_logits(params, hidden, first[..., None]), axis=-1)
    np.testing.assert_array_equal(draw(params), np.stack([first, second], axis=-1))


def test_a_step_is_a_pass_over_all_places():
    shapes = jax.eval_shape(lambda: random_params(TWO))
    step, inputs, steps = REFINEMENT.step(TWO, shapes, CLASSES, 2, RefinementSampling())
    assert steps == 6
    assert [found.shape for found in jax.eval_shape(step, shapes, *inputs)] == [
        (2 * B, T, 5),
        (2 * B, T, 4),
    ]


# ------------------------------------------------------------------ the loss and the score


@pytest.mark.slow
def test_training_masks_one_of_the_ratios_and_counts_masked_places_alone(params):
    told = {}

    class Told(MaskGITGenerator):
        def masked_nll(self, params, condition, codes, known, keys, smoothing):
            found = super().masked_nll(params, condition, codes, known, keys, smoothing)
            told.update(known=np.asarray(known), found=found)
            return found

    generator = Told(GENERATOR.config, GENERATOR.condition, GENERATOR.codes)
    keys = jax.random.split(jax.random.key(1), 32)
    codes, classes = jnp.int32(RNG.integers(0, V, (32, T))), jnp.int32(RNG.integers(0, 6, 32))
    loss, metrics = REFINEMENT.loss(generator, params, classes, codes, keys, jnp.int32(0))
    masked, (nll, right) = ~told["known"], map(np.asarray, told["found"])
    assert loss == pytest.approx(nll[masked].mean(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right[masked].mean(), rel=1e-5)
    counts = {round(T * ratio) for ratio in (0.2, 0.4, 0.6, 0.8, 0.9)}
    assert {*masked.sum(axis=1)} == counts
    DIRECT.loss(generator, params, classes, codes, keys, jnp.int32(0))
    assert not told["known"].any()


def test_the_score_is_over_one_mask_of_each_ratio(params):
    score = jax.jit(lambda *args: REFINEMENT.score(GENERATOR, params, *args))
    nll = jax.jit(lambda known: GENERATOR.masked_nll(params, CLASSES, OLD, known)[0])
    masks = ratio_masks(REFINEMENT.ratios, T)
    np.testing.assert_array_equal(masks.sum(1), [14, 29, 43, 58, 65])
    each = [
        np.asarray(nll(jnp.broadcast_to(~mask[None], (B, T))))[:, mask].mean(1) for mask in masks
    ]
    np.testing.assert_allclose(score(CLASSES, OLD), np.mean(each, axis=0), rtol=1e-5)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"tile": ((1, 2), (3,))}, "config.prediction.tile is .*; rows of one length"),
        ({"tile": ((0, -1),)}, "a number of at least 1, are needed"),
        ({"ratios": ()}, r"config.prediction.ratios is \(\); shares in"),
        ({"ratios": (0.5, 1.2)}, r"config.prediction.ratios is \(0.5, 1.2\); shares in"),
    ],
)
def test_a_wrong_field_is_named(fields, line):
    with pytest.raises(UserError, match=line):
        RefinementPrediction(**fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"top_ks": "40,few"}, "top_ks is '40,few'; a number for each pass is needed"),
        ({"temperature": -1.0}, "temperature is -1.0; at least 0"),
        ({"cluster_temperature": -1.0}, "cluster_temperature is -1.0; at least 0"),
        ({"clusters": -1, "top_ks": "0"}, "clusters is -1; at least 0"),
        ({"cluster_temperature": 0.5}, "cluster_temperature is 0.5, .* and clusters is 0"),
        (
            {"clusters": 5, "top_ks": "0", "temperature": 0.0},
            "clusters is 5 and temperature 0, which takes the likeliest code",
        ),
        ({"clusters": 5}, "clusters is 5, which top_ks=40,40,40,20,20,10 would cut; .* top_ks=0"),
    ],
)
def test_a_wrong_setting_is_named(fields, line):
    with pytest.raises(UserError, match=line):
        RefinementSampling(**fields)


def test_a_grid_that_the_tile_does_not_divide_is_refused():
    generator = MaskGITGenerator(MaskGITConfig(STACK), ClassCondition(5, 0.1), Codes((8, 8), (V,)))
    with pytest.raises(UserError, match=r"tile is 6 x 6, which does not divide codes of the shape"):
        REFINEMENT.check(generator)
    DIRECT.check(generator)
