"""Attention of sequences short enough that a head's keys lie in a TPU's vector memory, all at once.

Image tokens and prompts are: 1,024 keys of 64 bfloat16 values are 128 KiB. A step of the kernel's
grid takes whole heads and computes, of the square of logits, the tiles that are seen, each block of
queries with all its keys in one pass: no running maximum, nothing scaled anew, and tiles of 128 by
128 are small enough to leave most of a conv-shaped mask out.

Everything lies on its side: heads' values along sublanes, positions along lanes. A product of the
projections gives it so without padding, and a softmax over keys adds whole vectors.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from babeldraw.layers.tiles import HIDDEN, TILE, added, block_of, product

# Of a head: they are written out one by one.
MOST_TILES = 64
# Positions of a sequence, and bytes that a step of the backward pass holds of a head: masks,
# queries, what they gave and both gradients, keys, values and theirs, each twice, so that the next
# step's are on their way. A core has 16 MiB of vector memory, and the tiles need some.
MOST_POSITIONS = 2048
MOST_BYTES = 9 * 2**20
# The name that `layers.stack.POLICIES` keeps.
_NAME = "context"
# In place of a tile's mask: what is seen of it is seen through `Related.always` alone.
NOWHERE = -1


@flax.struct.dataclass
class Related:
    """Who sees whom of each example, by bits: a query sees a key of whose bits it has one.

    Attributes:
      always: int32 [B, T], bits of keys that a query sees wherever they are.
      by_pattern: int32 [B, T], bits of keys that it sees where the tiles' masks show them.
      bits: int32 [B, S], a key's; 0 is seen by none.
    """

    always: jax.Array
    by_pattern: jax.Array
    bits: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """Which tiles of a square of logits are computed.

    Attributes:
      rows: of each block of queries, its blocks of keys, each with the number of its mask, None
        where all of it is seen, or NOWHERE.
      masks: float32 [M, keys, queries], 0 where a key is seen; what is added to logits.
    """

    rows: tuple[tuple[tuple[int, int | None], ...], ...]
    masks: np.ndarray

    @property
    def count(self) -> int:
        return sum(map(len, self.rows))

    def bytes_held(
        self, queries: int, keys: int, head_dim: int, itemsize: int, related: bool = False
    ) -> int:
        """What `MOST_BYTES` bounds, the masks included, and a `Related`."""
        # Of whose two rows of queries eight are stored.
        more = 4 * (keys * TILE + 8 * queries) if related else 0
        return 2 * (4 * (queries + keys) * head_dim * itemsize + self.masks.nbytes + more)

    @classmethod
    def of(cls, visible: np.ndarray, everywhere: bool = False) -> "Tiles":
        """Those of a mask, bool [T, S]; of each query and block of keys one is seen.

        `everywhere`: all tiles, as where a `Related` shows keys that the mask does not.
        """
        masks: dict[bytes, int] = {}
        kept, rows = [], []
        for queries in np.split(visible, visible.shape[0] // TILE):
            row = []
            for block, tile in enumerate(np.split(queries, visible.shape[1] // TILE, axis=1)):
                if tile.all():
                    row.append((block, None))
                elif tile.any():
                    number = masks.setdefault(tile.tobytes(), len(masks))
                    if number == len(kept):
                        kept.append(tile.T)
                    row.append((block, number))
                elif everywhere:
                    row.append((block, NOWHERE))
            rows.append(tuple(row))
        found = np.stack(kept) if kept else np.ones((1, TILE, TILE), bool)
        return cls(tuple(rows), np.where(found, 0, HIDDEN).astype(np.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def short_attention(
    tiles: Tiles,
    interpret: bool,
    query_BNTH: jax.Array,
    key_BNSH: jax.Array,
    value_BNSH: jax.Array,
    seen: jax.Array | Related | None,
) -> jax.Array:
    """softmax(query key^T) value, logits and softmax in float32: queries come scaled.

    Args:
      tiles: who sees whom, the same for every example but for `seen`.
      interpret: run the kernel's Python, for a test on a CPU.
      query_BNTH, key_BNSH, value_BNSH: T and S are multiples of 128, H of 16.
      seen: bool [B, S], which keys an example sees at all, at least one; or by relations of an
        example's queries and keys; None: all.

    Returns:
      [B, N, T, H] in the type of the queries.
    """
    return _forward(tiles, interpret, query_BNTH, key_BNSH, value_BNSH, seen)[0]


def _forward(tiles, interpret, query, key, value, seen):
    query, key, value = (jnp.swapaxes(a, 2, 3) for a in (query, key, value))
    batch, heads, _, length = query.shape
    out, log_sum = _call(
        _Kernel("short_attention_fwd", _forward_kernel, products=2),
        tiles,
        interpret,
        (query, key, value),
        seen,
        (),
        (query, jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32)),
    )
    # Both named, or the backward pass would begin with a forward pass.
    out, log_sum = checkpoint_name(out, _NAME), checkpoint_name(log_sum, _NAME)
    return jnp.swapaxes(out, 2, 3), (query, key, value, seen, out, log_sum)


def _backward(tiles, interpret, kept, dout):
    query, key, value, seen, out, log_sum = kept
    gradients = _call(
        _Kernel("short_attention_bwd", _backward_kernel, products=5),
        tiles,
        interpret,
        (query, key, value),
        seen,
        (out, log_sum, jnp.swapaxes(dout, 2, 3)),
        (query, key, value),
    )
    return (*(jnp.swapaxes(d, 2, 3) for d in gradients), None)


short_attention.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """Attributes: its name, its body, and the products of matrices that a tile takes."""

    name: str
    body: Callable[..., None]
    products: int


def _call(kernel, tiles, interpret, arrays, seen, more, outputs) -> list[jax.Array]:
    """A kernel over all examples and heads.

    Args:
      arrays: query, key and value, [B, N, H, T].
      seen: as of `short_attention`.
      more: further inputs, [B, N, ., T].
      outputs: likewise, arrays or what describes them.
    """
    batch, num_heads, dim, length = arrays[0].shape
    heads = heads_per_step(num_heads, max(length, arrays[1].shape[3]))

    def of_heads(a):
        return pl.BlockSpec((1, heads, *a.shape[2:]), lambda example, head: (example, head, 0, 0))

    inputs, specs = [*arrays, jnp.asarray(tiles.masks)], [of_heads(a) for a in arrays]
    specs.append(pl.BlockSpec(tiles.masks.shape, lambda example, head: (0, 0, 0)))
    of_examples = _of_examples(seen)
    inputs.extend(of_examples)
    specs.extend(
        pl.BlockSpec((1, *a.shape[1:]), lambda example, head: (example, 0, 0)) for a in of_examples
    )
    inputs.extend(more)
    specs.extend(of_heads(a) for a in more)
    area = batch * num_heads * tiles.count * TILE * TILE
    return pl.pallas_call(
        functools.partial(kernel.body, tiles.rows, heads, len(of_examples)),
        name=kernel.name,
        grid=(batch, num_heads // heads),
        in_specs=specs,
        out_specs=[of_heads(a) for a in outputs],
        out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in outputs],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=2 * kernel.products * area * dim,
            transcendentals=area,
            bytes_accessed=sum(a.size * a.dtype.itemsize for a in (*inputs, *outputs)),
        ),
        interpret=interpret,
    )(*inputs)


def _of_examples(seen: jax.Array | Related | None) -> list[jax.Array]:
    """What a kernel reads of it: of keys [B, S, TILE], of queries [B, 2, T]; see `_logits`."""

    def along_sublanes(a_BS):
        return jnp.broadcast_to(a_BS[:, :, None], (*a_BS.shape, TILE))

    if seen is None:
        return []
    if isinstance(seen, Related):
        queries_B2T = jnp.stack([seen.always, seen.by_pattern], axis=1)
        return [along_sublanes(seen.bits), queries_B2T]
    return [along_sublanes(jnp.where(seen, 0.0, HIDDEN).astype(jnp.float32))]


def heads_per_step(heads: int, positions: int) -> int:
    """Of a step of the grid: several short ones, since each step has a cost of its own."""
    most = max(1, 8 * TILE // positions)
    return max(n for n in range(1, most + 1) if heads % n == 0)


def _forward_kernel(rows, heads, given, query, key, value, masks, *rest):
    seen, (out, log_sum) = rest[:given], rest[-2:]
    for head in range(heads):
        key_SH, value_HS = key[0, head].T, value[0, head]
        for row, tiles in enumerate(rows):
            own = block_of(row)
            logits = _logits(row, tiles, key_SH, query[0, head, :, own], masks, seen)
            top = jnp.max(functools.reduce(jnp.maximum, logits), axis=0, keepdims=True)
            weights = [jnp.exp(tile - top) for tile in logits]
            total = jnp.sum(added(weights), axis=0, keepdims=True)
            out_HT = added(
                product(value_HS[:, block_of(block)], tile.astype(value_HS.dtype))
                for (block, _), tile in zip(tiles, weights, strict=True)
            )
            out[0, head, :, own] = (out_HT * (1 / total)).astype(out.dtype)
            log_sum[0, head, :, own] = top + jnp.log(total)


def _backward_kernel(rows, heads, given, query, key, value, masks, *rest):
    seen, (out, log_sum, dout, dquery, dkey, dvalue) = rest[:given], rest[-6:]
    last = {block: row for row, tiles in enumerate(rows) for block, _ in tiles}
    for head in range(heads):
        key_HS = key[0, head]
        key_SH, value_SH = key_HS.T, value[0, head].T
        # Of blocks of keys that queries still to come see too.
        dkeys, dvalues = {}, {}
        for row, tiles in enumerate(rows):
            own = block_of(row)
            query_HT, dout_HT = query[0, head, :, own], dout[0, head, :, own]
            both = dout_HT.astype(jnp.float32) * out[0, head, :, own].astype(jnp.float32)
            dtotal = jnp.sum(both, axis=0, keepdims=True)
            logits = _logits(row, tiles, key_SH, query_HT, masks, seen)
            dquery_HT = []
            for (block, _), tile in zip(tiles, logits, strict=True):
                keys = block_of(block)
                weights = jnp.exp(tile - log_sum[0, head, :, own])
                dlogits = weights * (product(value_SH[keys], dout_HT) - dtotal)
                dlogits, weights = dlogits.astype(key.dtype), weights.astype(key.dtype)
                dquery_HT.append(product(key_HS[:, keys], dlogits))
                for sums, new in ((dvalues, (dout_HT, weights)), (dkeys, (query_HT, dlogits))):
                    product_HS = product(*new, contract=(1, 1))
                    sums[block] = sums[block] + product_HS if block in sums else product_HS
            dquery[0, head, :, own] = added(dquery_HT).astype(dquery.dtype)
            for block in [block for block in dkeys if last[block] == row]:
                dkey[0, head, :, block_of(block)] = dkeys.pop(block).astype(dkey.dtype)
                dvalue[0, head, :, block_of(block)] = dvalues.pop(block).astype(dvalue.dtype)


def _logits(row, tiles, key_SH, query_HT, masks, seen) -> list[jax.Array]:
    """Of a block of queries: float32 [keys, queries] for each of its tiles."""
    logits = []
    for block, mask in tiles:
        tile = product(key_SH[block_of(block)], query_HT)
        if len(seen) == 2:
            tile = tile + _shown(*seen, block_of(row), block_of(block), mask, masks)
        elif mask is not None:
            tile = tile + masks[mask]
        if len(seen) == 1:
            tile = tile + seen[0][0, block_of(block)]
        logits.append(tile)
    return logits


def _shown(keys, queries, own: slice, block: slice, mask: int | None, masks) -> jax.Array:
    """What is added to a tile's logits, float32 [keys, queries], by a `Related`."""
    bits = keys[0, block]
    always, by_pattern = queries[0, :1, own], queries[0, 1:, own]
    if mask is None:
        return jnp.where(((always | by_pattern) & bits) != 0, 0.0, HIDDEN)
    elsewhere = HIDDEN
    if mask != NOWHERE:
        elsewhere = jnp.where((by_pattern & bits) != 0, masks[mask], HIDDEN)
    return jnp.where((always & bits) != 0, 0.0, elsewhere)
