"""Attention against a float64 softmax in NumPy; the cache as a value."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers import attention, kernels
from babeldraw.layers.attention import (
    Attention,
    KeyValue,
    dot_product_attention,
    empty_key_value,
)

B, T, S, N, H, D = 2, 3, 5, 2, 4, 6
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


QUERY, KEYS = normal(B, N, T, H), KeyValue(key=normal(B, N, S, H), value=normal(B, N, S, H))
# Every query sees something, and no two the same.
MASK = RNG.random((B, N, T, S)) < 0.5
MASK[..., 0] = True


def reference(query, key, value, mask=None):
    """softmax(q k^T / sqrt(H)) v, in float64, one query at a time."""
    query, key, value = (np.asarray(a, np.float64) for a in (query, key, value))
    out = np.zeros((*query.shape[:3], value.shape[-1]))
    for b, n, t in np.ndindex(query.shape[:3]):
        logits = key[b, n] @ query[b, n, t] / np.sqrt(query.shape[-1])
        if mask is not None:
            logits = np.where(np.broadcast_to(mask, MASK.shape)[b, n, t], logits, -np.inf)
        weights = np.exp(logits - logits.max())
        out[b, n, t] = weights / weights.sum() @ value[b, n]
    return out


@pytest.mark.parametrize(
    "mask",
    [None, MASK, MASK[:, :1], MASK[:1, :1], MASK[:, :1, :1]],
    ids=["all", "own", "per_row", "shared", "padding"],
)
def test_it_is_a_softmax_over_visible_keys(mask):
    out = dot_product_attention(QUERY, KEYS, mask)
    np.testing.assert_allclose(out, reference(QUERY, KEYS.key, KEYS.value, mask), atol=1e-5)


def test_large_logits_do_not_overflow():
    out = dot_product_attention(100 * QUERY, KEYS, MASK)
    np.testing.assert_allclose(out, reference(100 * QUERY, KEYS.key, KEYS.value, MASK), atol=1e-4)


def test_hidden_keys_have_no_influence_at_all():
    mask = np.array([True, True, False, True, False])[None, None, None]

    def total(keys):
        return jnp.sum(jnp.square(dot_product_attention(QUERY, keys, mask)))

    grads = jax.grad(total)(jax.tree.map(jnp.asarray, KEYS))
    for grad in (grads.key, grads.value):
        assert not np.any(np.asarray(grad)[:, :, [2, 4]])
        assert np.all(np.any(np.asarray(grad)[:, :, [0, 1, 3]], axis=(0, 1, 3)))


def test_low_precision_queries_still_have_a_float32_softmax():
    low = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), (QUERY, KEYS))
    traced = str(jax.make_jaxpr(dot_product_attention, static_argnums=2)(*low, None))
    (exp,) = [line for line in traced.splitlines() if " exp " in line]
    assert ":f32[" in exp
    assert dot_product_attention(*low, None).dtype == jnp.bfloat16


def test_written_positions_are_new_and_the_others_old():
    new = KeyValue(key=normal(B, N, 2, H), value=normal(B, N, 2, H))
    old = jax.tree.map(jnp.asarray, KEYS)
    written = jax.jit(KeyValue.write)(old, jnp.int32(1), new)
    for name in ("key", "value"):
        expected = getattr(KEYS, name).copy()
        expected[:, :, 1:3] = getattr(new, name)
        np.testing.assert_array_equal(getattr(written, name), expected)
        np.testing.assert_array_equal(getattr(old, name), getattr(KEYS, name))


def test_a_cache_filled_one_by_one_holds_all_positions_in_its_own_type():
    cache = empty_key_value(B, S, N, H, jnp.bfloat16)
    assert not np.any(np.asarray(cache.key, np.float32))
    for s in range(S):
        one = jax.tree.map(lambda a, s=s: jnp.asarray(a[:, :, s : s + 1]), KEYS)
        cache = cache.write(jnp.int32(s), one)
    assert cache.key.dtype == cache.value.dtype == jnp.bfloat16
    np.testing.assert_array_equal(cache.key, jnp.asarray(KEYS.key, jnp.bfloat16))
    np.testing.assert_array_equal(cache.value, jnp.asarray(KEYS.value, jnp.bfloat16))


@pytest.mark.parametrize("rows", [2, 1])
def test_heads_side_by_side_give_the_same(monkeypatch, rows):
    monkeypatch.setattr(attention, "heads_per_row", lambda heads, head_dim: N // rows)
    cache = empty_key_value(B, S, N, H, jnp.float32)
    assert cache.key.shape == (B, rows, S, N // rows * H)
    for s in range(S):
        one = jax.tree.map(lambda a, s=s: jnp.asarray(a[:, :, s : s + 1]), KEYS)
        cache = cache.write(jnp.int32(s), one)
    mask = jnp.array([True, False, True, True, False])[None, None, None]
    query = QUERY[:, :, :1]
    out = dot_product_attention(query, cache, mask)
    expected = reference(query, KEYS.key, KEYS.value, np.broadcast_to(mask, MASK.shape))
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "head_dim", "together"), [(8, 64, 2), (3, 64, 1), (6, 32, 2), (8, 128, 1), (8, 80, 1)]
)
def test_heads_stand_side_by_side_where_they_fill_a_tpu_s_row(
    monkeypatch, heads, head_dim, together
):
    assert kernels.heads_per_row(heads, head_dim) == 1
    monkeypatch.setattr(kernels, "platform", lambda: "tpu")
    assert kernels.heads_per_row(heads, head_dim) == together


def test_the_layer_projects_attends_and_projects_back():
    layer = Attention(N, H, D)
    x, source = normal(B, T, D), normal(B, S, D)
    params = nn.unbox(layer.init(jax.random.key(0), x, source, None))["params"]
    weights = {name: np.asarray(params[name]["weight"]) for name in params}
    assert set(weights) == {"query", "key", "value", "out"}
    query = np.einsum("btd,dnh->bnth", x, weights["query"])
    key, value = (np.einsum("bsd,dnh->bnsh", source, weights[n]) for n in ("key", "value"))
    seen = reference(query, key, value, MASK)
    expected = np.einsum("bnth,nhd->btd", seen, weights["out"])
    out = layer.apply({"params": params}, x, source, MASK)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_keys_computed_beforehand_give_the_same():
    layer = Attention(N, H, D)
    x, source = normal(B, T, D), normal(B, S, D)
    params = layer.init(jax.random.key(0), x, source, None)
    keys = layer.apply(params, source, method="key_value")
    attended = layer.apply(params, x, keys, MASK, method="attend")
    np.testing.assert_allclose(attended, layer.apply(params, x, source, MASK), atol=1e-5)


def test_dropped_weights_are_those_of_the_softmax():
    """Some keys are not looked at, others more: before the product with the values."""
    kept = RNG.random((B, N, T, S)) < 0.6

    def drop(weights_BNTS):
        return jnp.where(kept, weights_BNTS / 0.6, 0.0)

    out = dot_product_attention(QUERY, KEYS, MASK, drop=drop)
    # Of values that are one-hot attention gives its weights.
    weights = reference(QUERY, KEYS.key, np.broadcast_to(np.eye(S), (B, N, S, S)), MASK)
    expected = np.where(kept, weights / 0.6, 0) @ KEYS.value
    np.testing.assert_allclose(out, expected, atol=1e-5)
