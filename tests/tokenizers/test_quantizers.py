"""Quantizers: the nearest code by brute force; gradients by hand; entropy, residual levels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.config import OfKind
from babeldraw.errors import UserError
from babeldraw.layers.linear import l2_normalize
from babeldraw.tokenizers.lookup import entropy, nearest, quantize, restart_clustered
from babeldraw.tokenizers.quantizers import QUANTIZERS, ResidualVQConfig, VQConfig
from babeldraw.tokenizers.vector_quantizers import Codebook, ResidualCodebook

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


# ------------------------------------------------------------------ entropy, straight-through


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_entropy_is_that_of_the_softmax_of_distances(temperature):
    distances = np.sum((Z[:, None].astype(float) - CODES.astype(float)) ** 2, axis=-1)
    p = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / temperature)
    p /= p.sum(axis=1, keepdims=True)
    each, mean = -np.sum(p * np.log(p + 1e-30), axis=1).mean(), p.mean(axis=0)
    expected = each + np.sum(mean * np.log(mean + 1e-5))
    found = entropy(jnp.asarray(Z).reshape(4, 10, Q), CODES, temperature)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_entropy_is_low_where_latents_are_sure_and_codes_are_used_and_its_gradient_finite():
    spread = np.eye(4, dtype=np.float32)
    assert float(entropy(spread, spread, 0.01)) == pytest.approx(-np.log(4), abs=1e-3)
    assert float(entropy(np.zeros((4, 4), np.float32), spread, 0.01)) == pytest.approx(0, abs=1e-3)
    # The last code is nobody's, to the last bit.
    for gradient in jax.grad(entropy, argnums=(0, 1))(Z, CODES, 0.01):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_the_gradient_goes_past_the_normalisation_where_it_is_asked_to():
    def made(raw):
        book = Codebook(V, Q, True, raw)
        return lambda z: book.apply({"params": {"table": CODES}}, z).codes

    cotangent = RNG.normal(size=Z.shape).astype(np.float32)
    codes, pull_back = jax.vjp(made(True), Z)
    np.testing.assert_array_equal(pull_back(cotangent)[0], cotangent)
    np.testing.assert_allclose(codes, made(False)(Z), atol=1e-5)
    through = jax.vjp(made(False), Z)[1](cotangent)[0]
    expected = jax.vjp(l2_normalize, Z)[1](cotangent)[0]
    np.testing.assert_allclose(through, expected, atol=1e-6)


# ------------------------------------------------------------------ restarts


# Codes near 0 beside latents of any size, as without l2: nearness has no scale of its own.
@pytest.mark.parametrize(("codes", "latents"), [(1.0, 1.0), (1e-4, 1.0), (1e-4, 1e-2)])
def test_a_clustered_restart_moves_idle_codes_a_part_of_the_way_to_the_closest_latent(
    codes, latents
):
    table, z, below = codes * CODES, latents * Z, 0.5
    q = quantize(z, table)
    before = np.linspace(0, 2, V).astype(np.float32)
    moved, share = restart_clustered(jnp.asarray(table), before, q, below, jax.random.key(0))
    counts = np.bincount(np.asarray(q.ids), minlength=V) * V / N
    np.testing.assert_allclose(share, 0.99 * before + 0.01 * counts, atol=1e-5)
    distances_VN = np.sum((z[None].astype(np.float64) - table[:, None]) ** 2, axis=-1)
    closest = z[distances_VN.argmin(axis=1)]
    part = np.exp(-np.asarray(share, np.float64) / below - 1e-3)[:, None]
    expected = (1 - part) * table + part * closest
    np.testing.assert_allclose(moved, expected, atol=1e-5 * latents)


def test_idle_codes_that_lie_together_come_apart_batch_by_batch():
    """All begin at one place: each batch brings one more into use, and those in use stay."""
    table, share, used = jnp.full((V, Q), 1e-4), jnp.zeros(V), []
    for batch in range(6):
        z = np.random.default_rng(batch).normal(size=(N, Q)).astype(np.float32)
        q = quantize(z, table)
        used.append(len(np.unique(q.ids)))
        table, share = restart_clustered(table, share, q, 0.001, jax.random.key(0))
    assert used[0] == 1 and used[-1] >= 3 and used == sorted(used)


@pytest.mark.parametrize("shared", [True, False])
def test_residual_codes_restart_level_by_level(shared):
    config = ResidualVQConfig(V, Q, 2, shared)
    table = RNG.normal(size=(V, Q) if shared else (2, V, Q)).astype(np.float32)
    # Nobody's.
    table[..., -1, :] = 100
    q = config.make().apply({"params": {"table": table}}, Z)
    params, share = config.restart(
        {"table": jnp.asarray(table)}, jnp.ones(2 * V), q, 0.985, jax.random.key(0)
    )
    moved = np.asarray(params["table"]).reshape(-1, V, Q)
    for level in range(2):
        latents = np.asarray(q.latents)[:, None if shared else level].reshape(-1, Q)
        found = moved[0 if shared else level, -1]
        assert np.abs(latents - found).max(axis=1).min() < 1e-5
    assert share.shape == (2 * V,) and np.all(np.asarray(share).reshape(2, V)[:, -1] == 1)
    if shared:
        np.testing.assert_array_equal(share[:V], share[V:])


# ------------------------------------------------------------------ residual levels

LEVELS = 3


def residual(shared):
    """A module and tables of ever finer codes, the origin among them: no level makes it worse."""
    scales = np.ones(1) if shared else 0.6 ** np.arange(LEVELS)
    table = RNG.normal(size=(len(scales), V, Q)) * scales[:, None, None]
    table[:, 0] = 0
    table = table[0] if shared else table
    return ResidualCodebook(V, Q, LEVELS, shared), {"params": {"table": table.astype(np.float32)}}


@pytest.mark.parametrize("shared", [True, False])
def test_each_level_quantizes_what_the_former_left(shared):
    book, params = residual(shared)
    q = book.apply(params, Z.reshape(4, 10, Q), True)
    assert q.ids.shape == (4, 10, LEVELS) and q.codes.shape == (4, 10, Q)
    left, errors, terms = Z.astype(float), [np.mean(Z.astype(float) ** 2)], []
    for level in range(LEVELS):
        codes = params["params"]["table"] if shared else params["params"]["table"][level]
        np.testing.assert_allclose(q.latents[..., level, :].reshape(N, Q), left, atol=1e-5)
        ids = np.argmin(np.sum((left[:, None] - codes) ** 2, axis=-1), axis=1)
        np.testing.assert_array_equal(q.ids[..., level].ravel(), ids)
        terms.append(float(entropy(left.astype(np.float32), codes, 0.01)))
        left = left - codes[ids]
        errors.append(np.mean(left**2))
    assert all(after < before for before, after in zip(errors, errors[1:], strict=False))
    for found in (q.codebook_loss, q.commitment_loss):
        np.testing.assert_allclose(found, np.mean(errors[1:]), atol=1e-5)
    np.testing.assert_allclose(q.more["entropy"], np.mean(terms), atol=1e-4)
    np.testing.assert_allclose(q.codes.reshape(N, Q), Z - left, atol=1e-5)
    np.testing.assert_array_equal(book.apply(params, q.ids, method="lookup"), q.codes)


def test_residual_gradients():
    book, params = residual(False)
    table = params["params"]["table"]

    def of(name):
        return lambda z, t: getattr(book.apply({"params": {"table": t}}, z), name)

    cotangent = RNG.normal(size=Z.shape).astype(np.float32)
    to_z, to_table = jax.vjp(of("codes"), Z, table)[1](cotangent)
    np.testing.assert_array_equal(to_z, cotangent)
    np.testing.assert_array_equal(to_table, np.zeros_like(table))
    q = book.apply(params, Z)
    to_z, to_table = jax.grad(of("commitment_loss"), (0, 1))(Z, table)
    left = np.asarray(q.latents) - table[np.arange(LEVELS), np.asarray(q.ids)]
    np.testing.assert_allclose(to_z, 2 * left.sum(1) / Z.size / LEVELS, atol=1e-5)
    np.testing.assert_array_equal(to_table, np.zeros_like(table))
    to_z, to_table = jax.grad(of("codebook_loss"), (0, 1))(Z, table)
    expected = np.zeros_like(table, float)
    for n in range(N):
        for level in range(LEVELS):
            expected[level, q.ids[n, level]] -= 2 * left[n, level] / Z.size / LEVELS
    np.testing.assert_array_equal(to_z, np.zeros_like(Z))
    np.testing.assert_allclose(to_table, expected, atol=1e-5)


# ------------------------------------------------------------------ sections


def test_what_only_trains_is_no_part_of_the_identity():
    assert VQConfig().code_fields == {}
    plain = VQConfig(64, 8, straight_through="raw", entropy_temperature=1.0)
    assert plain.code_fields == {"codebook_size": 64, "code_dim": 8}
    residual = ResidualVQConfig(levels=2, restart_how="clustered")
    assert residual.code_fields == {"levels": 2, "kind": "residual_vq"}
    assert residual.vocab == (16384, 16384)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"kind": "bsq"}, "kind is 'bsq'; the kinds are vq, residual_vq, ibq, lfq, fsq"),
        ({"kind": "vq", "levels": 2}, "levels is not a field"),
        (
            {"kind": "vq", "straight_through": "soft"},
            "straight_through is 'soft'; the choices",
        ),
        ({"kind": "vq", "entropy_temperature": 0.0}, "entropy_temperature is 0.0; more than 0 is"),
        ({"kind": "vq", "restart_how": "all"}, "restart_how is 'all'; the choices are idle, clus"),
        ({"kind": "residual_vq", "levels": 1}, "levels is 1; at least 2 are needed, kind=vq has o"),
        ({"kind": "residual_vq", "code_dim": 0}, "code_dim is 0; at least 1 is needed"),
    ],
)
def test_a_bad_quantizer_is_named(section, line):
    with pytest.raises(UserError) as caught:
        OfKind(QUANTIZERS).build(section, "tokenizer.quantizer")
    assert str(caught.value).startswith(f"tokenizer.quantizer.{line}")


@pytest.mark.parametrize(
    ("init", "bound", "deviation"),
    # Of a uniform variable the bound over sqrt(3); MaskGIT's has the variance 1 / V.
    [("uniform", 1 / 64, 1 / 64 / 3**0.5), ("fan_in", (3 / 64) ** 0.5, 1 / 8), ("normal", 9, 1)]
    # 32 values of a row of length 1.
    + [("sphere", 1, 32**-0.5)],
)
def test_codes_are_drawn_as_asked(init, bound, deviation):
    book = VQConfig(64, 32, code_init=init).make()
    table = nn.unbox(book.init(jax.random.key(0), jnp.zeros((1, 32))))
    table = np.asarray(table["params"]["table"])
    assert np.abs(table).max() <= bound
    np.testing.assert_allclose(table.std(), deviation, rtol=0.05)


def test_a_draw_that_there_is_not_is_named():
    with pytest.raises(UserError, match="quantizer.code_init is 'zero'; the choices are sphere, n"):
        VQConfig(code_init="zero")
