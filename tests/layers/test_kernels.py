"""Fused attention against the plain form: values and gradients, in Pallas's interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.attention import KeyValue, dot_product_attention
from babeldraw.layers.kernels import Seen, splash_attention
from babeldraw.layers.masks import Causal, ConvShaped, padding_mask

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
    shapes = [(B, T, N, H), (B, keys, N, H), (B, keys, N, H), (B, T, N, H)]
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
