"""Arrays with a row for each token or for each code, on devices and in tiles.

Where the layout in force splits the batch or the codebook, each device goes through its own tokens
and codes.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.sharding.constraint import divisible, without
from babeldraw.sharding.layout import current
from babeldraw.sharding.rules import entry_axes, partition_spec

AXIS = "model"

Arrays = tuple[jax.Array, ...]


def numbered(codes_VQ: jax.Array) -> Arrays:
    """Codes and their numbers, which go with them to their device and into tiles."""
    return codes_VQ, jnp.arange(codes_VQ.shape[0], dtype=jnp.int32)


def own_places(ids_N: jax.Array, numbers_V: jax.Array) -> jax.Array:
    """Where codes lie among these; behind the last one where they lie elsewhere."""
    size = numbers_V.shape[0]
    places_N = ids_N - numbers_V[0]
    return jnp.where((places_N >= 0) & (places_N < size), places_N, size)


def over_tiles(step: Callable, carry: Any, rows: Arrays, size: int) -> tuple[Any, Arrays]:
    """`step(carry, *tile) -> (carry, made)` from tile to tile.

    Args:
      step: its `made` has a row for each of the tile's.
      carry: of the first step.
      rows: arrays of equally many rows; the last tile is what is left of whole ones.
      size: rows of a tile.

    Returns:
      The last carry, and what was made of all rows.
    """
    count, made = rows[0].shape[0], []
    whole = count // size * size
    if whole:
        tiles = [row[:whole].reshape(-1, size, *row.shape[1:]) for row in rows]
        carry, found = jax.lax.scan(lambda carry, tile: step(carry, *tile), carry, tiles)
        made.append([array.reshape(whole, *array.shape[2:]) for array in found])
    if whole < count:
        carry, found = step(carry, *(row[whole:] for row in rows))
        made.append(found)
    return carry, tuple(jnp.concatenate(parts) for parts in zip(*made, strict=True))


@dataclasses.dataclass(frozen=True)
class Split:
    """What of all is on a device, and sums over what is elsewhere.

    Attributes:
      codes: whether the codes here are a part of them, over the axis `model`.
      tokens: mesh axes over which tokens are split.
      parts: in how many parts they are.
    """

    codes: bool = False
    tokens: tuple[str, ...] = ()
    parts: int = 1

    def sum(self, x: jax.Array) -> jax.Array:
        """Over all codes."""
        return jax.lax.psum(x, AXIS) if self.codes else x

    def largest(self, x: jax.Array) -> jax.Array:
        return jax.lax.pmax(x, AXIS) if self.codes else x

    def least(self, x: jax.Array) -> jax.Array:
        return jax.lax.pmin(x, AXIS) if self.codes else x

    def total(self, x: jax.Array) -> jax.Array:
        """Over all tokens."""
        return jax.lax.psum(x, self.tokens) if self.tokens else x


def on_devices(
    body: Callable, rows: Arrays, tokens: Arrays, whole: Any
) -> tuple[Arrays, Arrays, Any]:
    """`body(split, rows, tokens, whole)`, by hand where the layout in force splits something.

    Args:
      body: gives arrays with a row for each token, for each code, and of neither.
      rows: with a row for each code.
      tokens: with a row for each token.
      whole: of neither.
    """
    layout, split = current(), _split(rows[0].shape[0], tokens[0].shape[0])
    if split == Split():
        return body(split, rows, tokens, whole)
    specs = (jax.P(AXIS if split.codes else None), jax.P(split.tokens or None), jax.P())
    return jax.shard_map(
        lambda *inputs: body(split, *inputs),
        # Inside another shard_map the mesh is the one in force there.
        mesh=None if layout.manual else layout.mesh,
        in_specs=specs,
        out_specs=(specs[1], specs[0], specs[2]),
        axis_names=frozenset(layout.mesh.axis_names) - layout.manual,
        check_vma=False,
    )(rows, tokens, whole)


def _split(codes: int, tokens: int) -> Split:
    """How the layout in force splits so many."""
    layout = current()
    if layout is None:
        return Split()
    used, shape = layout.preset.used, layout.mesh.shape
    mine = AXIS not in layout.manual and used["vocab"] == AXIS
    by_codes = mine and shape[AXIS] > 1 and codes % shape[AXIS] == 0
    handled = layout.manual | ({AXIS} if by_codes else set())
    batch = without(partition_spec(("batch",), used), handled)
    axes = entry_axes(divisible(batch, (tokens,), layout.mesh)[0])
    axes = tuple(axis for axis in axes if shape[axis] > 1)
    return Split(by_codes, axes, math.prod(shape[axis] for axis in axes))
