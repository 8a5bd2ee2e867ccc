"""The weighted product, the embedding and the norm, against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.linear import Einsum, Embedding, LayerNorm, fan_in

# A weight of a quarter of a million draws: its sample variance is within 1 % of the true one.
D, N, H = 64, 64, 64
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("eqn", "shape", "expected"),
    [
        ("BTD,DF->BTF", (3, 5), 3),
        ("BTD,DNH->BTNH", (3, 5, 7), 3),
        ("BTNH,NHD->BTD", (3, 5, 7), 15),
        ("BTD,FD->BTF", (3, 5), 5),
        ("BD,D->B", (3,), 3),
        ("BTD,NDH->BTNH", (3, 5, 7), 5),
    ],
)
def test_fan_in_is_what_is_summed_into_one_output(eqn, shape, expected):
    assert fan_in(eqn, shape) == expected


@pytest.mark.parametrize(
    ("eqn", "shape", "inputs"),
    [("BTD,DNH->BTNH", (D, N, H), (1, 1, D)), ("BTNH,NHD->BTD", (N, H, D), (1, 1, N, H))],
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_initial_weights_have_variance_one_over_fan_in(eqn, shape, inputs, scale):
    module = Einsum(eqn, shape, ("embed",) * len(shape), scale=scale)
    params = nn.unbox(module.init(jax.random.key(0), jnp.ones(inputs)))["params"]
    weight = np.asarray(params["weight"], np.float64)
    expected = scale**2 / fan_in(eqn, shape)
    assert weight.dtype == np.float64 and params["weight"].dtype == jnp.float32
    assert abs(weight.mean()) < 0.01 * expected**0.5
    assert abs(weight.var() / expected - 1) < 0.01
    # Truncated at two deviations of the normal before truncation, whose deviation is 0.8796.
    assert np.abs(weight).max() <= 2 * expected**0.5 / 0.8796


def test_einsum_is_the_product_and_its_bias():
    module = Einsum("BTD,DNH->BTNH", (6, 3, 2), ("embed", "heads", "head_dim"), bias=True)
    x, weight, bias = normal(2, 4, 6), normal(6, 3, 2), normal(3, 2)
    y = module.apply({"params": {"weight": weight, "bias": bias}}, x)
    np.testing.assert_allclose(y, np.einsum("btd,dnh->btnh", x, weight) + bias, atol=1e-5)


def test_a_bias_starts_at_zero_with_the_axes_of_the_output():
    module = Einsum("BTD,DNH->BTNH", (6, 3, 2), ("embed", "heads", "head_dim"), bias=True)
    params = module.init(jax.random.key(0), jnp.ones((1, 1, 6)))["params"]
    assert params["weight"].names == ("embed", "heads", "head_dim")
    assert params["bias"].names == ("heads", "head_dim")
    np.testing.assert_array_equal(params["bias"].unbox(), np.zeros((3, 2)))


def test_einsum_computes_in_its_dtype_with_float32_weights():
    module = Einsum("BTD,DF->BTF", (6, 3), ("embed", "mlp"), bias=True, dtype=jnp.bfloat16)
    params = nn.unbox(module.init(jax.random.key(0), jnp.ones((1, 1, 6))))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert module.apply(params, normal(2, 4, 6)).dtype == jnp.bfloat16


def test_embedding_looks_up_rows():
    table, ids = normal(5, 3), np.array([[0, 4], [2, 2]], np.int32)
    y = Embedding(5, 3).apply({"params": {"table": table}}, ids)
    np.testing.assert_array_equal(y, table[ids])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_is_float32_whatever_comes_in(dtype, offset):
    # Numbers far from zero: a variance from mean squares would lose its digits.
    x = jnp.asarray(3 * normal(2, 5, 16) + offset, dtype)
    scale, bias = normal(16), normal(16)
    y = LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    exact = np.asarray(x, np.float64)
    mean, variance = exact.mean(-1, keepdims=True), exact.var(-1, keepdims=True)
    expected = (exact - mean) / np.sqrt(variance + 1e-6) * scale + bias
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_layer_norm_starts_as_plain_normalisation():
    x = normal(4, 16)
    y, _ = LayerNorm().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(np.mean(y, -1), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(y, -1), 1, atol=1e-5)
