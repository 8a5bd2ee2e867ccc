"""Positions: learned and added to token embeddings, or turning queries and keys."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp


def _table(module: nn.Module, name: str, length: int, dim: int, stddev: float) -> jax.Array:
    init = nn.with_logical_partitioning(nn.initializers.normal(stddev), ("position", "embed"))
    return module.param(name, init, (length, dim))


class LearnedPositions(nn.Module):
    """One vector per position of a sequence. Returns float32 [length, dim]."""

    length: int
    dim: int
    stddev: float = 0.5

    @nn.compact
    def __call__(self) -> jax.Array:
        return _table(self, "table", self.length, self.dim, self.stddev)


class GridPositions(nn.Module):
    """Row vector plus column vector for each cell of an image-token grid, in raster order.

    ViT-VQGAN, section 4.1: "additive learnable 2D positional embedding". A one-dimensional token
    sequence is a grid of one row. Returns float32 [h * w, dim].
    """

    grid: tuple[int, ...]
    dim: int
    stddev: float = 0.5

    @nn.compact
    def __call__(self) -> jax.Array:
        h, w = self.grid if len(self.grid) == 2 else (1, *self.grid)
        row_hD = _table(self, "row", h, self.dim, self.stddev)
        column_wD = _table(self, "column", w, self.dim, self.stddev)
        grid_hwD = row_hD[:, None, :] + column_wD[None, :, :]
        return jnp.reshape(grid_hwD, (h * w, self.dim))


def tiled(cells_SD: jax.Array, grid: tuple[int, int], factor: int) -> jax.Array:
    """The vectors of a grid in raster order, laid side by side `factor` times in each direction.

    Args:
      cells_SD: of (h, w) cells.
      grid: (h, w).
      factor: f.

    Returns:
      [f h f w, D], in raster order.
    """
    h, w = grid
    cells = cells_SD.reshape(h, w, cells_SD.shape[-1])
    return jnp.tile(cells, (factor, factor, 1)).reshape(h * w * factor**2, -1)


def sine_positions(length: int, dim: int) -> jax.Array:
    """Fixed positions of a sequence, float32 [length, dim]: sines, then cosines.

    Vaswani et al., "Attention Is All You Need", 2017, section 3.5, with the two halves side by side
    and not interleaved.
    """
    rates = 10_000.0 ** (-jnp.arange(dim // 2, dtype=jnp.float32) / (dim // 2))
    angles = jnp.outer(jnp.arange(length, dtype=jnp.float32), rates)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def sine_grid(grid: tuple[int, int], dim: int, columns_first: bool = False) -> jax.Array:
    """Of a grid in raster order, float32 [h * w, dim]: half of the row, half of the column.

    Args:
      grid: (h, w).
      dim: a multiple of 4.
      columns_first: the first half is that of the column, as in DiT.
    """
    h, w = grid
    row, column = sine_positions(h, dim // 2), sine_positions(w, dim // 2)
    shape = (h, w, dim // 2)
    both = (jnp.broadcast_to(row[:, None], shape), jnp.broadcast_to(column[None], shape))
    both = both[::-1] if columns_first else both
    return jnp.concatenate(both, axis=-1).reshape(h * w, dim)


def at_slot(positions_TD: jax.Array, index: jax.Array) -> jax.Array:
    """The vector of a slot, [1, 1, D], of int32 []; of int32 [B] those of each row, [B, 1, D]."""
    if index.ndim:
        return jnp.take(positions_TD, index, axis=0)[:, None]
    return jax.lax.dynamic_slice_in_dim(positions_TD, index, 1)[None]


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Turns pairs of a head's values by angles that grow with the position (RoPE).

    Su et al., "RoFormer", 2021: products of queries and keys then tell how far apart they stand.

    Attributes:
      grid: (h, w): the first half of a head is turned by rows, the second by columns, as LlamaGen
        does; (): all of it by the position itself.
      base: the slowest pair turns once in about 2 pi times so many positions.
      interleaved: pairs are neighbours, (0, 1), (2, 3), ...; else the halves' values, (0, H / 2),
        (1, H / 2 + 1), ...
      before: slots of a prefix, which have no place; places count from behind it.
      before_scale: what heads of the prefix are multiplied by. 0 as in LlamaGen, whose tables of
        sines and cosines are zeros there: each slot then sees all of the prefix alike.
    """

    grid: tuple[int, ...] = ()
    base: float = 10_000.0
    interleaved: bool = True
    before: int = 0
    before_scale: float = 0.0

    def __call__(self, heads_BNTH: jax.Array, positions: jax.Array) -> jax.Array:
        """Queries or keys, turned, float32; `positions` are int32 [T] or [B, T]."""
        pairs, places = heads_BNTH.shape[-1] // 2, positions - self.before
        axes = [places]
        if self.grid:
            axes = [places // self.grid[1], places % self.grid[1]]
        each = pairs // len(axes)
        rates = self.base ** (-jnp.arange(each, dtype=jnp.float32) / each)
        angles = [jnp.einsum("...T,P->...TP", axis.astype(jnp.float32), rates) for axis in axes]
        angles = jnp.concatenate(angles, axis=-1)
        angles = angles[None, None] if positions.ndim == 1 else angles[:, None]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        if self.before:
            prefix = (places < 0)[None, None] if positions.ndim == 1 else (places < 0)[:, None]
            prefix = jnp.broadcast_to(prefix[..., None], angles.shape)
            cos, sin = jnp.where(prefix, self.before_scale, cos), jnp.where(prefix, 0.0, sin)
        x = heads_BNTH.astype(jnp.float32)
        if self.interleaved:
            pairs_of = x.reshape(*x.shape[:-1], pairs, 2)
            a, b = pairs_of[..., 0], pairs_of[..., 1]
            turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
            return turned.reshape(x.shape)
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
