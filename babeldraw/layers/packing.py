"""Pictures of few slots side by side in one sequence, through a whole stack of blocks.

A row costs what its pictures cost: products of matrices run over slots that all are a picture's,
and attention computes the block diagonal alone: the kernel for TPUs its tiles, without another
layout, the others a picture at a time. Every row has its pictures in the same order with the same
numbers of slots, so that where a picture lies is known when the program is made: nothing is
gathered, and one program serves all batches.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.layers.masks import Slots

Drop = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Apart:
    """Slots of one picture see each other and no other's; an `AttentionPattern`.

    Attributes:
      lengths: slots of each picture of a row, in their order.
    """

    lengths: tuple[int, ...]

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        pictures = jnp.asarray(np.repeat(np.arange(len(self.lengths)), self.lengths))
        return pictures[query] == pictures[key]

    def window(self, length: int, layer: int) -> int:
        return length

    def attended(self, attend: Callable[..., jax.Array], *heads: Any) -> jax.Array:
        """Attention that computes nothing of what is not seen, for kernels that would.

        Args:
          attend: of heads of single pictures, [B n, N, L, H], of which all slots see each other.
          heads: trees of heads of whole rows, [B, N, T, H].

        Returns:
          [B, N, T, H].
        """
        found, start = [], 0
        for length, same in itertools.groupby(self.lengths):
            count = len(list(same))
            own = functools.partial(_pictures, start, count, length)
            out = attend(*jax.tree.map(own, heads))
            by_row = out.reshape(-1, count, *out.shape[1:]).swapaxes(1, 2)
            found.append(by_row.reshape(*by_row.shape[:2], count * length, -1))
            start += count * length
        return jnp.concatenate(found, axis=2)


def _pictures(start: int, count: int, length: int, row_BNTH: jax.Array) -> jax.Array:
    """[B, N, T, H] to pictures from a slot on, [B count, N, length, H]."""
    batch, heads, _, dim = row_BNTH.shape
    cut = row_BNTH[:, :, start : start + count * length]
    apart = cut.reshape(batch, heads, count, length, dim).swapaxes(1, 2)
    return apart.reshape(-1, heads, length, dim)


def by_rows(drop: Drop | None, rows: int) -> Drop | None:
    """Dropout of arrays of single pictures, [R n, ...], by the keys of the R rows they lie in."""
    if drop is None:
        return None
    return lambda a: drop(a.reshape(rows, -1, *a.shape[2:])).reshape(a.shape)


@dataclasses.dataclass(frozen=True)
class Packing:
    """How pictures lie in a row; letters: R rows, P pictures of a row, T slots of a row.

    Attributes:
      runs: (pictures, slots of each) of pictures one after another that are as long.
    """

    runs: tuple[tuple[int, int], ...]

    @property
    def slots(self) -> int:
        """T."""
        return sum(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Slots of each picture, in their order."""
        return tuple(length for count, length in self.runs for _ in range(count))

    @property
    def pattern(self) -> Apart:
        """Who sees whom."""
        return Apart(self.lengths)

    def packed(self, runs: Sequence[jax.Array]) -> jax.Array:
        """Slots of the pictures of each run, [R, pictures, slots, ...] -> [R, T, ...]."""
        laid = [run.reshape(run.shape[0], -1, *run.shape[3:]) for run in runs]
        return jnp.concatenate(laid, axis=1)

    def apart(self, x_RTD: jax.Array, axis: int = 1) -> list[jax.Array]:
        """The way back; `axis` is that of the slots, which becomes those of pictures and slots."""
        ends = np.cumsum([count * length for count, length in self.runs])
        cut = jnp.split(x_RTD, ends[:-1], axis=axis)
        return [
            part.reshape(*part.shape[:axis], *run, *part.shape[axis + 1 :])
            for part, run in zip(cut, self.runs, strict=True)
        ]

    def of_pictures(self, values: jax.Array) -> list[jax.Array]:
        """[R, P, ...] -> [R, pictures, ...] of each run."""
        ends = np.cumsum([count for count, _ in self.runs])
        return jnp.split(values, ends[:-1], axis=1)

    def spread(self, vectors_RPD: jax.Array) -> jax.Array:
        """What is said of each picture, [R, P, D], to its slots, [R, T, D]."""
        spread = [
            jnp.broadcast_to(run_RPD[:, :, None], (*run_RPD.shape[:2], length, run_RPD.shape[2]))
            for run_RPD, (_, length) in zip(self.of_pictures(vectors_RPD), self.runs, strict=True)
        ]
        return self.packed(spread)
