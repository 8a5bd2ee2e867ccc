"""Windows of a grid, beside other sources: masked attention by itself, gradients, memory."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.estimate.aot import topology_devices
from babeldraw.layers import windows
from babeldraw.layers.attention import KeyValue, dot_product_attention
from babeldraw.layers.masks import Around, Prefixed, dense_mask
from babeldraw.layers.window_kernel import window_attention
from babeldraw.layers.windows import Found, Window, in_all, in_window, joined

B, N, H = 2, 2, 4
TEXT = 3
WINDOWS = [
    Window((13, 21), (9, 5)),
    Window((13, 21), (9, 9), causal=True),
    Window((5, 7), (3, 5), causal=True),
    Window((4, 3), (5, 5), factor=3),
    Window((6, 11), (5, 3), factor=2),
    Window((1, 1), (9, 5)),
    Window((3, 30), (1, 1)),
]


def seen_by(window: Window) -> np.ndarray:
    """bool [T, S] by walking over the window of every query."""
    (h, w), f = window.grid, window.factor
    mask = np.zeros((h * f * w * f, h * w), bool)
    for query in range(mask.shape[0]):
        y, x = (place // f for place in divmod(query, w * f))
        for row in range(y - window.size[0] // 2, y + window.size[0] // 2 + 1):
            for column in range(x - window.size[1] // 2, x + window.size[1] // 2 + 1):
                inside = 0 <= row < h and 0 <= column < w
                if inside and not (window.causal and (row, column) > (y, x)):
                    mask[query, row * w + column] = True
    return mask


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs(window):
    """Queries; keys and values of the window's grid, and of a text."""
    cells = window.grid[0] * window.grid[1]
    shapes = [(window.queries, 0), (cells, 1), (cells, 2), (TEXT, 3), (TEXT, 4)]
    return [normal(seed, B, N, length, H) for length, seed in shapes]


def with_gradients(look, arrays):
    slopes = normal(9, *arrays[0].shape)

    def total(*arrays):
        out = look(*arrays)
        return jnp.sum(out * slopes), out

    return jax.jit(jax.value_and_grad(total, argnums=range(len(arrays)), has_aux=True))(*arrays)


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_beside_a_text_is_masked_attention_in_value_and_gradients(window):
    text = np.array([[True, True, False], [True, False, False]])
    arrays = inputs(window)

    def own(query, key, value, text_key, text_value):
        beside = in_all(query, text_key, text_value, jnp.asarray(text)[:, None, None])
        return joined(beside, in_window(query, key, value, window))

    def dense(query, key, value, text_key, text_value):
        keys = [jnp.concatenate(pair, axis=2) for pair in ((text_key, key), (text_value, value))]
        cells = np.broadcast_to(seen_by(window), (B, window.queries, key.shape[2]))
        of_text = np.broadcast_to(text[:, None], (B, window.queries, TEXT))
        mask = jnp.asarray(np.concatenate([of_text, cells], axis=2))[:, None]
        return dot_product_attention(query, KeyValue(*keys), mask)

    (found, out), gradients = with_gradients(own, arrays)
    (wanted, expected), slopes = with_gradients(dense, arrays)
    close((out, gradients), (expected, slopes))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", WINDOWS)
def test_what_a_window_sees_is_said_of_any_two_cells(window):
    queries, keys = np.arange(window.queries)[:, None], np.arange(window.grid[0] * window.grid[1])
    np.testing.assert_array_equal(window.sees(queries, keys[None]), seen_by(window))


@pytest.mark.parametrize(
    "window",
    [
        # Tiles that see those before and behind; one tile of keys; before alone.
        Window((24, 24), (9, 5)),
        Window((7, 9), (5, 5), factor=3),
        Window((16, 20), (3, 5), causal=True),
    ],
)
def test_the_kernel_gives_what_strips_give(window):
    cells, dim = window.grid[0] * window.grid[1], 16
    query, slope = normal(0, B, N, window.queries, dim), normal(3, B, N, window.queries, dim)
    key, value = normal(1, B, N, cells, dim), normal(2, B, N, cells, dim)
    of_sum = normal(4, B, N, window.queries)

    def strips(query, key, value):
        found = in_window(query, key, value, window, "plain")
        return found.out, found.log_sum

    def kernel(query, key, value):
        scaled = query * dim**-0.5
        out, log_sum = window_attention(window.windows, True, scaled, key, value)
        return out, log_sum[..., 0]

    results = []
    for look in (strips, kernel):
        found, pull = jax.vjp(jax.jit(look), query, key, value)
        results.append((*found, *pull((slope, of_sum))))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("window", [Window((60, 60)), Window((20, 20), (5, 5), factor=3)])
def test_the_tpu_compiler_takes_the_kernel_and_no_square_is_made(window, monkeypatch):
    monkeypatch.setattr(windows, "platform", lambda: "tpu")
    mesh = jax.sharding.Mesh(np.array(topology_devices("v4:2x2x1")[:1]), ("x",))
    place, cells = jax.NamedSharding(mesh, jax.P()), window.grid[0] * window.grid[1]
    query, key = (
        jax.ShapeDtypeStruct((1, 4, length, 64), jnp.bfloat16, sharding=place)
        for length in (window.queries, cells)
    )

    def loss(query, key):
        found = in_window(query, key, key, window)
        return jnp.sum(found.out.astype(jnp.float32)) + jnp.sum(found.log_sum)

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(query, key).compile().as_text()
    for name in ("fwd", "dq", "dkv"):
        assert f"window_attention_{name}" in text
    assert f"{window.queries},{cells}]" not in text


def test_windows_of_two_grids_are_one_softmax():
    """As of CogView2's direct super-resolution: 5 x 5 of the small grid, 9 x 5 of the own."""
    across, around = Window((4, 4), (5, 5), factor=2), Window((8, 8), (9, 5))
    query, small, own = (normal(seed, 1, N, cells, H) for seed, cells in enumerate((64, 16, 64)))

    found = jax.jit(
        lambda *a: joined(in_window(a[0], a[1], a[1], across), in_window(a[0], a[2], a[2], around))
    )(query, small, own)
    logits = np.concatenate([np.einsum("bnth,bnsh->bnts", query, k) for k in (small, own)], -1)
    seen = np.concatenate([seen_by(across), seen_by(around)], axis=1)
    weights = np.where(seen, np.exp(logits / np.sqrt(H)), 0)
    values = np.concatenate([small, own], axis=2)
    expected = weights @ values / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_pattern_of_a_window_is_that_of_its_cells():
    pattern = Prefixed(TEXT, Around((5, 7), (3, 5)))
    mask = np.asarray(dense_mask(pattern, TEXT + 35))
    assert mask[:, :TEXT].all() and not mask[:TEXT, TEXT:].any()
    np.testing.assert_array_equal(mask[TEXT:, TEXT:], seen_by(Window((5, 7), (3, 5))))


def test_a_source_that_is_hidden_counts_for_nothing():
    query, key = normal(0, 1, 1, 2, H), normal(1, 1, 1, 3, H)
    alone = in_all(query, key, key)
    hidden = in_all(query, key, key, jnp.zeros((1, 1, 1, 3), bool))
    np.testing.assert_allclose(joined(alone, hidden), alone.out, atol=1e-6)


def test_more_weight_on_a_source_moves_all_of_it():
    """The logarithm of a weight on a text's columns (CogView2) multiplies their exponentials."""
    query, key = normal(0, 1, 1, 2, H), normal(1, 1, 1, 3, H)
    plain = in_all(query, key, key)
    more = in_all(query, key, key, added=jnp.full((1, 1, 1, 1), np.log(3.0), jnp.float32))
    np.testing.assert_allclose(more.out, plain.out, atol=1e-6)
    np.testing.assert_allclose(more.log_sum, plain.log_sum + np.log(3.0), atol=1e-5)


def test_in_half_precision_the_sums_are_single():
    window = Window((5, 6), (3, 3))
    half = [a.astype(jnp.bfloat16) for a in inputs(window)[:3]]
    found = jax.jit(lambda *a: in_window(*a, window))(*half)
    assert found.out.dtype == jnp.bfloat16 and found.log_sum.dtype == jnp.float32
    assert joined(found, found).dtype == jnp.bfloat16
    whole = in_window(*(a.astype(jnp.float32) for a in half), window)
    np.testing.assert_allclose(found.out.astype(jnp.float32), whole.out, atol=0.05)


@pytest.mark.slow
def test_at_3600_tokens_memory_is_a_twentieth_of_dense():
    """Forward and backward, four heads of 64; by the compiler, nothing is run."""
    window, like = Window((60, 60), (9, 5)), jax.ShapeDtypeStruct((1, 4, 3600, 64), jnp.float32)
    mask = dense_mask(Around((60, 60), (9, 5)), 3600)[None, None]

    def held(look):
        run = jax.grad(lambda *arrays: jnp.sum(look(*arrays)), argnums=(0, 1, 2))
        return jax.jit(run).lower(like, like, like).compile().memory_analysis().temp_size_in_bytes

    dense = held(lambda q, k, v: dot_product_attention(q, KeyValue(k, v), mask))
    assert held(lambda q, k, v: in_window(q, k, v, window).out) < dense / 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (9, 4)}, "the window is 9 x 4; odd numbers of rows and columns are needed"),
        ({"size": (0, 5)}, "the window is 0 x 5; odd"),
        ({"factor": 0}, "the factor between the grids is 0; at least 1"),
        ({"factor": 3, "causal": True}, "a causal window of a grid 3 times as small has no order"),
    ],
)
def test_a_window_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Window((4, 4), **options)


def test_what_is_found_is_a_tree():
    found = in_all(*(normal(seed, 1, 1, 2, H) for seed in range(3)))
    assert isinstance(jax.tree.map(lambda a: a, found), Found)
