"""What our kernels for TPUs have in common: tiles of a square of logits, and their products."""

import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp

# Queries and keys of a tile: the lanes of a TPU.
TILE = 128
# What is not seen: exp makes it zero, and nothing makes it NaN.
HIDDEN = -1e30


def product(a: jax.Array, b: jax.Array, contract: tuple[int, int] = (1, 0)) -> jax.Array:
    """Of two matrices, float32; `contract`: the axis of each that is summed over."""
    dims = ((contract[:1], contract[1:]), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def block_of(number: int) -> slice:
    """The slots of a tile."""
    return slice(number * TILE, (number + 1) * TILE)


def added(arrays: Iterable[jax.Array]) -> jax.Array:
    """Their sum, of at least one."""
    return functools.reduce(operator.add, arrays)
