"""Fused attention against the plain form: values and gradients, in Pallas's interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.attention import KeyValue, dot_product_attention
from babeldraw.layers.kernels import Seen, choose, splash_attention
from babeldraw.layers.masks import Causal, ConvShaped, DallE, padding_mask

B, T, S, N, H = 2, 256, 128, 2, 8
GRID = (16, 16)
IDS = jnp.asarray([[1] * 70 + [0] * 58, [0] * 128])
MASKS = {
    "causal": (Seen(Causal()), T),
    "conv": (Seen(ConvShaped(GRID, kernel=5)), T),
    "conv, around the edges": (Seen(ConvShaped(GRID, kernel=5, wrap="grid")), T),
    "text, one of them all padding": (padding_mask(IDS), S),
    "everything": (None, S),
}


def arrays(keys):
    made = jax.random.split(jax.random.key(0), 4)
    shapes = [(B, N, T, H), (B, N, keys, H), (B, N, keys, H), (B, N, T, H)]
    return [jax.random.normal(k, shape) for k, shape in zip(made, shapes, strict=True)]


@pytest.mark.parametrize("name", MASKS)
def test_splash_attention_gives_what_the_plain_form_gives(name):
    mask, keys = MASKS[name]
    query, key, value, weight = arrays(keys)

    def plain(query, key, value):
        return dot_product_attention(query, KeyValue(key, value), mask)

    def fused(query, key, value):
        return splash_attention(query, key, value, mask, interpret=True)

    results = []
    for attention in (plain, fused):
        out, pull = jax.vjp(attention, query, key, value)
        results.append((out, *pull(weight)))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


DALLE = DallE(ConvShaped(GRID), 4)


@pytest.mark.parametrize(
    ("kernel", "queries", "mask", "message"),
    [
        ("splash", 100, Seen(Causal()), "100 queries on 100 keys: multiples of 128 are needed"),
        ("splash", T, Seen(DALLE, jnp.int32(0)), "a pattern that differs between layers"),
        ("splash", T, jnp.ones((1, 1, T, T), bool), "one of keys, [B, 1, 1, S], is needed"),
        ("cudnn", T, None, "needs a GPU"),
    ],
)
def test_a_kernel_that_cannot_do_it_says_why(kernel, queries, mask, message):
    with pytest.raises(UserError) as raised:
        choose(kernel, queries, queries, mask)
    assert message in str(raised.value)


def test_on_a_cpu_and_for_single_queries_the_plain_form_is_chosen():
    assert choose("auto", T, T, Seen(Causal())) == "plain"
    assert choose("splash", 1, T, None) == choose("cudnn", 1, T, None) == "plain"
    assert choose("splash", T, T, Seen(DALLE, 3)) == "splash"
