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

    def keep(key):
        return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, x.shape[1:])

    scale = jnp.asarray(1 / (1 - rate), x.dtype)
    return jnp.where(jax.vmap(keep)(keys_B), x * scale, jnp.zeros_like(x))
