"""Codes into a network and out of it: factors, ties, what is known of what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from babeldraw.models.head import CodeEmbedding, Head, token_nll
from babeldraw.tokenizers.base import Codes

B, T, D = 2, 3, 8
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
ONE, TWO = Codes((T,), (7,)), Codes((T,), (5, 4))
IDS = {
    ONE: jnp.asarray(RNG.integers(0, 7, (B, T)), jnp.int32),
    TWO: jnp.asarray(np.stack([RNG.integers(0, n, (B, T)) for n in (5, 4)], -1), jnp.int32),
}


def random_like(tree):
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape), a.dtype), nn.unbox(tree))


@pytest.mark.slow
@pytest.mark.parametrize("codes", [ONE, TWO], ids=["one factor", "two"])
def test_the_nll_is_that_of_all_combinations(codes):
    head = Head(codes, D)
    params = random_like(head.init(jax.random.key(0), X, IDS[codes], method="nll"))
    nll, right = head.apply(params, X, IDS[codes], method="nll")
    # Each combination of factors has its probability; all together have one.
    grid = np.stack(np.meshgrid(*map(np.arange, codes.vocab), indexing="ij"), -1)
    combinations = grid.reshape(-1, len(codes.vocab))
    each = []
    for combination in combinations:
        ids = jnp.broadcast_to(jnp.asarray(combination, jnp.int32), (B, T, len(codes.vocab)))
        ids = ids[..., 0] if codes is ONE else ids
        each.append(np.asarray(head.apply(params, X, ids, method="nll")[0]))
    probability = np.exp(-np.stack(each))
    np.testing.assert_allclose(probability.sum(axis=0), 1.0, atol=1e-5)
    own = IDS[codes][..., None] if codes is ONE else IDS[codes]
    chosen = [
        int(np.flatnonzero((combinations == np.asarray(own)[b, t]).all(-1))[0])
        for b in range(B)
        for t in range(T)
    ]
    picked = probability.reshape(len(combinations), -1)[chosen, np.arange(B * T)]
    np.testing.assert_allclose(np.exp(-np.asarray(nll)).reshape(-1), picked, atol=1e-6)
    assert right.shape == (B, T) and right.dtype == bool


def test_a_later_factor_knows_the_earlier_and_the_first_none():
    head = Head(TWO, D)
    params = random_like(head.init(jax.random.key(0), X, IDS[TWO], method="nll"))
    first = head.apply(params, X, None, method="logits")
    assert first.shape == (B, T, 5)
    earlier = IDS[TWO][..., :1]
    one = head.apply(params, X, earlier, method="logits")
    other = head.apply(params, X, (earlier + 1) % 5, method="logits")
    assert one.shape == (B, T, 4) and np.abs(one - other).max() > 1e-3


def test_the_vectors_of_a_code_are_the_sum_of_its_factors_and_a_start_stands_before():
    embed = CodeEmbedding(TWO, D, more=1)
    params = random_like(embed.init(jax.random.key(0), IDS[TWO]))
    table = np.asarray(params["params"]["table"])
    assert table.shape == (5 + 4 + 1, D)
    ids = np.asarray(IDS[TWO])
    expected = table[ids[..., 0]] + table[5 + ids[..., 1]]
    np.testing.assert_allclose(embed.apply(params, IDS[TWO]), expected, atol=1e-6)
    shifted = embed.apply(params, IDS[TWO], method="after")
    np.testing.assert_allclose(shifted[:, 1:], expected[:, :-1], atol=1e-6)
    for index in (jnp.int32(0), jnp.array([0, 2])):
        found = embed.apply(params, IDS[TWO][:, 1], index, method="before")
        first = np.broadcast_to(np.asarray(index) == 0, (B,))
        wanted = np.where(first[:, None], np.asarray(shifted[:, 0]), expected[:, 1])
        np.testing.assert_allclose(found, wanted, atol=1e-6)


class Tied(nn.Module):
    bias: bool = True

    def setup(self):
        self.embed = CodeEmbedding(ONE, D, more=1)
        self.head = Head(ONE, D, self.embed, self.bias)

    def __call__(self, x, ids):
        return self.head.logits(x), self.embed(ids)


def test_tied_weights_are_the_vectors_themselves():
    params = random_like(Tied().init(jax.random.key(0), X, IDS[ONE]))
    assert jax.tree.map(jnp.shape, params["params"]) == {
        "embed": {"table": (8, D)},
        "head": {"bias": (7,)},
    }
    table, bias = params["params"]["embed"]["table"], params["params"]["head"]["bias"]
    found = Tied().apply(params, X, IDS[ONE])[0]
    np.testing.assert_allclose(found, X @ table[:7].T + bias[None, None], atol=1e-5)
    plain = {"params": {"embed": params["params"]["embed"]}}
    found = Tied(bias=False).apply(plain, X, IDS[ONE])[0]
    np.testing.assert_allclose(found, X @ table[:7].T, atol=1e-5)


def test_smoothed_labels_lie_a_little_on_every_id():
    logits, ids = np.asarray(RNG.normal(size=(B, T, 7))), np.asarray(IDS[ONE])
    label = 0.9 * np.eye(7)[ids] + 0.1 / 7
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = token_nll(jnp.asarray(logits), IDS[ONE], 0.1)
    np.testing.assert_allclose(found, -(label * log).sum(-1), atol=1e-5)
