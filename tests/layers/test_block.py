"""Blocks of parts: whatever they are made of, stepping through caches is the full forward."""

import functools
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.block import (
    Residual,
    TransformerConfig,
    cross_attention,
    empty_caches,
    feed_forward,
    make_stack,
    self_attention,
    through,
)
from babeldraw.layers.feed_forward import FeedForward
from babeldraw.layers.linear import LayerNorm, RMSNorm
from babeldraw.layers.masks import Causal, ConvShaped
from babeldraw.layers.positions import Rotary
from babeldraw.sharding.context import PerExample

B, T, S, D = 3, 12, 5, 16
CONFIG = TransformerConfig(blocks=2, heads=2, dim=D, hidden=24)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
TEXT = jnp.asarray(RNG.normal(size=(B, S, D)), jnp.float32)
CAUSAL = Causal()
RMS = functools.partial(RMSNorm, epsilon=1e-5)
HEAD_NORM = functools.partial(RMSNorm, axis="head_dim")


def parts(pattern=CAUSAL, attention=(), ffn=(), **norms):
    """Self-attention, attention to a text and feed-forward, with these options."""
    return (
        Residual("self", self_attention(CONFIG, pattern, **dict(attention)), "self_norm", **norms),
        Residual("cross", cross_attention(CONFIG), "cross_norm", **norms),
        Residual("ffn", feed_forward(CONFIG, **dict(ffn)), "ffn_norm", **norms),
    )


WIDE = functools.partial(
    self_attention(CONFIG, Causal()).func,
    **{**self_attention(CONFIG, Causal()).keywords, "head_dim": 12, "bias": True},
)
VARIANTS = {
    "pre-norm": parts(),
    "ring": parts(ConvShaped((3, 4), 3, "none", "slot")),
    "post-norm": parts(before=None, rejoin=LayerNorm),
    "sandwich": parts(after=LayerNorm),
    "rms": parts(before=RMS),
    "normed heads": parts(attention={"norm": HEAD_NORM, "bias": True}),
    "rotary": parts(attention={"rotate": Rotary()}),
    "rotary ring": parts(
        ConvShaped((3, 4), 3, "none", "slot"), {"rotate": Rotary((3, 4), interleaved=False)}
    ),
    "swiglu": parts(ffn={"gated": True}),
    "wide heads": (Residual("self", WIDE, "self_norm"), *parts()[1:]),
}


def draw(path, leaf):
    """Nothing zero or one, so that every part is felt."""
    rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
    return jnp.asarray(rng.normal(0.0, 0.5, leaf.shape), leaf.dtype)


@pytest.mark.parametrize("name", VARIANTS)
def test_stepping_is_the_full_forward_at_one_place_or_many(name):
    stack = make_stack(VARIANTS[name], CONFIG)
    said = {"text": PerExample(TEXT)}
    shapes = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), X, said))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    expected = stack.apply(params, X, said)
    bound = stack.bind(params)

    def walk(indices):
        """The last output of each slot, visited in this order: [T'] of int32 [] or [B]."""
        caches = empty_caches(bound, {"text": TEXT}, B, T)

        def step(caches, index):
            x_B1D = jnp.take_along_axis(X, jnp.broadcast_to(index, (B,))[:, None, None], axis=1)
            y_B1D, caches = through(bound, x_B1D, caches, index, {})
            return caches, y_B1D[:, 0]

        return np.asarray(jax.lax.scan(step, caches, indices)[1])

    found = walk(jnp.arange(T))
    np.testing.assert_allclose(found.swapaxes(0, 1), expected, atol=2e-5)
    # Rows at different places: the second begins three steps later, the third five.
    late = jnp.array([0, 3, 5])
    indices = jnp.clip(jnp.arange(T + 5)[:, None] - late[None], 0, T - 1)
    found = walk(indices)
    for row, begin in enumerate(late.tolist()):
        np.testing.assert_allclose(found[begin : begin + T, row], expected[row], atol=2e-5)


def test_every_variant_is_another_function():
    outputs = []
    for variant in VARIANTS.values():
        stack = make_stack(variant, CONFIG)
        said = {"text": PerExample(TEXT)}
        shapes = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), X, said))
        params = jax.tree_util.tree_map_with_path(lambda path, leaf: draw(path, leaf), shapes)
        outputs.append(np.asarray(stack.apply(params, X, said)))
    for one in range(len(outputs)):
        for other in range(one):
            assert np.abs(outputs[one] - outputs[other]).max() > 1e-3


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("grid", [(), (4, 8)])
def test_turned_products_tell_how_far_apart_two_stand(interleaved, grid):
    rotary = Rotary(grid, interleaved=interleaved)
    query, key = (jnp.asarray(RNG.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(at, other):
        a, b = rotary(query, jnp.array([at])), rotary(key, jnp.array([other]))
        return float(jnp.sum(a * b))

    # A row and two columns on, wherever one begins; a length stays.
    assert product(3, 13) == pytest.approx(product(10, 20), abs=1e-5)
    assert product(3, 13) != pytest.approx(product(3, 12), abs=1e-3)
    turned = rotary(query, jnp.array([7]))
    assert float(jnp.sum(turned**2)) == pytest.approx(float(jnp.sum(query**2)), rel=1e-5)
    np.testing.assert_allclose(rotary(query, jnp.array([0])), query, atol=1e-6)


def test_the_angles_are_those_of_the_paper():
    x = jnp.asarray(RNG.normal(size=(1, 1, 1, 6)), jnp.float32)
    found = np.asarray(Rotary()(x, jnp.array([5])))[0, 0, 0]
    pairs = np.asarray(x, np.float64)[0, 0, 0].reshape(3, 2)
    turned = (pairs[:, 0] + 1j * pairs[:, 1]) * np.exp(5j * 10_000.0 ** (-np.arange(3) / 3))
    turned = np.stack([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(found.reshape(3, 2), turned, atol=1e-5)


def test_rms_norm_divides_by_the_root_of_the_mean_square():
    x = RNG.normal(size=(2, 5)).astype(np.float32)
    scale = RNG.normal(size=5).astype(np.float32)
    found = RMSNorm(epsilon=1e-3).apply({"params": {"scale": scale}}, x)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3) * scale
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_gated_feed_forward_multiplies_two_products():
    x = jnp.asarray(RNG.normal(size=(1, 2, 3)), jnp.float32)
    network = FeedForward(3, 4, "silu", gated=True)
    params = nn.unbox(network.init(jax.random.key(0), x))
    names = ("up", "gate", "down")
    up, gate, down = (np.asarray(params["params"][n]["weight"], np.float64) for n in names)
    wide = np.asarray(x, np.float64)
    inner = wide @ gate
    expected = (inner / (1 + np.exp(-inner)) * (wide @ up)) @ down
    np.testing.assert_allclose(network.apply(params, x), expected, atol=1e-5)
