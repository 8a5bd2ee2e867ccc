"""Attention by fused kernels, which never hold the square of logits in memory.

On TPU our own for short sequences, and splash attention (both by Pallas); on GPU cuDNN's; the plain
form everywhere. All take the same arrays and the same description of who sees whom, and agree to
rounding.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as splash_masks,
)

from babeldraw.config import require
from babeldraw.layers.masks import (
    ALWAYS,
    BY_PATTERN,
    AttentionPattern,
    ByRole,
    Slots,
    by_role,
    dense_mask,
)
from babeldraw.layers.short_attention import (
    MOST_BYTES,
    MOST_POSITIONS,
    MOST_TILES,
    Related,
    Tiles,
    short_attention,
)
from babeldraw.sharding.constraint import divisible, without
from babeldraw.sharding.layout import current, platform
from babeldraw.sharding.rules import partition_spec

KERNELS = ("auto", "plain", "short", "splash", "cudnn")
# Lanes of a TPU: lengths are multiples of it.
LANES = 128
# Of splash attention. Of 128 to 1,024 an earlier study found it the quickest on masks of 1,024
# tokens: smaller blocks, of which more could be skipped, scale their sums anew too often.
BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Seen:
    """Which slots of its own sequence each slot sees.

    Attributes:
      pattern, layer: as in `AttentionPattern.sees`.
      roles: int32 [B, T] of the slots of each example, for a `masks.ByRole`.
    """

    pattern: AttentionPattern
    layer: Slots = 0
    roles: jax.Array | None = None

    def dense(self, length: int) -> jax.Array:
        """bool [1 or B, 1, T, T]."""
        if self.roles is None:
            return dense_mask(self.pattern, length, self.layer)[None, None]
        return by_role(self.pattern, self.roles[:, :length], self.layer)[:, None]


# Everything; a bool array that broadcasts to [B, N, T, S]; or slots of one sequence.
Mask = Seen | jax.Array | None


def choose(
    kernel: str,
    queries: int,
    keys: int,
    head_dim: int,
    mask: Mask,
    dtype: jnp.dtype = jnp.bfloat16,
    added: bool = False,
    dropped: bool = False,
) -> str:
    """What computes an attention: plain, short, splash or cudnn.

    Args:
      kernel: of KERNELS. `auto` takes the best that the device has and that can do it.
      queries, keys: their numbers, T and S.
      head_dim: H.
      mask: who sees whom.
      dtype: of queries, keys and values.
      added: something is added to the logits.
      dropped: some of the softmax's weights are.

    Raises:
      UserError: a kernel was asked for by name that cannot do it.
    """
    if queries == 1:
        # One query at a time, as in decoding, is no work for a kernel.
        return "plain"
    device = platform()
    cannot = {
        "short": functools.partial(_short_cannot, queries, keys, head_dim, mask, dtype),
        "splash": functools.partial(_splash_cannot, queries, keys, mask),
        "cudnn": lambda: "",
    }
    more = "a term added to the logits" if added else "dropout of the weights" if dropped else ""
    if more:
        cannot = dict.fromkeys(cannot, lambda: more)
    if kernel == "auto":
        if device == "tpu":
            fit = (name for name in ("short", "splash") if not cannot[name]())
            return next(fit, "plain")
        return "cudnn" if device == "gpu" and not more else "plain"
    reason = cannot[kernel]() if kernel in cannot else ""
    require(not reason, f"kernel is {kernel!r}, which cannot do {reason}; choose auto or plain")
    needed = {"short": "tpu", "splash": "tpu", "cudnn": "gpu"}.get(kernel, device)
    require(
        device == needed,
        f"kernel is {kernel!r}, which needs a {needed.upper()}, and the devices are {device}; "
        "choose auto",
    )
    return kernel


def _splash_cannot(queries: int, keys: int, mask: Mask) -> str:
    """Why splash attention cannot do it, or nothing."""
    if queries % LANES or keys % LANES:
        return f"{queries} queries on {keys} keys: multiples of {LANES} are needed"
    if _by_role(mask):
        return "roles that differ between examples"
    return _pallas_cannot(mask)


def _pallas_cannot(mask: Mask) -> str:
    """Why no kernel by Pallas can take a mask, or nothing."""
    if isinstance(mask, Seen) and not _same_in_all_layers(mask):
        return "a pattern that differs between layers of one loop (model.attention.pattern=dalle)"
    if isinstance(mask, jax.Array) and (mask.shape[1:3] != (1, 1)):
        return f"a mask of shape {mask.shape}; one of keys, [B, 1, 1, S], is needed"
    return ""


def _short_cannot(queries: int, keys: int, head_dim: int, mask: Mask, dtype: jnp.dtype) -> str:
    """Why attention of short sequences cannot do it, or nothing."""
    if reason := _pallas_cannot(mask):
        return reason
    if head_dim % 16 or head_dim > LANES:
        return f"heads of {head_dim} values: a multiple of 16 up to {LANES} is needed"
    if max(queries, keys) > MOST_POSITIONS:
        return f"{queries} queries on {keys} keys: at most {MOST_POSITIONS} are possible"
    roles = _by_role(mask)
    rows, tiles = _Rows.of(queries, keys, roles), _tiles(_pattern(mask), queries, keys, roles)
    if tiles.count > MOST_TILES:
        return f"{tiles.count} tiles of {LANES} queries and keys: at most {MOST_TILES} are possible"
    itemsize = jnp.dtype(dtype).itemsize
    held = tiles.bytes_held(rows.queries, rows.keys, head_dim, itemsize, roles)
    if held > MOST_BYTES:
        return (
            f"{queries} queries on {keys} keys of {head_dim} {jnp.dtype(dtype)} values: of "
            f"{held / 2**20:.1f} MiB of vector memory {MOST_BYTES // 2**20} are possible"
        )
    return ""


def _by_role(mask: Mask) -> bool:
    return isinstance(mask, Seen) and mask.roles is not None


def _same_in_all_layers(seen: Seen) -> bool:
    return isinstance(seen.layer, int) or not hasattr(seen.pattern, "layers")


def heads_per_row(heads: int, head_dim: int) -> int:
    """How many heads a cache holds side by side.

    A TPU's rows have 128 lanes: a head of 64 alone would be stored as 128, and one query on its
    keys would be no product for the matrix units. Elsewhere one.
    """
    if platform() != "tpu" or LANES % head_dim:
        return 1
    layout = current()
    here = heads if layout is None else heads // layout.mesh.shape["model"]
    return math.gcd(LANES // head_dim, here)


# ------------------------------------------------------------------------------------ cuDNN


def cudnn_attention(
    query_BNTH: jax.Array, key_BNSH: jax.Array, value_BNSH: jax.Array, mask: Mask
) -> jax.Array:
    """softmax(query key^T / sqrt(H)) value by cuDNN: bfloat16 or float16, H at most 128."""
    if isinstance(mask, Seen):
        mask = mask.dense(query_BNTH.shape[2])
    arrays = (jnp.swapaxes(a, 1, 2) for a in (query_BNTH, key_BNSH, value_BNSH))
    out_BTNH = jax.nn.dot_product_attention(*arrays, mask=mask, implementation="cudnn")
    return jnp.swapaxes(out_BTNH, 1, 2)


# ------------------------------------------------------------------------- kernels by Pallas


def fused_attention(
    kernel: str,
    query_BNTH: jax.Array,
    key_BNSH: jax.Array,
    value_BNSH: jax.Array,
    mask: Mask,
    interpret: bool = False,
) -> jax.Array:
    """softmax(query key^T / sqrt(H)) value; logits and softmax in float32.

    Args:
      kernel: short or splash.
      query_BNTH, key_BNSH, value_BNSH: for splash T and S are multiples of 128.
      mask: as `choose` lets pass.
      interpret: run the kernel's Python, for a test on a CPU.

    Returns:
      [B, N, T, H] in the type of the queries.
    """
    query_BNTH = query_BNTH * query_BNTH.shape[-1] ** -0.5
    seen = None
    if isinstance(mask, jax.Array):
        seen = jnp.broadcast_to(mask, (query_BNTH.shape[0], 1, 1, key_BNSH.shape[2]))[:, 0, 0]
    elif _by_role(mask):
        seen = _as_bits(mask.pattern, mask.roles[:, : query_BNTH.shape[2]])
    on_one_device = {"short": _short, "splash": _splash}[kernel]
    body = functools.partial(on_one_device, _pattern(mask), interpret)
    return over_devices(body)(query_BNTH, key_BNSH, value_BNSH, seen)


def over_devices(body: Callable) -> Callable:
    """A kernel on each device's examples and heads: the partitioner cannot cut one.

    Args:
      body: of query, key and value, [B, N, ., .], and of what each example sees, an array or a
        tree of [B, .], or None; what it gives is [B, N, ., .].
    """
    layout = current()
    if layout is None or layout.manual == frozenset(layout.mesh.axis_names):
        return body
    names = ("batch", "activation_heads", None, None)

    def run(query, key, value, seen):
        specs = []
        for array in (query, key, value):
            spec = divisible(partition_spec(names, layout.preset.used), array.shape, layout.mesh)
            specs.append(without(spec, layout.manual))
        mask_spec = None if seen is None else jax.P(specs[0][0])
        return jax.shard_map(
            body,
            # Inside another shard_map the mesh is the one in force there.
            mesh=None if layout.manual else layout.mesh,
            in_specs=(*specs, mask_spec),
            out_specs=specs[0],
            axis_names=frozenset(layout.mesh.axis_names) - layout.manual,
            check_vma=False,
        )(query, key, value, seen)

    return run


# One sequence's pattern and the layer it is of.
_Pattern = tuple[AttentionPattern, int] | None


def _pattern(mask: Mask) -> _Pattern:
    if not isinstance(mask, Seen):
        return None
    return mask.pattern, mask.layer if isinstance(mask.layer, int) else 0


@dataclasses.dataclass(frozen=True)
class _Rows:
    """How sequences fill the rows of a kernel, which are whole tiles: short ones side by side.

    Attributes:
      examples: of a row; each sees its own slots alone.
      queries, keys: of a row. What the examples leave of it sees the last key and is seen by none
        of them.
    """

    examples: int
    queries: int
    keys: int

    @classmethod
    def of(cls, queries: int, keys: int, roles: bool = False) -> "_Rows":
        # By roles an example would see the slots beside its own.
        examples = 1 if roles else max(1, LANES // max(queries, keys))
        return cls(examples, *(-(-examples * n // LANES) * LANES for n in (queries, keys)))

    def laid(self, array_BNTH: jax.Array, length: int) -> jax.Array:
        """[B, N, T, H] to [ceil(B / E), N, length, H], filled up with zeros."""
        batch, heads, own, dim = array_BNTH.shape
        if own == length:
            return array_BNTH
        examples = _filled(array_BNTH, 0, -(-batch // self.examples) * self.examples)
        apart = examples.reshape(-1, self.examples, heads, own, dim)
        beside = jnp.swapaxes(apart, 1, 2).reshape(-1, heads, self.examples * own, dim)
        return _filled(beside, 2, length)

    def back(self, array: jax.Array, batch: int, own: int) -> jax.Array:
        """The way back, to so many examples of so many slots."""
        rows, heads, length, dim = array.shape
        if own == length:
            return array
        beside = array[:, :, : self.examples * own]
        apart = beside.reshape(rows, heads, self.examples, own, dim)
        return jnp.swapaxes(apart, 1, 2).reshape(-1, heads, own, dim)[:batch]


def _filled(array: jax.Array, axis: int, length: int) -> jax.Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, length - array.shape[axis])
    return jnp.pad(array, widths)


def _short(pattern: _Pattern, interpret: bool, query, key, value, seen) -> jax.Array:
    batch, _, queries, _ = query.shape
    keys = key.shape[2]
    roles = isinstance(seen, Related)
    rows, tiles = _Rows.of(queries, keys, roles), _tiles(pattern, queries, keys, roles)
    # For who reads the compiled program: how many of the tiles of the square are computed.
    by_roles = "_by_role" if roles else ""
    with jax.named_scope(f"short_{tiles.count}_of_{rows.queries}x{rows.keys}{by_roles}"):
        query, key, value = (
            rows.laid(array, length)
            for array, length in ((query, rows.queries), (key, rows.keys), (value, rows.keys))
        )
        # What fills queries up sees nothing, and what fills keys up nobody sees.
        seen = jax.tree.map(lambda a: rows.laid(a[:, None, :, None], rows.keys)[:, 0, :, 0], seen)
        out = short_attention(tiles, interpret, query, key, value, seen)
        return rows.back(out, batch, queries)


def _as_bits(pattern: ByRole, roles_BT: jax.Array) -> Related:
    """Roles as bits: a key's is that of its role, a query's those of the roles that it sees."""

    def of_query(relation: int) -> jax.Array:
        bits = [
            sum(1 << role for role, own in enumerate(row) if own == relation)
            for row in pattern.table
        ]
        return jnp.asarray(bits, jnp.int32)[roles_BT]

    bits_BT = jnp.left_shift(jnp.int32(1), roles_BT.astype(jnp.int32))
    return Related(of_query(ALWAYS), of_query(BY_PATTERN), bits_BT)


def _splash(pattern: _Pattern, interpret: bool, query, key, value, seen) -> jax.Array:
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    kernel, blocks = _splash_kernel(pattern, queries, keys, heads, interpret)
    # Likewise: blocks, those of the square, sizes of a block.
    with jax.named_scope("splash_{}_of_{}_of_{}x{}".format(*blocks)):
        if seen is None:
            return jax.vmap(kernel)(query, key, value)
        # A query sees the keys of its own segment.
        ids = splash.SegmentIds(
            q=jnp.ones((query.shape[0], queries), jnp.int32), kv=seen.astype(jnp.int32)
        )
        return jax.vmap(lambda q, k, v, i: kernel(q, k, v, segment_ids=i))(query, key, value, ids)


def _splash_kernel(pattern: _Pattern, queries: int, keys: int, heads: int, interpret: bool):
    """The kernel for all heads; (blocks it computes, blocks of the square, sizes of a block)."""
    visible = _visible(pattern, queries, keys)
    if pattern is None:
        of_head = splash_masks.FullMask((queries, keys))
    elif np.array_equal(visible, np.tri(queries, dtype=bool)):
        of_head = splash_masks.CausalMask((queries, keys))
    else:
        of_head = splash_masks.NumpyMask(visible)
    rows, columns = _block(queries), _block(keys)
    sizes = splash.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_kv_compute=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_kv_dkv_compute=columns,
        use_fused_bwd_kernel=True,
        # The length as the last dimension: heads of 64 would be stored as 128, and the products
        # that make them would run at half their speed.
        q_layout=splash.QKVLayout.SEQ_MINOR,
        k_layout=splash.QKVLayout.SEQ_MINOR,
        v_layout=splash.QKVLayout.SEQ_MINOR,
    )
    kernel = splash.make_splash_mha(
        splash_masks.MultiHeadMask([of_head] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="context",
        interpret=interpret,
    )
    cut = visible.reshape(queries // rows, rows, keys // columns, columns).any((1, 3))
    return kernel, (int(cut.sum()), cut.size, rows, columns)


@functools.lru_cache(maxsize=32)
def _visible(pattern: _Pattern, queries: int, keys: int) -> np.ndarray:
    """bool [T, S]."""
    if pattern is None:
        return np.ones((queries, keys), bool)
    with jax.ensure_compile_time_eval():
        return np.asarray(dense_mask(pattern[0], queries, pattern[1]))


@functools.lru_cache(maxsize=32)
def _tiles(pattern: _Pattern, queries: int, keys: int, roles: bool = False) -> Tiles:
    """Of a row of sequences of such lengths; `roles`: their slots have some, of a `ByRole`."""
    rows, own = _Rows.of(queries, keys, roles), _visible(pattern, queries, keys)
    everywhere = roles and any(ALWAYS in row for row in pattern[0].table)
    visible = np.zeros((rows.queries, rows.keys), bool)
    visible[rows.examples * queries :, -1] = True
    for example in range(rows.examples):
        to, of = example * queries, example * keys
        visible[to : to + queries, of : of + keys] = own
    return Tiles.of(visible, everywhere)


def _block(length: int) -> int:
    """The largest block of a length: up to 512, a multiple of 128 that divides it."""
    return max(size for size in range(LANES, BLOCK + 1, LANES) if length % size == 0)
