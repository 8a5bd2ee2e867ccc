"""Learned positions, added to token embeddings."""

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
