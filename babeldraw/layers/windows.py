"""Attention of the cells of a grid to windows of it, and to other sources, in one softmax.

Nothing of the size of cells times cells is ever there: strips of a few rows are computed one after
another, and again in the backward pass. In a strip, blocks of columns meet the few keys around
them as products of matrices. Of the ways measured, forward and backward at 60 x 60 cells on a
CPU, this is the quickest (docs/window_attention.md). On a TPU it is a kernel: `window_kernel`.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.layers.kernels import over_devices
from babeldraw.layers.tiles import HIDDEN
from babeldraw.layers.window_kernel import Windows, window_attention
from babeldraw.sharding.layout import platform

# Rows of a strip, and the least columns of its blocks: more computes more that no query sees, less
# makes the products of matrices small.
ROWS, COLUMNS = 4, 10


@dataclasses.dataclass(frozen=True)
class Window:
    """Which cells of a grid of keys a query sees: those around the one that it lies in.

    Attributes:
      grid: (h, w) of the keys.
      size: (rows, columns), odd, with the query's own cell in the middle; what would lie outside
        of the grid is left out. 9 x 5 of its own grid and 5 x 5 of the small one in CogView2's
        code, 9 x 9 in its paper.
      factor: f. The queries are the cells of a grid f times as high and as wide: the query at
        (y, x) lies in the cell (y // f, x // f).
      causal: only the query's own cell and those before it in raster order; f is 1.

    Raises:
      UserError: an even or negative size, or causal across two grids.
    """

    grid: tuple[int, int]
    size: tuple[int, int] = (9, 5)
    factor: int = 1
    causal: bool = False

    def __post_init__(self):
        require_odd(self.size, "the window")
        require(
            self.factor >= 1,
            f"the factor between the grids is {self.factor}; at least 1 is needed",
        )
        require(
            not self.causal or self.factor == 1,
            f"a causal window of a grid {self.factor} times as small has no order; choose "
            "causal=false or a factor of 1",
        )

    @property
    def queries(self) -> int:
        """T, their number."""
        return self.grid[0] * self.grid[1] * self.factor**2

    def sees(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """bool: whether cells of the queries see such of the keys, both by their raster order."""
        width = self.grid[1]
        own = [place // self.factor for place in divmod(query, width * self.factor)]
        down, right = (b - a for a, b in zip(own, divmod(key, width), strict=True))
        return self.near(down, right)

    def near(self, down: jax.Array, right: jax.Array) -> jax.Array:
        """bool: whether a cell so far away from a query's own is seen; negative: above, left."""
        rows, columns = (side // 2 for side in self.size)
        near = (abs(down) <= rows) & (abs(right) <= columns)
        return near & ((down < 0) | ((down == 0) & (right <= 0))) if self.causal else near

    @functools.cached_property
    def windows(self) -> Windows:
        """The same for the kernel."""
        return Windows.of(self.sees, self.queries, self.grid[0] * self.grid[1])


def require_odd(size: tuple[int, int], name: str) -> None:
    """Raises `UserError` for rows and columns of a window that has no middle."""
    require(
        min(size) > 0 and all(side % 2 for side in size),
        f"{name} is {size[0]} x {size[1]}; odd numbers of rows and columns are needed, so that a "
        "cell is in its middle",
    )


@flax.struct.dataclass
class Found:
    """What queries find in one source of keys, to be joined with what they find in others.

    Attributes:
      out: [B, N, T, H], by the softmax over this source alone.
      log_sum: float32 [B, N, T], the logarithm of the sum of its exponentials.
    """

    out: jax.Array
    log_sum: jax.Array


def joined(*found: Found) -> jax.Array:
    """What one softmax over all sources together finds, [B, N, T, H]."""
    log_sums = jnp.stack([source.log_sum for source in found])
    shares = jax.nn.softmax(log_sums, axis=0)
    parts = [
        source.out.astype(jnp.float32) * share[..., None]
        for source, share in zip(found, shares, strict=True)
    ]
    return sum(parts[1:], parts[0]).astype(found[0].out.dtype)


def in_all(
    query_BNTH: jax.Array,
    key_BNSH: jax.Array,
    value_BNSH: jax.Array,
    mask: jax.Array | None = None,
    added: jax.Array | None = None,
) -> Found:
    """What queries find in keys that are few, such as a text's.

    Args:
      query_BNTH, key_BNSH, value_BNSH: of logits query key^T / sqrt(H).
      mask: bool, broadcastable by unit dimensions to [B, N, T, S]; True is visible. None: all.
      added: float32 to the logits, broadcastable likewise; None: nothing.
    """
    query_BNTH = query_BNTH * query_BNTH.shape[-1] ** -0.5
    logits_BNTS = jnp.einsum(
        "BNTH,BNSH->BNTS", query_BNTH, key_BNSH, preferred_element_type=jnp.float32
    )
    if added is not None:
        logits_BNTS = logits_BNTS + jnp.broadcast_to(added, logits_BNTS.shape)
    if mask is not None:
        logits_BNTS = jnp.where(mask, logits_BNTS, HIDDEN)
    return _of(logits_BNTS, value_BNSH)


def in_window(
    query_BNTH: jax.Array,
    key_BNSH: jax.Array,
    value_BNSH: jax.Array,
    window: Window,
    kernel: str = "auto",
) -> Found:
    """What the cells of a grid find in windows; memory is linear in T and S.

    Args:
      query_BNTH: of the T = f^2 h w cells in raster order; logits are query key^T / sqrt(H).
      key_BNSH, value_BNSH: of the S = h w cells of `window.grid`, in raster order.
      window: what each sees; it sees at least its own cell.
      kernel: plain, strips on any device; else a TPU has a kernel for heads of 16 n values.
    """
    query_BNTH = query_BNTH * query_BNTH.shape[-1] ** -0.5
    if kernel != "plain" and platform() == "tpu" and query_BNTH.shape[-1] % 16 == 0:
        return _by_kernel(query_BNTH, key_BNSH, value_BNSH, window)
    strips, (h, w), factor = _Strips(window), window.grid, window.factor
    query = query_BNTH.reshape(*query_BNTH.shape[:2], h * factor, w * factor, -1)
    keys, values = (
        strips.framed(a.reshape(*a.shape[:2], h, w, -1)) for a in (key_BNSH, value_BNSH)
    )

    @jax.checkpoint
    def of_strip(number, query):
        first = number * strips.rows
        near = (strips.band(a, first) for a in (keys, values))
        return strips.look(query, *near, first)

    numbers = jnp.arange(strips.count)
    with jax.named_scope("window"):
        found = jax.lax.map(lambda strip: of_strip(*strip), (numbers, strips.cut(query)))
        return Found(*(strips.back(a) for a in (found.out, found.log_sum)))


def _by_kernel(query: jax.Array, key: jax.Array, value: jax.Array, window: Window) -> Found:
    """Of queries that are scaled."""

    def on_one_device(query, key, value, _):
        return window_attention(window.windows, False, query, key, value)

    out_BNTH, log_sum_BNT1 = over_devices(on_one_device)(query, key, value, None)
    return Found(out_BNTH, log_sum_BNT1[..., 0])


def _of(logits: jax.Array, values: jax.Array) -> Found:
    """Softmax and sum over the last axis of the logits, [..., T, S] on [..., S, H]."""
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    weights = jnp.exp(logits - log_sum[..., None]).astype(values.dtype)
    return Found(jnp.einsum("...TS,...SH->...TH", weights, values), log_sum)


@dataclasses.dataclass(frozen=True)
class _Strips:
    """How a grid is cut: strips of `rows` rows of cells, and those into blocks of columns."""

    window: Window

    @property
    def rows(self) -> int:
        return min(ROWS, self.window.grid[0])

    @property
    def count(self) -> int:
        return -(-self.window.grid[0] // self.rows)

    @property
    def columns(self) -> int:
        """Of a block: at least as many as it looks beyond itself, all within the next one."""
        beyond = self.window.size[1] - 1
        blocks = max(1, self.window.grid[1] // max(COLUMNS, beyond))
        return max(-(-self.window.grid[1] // blocks), beyond, 1)

    @property
    def blocks(self) -> int:
        return -(-self.window.grid[1] // self.columns)

    @property
    def above(self) -> int:
        """Rows that a window reaches above a cell."""
        return self.window.size[0] // 2

    @property
    def height(self) -> int:
        """Rows of keys that a strip sees."""
        return self.rows + self.above + (0 if self.window.causal else self.above)

    @property
    def width(self) -> int:
        """Columns of keys that a block sees."""
        return self.columns + self.window.size[1] - 1

    def framed(self, a_BNhwH: jax.Array) -> jax.Array:
        """Keys with room for what lies outside of the grid, and for one block more."""
        (h, w), left = self.window.grid, self.window.size[1] // 2
        below = self.count * self.rows + self.height - self.rows - self.above - h
        right = (self.blocks + 1) * self.columns - left - w
        return jnp.pad(a_BNhwH, ((0, 0), (0, 0), (self.above, below), (left, right), (0, 0)))

    def band(self, framed: jax.Array, first: jax.Array) -> jax.Array:
        """The keys that a strip's blocks see, [B, N, blocks, height * width, H]."""
        rows = jax.lax.dynamic_slice_in_dim(framed, first, self.height, axis=2)
        *lead, height, _, dim = rows.shape
        apart = rows.reshape(*lead, height, self.blocks + 1, self.columns, dim)
        beyond = apart[..., 1:, : self.width - self.columns, :]
        near = jnp.concatenate([apart[..., :-1, :, :], beyond], axis=-2)
        return jnp.swapaxes(near, 2, 3).reshape(*lead, self.blocks, -1, dim)

    def cut(self, query: jax.Array) -> jax.Array:
        """[B, N, f h, f w, H] to [strips, B, N, blocks, queries of a block, H]."""
        batch, heads, height, width, dim = query.shape
        rows, columns = (n * self.window.factor for n in (self.rows, self.columns))
        more = self.count * rows - height, self.blocks * columns - width
        query = jnp.pad(query, ((0, 0), (0, 0), (0, more[0]), (0, more[1]), (0, 0)))
        query = query.reshape(batch, heads, self.count, rows, self.blocks, columns, dim)
        query = jnp.transpose(query, (2, 0, 1, 4, 3, 5, 6))
        return query.reshape(*query.shape[:4], rows * columns, dim)

    def back(self, found: jax.Array) -> jax.Array:
        """The way back from [strips, B, N, blocks, queries, ...] to [B, N, T, ...]."""
        factor, (h, w) = self.window.factor, self.window.grid
        strips, batch, heads, blocks, _, *rest = found.shape
        rows, columns = self.rows * factor, self.columns * factor
        found = found.reshape(strips, batch, heads, blocks, rows, columns, *rest)
        found = jnp.moveaxis(found, (0, 4, 3), (2, 3, 4))
        found = found.reshape(batch, heads, strips * rows, blocks * columns, *rest)
        return found[:, :, : h * factor, : w * factor].reshape(batch, heads, -1, *rest)

    def look(self, query: jax.Array, keys: jax.Array, values: jax.Array, first: jax.Array) -> Found:
        """What the queries of a strip, whose first row of cells is `first`, find."""
        logits = jnp.einsum("...TH,...SH->...TS", query, keys, preferred_element_type=jnp.float32)
        seen = self._near[None] & self._columns_there[:, None, :]
        row = first - self.above + self._cells[0]
        there = (row >= 0) & (row < self.window.grid[0])
        seen = jnp.asarray(seen) & jnp.broadcast_to(there, seen.shape)
        return _of(jnp.where(seen[None, None], logits, HIDDEN), values)

    @functools.cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in what a block sees, of each key."""
        return np.divmod(np.arange(self.height * self.width), self.width)

    @property
    def _near(self) -> np.ndarray:
        """bool [queries, keys] of a block."""
        factor, columns = self.window.factor, self.window.size[1]
        place = np.arange(self.rows * self.columns * factor**2)
        row, column = (n // factor for n in np.divmod(place, self.columns * factor))
        down = self._cells[0] - self.above - row[:, None]
        right = self._cells[1] - columns // 2 - column[:, None]
        return self.window.near(down, right)

    @property
    def _columns_there(self) -> np.ndarray:
        """bool [blocks, keys]: whether the key's column is one of the grid's."""
        column = np.arange(self.blocks)[:, None] * self.columns + self._cells[1]
        left = self.window.size[1] // 2
        return (column >= left) & (column < left + self.window.grid[1])
