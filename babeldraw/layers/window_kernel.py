"""Attention of the cells of a grid to windows of one, as a kernel for TPUs.

128 cells in raster order are a tile: a tile of queries sees the keys of a few tiles that follow one
another, which a step of the kernel's grid takes into vector memory. What a tile sees is the same
for all examples and heads, so its mask stays there while these pass. Everything lies on its side,
as in `layers.short_attention`. The backward pass is two kernels, one by tiles of queries and one by
tiles of keys, so that nothing is summed over steps.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from babeldraw.layers.tiles import HIDDEN, TILE, added, block_of, product

# Products of tiles that a step writes out one by one, of all its heads.
MOST_TILES = 32

# Which keys queries see, bool, of slots that broadcast.
Sees = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Band:
    """Which tiles of keys each tile of queries sees, or of queries each tile of keys.

    Attributes:
      starts: of each tile, the first that it looks at.
      count: how many it looks at from there on.
    """

    starts: tuple[int, ...]
    count: int

    @classmethod
    def of(cls, seen: np.ndarray) -> "Band":
        """Of bool [tiles, tiles], of which each row has one that is True."""
        first, last = seen.argmax(axis=1), seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)
        count = int((last - first).max()) + 1
        return cls(tuple(int(n) for n in np.minimum(first, seen.shape[1] - count)), count)


@dataclasses.dataclass(frozen=True)
class Windows:
    """A pattern of windows, cut into tiles.

    Attributes:
      sees: which keys queries see; at least one each, and of slots in [0, queries) and [0, keys).
      queries, keys: T and S, their numbers.
      rows: what tiles of queries see; `columns`: by what tiles of keys are seen.
    """

    sees: Sees
    queries: int
    keys: int
    rows: Band
    columns: Band

    @classmethod
    def of(cls, sees: Sees, queries: int, keys: int) -> "Windows":
        with jax.ensure_compile_time_eval():
            seen = np.asarray(sees(np.arange(queries)[:, None], np.arange(keys)[None]))
        whole = np.zeros((tiles(queries), TILE, tiles(keys), TILE), bool)
        whole.reshape(tiles(queries) * TILE, -1)[:queries, :keys] = seen
        of_tiles = whole.any((1, 3))
        return cls(sees, queries, keys, Band.of(of_tiles), Band.of(of_tiles.T))

    def masks(self, band: Band) -> jax.Array:
        """What is added to logits, bfloat16, the band's own tiles first.

        [tiles, keys, queries]: of `rows` the keys, of `columns` the queries are those of `count`
        tiles.
        """
        own = np.arange(len(band.starts) * TILE).reshape(-1, TILE)
        near = np.array(band.starts)[:, None] * TILE + np.arange(band.count * TILE)
        queries, keys = (own, near) if band is self.rows else (near, own)
        queries, keys = jnp.asarray(queries)[:, None, :], jnp.asarray(keys)[:, :, None]
        there = (queries < self.queries) & (keys < self.keys)
        return jnp.where(there & self.sees(queries, keys), 0, HIDDEN).astype(jnp.bfloat16)


def tiles(length: int) -> int:
    """How many hold so many slots."""
    return -(-length // TILE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def window_attention(
    windows: Windows,
    interpret: bool,
    query_BNTH: jax.Array,
    key_BNSH: jax.Array,
    value_BNSH: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """softmax(query key^T) value of what each query sees: queries come scaled.

    Args:
      windows: who sees whom.
      interpret: run the kernels' Python, for a test on a CPU.
      query_BNTH, key_BNSH, value_BNSH: H is a multiple of 16.

    Returns:
      [B, N, T, H] in the type of the queries, and float32 [B, N, T, 1], the logarithm of the sum of
      the exponentials.
    """
    return _forward(windows, interpret, query_BNTH, key_BNSH, value_BNSH)[0]


def _forward(windows, interpret, query, key, value):
    query, key, value = (_laid(a) for a in (query, key, value))
    *lead, _, length = query.shape
    outputs = (query, jax.ShapeDtypeStruct((*lead, 1, length), jnp.float32))
    out, log_sum = _call("fwd", windows.rows, windows, interpret, (query,), (key, value), outputs)
    found = _back(out, windows.queries), _back(log_sum, windows.queries)
    return found, (query, key, value, out, log_sum)


def _backward(windows, interpret, kept, cotangents):
    query, key, value, out, log_sum = kept
    dout, dlog_sum = (_laid(a) for a in cotangents)
    both = dout.astype(jnp.float32) * out.astype(jnp.float32)
    dtotal = jnp.sum(both, axis=2, keepdims=True) - dlog_sum
    of_queries = (query, dout, log_sum, dtotal)
    (dquery,) = _call("dq", windows.rows, windows, interpret, of_queries, (key, value), (query,))
    dkey, dvalue = _call(
        "dkv", windows.columns, windows, interpret, (key, value), of_queries, (key, value)
    )
    return _back(dquery, windows.queries), *(_back(a, windows.keys) for a in (dkey, dvalue))


window_attention.defvjp(_forward, _backward)


def _laid(a_BNTH: jax.Array) -> jax.Array:
    """[B, N, H, tiles * TILE], filled up with zeros."""
    more = -a_BNTH.shape[2] % TILE
    return jnp.pad(jnp.swapaxes(a_BNTH, 2, 3), ((0, 0), (0, 0), (0, 0), (0, more)))


def _back(a_BNHT: jax.Array, length: int) -> jax.Array:
    return jnp.swapaxes(a_BNHT[..., :length], 2, 3)


def _call(name, band: Band, windows, interpret, own, near, outputs) -> list[jax.Array]:
    """A kernel over all tiles of a band, examples and heads.

    Args:
      name: of the kernel.
      own: arrays of the tile itself, [B, N, ., tiles * TILE].
      near: arrays of which it takes the tiles that the band says.
      outputs: arrays, or what describes them, of the tile itself.
    """
    batch, num_heads, dim, _ = own[0].shape
    heads = heads_per_step(num_heads, band.count)
    masks, starts = windows.masks(band), jnp.array(band.starts, jnp.int32)

    def of_tile(a):
        shape = (1, heads, a.shape[2], TILE)
        return pl.BlockSpec(shape, lambda tile, example, head, starts: (example, head, 0, tile))

    def of_band(a):
        shape = (1, heads, a.shape[2], band.count * TILE)
        # Tiles from any one on: where a block begins, not its number.
        return pl.BlockSpec(
            tuple(map(pl.Element, shape)),
            lambda tile, example, head, starts: (example, head * heads, 0, starts[tile] * TILE),
        )

    area = batch * num_heads * len(band.starts) * band.count * TILE * TILE
    body, products = _KERNELS[name]
    inputs = (*own, *near, masks)
    # For who reads the compiled program: tiles that a tile looks at.
    with jax.named_scope(f"window_{band.count}"):
        return pl.pallas_call(
            functools.partial(body, heads, band.count),
            name=f"window_attention_{name}",
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1,
                grid=(len(band.starts), batch, num_heads // heads),
                in_specs=[
                    *map(of_tile, own),
                    *map(of_band, near),
                    pl.BlockSpec((1, *masks.shape[1:]), lambda tile, *_: (tile, 0, 0)),
                ],
                out_specs=[of_tile(a) for a in outputs],
            ),
            out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in outputs],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "parallel")
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * products * area * dim,
                transcendentals=area,
                bytes_accessed=sum(a.size * a.dtype.itemsize for a in (*inputs, *outputs)),
            ),
            interpret=interpret,
        )(starts, *inputs)


def heads_per_step(heads: int, count: int) -> int:
    """Of a step of the grid: several, since each step has a cost of its own."""
    return max(n for n in range(1, max(1, MOST_TILES // count) + 1) if heads % n == 0)


def _forward_kernel(heads, count, _, query, key, value, masks, out, log_sum):
    for head in range(heads):
        key_SH, query_HT = key[0, head].T, query[0, head]
        logits = [
            product(key_SH[block_of(n)], query_HT) + masks[0, block_of(n)].astype(jnp.float32)
            for n in range(count)
        ]
        top = jnp.max(functools.reduce(jnp.maximum, logits), axis=0, keepdims=True)
        weights = [jnp.exp(tile - top) for tile in logits]
        total = jnp.sum(added(weights), axis=0, keepdims=True)
        parts = [
            product(value[0, head, :, block_of(n)], tile.astype(value.dtype))
            for n, tile in enumerate(weights)
        ]
        out[0, head] = (added(parts) * (1 / total)).astype(out.dtype)
        log_sum[0, head] = top + jnp.log(total)


def _query_kernel(heads, count, _, query, dout, log_sum, dtotal, key, value, masks, dquery):
    for head in range(heads):
        key_SH, value_SH = key[0, head].T, value[0, head].T
        found = []
        for n in range(count):
            mask = masks[0, block_of(n)].astype(jnp.float32)
            tile = product(key_SH[block_of(n)], query[0, head]) + mask
            weights = jnp.exp(tile - log_sum[0, head])
            dlogits = weights * (product(value_SH[block_of(n)], dout[0, head]) - dtotal[0, head])
            found.append(product(key[0, head, :, block_of(n)], dlogits.astype(key.dtype)))
        dquery[0, head] = added(found).astype(dquery.dtype)


def _key_kernel(heads, count, _, key, value, query, dout, log_sum, dtotal, masks, dkey, dvalue):
    for head in range(heads):
        key_SH, value_SH = key[0, head].T, value[0, head].T
        dkeys, dvalues = [], []
        for n in range(count):
            own = block_of(n)
            query_HT, dout_HT = query[0, head, :, own], dout[0, head, :, own]
            tile = product(key_SH, query_HT) + masks[0, :, own].astype(jnp.float32)
            weights = jnp.exp(tile - log_sum[0, head, :, own])
            dlogits = weights * (product(value_SH, dout_HT) - dtotal[0, head, :, own])
            dvalues.append(product(dout_HT, weights.astype(key.dtype), contract=(1, 1)))
            dkeys.append(product(query_HT, dlogits.astype(key.dtype), contract=(1, 1)))
        dkey[0, head] = added(dkeys).astype(dkey.dtype)
        dvalue[0, head] = added(dvalues).astype(dvalue.dtype)


# With the products of matrices that a tile takes.
_KERNELS = {"fwd": (_forward_kernel, 2), "dq": (_query_kernel, 3), "dkv": (_key_kernel, 4)}
