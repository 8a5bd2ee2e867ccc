"""From logits to tokens: guidance and filters against their definitions, draws by their shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.prediction.logits import (
    SamplingConfig,
    filter_logits,
    guide,
    sample_tokens,
)

B, V = 5, 11
RNG = np.random.default_rng(0)
LOGITS = (2 * RNG.normal(size=(B, V))).astype(np.float32)


def filtered(top_k=0, top_p=1.0, logits=LOGITS):
    return np.asarray(filter_logits(jnp.asarray(logits), jnp.int32(top_k), jnp.float32(top_p)))


def top_k_set(row, k):
    return set(sorted(range(V), key=lambda v: -row[v])[: k or V])


def top_p_set(row, p):
    """Likeliest first, until their mass reaches p."""
    shares = np.exp(row.astype(float)) / np.exp(row.astype(float)).sum()
    kept, mass = set(), 0.0
    for v in sorted(range(V), key=lambda v: -row[v]):
        if mass >= p:
            break
        kept.add(v)
        mass += shares[v]
    return kept


def kept(row):
    return set(np.flatnonzero(np.isfinite(row)))


def draws(config, logits, count):
    """`count` tokens of one row of logits."""
    keys = jax.random.split(jax.random.key(0), count)
    rows = jnp.broadcast_to(jnp.asarray(logits)[None], (count, len(logits)))
    return np.asarray(jax.jit(sample_tokens)(keys, rows, config.traced()))


def test_guidance_runs_from_unconditional_through_conditional_and_beyond():
    conditional, unconditional = LOGITS, RNG.normal(size=(B, V)).astype(np.float32)
    for guidance, expected in [
        (0.0, unconditional),
        (1.0, conditional),
        (0.5, (conditional + unconditional) / 2),
        (3.0, 3 * conditional - 2 * unconditional),
    ]:
        found = guide(conditional, unconditional, jnp.float32(guidance))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("k", [0, 1, 2, 5, V, V + 3])
def test_top_k_keeps_the_k_likeliest(k):
    found = filtered(top_k=k)
    for row, logits in zip(found, LOGITS, strict=True):
        assert kept(row) == top_k_set(logits, k)
        np.testing.assert_array_equal(row[list(kept(row))], logits[list(kept(row))])


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_top_p_keeps_the_likeliest_up_to_their_mass(p):
    for row, logits in zip(filtered(top_p=p), LOGITS, strict=True):
        assert kept(row) == top_p_set(logits, p)


def by_sorting(row, k, p):
    """The definition: ranks, ties broken by place for the count, all ties of the last kept."""
    order = np.argsort(-row.astype(float), kind="stable")[: k or len(row)]
    shares = np.exp(row[order].astype(float) - row.max())
    before = np.cumsum(shares / shares.sum()) - shares / shares.sum()
    inside = order if p >= 1 else order[before < p]
    return row >= row[inside].min()


@pytest.mark.parametrize(
    ("k", "p"), [(0, 1.0), (40, 1.0), (0, 0.3), (0, 0.95), (40, 0.6), (1, 0.5)]
)
def test_the_filters_are_those_of_a_sorted_row_ties_among_them(k, p):
    rng = np.random.default_rng(3)
    # Few values, many ties, either sign of zero, and one row of nothing but ties.
    coarse = np.round(2 * rng.normal(size=(4, 500))) / 2
    logits = np.concatenate([coarse, 3 * rng.normal(size=(4, 500)), np.zeros((1, 500))])
    logits[3, :5] = -np.inf
    logits[8, ::2] = -0.0
    logits = logits.astype(np.float32)
    found = np.asarray(jax.jit(filter_logits)(logits, jnp.int32(k), jnp.float32(p)))
    for row, given in zip(found, logits, strict=True):
        expected = np.where(by_sorting(given, k, p), given, -np.inf)
        np.testing.assert_array_equal(row, expected)


def test_top_p_counts_the_mass_that_top_k_has_left():
    differs = False
    for row, logits in zip(filtered(top_k=3, top_p=0.7), LOGITS, strict=True):
        likeliest = top_k_set(logits, 3)
        left = np.where(np.isin(np.arange(V), list(likeliest)), logits, -np.inf)
        assert kept(row) == top_p_set(left, 0.7)
        differs |= kept(row) != likeliest & top_p_set(logits, 0.7)
    assert differs


def test_the_likeliest_always_stays():
    spike = np.zeros((1, V), np.float32)
    spike[0, 4] = 50
    assert kept(filtered(top_k=1, top_p=1e-6, logits=spike)[0]) == {4}


def test_keeping_all_keeps_a_tail_without_any_mass():
    steep = np.linspace(0, -80, V, dtype=np.float32)[None]
    np.testing.assert_array_equal(filtered(logits=steep), steep)


@pytest.mark.parametrize("config", [SamplingConfig(0.0), SamplingConfig(0.0, top_k=3, top_p=0.5)])
def test_no_temperature_is_argmax(config):
    keys = jax.random.split(jax.random.key(0), B)
    tokens = sample_tokens(keys, jnp.asarray(LOGITS), config.traced())
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, LOGITS.argmax(axis=1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_by_their_shares(temperature):
    count = 20_000
    shares = np.exp(LOGITS[0].astype(float) / temperature)
    shares /= shares.sum()
    tokens = draws(SamplingConfig(temperature), LOGITS[0], count)
    found = np.bincount(tokens, minlength=V) / count
    # Five standard deviations of a share.
    assert np.all(np.abs(found - shares) < 5 * np.sqrt(shares / count))


def test_nothing_left_out_is_drawn_and_the_rest_keeps_its_proportions():
    count = 20_000
    tokens = draws(SamplingConfig(top_k=3), LOGITS[1], count)
    inside = sorted(top_k_set(LOGITS[1], 3))
    assert set(tokens) == set(inside)
    shares = np.exp(LOGITS[1][inside].astype(float))
    shares /= shares.sum()
    found = np.bincount(tokens, minlength=V)[inside] / count
    assert np.all(np.abs(found - shares) < 5 * np.sqrt(shares / count))


def test_top_p_is_of_the_distribution_at_its_temperature():
    hot = filtered(top_p=0.6, logits=LOGITS / 4)
    config = SamplingConfig(temperature=4.0, top_p=0.6)
    assert set(draws(config, LOGITS[2], 5_000)) == kept(hot[2]) != top_p_set(LOGITS[2], 0.6)


def test_a_row_s_token_is_its_own_key_s():
    keys = jax.random.split(jax.random.key(1), B)
    settings = SamplingConfig().traced()
    together = sample_tokens(keys, jnp.asarray(LOGITS), settings)
    for index in range(B):
        rows = slice(index, index + 1)
        alone = sample_tokens(keys[rows], jnp.asarray(LOGITS[rows]), settings)
        assert alone[0] == together[index]
    turned = sample_tokens(keys[::-1], jnp.asarray(LOGITS[::-1]), settings)
    np.testing.assert_array_equal(turned[::-1], together)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"guidance_power": 0.0},
    ],
)
def test_a_bad_value_is_named(bad):
    ((field, value),) = bad.items()
    with pytest.raises(UserError, match=f"{field} is {value}; "):
        SamplingConfig(**bad)


def test_a_power_without_its_schedule_is_refused():
    with pytest.raises(UserError, match="guidance_power is 2.5, which guidance_schedule='cosine' "):
        SamplingConfig(guidance_schedule="cosine", guidance_power=2.5)
    SamplingConfig(guidance_schedule="power_cosine", guidance_power=2.5)
