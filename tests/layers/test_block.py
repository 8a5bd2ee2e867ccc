"""Blocks of parts: whatever they are made of, stepping through caches is the full forward."""

import dataclasses
import functools
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import (
    Block,
    ComputeConfig,
    Residual,
    TransformerConfig,
    cross_attention,
    empty_caches,
    encoder_parts,
    feed_forward,
    filled,
    make_stack,
    self_attention,
    through,
)
from babeldraw.layers.dropout import example_keys
from babeldraw.layers.feed_forward import FeedForward
from babeldraw.layers.linear import LayerNorm, RMSNorm
from babeldraw.layers.masks import ALWAYS, BY_PATTERN, NEVER, ByRole, Causal, ConvShaped, Prefixed
from babeldraw.layers.positions import Rotary, sine_grid, sine_positions
from babeldraw.layers.skips import SkippingStack
from babeldraw.layers.streams import PerStream, StreamAttention, Streams
from babeldraw.sharding.context import PerExample, PerSlot

B, T, S, D = 3, 12, 5, 16
CONFIG = TransformerConfig(blocks=2, heads=2, dim=D, hidden=24)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
TEXT = jnp.asarray(RNG.normal(size=(B, S, D)), jnp.float32)
# Small, so that what they scale stays near one.
VECTOR = jnp.asarray(0.2 * RNG.normal(size=(B, 7)), jnp.float32)
VECTORS = jnp.asarray(0.2 * RNG.normal(size=(B, T, 7)), jnp.float32)
SAID = {"text": PerExample(TEXT), "vector": PerExample(VECTOR), "vectors": PerSlot(VECTORS)}
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
TWO = Streams(("text", "image"), (5,))


def of_streams(pattern, **options):
    """Attention and feed-forward with weights for each of two streams."""
    attention = functools.partial(StreamAttention, self_attention(CONFIG, pattern, **options), TWO)
    return (
        Residual("self", attention, "self_norm"),
        *parts()[1:2],
        Residual("ffn", functools.partial(PerStream, feed_forward(CONFIG), TWO), "ffn_norm"),
    )


class Distance(nn.Module):
    """What T5 adds to logits: a number for each head and distance."""

    @nn.compact
    def __call__(self, inputs, queries, keys):
        init = nn.with_logical_partitioning(nn.initializers.zeros, (None, "heads"))
        table_TN = self.param("table", init, (T, CONFIG.heads))
        away = jnp.clip(queries[..., :, None] - keys[..., None, :], 0, T - 1)
        added = jnp.moveaxis(table_TN[away], -1, -3)
        return added if added.ndim == 4 else added[None]


VARIANTS = {
    "added": parts(attention={"added": Distance}),
    "added ring": parts(ConvShaped((3, 4), 3, "none", "slot"), {"added": Distance}),
    "streams": of_streams(CAUSAL),
    "streams, all options": of_streams(CAUSAL, added=Distance, norm=HEAD_NORM, rotate=Rotary()),
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
    "adaptive": parts(adaptive="vector"),
    "adaptive by slot": parts(adaptive="vectors"),
    "wide heads": (Residual("self", WIDE, "self_norm"), *parts()[1:]),
}


def draw(path, leaf):
    """Nothing zero or one, so that every part is felt."""
    rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
    return jnp.asarray(rng.normal(0.0, 0.5, leaf.shape), leaf.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_stepping_is_the_full_forward_at_one_place_or_many(name):
    stack = make_stack(VARIANTS[name], CONFIG)
    shapes = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), X, SAID))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    expected = stack.apply(params, X, SAID)
    bound = stack.bind(params)

    def walk(indices):
        """The last output of each slot, visited in this order: [T'] of int32 [] or [B]."""
        caches = empty_caches(bound, {"text": TEXT}, B, T)

        def step(caches, index):
            at_B11 = jnp.broadcast_to(index, (B,))[:, None, None]
            x_B1D, own_B1C = (jnp.take_along_axis(a, at_B11, axis=1) for a in (X, VECTORS))
            context = {"vector": VECTOR, "vectors": own_B1C}
            y_B1D, caches = through(bound, x_B1D, caches, index, context)
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


PREFIXED = {
    **{name: VARIANTS[name] for name in ("pre-norm", "rotary", "added", "streams, all options")},
    # Its slots see each other, which steps one by one could not do.
    "a text seen whole": parts(Prefixed(7)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PREFIXED)
def test_a_prefix_enters_the_cache_at_once(name):
    stack = make_stack(PREFIXED[name], CONFIG)
    shapes = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), X, SAID))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    context, expected = {"text": TEXT}, stack.apply(params, X, SAID)
    bound, prefix = stack.bind(params), 7
    caches = empty_caches(bound, context, B, T)
    y_BPD, caches = filled(bound, X[:, :prefix], caches, context)
    np.testing.assert_allclose(y_BPD, expected[:, :prefix], atol=2e-5)
    for index in range(prefix, T):
        x_B1D = X[:, index : index + 1]
        y_B1D, caches = through(bound, x_B1D, caches, jnp.int32(index), context)
        np.testing.assert_allclose(y_B1D[:, 0], expected[:, index], atol=2e-5)


# Of CogLM: 0 is padding, 1 the context, 2 what is predicted.
COGLM = ((NEVER,) * 3, (NEVER, ALWAYS, NEVER), (NEVER, ALWAYS, BY_PATTERN))
ROLES = jnp.asarray([[1, 2] * 6, [1] * 4 + [2] * 8, [0, 0, 1, 1, 2, 2, 1, 2, 2, 1, 2, 2]])


@pytest.mark.slow
def test_roles_say_who_sees_whom_and_steps_keep_to_them():
    stack = make_stack(parts(ByRole(COGLM)), CONFIG)
    said = {"text": PerExample(TEXT), "roles": PerSlot(ROLES)}
    params = nn.unbox(stack.init(jax.random.key(0), X, said))
    expected = stack.apply(params, X, said)

    @jax.jit
    def felt(example, slot):
        def told(x_BTD):
            return jnp.sum(jnp.sin(stack.apply(params, x_BTD, said)[example, slot]))

        return jnp.any(jax.grad(told)(X)[example] != 0, axis=-1)

    # Also of two blocks: what the context sees through the context is context.
    for example, slot in ((0, 7), (1, 3), (1, 7), (2, 3), (2, 7)):
        roles = np.asarray(ROLES[example])
        relations = [COGLM[roles[slot]][role] for role in roles]
        sees = [
            t == slot or how == ALWAYS or (how == BY_PATTERN and t <= slot)
            for t, how in enumerate(relations)
        ]
        np.testing.assert_array_equal(felt(example, slot), sees)
    # What is drawn behind the context, one slot after another, as the whole says.
    bound, context = stack.bind(params), {"text": TEXT, "roles": ROLES}
    caches = empty_caches(bound, context, B, T)
    _, caches = filled(bound, X, caches, context)
    for index in (9, 10, 11):
        late = jnp.full((B,), index) if index == 10 else jnp.int32(index)
        y_B1D, _ = through(bound, X[:, index : index + 1], caches, late, context)
        np.testing.assert_allclose(y_B1D[:, 0], expected[:, index], atol=2e-5)


def test_streams_of_equal_weights_are_one():
    plain = make_stack(parts(), CONFIG)
    shapes = nn.unbox(jax.eval_shape(plain.init, jax.random.key(0), X, SAID))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    blocks = dict(params["params"]["blocks"])
    for name in ("self", "ffn"):
        blocks[name] = dict.fromkeys(TWO.names, blocks[name])
    split = make_stack(of_streams(CAUSAL), CONFIG)
    expected = plain.apply(params, X, SAID)
    found = split.apply({"params": {"blocks": blocks}}, X, SAID)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.slow
def test_a_slot_may_stand_elsewhere_than_in_its_order():
    stack = make_stack(parts(attention={"rotate": Rotary()}), CONFIG)
    shapes = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), X, SAID))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    order = jnp.stack([jnp.arange(T), jnp.arange(T)[::-1], (jnp.arange(T) * 5) % T])
    expected = stack.apply(params, X, {**SAID, "positions": PerSlot(order)})
    plain = stack.apply(params, X, SAID)
    np.testing.assert_allclose(expected[0], plain[0], atol=2e-5)
    assert np.abs(expected[1:] - plain[1:]).max() > 1e-3
    bound, context = stack.bind(params), {"text": TEXT, "positions": order}
    caches = empty_caches(bound, context, B, T)
    for index in range(T):
        at = jnp.full((B,), index) if index % 2 else jnp.int32(index)
        y_B1D, caches = through(bound, X[:, index : index + 1], caches, at, context)
        np.testing.assert_allclose(y_B1D[:, 0], expected[:, index], atol=2e-5)


@pytest.mark.slow
def test_every_variant_is_another_function():
    outputs = []
    for variant in VARIANTS.values():
        stack = make_stack(variant, CONFIG)
        shapes = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), X, SAID))
        params = jax.tree_util.tree_map_with_path(lambda path, leaf: draw(path, leaf), shapes)
        outputs.append(np.asarray(stack.apply(params, X, SAID)))
    for one in range(len(outputs)):
        for other in range(one):
            assert np.abs(outputs[one] - outputs[other]).max() > 1e-3


def test_adaptive_parts_begin_as_the_identity():
    stack = make_stack(parts(adaptive="vector"), CONFIG)
    params = nn.unbox(stack.init(jax.random.key(0), X, SAID))
    np.testing.assert_array_equal(stack.apply(params, X, SAID), X)


@pytest.mark.parametrize("name", ["pre-norm", "streams"])
def test_attention_drops_its_weights_in_training_alone(name):
    config = dataclasses.replace(CONFIG, attention_dropout=0.5)
    plain, dropped = (make_stack(VARIANTS[name], c) for c in (CONFIG, config))
    shapes = nn.unbox(jax.eval_shape(plain.init, jax.random.key(0), X, SAID))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    apply = jax.jit(lambda keys: dropped.apply(params, X, SAID, keys))
    np.testing.assert_array_equal(dropped.apply(params, X, SAID), plain.apply(params, X, SAID))
    one, other = (apply(example_keys(jax.random.key(seed), B)) for seed in (0, 1))
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_array_equal(one, apply(example_keys(jax.random.key(0), B)))


def test_a_kernel_by_name_and_dropped_weights_are_refused():
    line = "compute.kernel is 'splash', which cannot do attention_dropout=0.1; choose auto or plain"
    with pytest.raises(UserError, match=line):
        dataclasses.replace(CONFIG, attention_dropout=0.1, compute=ComputeConfig(kernel="splash"))
    with pytest.raises(UserError, match=r"attention_dropout is 1\.0; a rate in \[0, 1\) is needed"):
        dataclasses.replace(CONFIG, attention_dropout=1.0)


def test_long_skips_join_the_halves():
    config = dataclasses.replace(CONFIG, blocks=5)
    pair = encoder_parts(config)
    stack = SkippingStack(pair, config)
    params = jax.tree_util.tree_map_with_path(
        draw, nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), X))
    )
    weights = params["params"]
    found, kept, x = stack.apply(params, X), [], X
    for number in range(5):
        if number > 2:
            skip = weights[f"skip{number}"]
            x = jnp.concatenate([x, kept.pop()], -1) @ skip["weight"] + skip["bias"][None, None]
        x = Block(pair, dim=D).apply({"params": weights[f"block{number}"]}, x, {})
        kept += [x] if number < 2 else []
    np.testing.assert_allclose(found, x, atol=1e-4)
    again = SkippingStack(pair, dataclasses.replace(config, compute=ComputeConfig(remat="full")))
    np.testing.assert_allclose(again.apply(params, X), found, atol=1e-5)


def test_sines_are_those_of_the_paper():
    found = np.asarray(sine_positions(6, 8))
    for position in range(6):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            np.testing.assert_allclose(found[position, i], np.sin(angle), atol=1e-5)
            np.testing.assert_allclose(found[position, 4 + i], np.cos(angle), atol=1e-5)
    grid = np.asarray(sine_grid((2, 3), 8))
    np.testing.assert_allclose(grid[4, :4], sine_positions(2, 4)[1], atol=1e-6)
    np.testing.assert_allclose(grid[4, 4:], sine_positions(3, 4)[1], atol=1e-6)


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
