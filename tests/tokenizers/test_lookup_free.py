"""LFQ and FSQ against plain statements of each; IBQ's module: its three terms and its section."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.config import OfKind
from babeldraw.errors import UserError
from babeldraw.tokenizers.lookup_free import FSQConfig, LFQConfig, bit_entropy
from babeldraw.tokenizers.quantizers import QUANTIZERS, IBQConfig, VQConfig

RNG = np.random.default_rng(0)


def made(config, z, table=None, **how):
    params = {} if table is None else {"params": {"table": table}}
    return config.make().apply(params, z, **how)


# ------------------------------------------------------------------ LFQ


def corners(bits):
    """All codes by id: bit i is value i."""
    return np.array([[1.0 if n >> i & 1 else -1.0 for i in range(bits)] for n in range(2**bits)])


@pytest.mark.parametrize("bits", [1, 5])
def test_a_bit_of_each_value(bits):
    z = RNG.normal(size=(3, 4, bits)).astype(np.float32)
    z[0, 0] = 0
    q = made(LFQConfig(bits), z)
    ids = np.array([sum(2**i for i in range(bits) if row[i] > 0) for row in z.reshape(-1, bits)])
    np.testing.assert_array_equal(q.ids, ids.reshape(3, 4))
    np.testing.assert_array_equal(q.codes, corners(bits)[q.ids])
    np.testing.assert_array_equal(
        LFQConfig(bits).make().apply({}, np.arange(2**bits), method="lookup"), corners(bits)
    )
    assert {*q.terms} == {"commitment"} and q.ids.dtype == jnp.int32
    np.testing.assert_allclose(q.commitment_loss, np.mean((z - corners(bits)[q.ids]) ** 2), 1e-5)
    gradient = jax.grad(lambda z: jnp.sum(made(LFQConfig(bits), z).codes * z))(z)
    np.testing.assert_allclose(gradient, z + q.codes, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "temperature"), [(5, 1.0), (6, 0.5), (6, 0.01), (1, 1.0)])
def test_the_entropy_is_that_of_all_codes(bits, temperature):
    z = 0.3 * RNG.normal(size=(40, bits)).astype(np.float32)

    def naive(z_NQ):
        logits_NV = 2 * z_NQ @ corners(bits).astype(np.float32).T / temperature
        log_NV = jax.nn.log_softmax(logits_NV)
        p_NV = jnp.exp(log_NV)
        mean_V = jnp.mean(p_NV, axis=0)
        each_N = -jnp.sum(jnp.where(p_NV > 0, p_NV * log_NV, 0.0), -1)
        return jnp.mean(each_N) + jnp.sum(mean_V * jnp.log(mean_V + 1e-5))

    found, expected = (
        jax.value_and_grad(entropy)(z) for entropy in (lambda z: bit_entropy(z, temperature), naive)
    )
    scale = max(1.0, float(np.abs(expected[1]).max()))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(found[1] / scale, expected[1] / scale, atol=1e-5)
    shaped = made(LFQConfig(bits, temperature), z.reshape(5, 8, bits), with_entropy=True)
    np.testing.assert_allclose(shaped.terms["entropy"], found[0], atol=1e-6)


def test_eighteen_bits_are_never_as_many_as_tokens_times_codes():
    z = jax.ShapeDtypeStruct((256, 18), jnp.float32)
    program = jax.jit(jax.grad(lambda z: bit_entropy(z, 0.01))).lower(z).compile()
    # 268 MB would be one array of tokens times codes; 1 MB is one of codes.
    assert program.memory_analysis().temp_size_in_bytes < 16 * 2**20


# ------------------------------------------------------------------ FSQ


@pytest.mark.parametrize("levels", [(8, 5), (3, 3, 4), (7,)])
def test_each_value_is_rounded_to_one_of_its_levels(levels):
    z = 3 * RNG.normal(size=(300, len(levels))).astype(np.float32)
    q = made(FSQConfig(levels), z)
    assert q.terms == {} and FSQConfig(levels).vocab == (np.prod(levels),)
    whole = np.stack([np.asarray(q.codes)[:, i] * (n // 2) for i, n in enumerate(levels)], axis=1)
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-5)
    digits, expected = np.round(whole).astype(int) + np.array([n // 2 for n in levels]), 0
    for i, n in enumerate(levels):
        # All values are reached, in the order of the latents, and none beyond.
        assert {*digits[:, i]} == {*range(n)}
        order = np.argsort(z[:, i])
        assert np.all(np.diff(digits[order, i]) >= 0)
        expected = expected + digits[:, i] * int(np.prod(levels[:i]))
    np.testing.assert_array_equal(q.ids, expected)
    found = FSQConfig(levels).make().apply({}, q.ids, method="lookup")
    np.testing.assert_allclose(found, q.codes, atol=1e-6)
    every = FSQConfig(levels).make().apply({}, np.arange(np.prod(levels)), method="lookup")
    assert len({*map(tuple, np.asarray(every))}) == np.prod(levels)


def test_the_middle_is_zero_and_the_gradient_that_of_the_bounds():
    config, z = FSQConfig((8, 5)), np.array([[0.0, 0.0], [0.7, -1.1]], np.float32)
    np.testing.assert_array_equal(made(config, z[:1]).codes, np.zeros((1, 2)))
    gradient = jax.grad(lambda z: jnp.sum(made(config, z).codes))(z)
    reach = np.array([7 * 1.001 / 2, 4 * 1.001 / 2])
    moved = np.arctanh(np.array([0.5 / reach[0], 0]))
    expected = reach * (1 - np.tanh(z + moved) ** 2) / np.array([4, 2])
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


# ------------------------------------------------------------------ IBQ's module


@pytest.mark.slow
def test_three_terms_of_which_the_first_has_the_gradient_of_all_indices():
    z, table = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 5, 4), (20, 4)))
    q = made(IBQConfig(20, 4), z, table, with_entropy=True)
    chosen = table[np.argmax(z @ table.T, axis=-1)]
    np.testing.assert_array_equal(q.codes, chosen)
    assert {*q.terms} == {"index", "codebook", "commitment", "entropy"}
    for name in ("index", "codebook", "commitment"):
        np.testing.assert_allclose(q.terms[name], np.mean((z - chosen) ** 2), rtol=1e-5)

    def gradients(name):
        of = lambda z, table: made(IBQConfig(20, 4), z, table).terms[name]  # noqa: E731
        return jax.grad(of, argnums=(0, 1))(z, table)

    slope = 2 * (chosen - z) / z.size
    to_z, to_table = gradients("commitment")
    np.testing.assert_allclose(to_z, -slope, atol=1e-6)
    assert not np.any(to_table)
    to_z, to_table = gradients("codebook")
    assert not np.any(to_z) and 0 < np.sum(np.any(to_table, axis=1)) < 20
    to_z, to_table = gradients("index")
    assert np.all(np.any(to_table, axis=1))
    # Beside what it is pulled to its code by, a latent is moved by what the codes would change.
    assert np.abs(to_z + slope).max() > 1e-3


def test_beta_is_on_the_term_that_is_named():
    assert IBQConfig().beta_term == "codebook" and VQConfig().beta_term == "commitment"
    assert IBQConfig(beta_on="commitment").beta_term == "commitment"
    # Neither that nor a temperature makes another code.
    same = IBQConfig(beta_on="commitment", entropy_temperature=1.0, code_init="uniform")
    assert same.code_fields == {"kind": "ibq"}
    assert LFQConfig(6).code_fields == {"kind": "lfq", "bits": 6}


def test_a_codebook_that_model_does_not_divide_is_named():
    IBQConfig(16384, 8).check_split(8)
    with pytest.raises(UserError, match="codebook_size is 1000, which config.mesh.model=16 does n"):
        IBQConfig(1000, 8).check_split(16)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"kind": "ibq", "beta_on": "both"}, "beta_on is 'both'; the choices are commitment, code"),
        ({"kind": "ibq", "codebook_size": 0}, "codebook_size is 0; at least 1 is needed"),
        ({"kind": "ibq", "entropy_temperature": 0.0}, "entropy_temperature is 0.0; more than 0 is"),
        ({"kind": "lfq", "bits": 0}, "bits is 0; 1 to 30 are possible"),
        ({"kind": "lfq", "bits": 31}, "bits is 31; 1 to 30 are possible"),
        ({"kind": "lfq", "codebook_size": 4}, "codebook_size is not a field"),
        ({"kind": "fsq", "levels": (8, 1)}, "levels is (8, 1); at least 2 of each dimension are"),
        ({"kind": "fsq", "levels": ()}, "levels is (); at least 2 of each"),
        ({"kind": "fsq", "levels": (256,) * 4}, "levels is (256, 256, 256, 256), 4294967296 codes"),
    ],
)
def test_a_bad_quantizer_is_named(section, line):
    with pytest.raises(UserError) as caught:
        OfKind(QUANTIZERS).build(section, "tokenizer.quantizer")
    assert str(caught.value).startswith(f"tokenizer.quantizer.{line}")


def test_corners_are_all_codes():
    assert {*map(tuple, corners(3))} == {*itertools.product((-1.0, 1.0), repeat=3)}


def test_two_values_of_a_dimension_are_refused_of_runs_that_begin():
    with pytest.raises(UserError, match=r"levels is \(8, 2\); of two .* or kind=lfq"):
        FSQConfig((8, 2)).check_new()
    FSQConfig((8, 3)).check_new()
