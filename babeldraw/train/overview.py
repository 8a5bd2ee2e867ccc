"""What a model is made of, as a table of text."""

from typing import Any

import jax
import numpy as np

from babeldraw.objectives.base import TrainState
from babeldraw.sharding.constraint import is_names


def overview(abstract: TrainState, axes: TrainState, depth: int = 2) -> str:
    """Number of parameters per part, the first shapes and axes of each, and the state's bytes.

    Args:
      abstract: of `jax.eval_shape(objective.init, key)`.
      axes: of `objective.axes()`.
      depth: levels of the tree that are told apart.
    """
    rows = []
    for title, params, names in (
        ("trained", abstract.params, axes.params),
        ("frozen", abstract.frozen, axes.frozen),
    ):
        rows += _rows(title, params, names, depth)
    total = sum(count(tree) for tree in (abstract.params, abstract.frozen))
    rows.append(("total", f"{total:,}", f"state {nbytes(abstract) / 2**20:,.1f} MiB"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}" for a, b, c in rows)


def count(tree: Any) -> int:
    """Number of elements of all arrays."""
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
    """Bytes of all arrays."""

    def size(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return 8
        return int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def _rows(title: str, params: Any, axes: Any, depth: int) -> list[tuple[str, str, str]]:
    flat = jax.tree_util.tree_leaves_with_path(params)
    names = jax.tree.leaves(axes, is_leaf=is_names)
    parts: dict[str, list] = {}
    for (path, leaf), axis_names in zip(flat, names, strict=True):
        words = [str(getattr(key, "key", key)) for key in path]
        part = "/".join([title, *words[:depth]])
        parts.setdefault(part, []).append((leaf, axis_names))
    rows = []
    for part, leaves in parts.items():
        largest, axis_names = max(leaves, key=lambda pair: np.prod(pair[0].shape))
        described = ", ".join(
            f"{size} {name or '-'}" for size, name in zip(largest.shape, axis_names, strict=True)
        )
        rows.append((part, f"{count([leaf for leaf, _ in leaves]):,}", f"largest [{described}]"))
    return rows
