"""Masks: every pattern against its definition, one slot at a time, and as decoding sees it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.masks import (
    AttentionConfig,
    Causal,
    ConvShaped,
    DallE,
    Enlarged,
    Prefixed,
    dense_mask,
    padding_mask,
    ring_mask,
)

GRIDS = [((4, 4), 3), ((8, 8), 5), ((32, 32), 11), ((4, 4), 11), ((3, 7), 5), ((6, 2), 5)]
PATTERNS = [
    Causal(),
    *(
        ConvShaped((5, 6), kernel, wrap, offset)
        for kernel in (1, 3, 5, 11)
        for wrap in ("none", "grid", "raster")
        for offset in ("slot", "token")
    ),
    DallE(ConvShaped((5, 6), 3), layers=7),
    DallE(ConvShaped((5, 6), 3, "grid", "token"), layers=6),
]


def brute_force(pattern, length):
    """A convolution's mask by walking over the cells of every query's square."""
    (h, w), half = pattern.grid, pattern.kernel // 2
    shift = 1 if pattern.offset == "token" else 0
    found = np.zeros((length, length), bool)
    for query in range(length):
        row, column = divmod(query - shift, w)
        for down in range(-half, half + 1):
            for right in range(-half, half + 1):
                r, c = row + down, column + right
                if pattern.wrap == "grid":
                    cells = {((r + dy * h), (c + dx * w)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
                elif pattern.wrap == "raster":
                    cells = {divmod(r * w + c, w)}
                else:
                    cells = {(r, c)}
                for y, x in cells:
                    key = y * w + x + shift
                    if 0 <= x < w and 0 <= key <= query:
                        found[query, key] = True
    return found


@pytest.mark.parametrize("offset", ["slot", "token"])
@pytest.mark.parametrize("wrap", ["none", "grid", "raster"])
@pytest.mark.parametrize(("grid", "kernel"), GRIDS, ids=str)
def test_the_convolution_is_a_square_around_the_query(grid, kernel, wrap, offset):
    if wrap == "grid" and kernel > 2 * min(grid):
        pytest.skip("the square wraps round the grid more than once")
    pattern = ConvShaped(grid, kernel, wrap, offset)
    length = grid[0] * grid[1]
    found = np.asarray(dense_mask(pattern, length))
    expected = brute_force(pattern, length)
    np.testing.assert_array_equal(found, expected)


def test_a_window_of_eleven_is_a_twentieth_of_the_mask():
    mask = np.asarray(dense_mask(ConvShaped((32, 32)), 1024))
    assert 0.049 < mask.mean() < 0.051
    assert ConvShaped((32, 32)).window(1024, 0) == 6 * 32


@pytest.mark.parametrize("layer", range(6))
def test_dalle_s_layers_are_rows_columns_and_a_last_convolution(layer):
    h, w = 4, 5
    conv = ConvShaped((h, w), 3)
    found = np.asarray(dense_mask(DallE(conv, layers=6), h * w, layer))
    expected = np.zeros_like(found)
    for query in range(h * w):
        for key in range(query + 1):
            if layer == 5:
                expected[query, key] = brute_force(conv, h * w)[query, key]
            elif layer == 1:
                expected[query, key] = (query - key) % w == 0
            else:
                expected[query, key] = query - key <= w
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_ring_of_the_window_sees_what_the_whole_mask_does(pattern):
    length = 30
    for layer in range(7):
        dense = np.asarray(dense_mask(pattern, length, layer))
        assert dense.diagonal().all() and not np.triu(dense, 1).any()
        window = pattern.window(length, layer)
        indices = jnp.arange(length)
        rings = np.asarray(
            jax.vmap(lambda index, w=window, n=layer: ring_mask(pattern, w, index, n))(indices)
        )
        kept = np.full(window, -1)
        for index in range(length):
            kept[index % window] = index
            seen = sorted(kept[rings[index]])
            np.testing.assert_array_equal(seen, np.flatnonzero(dense[index]))


def test_causal_sees_all_that_came_before():
    np.testing.assert_array_equal(dense_mask(Causal(), 7), np.tri(7, dtype=bool))


def test_a_text_before_the_picture_is_seen_by_all():
    mask = np.asarray(dense_mask(Prefixed(3), 8))
    expected = np.tri(8, dtype=bool)
    expected[:, :3] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_fine_slot_sees_a_window_of_each_grid():
    pattern = Enlarged((4, 4), (8, 8), across=(3, 3), around=(5, 3))
    mask = np.asarray(dense_mask(pattern, 16 + 64))
    assert mask[:16, :16].all() and not mask[:16, 16:].any()
    # The fine cell in row 2, column 5 lies in the coarse one in row 1, column 2.
    coarse, fine = mask[16 + 2 * 8 + 5, :16].reshape(4, 4), mask[16 + 2 * 8 + 5, 16:].reshape(8, 8)
    expected = np.zeros((4, 4), bool)
    expected[0:3, 1:4] = True
    np.testing.assert_array_equal(coarse, expected)
    expected = np.zeros((8, 8), bool)
    expected[0:5, 4:7] = True
    np.testing.assert_array_equal(fine, expected)


def test_the_config_makes_its_pattern():
    assert AttentionConfig().make((8, 8), 4) == ConvShaped((8, 8), 11)
    assert AttentionConfig("causal").make((128,), 4) == Causal()
    made = AttentionConfig("dalle", 5, "raster", "token").make((8, 8), 4)
    assert made == DallE(ConvShaped((8, 8), 5, "raster", "token"), 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "sparse"}, "model.attention.pattern is 'sparse'; the choices are causal"),
        ({"kernel": 4}, "model.attention.kernel is 4; an odd number"),
        ({"wrap": "both"}, "model.attention.wrap is 'both'; the choices are none, grid"),
        ({"offset": "pixel"}, "model.attention.offset is 'pixel'; the choices are slot"),
        ({"pattern": "causal", "kernel": 5}, "would ignore"),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        AttentionConfig(**changes)


def test_a_sequence_has_no_square():
    with pytest.raises(UserError, match="a sequence of 32 tokens, not a grid; choose causal"):
        AttentionConfig().make((32,), 4)


def test_padding_is_unseen_wherever_it_stands():
    ids = jnp.array([[3, 1, 2], [3, 1, 0], [0, 5, 0]], jnp.int32)
    mask = padding_mask(ids)
    assert mask.shape == (3, 1, 1, 3) and mask.dtype == bool
    expected = [[True, True, True], [True, True, False], [False, True, False]]
    np.testing.assert_array_equal(mask[:, 0, 0], expected)


def test_a_prompt_of_nothing_but_padding_is_seen_whole():
    mask = padding_mask(jnp.array([[0, 0, 0], [7, 0, 0]], jnp.int32))
    np.testing.assert_array_equal(mask[:, 0, 0], [[True] * 3, [True, False, False]])


def test_padding_may_be_another_id():
    mask = padding_mask(jnp.array([[9, 0, 9]], jnp.int32), pad_id=9)
    np.testing.assert_array_equal(mask[0, 0, 0], [False, True, False])
