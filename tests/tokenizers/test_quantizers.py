"""Quantizers: the nearest code by brute force; gradients by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.tokenizers.quantizers import Codebook, l2_normalize, nearest, quantize

N, V, Q = 40, 9, 4
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(N, Q)).astype(np.float32)
# Codes of different length, and one (the last) too far away to be anyone's nearest.
CODES = (RNG.normal(size=(V, Q)) * np.linspace(0.3, 2, V)[:, None]).astype(np.float32)
CODES[-1] = 100
# A code's distance to every latent, by definition.
IDS = np.array([np.argmin([np.sum((z - e) ** 2) for e in CODES.astype(float)]) for z in Z])


def test_the_code_is_the_nearest():
    assert len(set(IDS)) > V / 2
    np.testing.assert_array_equal(nearest(Z, CODES), IDS)


def test_leading_dimensions_are_kept_and_ids_are_int32():
    quantized = quantize(jnp.asarray(Z).reshape(2, 4, 5, Q), jnp.asarray(CODES))
    assert quantized.ids.dtype == jnp.int32 and quantized.codes.dtype == jnp.float32
    np.testing.assert_array_equal(quantized.ids, IDS.reshape(2, 4, 5))
    np.testing.assert_allclose(quantized.codes, CODES[IDS].reshape(2, 4, 5, Q), atol=1e-5)
    np.testing.assert_array_equal(quantized.latents, Z.reshape(2, 4, 5, Q))


def test_both_losses_are_the_mean_squared_distance():
    quantized = quantize(Z, CODES)
    expected = np.mean(np.square(Z.astype(float) - CODES[IDS]))
    np.testing.assert_allclose(quantized.codebook_loss, expected, atol=1e-5)
    np.testing.assert_allclose(quantized.commitment_loss, expected, atol=1e-5)


def test_the_output_s_gradient_goes_straight_through():
    _, pull_back = jax.vjp(lambda z, codes: quantize(z, codes).codes, Z, CODES)
    cotangent = RNG.normal(size=Z.shape).astype(np.float32)
    to_z, to_codes = pull_back(cotangent)
    np.testing.assert_array_equal(to_z, cotangent)
    np.testing.assert_array_equal(to_codes, np.zeros_like(CODES))


def test_the_codebook_loss_moves_codes_alone():
    to_z, to_codes = jax.grad(lambda *a: quantize(*a).codebook_loss, argnums=(0, 1))(Z, CODES)
    expected = np.zeros_like(CODES, float)
    for z, index in zip(Z.astype(float), IDS, strict=True):
        expected[index] += 2 * (CODES[index] - z) / Z.size
    np.testing.assert_array_equal(to_z, np.zeros_like(Z))
    np.testing.assert_allclose(to_codes, expected, atol=1e-5)
    assert not np.any(to_codes[-1])


def test_the_commitment_loss_moves_latents_alone():
    to_z, to_codes = jax.grad(lambda *a: quantize(*a).commitment_loss, argnums=(0, 1))(Z, CODES)
    np.testing.assert_allclose(to_z, 2 * (Z.astype(float) - CODES[IDS]) / Z.size, atol=1e-5)
    np.testing.assert_array_equal(to_codes, np.zeros_like(CODES))


def test_vectors_are_normalised_to_length_one():
    expected = Z / np.linalg.norm(Z.astype(float), axis=-1, keepdims=True)
    np.testing.assert_allclose(l2_normalize(Z), expected, atol=1e-5)


def test_a_zero_vector_stays_zero_with_a_finite_gradient():
    zero = jnp.zeros((2, Q))
    np.testing.assert_array_equal(l2_normalize(zero), zero)
    assert np.isfinite(jax.grad(lambda z: jnp.sum(l2_normalize(z)))(zero)).all()


def apply_codebook(z, l2_normalized, **how):
    return Codebook(V, Q, l2_normalized).apply({"params": {"table": CODES}}, z, **how)


def test_a_normalised_codebook_looks_up_by_angle():
    quantized = apply_codebook(Z, True)
    cosine = (Z / np.linalg.norm(Z, axis=1, keepdims=True)) @ (
        CODES / np.linalg.norm(CODES, axis=1, keepdims=True)
    ).T
    np.testing.assert_array_equal(quantized.ids, cosine.argmax(axis=1))
    assert np.any(quantized.ids != IDS)
    for vectors in (quantized.codes, quantized.latents):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # Length means nothing, and so the gradient never points along the latent.
    np.testing.assert_array_equal(apply_codebook(7 * Z, True).ids, quantized.ids)
    grad = jax.grad(lambda z: apply_codebook(z, True).commitment_loss)(Z)
    assert np.abs(grad).max() > 1e-4
    np.testing.assert_allclose(np.sum(grad * Z, axis=1), 0, atol=1e-5)


@pytest.mark.parametrize("l2_normalized", [True, False])
def test_looking_ids_up_gives_the_chosen_codes(l2_normalized):
    quantized = apply_codebook(Z, l2_normalized)
    found = apply_codebook(quantized.ids, l2_normalized, method="lookup")
    np.testing.assert_allclose(found, quantized.codes, atol=1e-5)


def test_a_plain_codebook_is_the_table_itself():
    np.testing.assert_array_equal(apply_codebook(Z, False).ids, IDS)


def test_codes_begin_as_a_standard_normal():
    boxed = Codebook(512, 32).init(jax.random.key(0), jnp.zeros((1, 32)))["params"]["table"]
    table = nn.unbox(boxed)
    assert boxed.names == ("vocab", "code_dim") and table.shape == (512, 32)
    assert abs(float(jnp.mean(table))) < 0.02 and abs(float(jnp.var(table)) - 1) < 0.03
