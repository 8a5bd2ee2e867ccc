"""Streamed softmax over a codebook: the naive forms' numbers, in blocks, on shards, in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers import streamed

N, Q = 24, 6


def drawn(codes, seed=0, tokens=N, dim=Q):
    """Latents and codes of some length, so that a softmax has more than one code and not all."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(n, dim)).astype(np.float32) for n in (tokens, codes))


def naive_indexed(z_NQ, codes_VQ):
    """One-hot made differentiable by the softmax, all of it written out."""
    p_NV = jax.nn.softmax(z_NQ @ codes_VQ.T)
    hard_NV = jax.nn.one_hot(jnp.argmax(p_NV, -1), len(codes_VQ))
    return (hard_NV - jax.lax.stop_gradient(p_NV) + p_NV) @ codes_VQ


def naive_entropy(z_NQ, codes_VQ):
    log_NV = jax.nn.log_softmax(z_NQ @ codes_VQ.T)
    p_NV = jnp.exp(log_NV)
    mean_V = jnp.mean(p_NV, axis=0)
    return -jnp.mean(jnp.sum(p_NV * log_NV, -1)) + jnp.sum(mean_V * jnp.log(mean_V + 1e-5))


def near(found, expected, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        found,
        expected,
    )


@pytest.fixture(params=[48, 1024], ids=["many blocks", "one block"])
def block(request, monkeypatch):
    monkeypatch.setattr(streamed, "BLOCK", request.param)


@pytest.mark.parametrize("codes", [64, 1000])
def test_the_gradient_is_that_of_the_naive_form(codes, block):
    z_NQ, codes_VQ = drawn(codes)
    g_NQ = np.random.default_rng(1).normal(size=z_NQ.shape).astype(np.float32)
    (found, ids), pull = jax.vjp(streamed.indexed, z_NQ, codes_VQ)
    expected, naive_pull = jax.vjp(naive_indexed, z_NQ, codes_VQ)
    np.testing.assert_array_equal(ids, np.argmax(z_NQ @ codes_VQ.T, axis=1))
    np.testing.assert_array_equal(found, codes_VQ[ids])
    near(found, expected)
    to_z, to_codes = pull((g_NQ, np.zeros(N, jax.dtypes.float0)))
    near((to_z, to_codes), naive_pull(g_NQ))
    # All codes learn, those that nobody chose too.
    assert len(np.unique(ids)) < codes / 2 and np.all(np.abs(to_codes).max(axis=1) > 0)


def test_the_gradient_is_that_of_finite_differences(block):
    """Of the form that has this gradient: one-hot and p as they are, and p as it moves."""
    (z_NQ, codes_VQ), rng = drawn(100), np.random.default_rng(2)
    g_NQ, *directions = (rng.normal(size=shape) for shape in (z_NQ.shape, z_NQ.shape, (100, Q)))

    def softmax(z, codes):
        p = np.exp(z @ codes.T)
        return p / p.sum(axis=1, keepdims=True)

    z, codes = z_NQ.astype(float), codes_VQ.astype(float)
    fixed = np.eye(100)[np.argmax(z @ codes.T, axis=1)] - softmax(z, codes)

    def value(step_z, step_codes):
        now = (z + step_z, codes + step_codes)
        return np.sum(g_NQ * ((fixed + softmax(*now)) @ now[1]))

    gradients = jax.vjp(lambda *a: streamed.indexed(*a)[0], z_NQ, codes_VQ)[1](
        g_NQ.astype(np.float32)
    )
    for i, (gradient, direction) in enumerate(zip(gradients, directions, strict=True)):
        steps = [0.0, 0.0]
        steps[i] = 1e-5 * direction
        slope = (value(*steps) - value(*(-1 * step for step in steps))) / 2e-5
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-4)


@pytest.mark.parametrize("codes", [64, 1000])
def test_entropy_and_its_gradient_are_those_of_the_naive_form(codes, block):
    inputs = drawn(codes)
    found, expected = (
        jax.value_and_grad(entropy, argnums=(0, 1))(*inputs)
        for entropy in (streamed.entropy, naive_entropy)
    )
    near(found, expected)
    # Sharp, as with a temperature of 0.01; the slopes are as steep.
    sharp = (100 * inputs[0], inputs[1])
    near(streamed.entropy(*sharp), naive_entropy(*sharp), 1e-4)
    gradients = jax.grad(streamed.entropy, argnums=(0, 1))(*sharp)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_of_equal_logits_the_first_code_is_taken(block):
    codes_VQ = np.ones((200, Q), np.float32)
    codes_VQ[:3] = 0
    ids = streamed.indexed(np.ones((N, Q), np.float32), codes_VQ)[1]
    np.testing.assert_array_equal(ids, np.full(N, 3))


def value_and_gradients(z_NQ, codes_VQ):
    def loss(z_NQ, codes_VQ):
        codes_NQ, ids_N = streamed.indexed(z_NQ, codes_VQ)
        return jnp.sum(jnp.sin(codes_NQ + z_NQ)) + streamed.entropy(z_NQ, codes_VQ), ids_N

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(z_NQ, codes_VQ)


@pytest.mark.parametrize("mesh", [MeshConfig(2, 1, 4, "in_layer"), MeshConfig(1, 1, 8, "fsdp")])
def test_split_over_model_it_is_the_same(mesh, monkeypatch):
    monkeypatch.setattr(streamed, "BLOCK", 48)
    inputs = drawn(1000)
    expected = jax.jit(value_and_gradients)(*inputs)
    layout = make_layout(mesh, make_mesh(mesh))
    places = [
        jax.sharding.NamedSharding(layout.mesh, jax.P(axis)) for axis in ("data", streamed.AXIS)
    ]
    with use(layout):
        split = jax.jit(lambda *inputs: value_and_gradients(*inputs), in_shardings=places)
        compiled = split.lower(*inputs).compile()
    found = compiled(*map(jax.device_put, inputs, places))
    np.testing.assert_array_equal(found[0][1], expected[0][1])
    near((found[0][0], found[1]), (expected[0][0], expected[1]))
    # Each device holds its own codes' gradient, and never all codes.
    assert found[1][1].sharding.shard_shape((1000, Q)) == (1000 // mesh.model, Q)
    assert f"f32[1000,{Q}]" not in compiled.as_text()


def test_memory_does_not_grow_with_the_codebook_but_by_its_own_size():
    tokens, dim = 512, 8

    def temporary(codes):
        inputs = drawn(codes, tokens=tokens, dim=dim)
        program = jax.jit(value_and_gradients).lower(*inputs).compile()
        return program.memory_analysis().temp_size_in_bytes

    small, large = temporary(1024), temporary(2**16)
    own = 4 * 2**16 * dim
    assert large <= 1.2 * small + 3 * own
    # The naive form holds several arrays of this size.
    assert large < 4 * tokens * 2**16 / 8
