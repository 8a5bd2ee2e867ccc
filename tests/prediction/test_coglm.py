"""CogLM's maskings as they are drawn: their odds, patches and spans; the loss by modality."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.dropout import example_keys
from babeldraw.models.arrangement import Joint
from babeldraw.prediction.base import Given
from babeldraw.prediction.coglm import CogLMPrediction, CogLMSampling, Odds, poisson_shares
from tests.models.test_coglm import NETWORK, PICTURES, TEXT_3S, T, filled, params

ONLY = {
    "text_to_image": CogLMPrediction(odds=Odds(1.0, 0.0, 0.0), patch=2),
    "image_to_text": CogLMPrediction(odds=Odds(0.0, 1.0, 0.0), patch=2),
    "text": CogLMPrediction(odds=Odds(0.0, 0.0, 1.0), patch=2),
}
KEYS = example_keys(jax.random.key(0), 3)
JOINT = Joint(50, 30, (8, 8), 12, 16)


def loss(prediction, text=TEXT_3S):
    run = jax.jit(functools.partial(prediction.loss, NETWORK))
    return run(params(), text, PICTURES, KEYS, jnp.int32(0))


def test_each_masking_comes_by_its_odds():
    prediction = CogLMPrediction(odds=Odds(3.0, 2.0, 1.0), patch=4)
    text, codes = jnp.arange(1, 13, dtype=jnp.int32), jnp.zeros(64, jnp.int32)
    keys = jax.random.split(jax.random.key(1), 3000)
    arranged = jax.vmap(functools.partial(prediction.arranged, JOINT, text, codes))
    found = jax.jit(arranged)(keys)
    of_codes = np.asarray(jnp.sum(found.weights, axis=1, where=found.targets < 50))
    of_text = np.asarray(jnp.sum(found.weights, axis=1, where=found.targets >= 50))
    which = {"draws": (of_codes == 64) & (of_text == 0), "tells": (of_codes > 0) & (of_text == 12)}
    which["fills"] = (of_codes == 0) & (of_text > 0)
    for share, name in zip((3 / 6, 2 / 6, 1 / 6), which, strict=True):
        deviation = np.sqrt(share * (1 - share) / 3000)
        assert abs(which[name].mean() - share) < 5 * deviation, name


def test_patches_are_a_share_of_the_picture_and_each_corner_as_likely():
    prediction = CogLMPrediction(patch=4, patched=0.8)
    keys = jax.random.split(jax.random.key(2), 4000)
    corners = np.asarray(jax.vmap(functools.partial(prediction.corners, JOINT))(keys))
    # int(0.8 * 64 / 16) of 5 x 5 corners.
    assert corners.shape == (4000, 3)
    assert all(len(set(row)) == 3 for row in corners[:100])
    shares = np.bincount(corners.reshape(-1), minlength=25) / 4000
    assert shares.size == 25 and np.all(abs(shares - 0.12) < 5 * np.sqrt(0.12 * 0.88 / 4000))
    # CogView2's 20 x 20 codes: 20 patches.
    joint = Joint(20_000, 130_000, (20, 20), 111, 512)
    assert prediction.corners(joint, keys[0]).shape == (20,)


def test_spans_are_at_most_a_share_of_the_text():
    prediction = CogLMPrediction(spanned=0.3)
    run = jax.jit(jax.vmap(prediction.spans, (None, 0)))
    for count in (0, 1, 2, 7, 12):
        text = jnp.where(jnp.arange(12) < count, 5, 0)
        keys = jax.random.split(jax.random.key(count), 200)
        firsts, sizes = map(np.asarray, run(text, keys))
        assert np.all(sizes.sum(axis=1) <= max(1, int(0.3 * count))) and np.all(sizes >= 0)
        if count > 4:
            assert np.all(firsts[sizes > 0] < count - 1)
            assert all(len(set(row)) == len(row) for row in firsts)


def test_the_shares_are_poissons():
    expected = [0.0498, 0.1991, 0.4232, 0.6472]
    np.testing.assert_allclose(poisson_shares(3.0)[:4], expected, atol=1e-4)


@pytest.mark.slow
def test_the_loss_is_of_what_the_batch_predicts():
    found, metrics = loss(ONLY["text_to_image"])
    nll, right = jax.jit(NETWORK.nll)(params(), TEXT_3S, PICTURES)
    np.testing.assert_allclose(found, nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["image"], nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-5)
    assert metrics["text"] == 0
    found, metrics = loss(ONLY["image_to_text"])
    assert metrics["image"] > 0 and metrics["text"] > 0
    assert min(metrics["image"], metrics["text"]) <= found <= max(metrics["image"], metrics["text"])
    found, metrics = loss(ONLY["text"])
    assert metrics["image"] == 0 and metrics["text"] == found > 0
    # Where no text is there is nothing to tell.
    assert loss(ONLY["text"], jnp.zeros_like(TEXT_3S))[0] == 0
    assert loss(ONLY["image_to_text"], jnp.zeros_like(TEXT_3S))[1]["text"] == 0


def test_a_hole_is_drawn_from_both_sides_and_the_rest_stays():
    known = np.array([[1, 0, 0, 1, 0, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], bool)
    draw = jax.jit(functools.partial(ONLY["text_to_image"].draw, NETWORK, guided=False))
    settings = CogLMSampling(temperature=0.0).traced()
    keys = jax.random.split(jax.random.key(0), 3)
    given = Given(PICTURES, jnp.asarray(known))
    found = np.asarray(draw(params(), TEXT_3S, keys, settings, given))
    np.testing.assert_array_equal(found[known], np.asarray(PICTURES)[known])
    # The first of each hole is the likeliest given all that is known.
    best = filled(known).argmax(-1)
    for row, place in ((0, 1), (1, 0), (2, 3)):
        assert found[row, place] == best[row, place]


def test_more_weight_on_the_text_draws_otherwise():
    """By a draw at full temperature: a likeliest code may be the same with any weight."""
    draw = jax.jit(functools.partial(ONLY["text_to_image"].draw, NETWORK, guided=False))
    text, keys = jnp.repeat(TEXT_3S, 32, axis=0), jax.random.split(jax.random.key(0), 96)
    plain, weighted, again = (
        np.asarray(draw(params(), text, keys, CogLMSampling(text_weight=w, temperature=8).traced()))
        for w in (0.0, 3.0, 0.0)
    )
    np.testing.assert_array_equal(plain, again)
    assert plain.shape == (96, T) and np.any(plain[:64] != weighted[:64])
    # A row without a text has no columns to weigh.
    np.testing.assert_array_equal(plain[64:], weighted[64:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Odds(-0.1), "odds.text_to_image is -0.1; a weight of at least 0"),
        (lambda: Odds(0, 0, 0), "odds are all 0; at least one of text_to_image, image_to_text"),
        (lambda: CogLMPrediction(patch=1), "patch is 1; at least 2"),
        (lambda: CogLMPrediction(patched=0.0), "patched is 0.0; a share in"),
        (lambda: CogLMPrediction(spanned=1.5), "spanned is 1.5; a share in"),
        (lambda: CogLMPrediction(noise=0.5), "noise is 0.5; only kind=next_token can"),
        (lambda: CogLMPrediction().check(NETWORK), "patch is 4 and a picture has 2 x 3 codes"),
        (lambda: CogLMSampling(text_weight=float("inf")), "text_weight is inf; a finite number"),
    ],
)
def test_what_does_not_fit_is_one_line(make, message):
    with pytest.raises(UserError, match=message) as told:
        make()
    assert "\n" not in str(told.value)
    dataclasses.replace(CogLMPrediction(), odds=Odds(image_to_text=0.0)).check(NETWORK)
