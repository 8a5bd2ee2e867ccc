"""Dropout as a pure function of keys, one key per example.

A mask depends on (seed, step, layer, example, place in the block) and on nothing else, so it is the
same under rematerialization, on any mesh, in any pipeline schedule and however a batch is cut into
microbatches.
"""

import jax
import jax.numpy as jnp


def example_keys(key: jax.Array, batch: int) -> jax.Array:
    """A key for each of `batch` examples, [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch, dtype=jnp.uint32))


def fold(keys_B: jax.Array | None, index: jax.Array | int) -> jax.Array | None:
    """The keys of a part, such as a layer, of what the keys are for; None stays None."""
    if keys_B is None:
        return None
    return jax.vmap(jax.random.fold_in, (0, None))(keys_B, index)


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None, place: int) -> jax.Array:
    """Zeroes a share `rate` of `x` [B, ...] and scales the rest by 1 / (1 - rate).

    Args:
      x: any float array with a leading batch dimension.
      rate: in [0, 1).
      keys_B: a key per example; None drops nothing.
      place: tells the dropouts of one block apart.
    """
    if keys_B is None or rate == 0:
        return x

    dropped = jnp.uint32(rate * 2**32)
    # Else compilers fuse the mask into the products of matrices around it, forward and backward,
    # where it is computed anew for each tile.
    x = jax.lax.optimization_barrier(x)

    def keep(key):
        return _bits(jax.random.fold_in(key, place), x.shape[1:]) >= dropped

    scale = jnp.asarray(1 / (1 - rate), x.dtype)
    return jnp.where(jax.vmap(keep)(keys_B), x * scale, jnp.zeros_like(x))


def _bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """uint32 of `shape`: each value's index, hashed twice, with a half of the key before each.

    `jax.random.bits` spends about 115 operations on each value, more than a block's products of
    matrices take to hide; masks need no such strength, and these are 20.
    """
    words = jax.random.key_data(key)
    index = jnp.zeros(shape, jnp.uint32)
    for dim, size in enumerate(shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, dim)
    return _mix(_mix(index ^ words[0]) + words[-1])


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that flips each bit with chance one half: MurmurHash3's finalizer."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))
