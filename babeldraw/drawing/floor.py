"""What a step of drawing cannot but read from memory."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def bytes_per_step(fn: Callable, *inputs: Any) -> int:
    """Bytes of the arrays that one call reads, each once; of tables in which it looks up, none.

    Args:
      fn: the step, as `Prediction.step` gives it.
      inputs: parameters, caches and what else it takes; abstract ones will do.
    """
    jaxpr = jax.make_jaxpr(fn)(*inputs).jaxpr
    read = _read(jaxpr)
    leaves = zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True)
    return sum(
        int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize
        for name, leaf in leaves
        if name in read
    )


def _read(jaxpr: Any) -> set[Any]:
    """The variables of a jaxpr that an operation reads as a whole."""
    found = set()
    for eqn in jaxpr.eqns:
        # A literal has a value and cannot be told apart by hashing.
        found |= {name for name in _operands(eqn) if not hasattr(name, "val")}
    return found


def _operands(eqn: Any) -> list[Any]:
    """Of an operation's inputs those that it reads as a whole."""
    if eqn.primitive.name in ("gather", "dynamic_slice"):
        # A few rows of a table.
        return eqn.invars[1:]
    inner = [getattr(part, "jaxpr", part) for part in eqn.params.values() if _is_jaxpr(part)]
    same = [part for part in inner if len(part.invars) == len(eqn.invars)]
    if len(inner) != 1 or not same:
        return eqn.invars
    read = _read(same[0])
    pairs = zip(eqn.invars, same[0].invars, strict=True)
    return [outer for outer, name in pairs if name in read]


def _is_jaxpr(part: Any) -> bool:
    return hasattr(getattr(part, "jaxpr", part), "eqns")
