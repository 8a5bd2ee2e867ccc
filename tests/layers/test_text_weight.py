"""More weight on a text's columns reaches every path of attention, and no kernel drops it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.attention import SelfAttention
from babeldraw.layers.inputs import Inputs
from babeldraw.layers.text_weight import TextWeight
from babeldraw.models.arrangement import EMPTY, PREDICTED, SEES, START, TEXT

B, L, D, N, TEXTS, WEIGHT = 2, 6, 8, 2, 3, 1.4
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, L, D)), jnp.float32)
ROLES = jnp.array(
    [[TEXT, TEXT, TEXT, START, PREDICTED, PREDICTED], [TEXT, EMPTY, EMPTY, START, 4, 4]], jnp.int32
)
CONTEXT = {"roles": ROLES, "text_weight": jnp.float32(WEIGHT)}


def attention(kernel="plain"):
    return SelfAttention(N, D // N, D, kernel=kernel, pattern=SEES, added=lambda: TextWeight(TEXT))


PARAMS = attention().init(jax.random.key(0), X, Inputs(CONTEXT), method="whole")["params"]
PARAMS = jax.tree.map(
    lambda a: a.value if hasattr(a, "value") else a,
    PARAMS,
    is_leaf=lambda a: hasattr(a, "value"),
)


def apply(method, *inputs, kernel="plain"):
    return attention(kernel).apply({"params": PARAMS}, *inputs, method=method)


def expected(weight):
    """By NumPy: the weights before they are normalised are exp(weight) times as large."""
    p = jax.tree.map(np.asarray, PARAMS)
    q, k, v = (
        np.einsum("BTD,DNH->BNTH", X, p[name]["weight"]) for name in ("query", "key", "value")
    )
    scores = np.exp(np.einsum("BNTH,BNSH->BNTS", q, k) / np.sqrt(D // N))
    roles = np.asarray(ROLES)
    text = roles == TEXT
    scores = scores * np.where(text, np.exp(weight), 1.0)[:, None, None]
    seen = np.zeros((B, L, L), bool)
    for b, i, j in np.ndindex(seen.shape):
        query, key = roles[b, i], roles[b, j]
        by_text = key == TEXT and query != EMPTY
        own = query == PREDICTED and (key == START or (key == PREDICTED and j <= i))
        seen[b, i, j] = by_text or own or (i == j == 3)
    scores = np.where(seen[:, None], scores, 0.0)
    rows = np.einsum("BNTS,BNSH->BNTH", scores / np.maximum(scores.sum(-1, keepdims=True), 1e-9), v)
    return np.einsum("BNTH,NHD->BTD", rows, p["out"]["weight"]), roles != EMPTY


def close(found, wanted, slots=slice(None)):
    """`found` is of these slots."""
    out, there = (a[:, slots] for a in wanted)
    found = np.asarray(found)
    np.testing.assert_allclose(found[there], out[there], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["plain", "auto"])
def test_whole_sequences(kernel):
    found = apply("whole", X, Inputs(CONTEXT), kernel=kernel)
    close(found, expected(WEIGHT))
    plain = apply("whole", X, Inputs({"roles": ROLES}), kernel=kernel)
    close(plain, expected(0.0))
    assert np.abs(np.asarray(found) - np.asarray(plain))[0].max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("per_row", [False, True])
def test_through_a_cache(per_row):
    past = apply("start", Inputs(CONTEXT), B, L)
    found, past = apply("fill", X[:, :TEXTS], past, Inputs(CONTEXT))
    close(found, expected(WEIGHT), slice(TEXTS))
    for index in range(TEXTS, L):
        at = jnp.full((B,), index) if per_row else jnp.int32(index)
        found, past = apply("step", X[:, index : index + 1], past, at, Inputs(CONTEXT))
        close(found, expected(WEIGHT), slice(index, index + 1))


@pytest.mark.parametrize("kernel", ["short", "splash", "cudnn"])
def test_a_kernel_that_would_drop_it_is_refused(kernel):
    with pytest.raises(UserError, match=f"kernel is '{kernel}', which cannot do"):
        apply("whole", X, Inputs(CONTEXT), kernel=kernel)
