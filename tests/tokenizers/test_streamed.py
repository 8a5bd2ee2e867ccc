"""Streamed softmax over a codebook: the naive forms' numbers, in blocks, on shards, in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers import streamed, tiles

N, Q = 24, 6


def drawn(codes, seed=0, tokens=N, dim=Q):
    """Latents and codes of some length, so that a softmax has more than one code and not all."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(n, dim)).astype(np.float32) for n in (tokens, codes))


def naive(temperature):
    """One-hot made differentiable by the softmax, the lookup and the entropy, written out."""

    def outputs(z_NQ, codes_VQ):
        logits_NV = z_NQ @ codes_VQ.T
        q_NV = jax.nn.softmax(logits_NV)
        hard_NV = jax.nn.one_hot(jnp.argmax(q_NV, -1), len(codes_VQ))
        soft_NQ = (hard_NV - jax.lax.stop_gradient(q_NV) + q_NV) @ codes_VQ
        if temperature is None:
            return soft_NQ, hard_NV @ codes_VQ, 0.0
        log_NV = jax.nn.log_softmax(logits_NV / temperature)
        p_NV = jnp.exp(log_NV)
        mean_V = jnp.mean(p_NV, axis=0)
        entropy = jnp.sum(mean_V * jnp.log(mean_V + 1e-5))
        return soft_NQ, hard_NV @ codes_VQ, entropy - jnp.mean(jnp.sum(p_NV * log_NV, -1))

    return outputs


def in_tiles(temperature):
    def outputs(z_NQ, codes_VQ):
        found = streamed.indexed(z_NQ, codes_VQ, temperature)
        return found.soft_NQ, found.hard_NQ, found.entropy

    return outputs


def near(found, expected, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        found,
        expected,
    )


TILES = {
    # 24 tokens: two tiles of nine and one of six, with 1,000 codes.
    "some tokens": {"TILE": 9000, "FEWEST": 1},
    "one tile": {},
    "some codes": {"TILE": 1, "BLOCK": 48},
    "one block": {"TILE": 1},
}


@pytest.fixture(params=TILES.values(), ids=TILES)
def tile(request, monkeypatch):
    for name, value in request.param.items():
        monkeypatch.setattr(streamed, name, value)


@pytest.mark.slow
@pytest.mark.parametrize(("codes", "temperature"), [(64, None), (1000, None), (1000, 0.5)])
def test_the_gradient_is_that_of_the_naive_form(codes, temperature, tile):
    inputs, rng = drawn(codes), np.random.default_rng(1)
    found, pull = jax.vjp(in_tiles(temperature), *inputs)
    expected, naive_pull = jax.vjp(naive(temperature), *inputs)
    ids = streamed.indexed(*inputs).ids_N
    np.testing.assert_array_equal(ids, np.argmax(inputs[0] @ inputs[1].T, axis=1))
    np.testing.assert_array_equal(found[0], inputs[1][ids])
    near(found, expected)
    g_NQ, more_NQ = rng.normal(size=(2, N, Q)).astype(np.float32)
    to_z, to_codes = pull((g_NQ, more_NQ, np.float32(1)))
    if temperature is None:
        near((to_z, to_codes), naive_pull((g_NQ, more_NQ, 0.0)))
    else:
        near((to_z, to_codes), naive_pull((g_NQ, more_NQ, np.float32(1))))
    # All codes learn, those that nobody chose too.
    assert len(np.unique(ids)) < codes / 2 and np.all(np.abs(to_codes).max(axis=1) > 0)


def test_the_gradient_is_that_of_finite_differences(tile):
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

    def soft(*inputs):
        return streamed.indexed(*inputs).soft_NQ

    gradients = jax.vjp(soft, z_NQ, codes_VQ)[1](g_NQ.astype(np.float32))
    for i, (gradient, direction) in enumerate(zip(gradients, directions, strict=True)):
        steps = [0.0, 0.0]
        steps[i] = 1e-5 * direction
        slope = (value(*steps) - value(*(-1 * step for step in steps))) / 2e-5
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-4)


def test_a_sharp_entropy_and_its_gradient(tile):
    """As with the published T of 0.01, of logits up to some 1,000: against float64."""
    z_NQ, codes_VQ = drawn(300)
    temperature = 0.01
    z, codes = z_NQ.astype(float), codes_VQ.astype(float)
    s = z @ codes.T / temperature
    p = np.exp(s - s.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    log = np.log(np.maximum(p, 1e-300))
    mean = p.mean(axis=0)
    expected = np.sum(mean * np.log(mean + 1e-5)) - np.mean(np.sum(p * log, axis=1))
    slope = np.log(mean + 1e-5) + mean / (mean + 1e-5)
    to_s = p * (slope - p @ slope[:, None] - s + np.sum(p * s, axis=1, keepdims=True)) / len(z)
    to_logits = to_s / temperature

    def entropy(*inputs):
        return streamed.indexed(*inputs, temperature).entropy

    found, gradients = jax.value_and_grad(entropy, argnums=(0, 1))(z_NQ, codes_VQ)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # A logit of 10 is known to 1e-6, of which T makes 1e-4.
    near(gradients, (to_logits @ codes, to_logits.T @ z), 1e-3)


def test_of_equal_logits_the_first_code_is_taken(tile):
    codes_VQ = np.ones((200, Q), np.float32)
    codes_VQ[:3] = 0
    ids = streamed.indexed(np.ones((N, Q), np.float32), codes_VQ).ids_N
    np.testing.assert_array_equal(ids, np.full(N, 3))


def value_and_gradients(z_NQ, codes_VQ):
    def loss(z_NQ, codes_VQ):
        found = streamed.indexed(z_NQ, codes_VQ, 0.5)
        lookup = jnp.sum(jnp.cos(found.hard_NQ))
        return jnp.sum(jnp.sin(found.soft_NQ + z_NQ)) + lookup + found.entropy, found.ids_N

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(z_NQ, codes_VQ)


MESHES = [
    MeshConfig(2, 1, 4, "in_layer"),
    MeshConfig(1, 1, 8, "fsdp"),
    MeshConfig(8, 1, 1, "data_parallel"),
]


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: mesh.rules)
@pytest.mark.parametrize("form", ["some tokens", "some codes"])
def test_split_it_is_the_same(mesh, form, monkeypatch):
    for name, value in TILES[form].items():
        monkeypatch.setattr(streamed, name, value)
    inputs = drawn(1000)
    expected = jax.jit(value_and_gradients)(*inputs)
    layout = make_layout(mesh, make_mesh(mesh))
    places = [jax.sharding.NamedSharding(layout.mesh, jax.P(axis)) for axis in ("data", tiles.AXIS)]
    with use(layout):
        split = jax.jit(lambda *inputs: value_and_gradients(*inputs), in_shardings=places)
        compiled = split.lower(*inputs).compile()
    found = compiled(*map(jax.device_put, inputs, places))
    np.testing.assert_array_equal(found[0][1], expected[0][1])
    near((found[0][0], found[1]), (expected[0][0], expected[1]))
    # Each device holds its own codes' gradient, and never all codes.
    assert found[1][1].sharding.shard_shape((1000, Q)) == (1000 // mesh.model, Q)
    assert mesh.model == 1 or f"f32[1000,{Q}]" not in compiled.as_text()


@pytest.mark.parametrize("codes", [2**14, 2**18])
def test_memory_of_a_step_grows_with_the_codebook_by_what_is_kept_of_it_alone(codes):
    """Of 8 pictures of 256 tokens and IBQ's 256 dimensions, by the compiler; nothing is run."""
    tokens, dim = 8 * 256, 256

    def step(z_NQ, codes_VQ, mean_VQ, square_VQ, average_VQ):
        """With Adam's moments and an average of the codes; how they are weighed is all one."""
        (_, ids_N), (to_z_NQ, to_codes_VQ) = value_and_gradients(z_NQ, codes_VQ)
        mean_VQ = 0.9 * mean_VQ + 0.1 * to_codes_VQ
        square_VQ = 0.95 * square_VQ + 0.05 * jnp.square(to_codes_VQ)
        codes_VQ = codes_VQ - 1e-4 * mean_VQ / (jnp.sqrt(square_VQ) + 1e-8)
        average_VQ = 0.999 * average_VQ + 0.001 * codes_VQ
        return ids_N, to_z_NQ, codes_VQ, mean_VQ, square_VQ, average_VQ

    def held(codes):
        """At the most, inputs and results among it."""
        z_NQ, codes_VQ = (jax.ShapeDtypeStruct((n, dim), jnp.float32) for n in (tokens, codes))
        program = jax.jit(step, donate_argnums=range(1, 5)).lower(z_NQ, *4 * [codes_VQ]).compile()
        found = program.memory_analysis()
        given = found.argument_size_in_bytes + found.output_size_in_bytes
        return given - found.alias_size_in_bytes + found.temp_size_in_bytes

    # Codes, their gradient, two moments, the average.
    own = 5 * 4 * codes * dim
    assert held(codes) <= 1.2 * held(1024) + own


@pytest.mark.parametrize("codes", [2**14, 2**18])
def test_memory_of_the_gradient_is_not_that_of_all_logits(codes):
    """Beside inputs and gradients, of few dimensions, so that logits would be most of it."""
    tokens, dim = 2048, 8

    def temporary(codes):
        inputs = (jax.ShapeDtypeStruct((n, dim), jnp.float32) for n in (tokens, codes))
        program = jax.jit(value_and_gradients).lower(*inputs).compile()
        return program.memory_analysis().temp_size_in_bytes

    small, large = temporary(1024), temporary(codes)
    own = 4 * codes * dim
    assert large <= 1.2 * small + own
    # The naive form holds several arrays of this size.
    assert large < 4 * tokens * codes / 2
