"""Diffusion: its losses in NumPy, guidance and its interval, kept codes, rows that do not meet."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.models.conditions import ClassCondition
from babeldraw.prediction.base import Given
from babeldraw.prediction.diffusion import DiffusionPrediction, DiffusionSampling
from babeldraw.tokenizers.base import Codes
from tests.prediction.denoisers import CODES, Known, noises

B = 5
KEYS = jax.random.split(jax.random.key(0), B)
LABELS = jnp.int32([0, 1, 2, 3, 0])
RNG = np.random.default_rng(0)
LATENTS = RNG.normal(1.0, 2.0, (B, *CODES.each))
SHIFT, SCALE = (1.0, 0.5, -2.0, 0.0), (0.5, 1.0, 2.0, 0.25)
FLOW = DiffusionPrediction(shift=SHIFT, scale=SCALE)


def waves(noisy, time, label):
    """Something of all that it is told; both halves of a learned variance's channels."""
    return jnp.sin(noisy) + time / 1000 + label / 10


def waves_and_places(noisy, time, label):
    return jnp.concatenate([waves(noisy, time, label), jnp.cos(2 * noisy)], axis=-1)


def split_keys():
    return [[jax.random.split(key, 3)[i] for key in KEYS] for i in range(3)]


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_the_loss_of_a_flow(times):
    prediction = dataclasses.replace(FLOW, times=times)
    time_keys, noise_keys, _ = split_keys()
    if times == "uniform":
        t = np.array([float(jax.random.uniform(key)) for key in time_keys])
    else:
        t = 1 / (1 + np.exp([-float(jax.random.normal(key)) for key in time_keys]))
    t, label = (np.reshape(a, (B, 1, 1, 1)) for a in (t, np.asarray(LABELS)))
    x, noise = (LATENTS - SHIFT) * SCALE, noises(noise_keys, CODES.each)
    noisy = (1 - t) * x + t * noise
    expected = np.mean((np.sin(noisy) + t + label / 10 - (noise - x)) ** 2)
    loss, metrics = prediction.loss(
        Known(waves), None, LABELS, jnp.float32(LATENTS), KEYS, jnp.int32(0)
    )
    assert float(loss) == float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def normal_divergence(mean, log_variance, other, other_log):
    """Of the first Gaussian from the second, nats."""
    return 0.5 * (
        -1 + other_log - log_variance + np.exp(log_variance - other_log)
        + (mean - other) ** 2 * np.exp(-other_log)
    )  # fmt: skip


def variance_bits(x, noisy, eps, place, t):
    """Of one example, by improved DDPM's article."""
    betas = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - betas)
    before = np.append(1.0, kept[:-1])
    least = betas * (1 - before) / (1 - kept)
    log_least = math.log(least[max(t, 1)])

    def mean(start):
        of_start = betas[t] * np.sqrt(before[t]) / (1 - kept[t])
        return of_start * start + (1 - before[t]) * np.sqrt(1 - betas[t]) / (1 - kept[t]) * noisy

    own = mean((noisy - np.sqrt(1 - kept[t]) * eps) / np.sqrt(kept[t]))
    share = (place + 1) / 2
    log_variance = share * np.log(betas[t]) + (1 - share) * log_least
    if t > 0:
        nats = normal_divergence(mean(x), log_least, own, log_variance)
    else:
        density = -((x - own) ** 2) / (2 * np.exp(log_variance))
        density = density - 0.5 * np.log(2 * np.pi) - log_variance / 2
        nats = -(density + np.log(2 / 255))
    return np.mean(nats) / np.log(2)


def test_the_loss_of_ddpm_with_learned_variances():
    prediction = DiffusionPrediction(objective="ddpm", shift=(0.0,), scale=(0.5,))
    network = Known(waves_and_places, learned_variance=True)
    time_keys, noise_keys, _ = split_keys()
    times = [int(jax.random.randint(key, (), 0, 1000)) for key in time_keys]
    x, noise = LATENTS * 0.5, noises(noise_keys, CODES.each)
    kept, errors, terms = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), [], []
    for row, t in enumerate(times):
        noisy = np.sqrt(kept[t]) * x[row] + np.sqrt(1 - kept[t]) * noise[row]
        eps = np.sin(noisy) + t / 1000 + int(LABELS[row]) / 10
        errors.append(np.mean((eps - noise[row]) ** 2))
        terms.append(variance_bits(x[row], noisy, eps, np.cos(2 * noisy), t))
    loss, metrics = prediction.loss(network, None, LABELS, jnp.float32(LATENTS), KEYS, jnp.int32(0))
    assert float(metrics["squared_error"]) == pytest.approx(np.mean(errors), rel=1e-5)
    assert float(metrics["variance"]) == pytest.approx(np.mean(terms), rel=1e-4)
    assert float(loss) == pytest.approx(np.mean(errors) + np.mean(terms), rel=1e-4)


@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_the_variance_term_at_each_kind_of_time(t):
    process = DiffusionPrediction(objective="ddpm").process
    x, noisy, eps = (RNG.normal(size=(1, *CODES.each)) for _ in range(3))
    place = RNG.uniform(-1, 1, (1, *CODES.each))
    noisy = noisy if t > 1 else x + 0.01 * noisy
    inputs = [jnp.float32(a) for a in (x, noisy, eps, place)]
    found = process.variance_term(*inputs, jnp.float32([t]))
    # One step's means are apart by little, of codes of size 1: float32 tells some 1e-3 of that.
    expected = variance_bits(*(np.float64(a) for a in inputs), t)
    np.testing.assert_allclose(found[0], expected, rtol=2e-3, atol=1e-4)


def test_the_variance_term_teaches_variances_alone():
    process = DiffusionPrediction(objective="ddpm").process
    x, noisy, eps, place = (jnp.float32(RNG.normal(size=(2, *CODES.each))) for _ in range(4))

    def term(eps, place):
        return jnp.sum(process.variance_term(x, noisy, eps, place, jnp.float32([0, 400])))

    of_eps, of_place = jax.grad(term, argnums=(0, 1))(eps, place)
    assert not of_eps.any() and jnp.all(of_place != 0)


def test_a_score_is_the_same_for_equal_examples_and_less_for_a_better_network():
    x = jnp.float32(np.stack([LATENTS[0], LATENTS[1], LATENTS[0]]))
    labels = jnp.zeros(3, jnp.int32)
    found = FLOW.score(Known(waves), None, labels, x)
    assert found.shape == (3,) and found[0] == found[2] != found[1]
    # Of unit codes' flow the best that says nothing of them is the noise's own mean.
    nothing = FLOW.score(Known(lambda noisy, time, label: 0 * noisy), None, labels, x)
    assert (nothing < FLOW.score(Known(lambda n, t, c: 5 + 0 * n), None, labels, x)).all()


# ------------------------------------------------------------------ drawing


def draw(say=waves, labels=LABELS, keys=KEYS, given=None, guided=True, prediction=FLOW, **sampling):
    settings = DiffusionSampling(**{"steps": 4, "guidance": 3.0, **sampling}).traced()
    network = Known(say, learned_variance=say is waves_and_places)

    @jax.jit
    def drawn(keys, given):
        return prediction.draw(network, None, labels, keys, settings, given, guided)

    return np.asarray(drawn(keys, given))


def euler(scales, channels=4):
    """Guided with the scale of each step, in NumPy."""
    x, label = noises(KEYS, CODES.each, 0), np.asarray(LABELS).reshape(B, 1, 1, 1)
    for number, scale in enumerate(scales):
        t = 1 - number / len(scales)
        told, untold = (np.sin(x) + t + said / 10 for said in (label, 3))
        slope = untold + scale * (told - untold)
        slope[..., channels:] = told[..., channels:]
        x = x - slope / len(scales)
    return x / SCALE + SHIFT


def test_guidance_is_of_both_branches_and_codes_come_back_unscaled():
    np.testing.assert_allclose(draw(), euler([3.0] * 4), atol=1e-4)
    np.testing.assert_allclose(draw(guided=False), euler([1.0] * 4), atol=1e-4)
    np.testing.assert_allclose(
        draw(guidance_schedule="linear"), euler([1.0, 1.5, 2.0, 2.5]), atol=1e-4
    )


def test_guidance_has_its_interval():
    found = draw(guidance_low=0.4, guidance_high=0.8)
    np.testing.assert_allclose(found, euler([1, 3, 3, 1]), atol=1e-4)
    # Both ends are inside.
    found = draw(guidance_low=0.5, guidance_high=1.0)
    np.testing.assert_allclose(found, euler([3, 3, 3, 1]), atol=1e-4)


def test_dit_s_published_code_guides_three_channels():
    np.testing.assert_allclose(draw(guided_channels=3), euler([3.0] * 4, 3), atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_variances_are_those_of_the_condition(sampler):
    """With guidance, as without a second half that the unconditional branch would change."""
    prediction = DiffusionPrediction(objective="ddpm")

    def say(noisy, time, label):
        # Of the condition's own branch -1, of no class (3) what would make it explode.
        places = jnp.where(label == 3, 50.0, -1.0)
        return jnp.concatenate([noisy / 2 + label, places], axis=-1)

    def least(noisy, time, label):
        return noisy / 2 + label

    told = jnp.minimum(LABELS, 2)
    options = {"prediction": prediction, "sampler": sampler, "steps": 5, "labels": told}
    np.testing.assert_allclose(draw(say, **options), draw(least, **options), rtol=1e-4)


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim", "ancestral"])
def test_a_row_is_the_same_alone_and_in_a_batch(sampler):
    objective = "flow" if sampler in ("euler", "heun") else "ddpm"
    prediction = DiffusionPrediction(objective=objective)
    options = {"prediction": prediction, "sampler": sampler, "guidance_low": 0.3}
    whole = draw(**options)
    alone = draw(labels=LABELS[2:3], keys=KEYS[2:3], **options)
    np.testing.assert_allclose(alone[0], whole[2], rtol=1e-6, atol=1e-6)
    # Two rows of one class, which is read once.
    pair = draw(labels=LABELS[:1], keys=KEYS[jnp.array([0, 4])], **options)
    np.testing.assert_allclose(pair, whole[[0, 4]], rtol=1e-6, atol=1e-6)


def test_kept_codes_stay_and_the_others_hear_of_them():
    kept = np.zeros((B, CODES.length), bool)
    kept[:, :2] = True

    def say(noisy, time, label):
        del time, label
        return jnp.broadcast_to(jnp.mean(noisy, axis=(1, 2, 3), keepdims=True), noisy.shape)

    given = Given(jnp.float32(LATENTS), jnp.asarray(kept))
    found = draw(say, given=given)
    grid = kept.reshape(B, *CODES.shape)
    np.testing.assert_array_equal(found[grid], np.float32(LATENTS)[grid])
    others = Given(jnp.float32(LATENTS + 5), jnp.asarray(kept))
    moved = np.abs(draw(say, given=others) - found)
    assert (moved[~grid] > 1e-3).all()
    with pytest.raises(ValueError, match="draws from noise"):
        draw(given=Given(given.codes, given.kept, ~given.kept))


def test_passes_through_the_network_are_counted():
    settings = DiffusionSampling(steps=7, sampler="heun")
    _, inputs, passes = FLOW.step(Known(waves), None, LABELS, 2, settings)
    assert passes == 14 and inputs[1].shape == (10, *CODES.each)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "score"}, "objective is 'score'; the choices are flow, ddpm"),
        ({"objective": "ddpm", "times": "logit_normal"}, "'ddpm', whose times are uniform"),
        ({"shift": (0.0,)}, r"shift is \(0.0,\) and scale \(\); give both"),
        ({"shift": (0.0,), "scale": (0.0,)}, "scales above 0"),
        ({"shift": (math.nan,), "scale": (1.0,)}, "finite numbers"),
        ({"pictures": 0}, "config.prediction.pictures is 0; at least 1"),
    ],
)
def test_a_wrong_field_is_said(fields, message):
    with pytest.raises(UserError, match=message):
        DiffusionPrediction(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps is 0; at least 1 is needed"),
        ({"sampler": "dpm"}, "sampler is 'dpm'; the choices are euler, heun, ddim, ancestral"),
        ({"guidance_low": 0.6, "guidance_high": 0.5}, "two times in .0, 1., the lower first"),
        ({"guided_channels": -1}, "guided_channels is -1; at least 0"),
    ],
)
def test_a_wrong_way_to_draw_is_said(fields, message):
    with pytest.raises(UserError, match=message):
        DiffusionSampling(**fields)


@pytest.mark.parametrize(
    ("prediction", "sampling", "network", "message"),
    [
        ({}, {"sampler": "ddim"}, {}, "sampler is 'ddim', which .*flow does not know; take euler"),
        ({"objective": "ddpm"}, {}, {}, "sampler is 'euler', which .*ddpm .* ddim or ancestral"),
        (
            {"objective": "ddpm"},
            {"sampler": "ddim", "steps": 1001},
            {},
            "steps is 1001 and the process has 1000",
        ),
        ({}, {"guided_channels": 5}, {}, "guided_channels is 5 and the codes have 4 channels"),
        (
            {},
            {"guidance": 2.0},
            {"condition": ClassCondition(3, 0.0)},
            "guidance is 2.0 and config.condition.dropout 0",
        ),
    ],
)
def test_what_does_not_go_together_is_said(prediction, sampling, network, message):
    with pytest.raises(UserError, match=message):
        DiffusionPrediction(**prediction).check_sampling(
            DiffusionSampling(**sampling), Known(waves, **network)
        )


def test_a_network_that_does_not_go_with_it_is_said():
    with pytest.raises(UserError, match="learned_sigma is True and .*'flow'"):
        DiffusionPrediction().check(Known(waves_and_places, learned_variance=True))
    two = DiffusionPrediction(shift=(0.0, 1.0), scale=(1.0,))
    with pytest.raises(UserError, match="shift has 2 numbers and the tokenizer's codes 4 channels"):
        two.check(Known(waves, codes=Codes((2,), (), 4)))
