"""One number for each array of a tree, the same on any mesh and number of hosts.

A checkpoint carries the digests of what it was made from: read back, they tell a whole one from one
that a disk or a network has damaged.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
# Knuth's multiplicative hash, and the finalizer of MurmurHash3 (Appleby), which lets every bit of
# a word and of its place bear on every bit of the sum.
FACTOR = 2654435761
MIX = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
# Elements that the host looks at together.
CHUNK = 1 << 22


@jax.jit
def digests(tree: Any) -> list[jax.Array]:
    """uint32 of each array in order: the sum modulo 2^32 of a hash of each word and its place.

    Sums of integers come out the same in any order, so the mesh does not matter.
    """
    return [_digest(leaf) for leaf in jax.tree.leaves(tree)]


def _digest(x: jax.Array) -> jax.Array:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, WORDS[x.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        stride = math.prod(x.shape[axis + 1 :]) % (1 << 32)
        place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride)
    return jnp.sum(_mixed(words ^ place * jnp.uint32(FACTOR)), dtype=jnp.uint32)


def _mixed(words: Any) -> Any:
    """uint32 to uint32, of NumPy or jax."""
    for shift, factor in MIX:
        words = (words ^ (words >> np.uint32(shift))) * np.uint32(factor)
    return words ^ (words >> np.uint32(16))


def digest_on_host(x: np.ndarray) -> int:
    """The same of an array in the host's memory, without a device."""
    words = np.ascontiguousarray(x).view(np.dtype(f"u{x.dtype.itemsize}")).reshape(-1)
    total = 0
    for first, part in _chunks(words):
        place = np.arange(first, first + len(part), dtype=np.uint64).astype(np.uint32)
        mixed = _mixed(part.astype(np.uint32) ^ place * np.uint32(FACTOR))
        total += int(np.sum(mixed, dtype=np.uint32))
    return total % (1 << 32)


def _chunks(words: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, len(words), CHUNK):
        yield first, words[first : first + CHUNK]
