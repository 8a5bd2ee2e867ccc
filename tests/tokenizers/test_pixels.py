"""What output channels mean: the map of pixels, colours, parameters of the distribution."""

import jax
import numpy as np
import pytest

from babeldraw.tokenizers.pixels import (
    EPSILON,
    LOG_SCALE_FLOOR,
    logit_laplace_parameters,
    map_pixels,
    to_images,
    unmap_pixels,
)

RNG = np.random.default_rng(0)


def test_the_map_keeps_off_zero_and_one_and_goes_back():
    x = np.linspace(0, 1, 256, dtype=np.float32)
    y = map_pixels(x)
    np.testing.assert_allclose([y[0], y[-1]], [EPSILON, 1 - EPSILON], atol=1e-6)
    np.testing.assert_allclose(unmap_pixels(y), x, atol=1e-6)


def test_raw_colours_are_centred_and_nothing_more():
    raw = RNG.normal(0, 3, (2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(to_images(raw, "rgb"), raw / 2 + 0.5, atol=1e-6)


def test_means_go_through_the_sigmoid_and_scales_are_not_drawn():
    raw = RNG.normal(0, 3, (2, 4, 4, 6)).astype(np.float32)
    expected = (1 / (1 + np.exp(-raw[..., :3].astype(np.float64))) - 0.1) / 0.8
    np.testing.assert_allclose(to_images(raw, "logit_laplace"), expected, atol=1e-5)
    gradient = jax.grad(lambda raw: to_images(raw, "logit_laplace").sum())(raw)
    assert np.all(gradient[..., 3:] == 0) and np.all(gradient[..., :3] > 0)


def test_a_mean_at_the_logit_of_the_mapped_pixel_draws_that_pixel():
    x = np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 4, 4, 3)
    y = map_pixels(x)
    raw = np.concatenate([np.log(y / (1 - y)), np.zeros_like(x)], axis=-1)
    np.testing.assert_allclose(to_images(raw, "logit_laplace"), x, atol=1e-5)


def test_scales_are_as_given_and_have_a_floor():
    raw = np.stack([np.full(5, 0.3), [-100.0, -7, -2, 0, 4]], -1).astype(np.float32)
    raw = np.repeat(raw.reshape(1, 1, 5, 2), 3, axis=-1)
    mean, log_scale = logit_laplace_parameters(raw)
    np.testing.assert_allclose(mean, 0.3, atol=1e-6)
    np.testing.assert_allclose(log_scale[0, 0, 3:, 0], [0, 4], atol=3e-3)
    assert log_scale.min() >= LOG_SCALE_FLOOR
    assert float(log_scale[0, 0, 2, 0]) == pytest.approx(-2, abs=0.02)
