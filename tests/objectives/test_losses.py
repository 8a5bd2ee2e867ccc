"""Each term against its formula in NumPy, and gradients against finite differences."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate

from babeldraw.judges.discriminators import PatchGAN, StyleGANDiscriminator
from babeldraw.objectives import losses

RNG = np.random.default_rng(0)


def density(x, mean, scale):
    """f(y | mu, b) of y = 0.8 x + 0.1, from the Laplace density of logit y, times dlogit / dy."""
    y = 0.8 * x + 0.1
    laplace = np.exp(-np.abs(np.log(y / (1 - y)) - mean) / scale) / (2 * scale)
    return laplace / (y * (1 - y))


def laplace_case():
    shape = (2, 3, 4, 3)
    mean, log_scale = RNG.normal(0, 1, shape), RNG.normal(-1, 0.5, shape)
    images = RNG.integers(0, 256, shape) / 255
    return mean, log_scale, images


def test_logit_laplace_is_the_mean_log_density():
    mean, log_scale, images = laplace_case()
    expected = -np.mean(np.log(density(images, mean, np.exp(log_scale))))
    found = losses.logit_laplace(*(np.float32(v) for v in (mean, log_scale, images)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.3), (1.2, 0.8), (-2.0, 0.1)])
def test_what_it_is_the_density_of_integrates_to_one(mean, scale):
    def likelihood(y):
        x = np.full((1, 1, 1, 1), (y - 0.1) / 0.8)
        at = (np.full_like(x, mean), np.full_like(x, np.log(scale)), x)
        with jax.enable_x64(True):
            return float(np.exp(-np.asarray(losses.logit_laplace(*at))))

    # The density is one over all of (0, 1), of which pixels take the part from 0.1 to 0.9.
    peak = 1 / (1 + np.exp(-mean))
    grid = np.unique(np.r_[np.linspace(1e-4, 1 - 1e-4, 400), peak])
    values = np.array([likelihood(y) for y in grid])
    assert integrate.trapezoid(values, grid) == pytest.approx(1, abs=0.01)


def test_the_gradients_of_logit_laplace_are_those_of_the_formula():
    mean, log_scale, images = laplace_case()
    y = 0.8 * images + 0.1
    difference = np.log(y / (1 - y)) - mean
    scale, n = np.exp(log_scale), images.size
    args = [np.float32(v) for v in (mean, log_scale, images)]
    by_mean, by_scale = jax.grad(losses.logit_laplace, argnums=(0, 1))(*args)
    np.testing.assert_allclose(by_mean, -np.sign(difference) / scale / n, atol=1e-5)
    np.testing.assert_allclose(by_scale, (1 - np.abs(difference) / scale) / n, atol=1e-5)


def test_the_best_scale_is_the_mean_absolute_difference():
    # Where d(-ln f) / d ln b = 0: the property of a Laplace distribution.
    images = np.full((1, 1, 1, 200), 0.4, np.float32)
    mean = RNG.normal(0, 1, images.shape).astype(np.float32)
    y = 0.8 * 0.4 + 0.1
    best = np.log(np.mean(np.abs(np.log(y / (1 - y)) - mean)))
    scales = best + np.linspace(-1, 1, 21)
    found = [losses.logit_laplace(mean, np.full_like(mean, s), images) for s in scales]
    assert np.argmin(found) == 10


def softplus(x):
    return np.logaddexp(0, x)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 3)])
def test_adversarial_losses_are_their_formulas(shape):
    real, fake = RNG.normal(0, 2, (2, *shape)).astype(np.float32)
    sigmoid = 1 / (1 + np.exp(-np.float64(fake)))
    np.testing.assert_allclose(
        losses.non_saturating_generator(fake), -np.log(sigmoid).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.non_saturating_discriminator(real, fake),
        np.mean(softplus(-np.float64(real))) - np.log(1 - sigmoid).mean(),
        rtol=1e-5,
    )
    np.testing.assert_allclose(losses.hinge_generator(fake), -fake.mean(), atol=1e-5)
    expected = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
    np.testing.assert_allclose(losses.hinge_discriminator(real, fake), expected, rtol=1e-5)


def test_l2_is_the_mean_square():
    x, y = RNG.normal(size=(2, 3, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(losses.l2(x, y), np.mean((x - y) ** 2.0), rtol=1e-5)
    np.testing.assert_allclose(losses.l1(x, y), np.mean(np.abs(x - y)), rtol=1e-5)


def test_the_mean_logit_of_a_picture_is_judged():
    fake = np.random.default_rng(3).normal(size=(3, 2, 2)).astype(np.float32)
    expected = np.log1p(np.exp(-fake.astype(float).mean((1, 2)))).mean()
    found = losses.non_saturating_generator_of_means(fake)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one_each = losses.non_saturating_generator_of_means(fake[:, 0, 0])
    np.testing.assert_allclose(one_each, losses.non_saturating_generator(fake[:, 0, 0]), rtol=1e-6)


@pytest.mark.parametrize("places", [False, True])
def test_r1_is_the_squared_gradient_by_finite_differences(places):
    weight = RNG.normal(size=(2 * 3 * 3, 4))

    def logits(images, xp):
        h = xp.tanh(images.reshape(len(images), -1) @ xp.asarray(weight, images.dtype))
        return h if places else h.sum(axis=1)

    images = RNG.random((5, 2, 3, 3))
    step, squares = 1e-5, 0.0
    for index in np.ndindex(*images.shape):
        moved = np.zeros_like(images)
        moved[index] = step
        up, down = (logits(images + s * moved, np) for s in (1, -1))
        # The mean over places, of the one picture that moved.
        slope = (up - down)[index[0]].mean() / (2 * step)
        squares += slope**2
    found, _ = losses.r1_and_gradient(lambda _, x: logits(x, jnp), {}, images.astype(np.float32))
    np.testing.assert_allclose(found, squares / len(images), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("network", [StyleGANDiscriminator(4, 8), PatchGAN(4, 8)])
def test_the_gradient_of_r1_is_that_of_differentiating_twice(network):
    images = RNG.random((4, 32, 32, 3), dtype=np.float32)
    params = nn.unbox(jax.jit(network.init)(jax.random.key(0), images))["params"]

    def discriminate(params, x):
        return network.apply({"params": params}, x)

    def twice(params):
        def total(x):
            return jnp.sum(jnp.mean(discriminate(params, x).reshape(len(x), -1), axis=1))

        return jnp.sum(jnp.square(jax.grad(total)(images))) / len(images)

    expected = jax.jit(jax.value_and_grad(twice))(params)
    found = jax.jit(functools.partial(losses.r1_and_gradient, discriminate))(params, images)
    difference = optax.tree.norm(optax.tree.sub(found[1], expected[1]))
    assert difference < 1e-5 * optax.tree.norm(expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def test_the_adaptive_weight_is_a_bounded_constant_ratio():
    first, second = (RNG.normal(size=(4, 5)).astype(np.float32) for _ in range(2))
    expected = np.linalg.norm(first) / (np.linalg.norm(second) + 1e-4)
    np.testing.assert_allclose(losses.adaptive_weight(first, second), expected, rtol=1e-5)
    assert losses.adaptive_weight(first, np.zeros_like(first)) == 1e4
    gradient = jax.grad(losses.adaptive_weight)(jnp.asarray(first), second)
    assert np.all(gradient == 0)


def test_least_squares_are_distances_from_one_and_zero():
    real, fake = np.array([0.5, 2.0], np.float32), np.array([-1.0, 0.25], np.float32)
    found = losses.least_squares_discriminator(real, fake)
    np.testing.assert_allclose(found, (0.25 + 1) / 2 + (1 + 0.0625) / 2, rtol=1e-6)
    np.testing.assert_allclose(losses.least_squares_generator(fake), (4 + 0.5625) / 2, rtol=1e-6)


def test_the_gradient_term_compares_neighbours_differences():
    x, y = np.random.default_rng(0).uniform(size=(2, 2, 5, 4, 3)).astype(np.float32)
    error = x - y
    expected = np.mean(np.abs(np.diff(error, axis=1))) + np.mean(np.abs(np.diff(error, axis=2)))
    np.testing.assert_allclose(losses.gradient(x, y), expected, rtol=1e-5)
    # A picture that is but brighter has the same edges.
    np.testing.assert_allclose(losses.gradient(x + 0.25, x), 0.0, atol=1e-6)
