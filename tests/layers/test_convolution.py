"""Convolution against SciPy, equalized learning rate, blur against the filter's definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from babeldraw.layers.convolution import Conv, blur, convolve
from babeldraw.sharding.constraint import logical_axes

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 8, 3)).astype(np.float32)


def by_scipy(x, weight, mode):
    """float64 [B, h, w, features]: each feature as a sum of correlations over channels."""
    return np.stack(
        [
            [
                sum(
                    signal.correlate2d(image[..., c], weight[..., c, f], mode)
                    for c in range(x.shape[-1])
                )
                for f in range(weight.shape[-1])
            ]
            for image in x.astype(np.float64)
        ]
    ).transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("padding", "mode"), [("SAME", "same"), ("VALID", "valid")])
@pytest.mark.parametrize("equalized", [False, True])
def test_a_convolution_is_a_sum_of_correlations(padding, mode, equalized):
    layer = Conv(4, (3, 3), padding=padding, equalized=equalized)
    params = nn.unbox(layer.init(jax.random.key(0), X))["params"]
    params["bias"] = jnp.asarray(RNG.normal(size=4), jnp.float32)
    weight = np.asarray(params["weight"], np.float64)
    if equalized:
        weight = weight / np.sqrt(3 * 3 * 3)
    expected = by_scipy(X, weight, mode) + np.asarray(params["bias"])
    np.testing.assert_allclose(layer.apply({"params": params}, X), expected, atol=1e-5)


def test_a_stride_keeps_every_second_value():
    padding = ((1, 1), (1, 1))
    whole, halved = (Conv(4, stride=s, padding=padding, bias=False) for s in (1, 2))
    params = nn.unbox(whole.init(jax.random.key(0), X))
    expected = whole.apply(params, X)[:, ::2, ::2]
    np.testing.assert_allclose(halved.apply(params, X), expected, atol=1e-5)


def test_both_ways_of_drawing_keep_the_variance():
    x = RNG.normal(size=(1, 32, 32, 64)).astype(np.float32)
    for equalized, deviation in ((True, 1.0), (False, 1 / 24)):
        layer = Conv(64, equalized=equalized, padding="VALID")
        params = nn.unbox(layer.init(jax.random.key(1), x))
        assert np.std(params["params"]["weight"]) == pytest.approx(deviation, rel=0.02)
        assert np.std(layer.apply(params, x)) == pytest.approx(1, rel=0.05)


def test_equalized_gradients_are_those_of_the_scaled_weight():
    layer, plain = Conv(4, equalized=True, scale=2.0), Conv(4)
    params = nn.unbox(layer.init(jax.random.key(0), X))["params"]
    factor = 2 / np.sqrt(27)

    def loss(params, module):
        return jnp.sum(jnp.sin(module.apply({"params": params}, X)))

    scaled = {**params, "weight": params["weight"] * factor}
    found, expected = jax.grad(loss)(params, layer), jax.grad(loss)(scaled, plain)
    np.testing.assert_allclose(found["weight"], factor * expected["weight"], atol=1e-4)
    np.testing.assert_allclose(found["bias"], expected["bias"], atol=1e-4)


def test_half_precision_stays_half_precision_and_weights_stay_whole():
    layer = Conv(4, dtype=jnp.bfloat16)
    boxed = layer.init(jax.random.key(0), X)
    assert layer.apply(boxed, X).dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(boxed)} == {"float32"}
    axes = logical_axes(boxed["params"])
    assert axes == {"weight": (None, None, None, "embed"), "bias": ("embed",)}


@pytest.mark.parametrize(("stride", "padding"), [(1, (2, 1)), (1, (2, 2)), (2, (1, 1))])
def test_the_blur_is_the_binomial_filter(stride, padding):
    line = np.convolve(np.convolve([1, 1], [1, 1]), [1, 1]) / 8
    filtered = np.stack(
        [
            [
                signal.correlate2d(np.pad(image[..., c], padding), np.outer(line, line), "valid")
                for c in range(3)
            ]
            for image in X.astype(np.float64)
        ]
    ).transpose(0, 2, 3, 1)
    found = blur(X, stride, padding)
    np.testing.assert_allclose(found, filtered[:, ::stride, ::stride], atol=1e-5)
    grown = [n + sum(padding) - 3 for n in X.shape[1:3]]
    assert found.shape == (2, *(-(-n // stride) for n in grown), 3)


def test_the_blur_keeps_even_areas_and_removes_the_finest_pattern():
    even = np.full((1, 8, 8, 1), 0.7, np.float32)
    np.testing.assert_allclose(blur(even)[:, 2:-1, 2:-1], 0.7, atol=1e-6)
    board = np.indices((8, 8)).sum(0)[None, :, :, None].astype(np.float32) % 2 - 0.5
    np.testing.assert_allclose(blur(board)[:, 2:-1, 2:-1], 0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (1, 3)])
def test_gradients_are_those_of_the_plain_convolution_once_and_twice(shape):
    weight = jnp.asarray(RNG.normal(size=(*shape, 3, 4)), jnp.float32)
    x = jnp.asarray(X)

    def plain(x, weight):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=names)

    def loss(of):
        return lambda x, weight: jnp.sum(jnp.sin(of(x, weight)))

    def penalty(of):
        """As R1's: a gradient of the picture, differentiated again by the weight."""
        return lambda x, weight: jnp.sum(jnp.square(jax.grad(loss(of))(x, weight)))

    for function in (loss, penalty):
        found, expected = (jax.grad(function(of), (0, 1))(x, weight) for of in (convolve, plain))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    ours, theirs = (jax.jvp(of, (x, weight), (x + 1, weight - 1)) for of in (convolve, plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_frozen_weight_costs_no_gradient():
    weight = jnp.ones((3, 3, 3, 4))

    def products(argnum):
        gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w))), argnum)
        return str(jax.make_jaxpr(gradient)(jnp.asarray(X), weight)).count("dot_general")

    assert products(0) == 0 and products(1) == 1
