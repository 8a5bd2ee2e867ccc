"""Samplers: orders of convergence where the score is known, and their steps as published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.prediction.diffusion import DiffusionPrediction, DiffusionSampling
from babeldraw.prediction.noising import DDPM
from babeldraw.prediction.samplers import ancestral
from tests.prediction.denoisers import CODES, Known, flow_of_gaussian, noise_of_gaussian, noises

MEAN, DEVIATION, ROWS = 1.5, 0.4, 8
KEYS, LABELS = jax.random.split(jax.random.key(3), ROWS), jnp.zeros(ROWS, jnp.int32)
FLOW, DIFFUSED = DiffusionPrediction(), DiffusionPrediction(objective="ddpm")


def drawn(prediction, say, keys=KEYS, **sampling):
    settings = DiffusionSampling(**sampling).traced()
    labels = jnp.zeros(len(keys), jnp.int32)
    found = jax.jit(
        lambda keys: prediction.draw(Known(say), None, labels, keys, settings, guided=False)
    )(keys)
    return np.asarray(found, np.float64)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_a_flow_converges_at_its_order(sampler, order):
    """To the path's end: of a Gaussian, a line through the mean."""
    exact = MEAN + DEVIATION * noises(KEYS, CODES.each, 0)
    say = flow_of_gaussian(MEAN, DEVIATION)
    errors = [
        np.abs(drawn(FLOW, say, sampler=sampler, steps=steps) - exact).max()
        for steps in (16, 32, 64)
    ]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.25)
    assert errors[-1] > 1e-5


def test_ddim_converges_at_the_first_order():
    a = DDPM().kept[-1]
    away = noises(KEYS, CODES.each, 0) - np.sqrt(a) * MEAN
    exact = MEAN + DEVIATION * away / np.sqrt(a * DEVIATION**2 + 1 - a)
    say = noise_of_gaussian(MEAN, DEVIATION)
    errors = [
        np.abs(drawn(DIFFUSED, say, sampler="ddim", steps=steps) - exact).max()
        for steps in (25, 50, 100)
    ]
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.3)


def gaussian_after(steps):
    """Mean and deviation of what `steps` ancestral steps draw, each a Gaussian of the last."""
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    kept = np.append(1.0, kept[np.round(np.linspace(0, 999, steps)).astype(int)])
    mean, variance = 0.0, 1.0
    for a, before in zip(kept[:0:-1], kept[-2::-1], strict=True):
        beta, marginal = 1 - a / before, a * DEVIATION**2 + 1 - a
        # E[codes | noisy] is a line, and so is the mean of a step.
        slope = np.sqrt(a) * DEVIATION**2 / marginal
        of_codes = beta * np.sqrt(before) / (1 - a)
        of_noisy = (1 - before) * np.sqrt(a / before) / (1 - a)
        mean = of_codes * (MEAN + slope * (mean - np.sqrt(a) * MEAN)) + of_noisy * mean
        variance = (of_codes * slope + of_noisy) ** 2 * variance
        variance += beta * (1 - before) / (1 - a)
    return mean, np.sqrt(variance)


def test_ancestral_steps_draw_the_distribution():
    keys = jax.random.split(jax.random.key(4), 1000)
    say = noise_of_gaussian(MEAN, DEVIATION)
    found = drawn(DIFFUSED, say, keys, sampler="ancestral", steps=100)
    mean, deviation = gaussian_after(100)
    # Four deviations of what 24,000 values give.
    assert found.mean() == pytest.approx(mean, abs=4 * DEVIATION / 24_000**0.5)
    assert found.std() == pytest.approx(deviation, rel=4 / 48_000**0.5)
    # The smaller variance of a step makes the sum small, the less so the more steps there are.
    assert DEVIATION > gaussian_after(1000)[1] > gaussian_after(250)[1] > deviation
    assert gaussian_after(1000) == pytest.approx((MEAN, DEVIATION), rel=0.02)


def published_step(noisy, said, noise, steps, number):
    """`p_sample` of a process with some of the 1,000 steps and a learned range of variances."""
    betas = np.linspace(1e-4, 0.02, 1000)
    all_kept = np.cumprod(1 - betas)
    used = [round(i * 999 / (steps - 1)) for i in range(steps)]
    kept = all_kept[used]
    before = np.append(1.0, kept[:-1])
    betas = 1 - kept / before
    variance = betas * (1 - before) / (1 - kept)
    least = np.log(np.append(variance[1], variance[1:]))
    i = steps - 1 - number
    eps, place = np.split(said, 2, axis=-1)
    start = np.sqrt(1 / kept[i]) * noisy - np.sqrt(1 / kept[i] - 1) * eps
    mean = betas[i] * np.sqrt(before[i]) / (1 - kept[i]) * start
    mean += (1 - before[i]) * np.sqrt(1 - betas[i]) / (1 - kept[i]) * noisy
    share = (place + 1) / 2
    log_variance = share * np.log(betas[i]) + (1 - share) * least[i]
    return mean + (i > 0) * np.exp(0.5 * log_variance) * noise


@pytest.mark.parametrize("number", [0, 4, 9])
def test_an_ancestral_step_is_the_published_one(number):
    rng = np.random.default_rng(number)
    noisy, said = (rng.normal(size=(ROWS, *CODES.shape, n)) for n in (4, 8))
    move = jax.tree.map(lambda a: a[number], DDPM().moves(10))
    assert float(move.time) == round((9 - number) * 999 / 9)
    found = ancestral(lambda x, time: jnp.float32(said), jnp.float32(noisy), move, KEYS)
    expected = published_step(noisy, said, noises(KEYS, CODES.each), 10, number)
    # Of the first step the codes are some 150 times the noise.
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_times_are_spread_over_the_whole_way():
    for steps in (1, 2, 7, 1000):
        times = np.asarray(DDPM().moves(steps).time)
        assert times[0] == 999 and (steps == 1 or times[-1] == 0)
        assert (np.diff(times) < 0).all() and (times == times.round()).all()
    move = FLOW.process.moves(4)
    np.testing.assert_array_equal(move.time, [1000, 750, 500, 250])
    np.testing.assert_array_equal(move.next, [750, 500, 250, 0])
