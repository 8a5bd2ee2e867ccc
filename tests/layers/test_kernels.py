"""Fused attention against the plain form: values and gradients, in Pallas's interpreter."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.estimate.aot import topology_devices
from babeldraw.layers import kernels
from babeldraw.layers.attention import KeyValue, dot_product_attention
from babeldraw.layers.kernels import KERNELS, Seen, choose, fused_attention
from babeldraw.layers.masks import Causal, ConvShaped, DallE, dense_mask, padding_mask
from babeldraw.layers.packing import Packing
from babeldraw.layers.short_attention import Tiles
from babeldraw.models.arrangement import SEES
from babeldraw.models.llama import SEES_SEEN

B, T, S, N, H = 2, 256, 128, 2, 16
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


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["short", "splash"])
@pytest.mark.parametrize("name", MASKS)
def test_a_kernel_gives_what_the_plain_form_gives(name, kernel):
    mask, keys = MASKS[name]
    query, key, value, weight = arrays(keys)

    def plain(query, key, value):
        return dot_product_attention(query, KeyValue(key, value), mask)

    def fused(query, key, value):
        return fused_attention(kernel, query, key, value, mask, interpret=True)

    results = []
    for attention in (plain, fused):
        out, pull = jax.vjp(attention, query, key, value)
        results.append((out, *pull(weight)))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


PACKED = Seen(Packing(((1, 64), (2, 33), (1, 22))).pattern)


def by_roles(pattern, batch, length):
    """Slots of roles that are drawn, an example's own."""
    roles_BT = np.random.default_rng(1).integers(0, len(pattern.table), (batch, length))
    return Seen(pattern, roles=jnp.asarray(roles_BT, jnp.int32))


@pytest.mark.parametrize(
    ("batch", "queries", "keys", "mask"),
    [
        # Three in a row, of seven; two, whose keys are fewer; rows of 256 and 384, of one example.
        (7, 33, 33, None),
        (3, 40, 40, Seen(Causal())),
        (4, 60, 24, jnp.arange(24)[None] < jnp.array([[24], [5], [1], [20]])),
        (2, 130, 257, None),
        (1, 160, 160, Seen(Causal())),
        # Packed pictures: each sees its own slots alone.
        (2, 152, 152, PACKED),
        # Roles: some are seen from everywhere; none is, so that tiles are left out; short ones.
        (3, 160, 160, by_roles(SEES, 3, 160)),
        (2, 300, 300, by_roles(SEES_SEEN, 2, 300)),
        (2, 256, 256, by_roles(SEES, 2, 256)),
        (3, 40, 40, by_roles(SEES, 3, 40)),
    ],
)
def test_of_any_length_short_attention_gives_what_the_plain_form_gives(batch, queries, keys, mask):
    rng = np.random.default_rng(0)
    query, weight = rng.normal(size=(2, batch, N, queries, H)).astype(np.float32)
    key, value = rng.normal(size=(2, batch, N, keys, H)).astype(np.float32)
    mask = mask[:, None, None] if isinstance(mask, jax.Array) else mask

    def plain(query, key, value):
        return dot_product_attention(query, KeyValue(key, value), mask)

    def fused(query, key, value):
        return fused_attention("short", query, key, value, mask, interpret=True)

    results = []
    for attention in (plain, fused):
        out, pull = jax.vjp(jax.jit(attention), query, key, value)
        results.append((out, *pull(weight)))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_of_packed_rows_the_plain_form_gives_what_a_mask_gives():
    rng = np.random.default_rng(0)
    query, key, value = jnp.float32(rng.normal(size=(3, 2, N, 152, H)))
    keys = KeyValue(key, value)
    by_runs = jax.jit(lambda query, keys: dot_product_attention(query, keys, PACKED))(query, keys)
    masked = jax.jit(dot_product_attention)(query, keys, PACKED.dense(152))
    np.testing.assert_allclose(by_runs, masked, atol=1e-6)


DALLE = DallE(ConvShaped(GRID), 4)


@pytest.mark.parametrize(
    ("kernel", "queries", "head_dim", "mask", "message"),
    [
        ("splash", 100, 64, Seen(Causal()), "100 queries on 100 keys: multiples of 128 are needed"),
        ("splash", T, 64, Seen(DALLE, jnp.int32(0)), "a pattern that differs between layers"),
        ("splash", T, 64, by_roles(SEES, 1, T), "roles that differ between examples"),
        ("splash", T, 64, jnp.ones((1, 1, T, T), bool), "one of keys, [B, 1, 1, S], is needed"),
        ("short", T, 40, None, "heads of 40 values: a multiple of 16 up to 128 is needed"),
        ("short", 4096, 64, Seen(Causal()), "at most 2048 are possible"),
        ("short", 2048, 64, Seen(Causal()), "136 tiles of 128 queries and keys: at most 64"),
        ("cudnn", T, 64, None, "needs a GPU"),
    ],
)
def test_a_kernel_that_cannot_do_it_says_why(kernel, queries, head_dim, mask, message):
    with pytest.raises(UserError) as raised:
        choose(kernel, queries, queries, head_dim, mask)
    assert message in str(raised.value)


def test_on_a_cpu_and_for_single_queries_the_plain_form_is_chosen():
    assert choose("auto", T, T, 64, Seen(Causal())) == "plain"
    assert {choose(kernel, 1, T, 64, None) for kernel in KERNELS} == {"plain"}
    for kernel in ("short", "splash"):
        with pytest.raises(UserError, match=f"kernel is '{kernel}', which needs a TPU"):
            choose(kernel, T, T, 64, None)


@pytest.fixture
def on_tpu(monkeypatch):
    monkeypatch.setattr(kernels, "platform", lambda: "tpu")


def test_dropped_weights_are_for_the_plain_form(on_tpu):
    assert choose("auto", T, T, 64, None) == "short"
    assert choose("auto", T, T, 64, None, dropped=True) == "plain"
    with pytest.raises(UserError, match="kernel is 'short', which cannot do dropout of the weigh"):
        choose("short", T, T, 64, None, dropped=True)


def test_on_a_tpu_the_first_that_can_do_it_is_chosen(on_tpu):
    assert choose("splash", T, T, 64, Seen(DALLE, 3)) == "splash"
    assert choose("auto", T, T, 64, Seen(DALLE, 3)) == "short"
    assert choose("auto", 2048, 2048, 64, Seen(ConvShaped((64, 32)))) == "short"
    # Short ones lie side by side in a tile, others are filled up.
    assert choose("auto", 33, 33, 48, None) == choose("auto", 257, 24, 64, None) == "short"
    # Too many tiles; too much for the vector memory; and a length that is no multiple.
    assert choose("auto", 2048, 2048, 64, Seen(Causal())) == "splash"
    assert choose("auto", 512, 2048, 128, None, jnp.float32) == "splash"
    assert choose("auto", 2000, 2000, 64, Seen(Causal())) == "plain"
    # Roles of each example: ours alone takes them.
    assert choose("auto", 511, 511, 64, by_roles(SEES, 2, 511)) == "short"
    assert choose("auto", 2048, 2048, 64, by_roles(SEES, 2, 2048)) == "plain"


def test_of_a_conv_shaped_mask_few_tiles_are_computed_and_few_masks_kept():
    visible = np.asarray(dense_mask(ConvShaped((32, 32)), 1024))
    tiles = Tiles.of(visible)
    # Eleven rows and columns reach 165 slots back: into the two blocks before.
    assert [[block for block, _ in row] for row in tiles.rows[:4]] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [1, 2, 3],
    ]
    assert tiles.count == 21
    assert len(tiles.masks) == 3
    rebuilt = np.zeros_like(visible)
    for row, of_row in enumerate(tiles.rows):
        for block, number in of_row:
            seen = True if number is None else tiles.masks[number].T == 0
            rebuilt[row * 128 : row * 128 + 128, block * 128 : block * 128 + 128] = seen
    np.testing.assert_array_equal(rebuilt, visible)


def test_by_roles_all_tiles_are_computed_where_some_role_is_seen_from_everywhere():
    assert kernels._tiles((SEES, 0), 512, 512, roles=True).count == 16
    # Llama's padding hides, and shows nothing that its causal mask does not.
    assert kernels._tiles((SEES_SEEN, 0), 512, 512, roles=True).count == 10
    assert kernels._tiles((SEES, 0), 512, 512).count == 10


def test_of_packed_rows_the_tiles_of_the_block_diagonal_alone_are_computed():
    packing = Packing(((1, 256), (4, 64), (8, 16)))
    tiles = Tiles.of(np.asarray(dense_mask(packing.pattern, packing.slots)))
    assert [[block for block, _ in row] for row in tiles.rows] == [[0, 1], [0, 1], [2], [3], [4]]
    # Where pictures begin within tiles; and what fills the last one up costs one more.
    assert kernels._tiles((Packing(((31, 33),)).pattern, 0), 1023, 1023).count == 22
    assert kernels._tiles((Packing(((32, 33),)).pattern, 0), 1056, 1056).count == 25


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'babeldraw[tpu]'",
)


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(
    ("queries", "keys", "head_dim", "dtype", "mask"),
    [
        (128, 2048, 128, jnp.bfloat16, None),
        (256, 1024, 128, jnp.float32, None),
        (1024, 1024, 128, jnp.float32, None),
        (2048, 2048, 128, jnp.bfloat16, Seen(ConvShaped((64, 32)))),
        # Of whose tiles each needs a mask of its own.
        (1024, 1024, 64, jnp.bfloat16, Seen(ConvShaped((32, 32), wrap="grid"))),
        (1024, 1024, 64, jnp.bfloat16, by_roles(SEES, 1, 1024)),
    ],
)
def test_the_largest_that_is_chosen_fits_the_vector_memory(
    queries, keys, head_dim, dtype, mask, on_tpu
):
    assert choose("auto", queries, keys, head_dim, mask, dtype) == "short"
    mesh = jax.sharding.Mesh(np.array(topology_devices("v4:2x2x1")[:1]), ("x",))
    place = jax.NamedSharding(mesh, jax.P())
    query, key = (
        jax.ShapeDtypeStruct((1, 8, length, head_dim), dtype, sharding=place)
        for length in (queries, keys)
    )

    def loss(query, key):
        return jnp.sum(fused_attention("short", query, key, key, mask).astype(jnp.float32))

    jax.jit(jax.grad(loss, argnums=(0, 1))).lower(query, key).compile()


@needs_libtpu
def test_the_tpu_compiler_takes_the_kernel_of_short_sequences():
    mesh = jax.sharding.Mesh(np.array(topology_devices("v4:2x2x1")[:1]), ("x",))
    place = jax.NamedSharding(mesh, jax.P())
    query = jax.ShapeDtypeStruct((2, 8, 1024, 64), jnp.bfloat16, sharding=place)
    key = jax.ShapeDtypeStruct((2, 8, 128, 64), jnp.bfloat16, sharding=place)
    real = jax.ShapeDtypeStruct((2, 1, 1, 128), bool, sharding=place)

    def loss(query, key, real):
        seen = Seen(ConvShaped((32, 32)))
        own = fused_attention("short", query, query, query, seen)
        return jnp.sum(fused_attention("short", own, key, key, real).astype(jnp.float32))

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(query, key, real).compile().as_text()
    assert "short_attention_fwd" in text
    assert "short_attention_bwd" in text
    # No square of logits anywhere.
    assert "1024,1024]" not in text
