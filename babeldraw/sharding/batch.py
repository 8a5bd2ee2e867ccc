"""A host's share of a batch to one global array, split over the mesh."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from babeldraw.sharding.constraint import divisible
from babeldraw.sharding.rules import WHOLE, partition_spec


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Split over the first dimension, as far as the mesh divides it."""
    spec = partition_spec(("batch",), WHOLE)
    return NamedSharding(mesh, divisible(spec, shape, mesh))


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Each host gives its own rows; the result is one array over all hosts."""

    def place(local: np.ndarray) -> jax.Array:
        shape = (local.shape[0] * jax.process_count(), *local.shape[1:])
        sharding = batch_sharding(mesh, shape)
        parts = shape[0] // sharding.shard_shape(shape)[0]
        if parts % jax.process_count():
            # The mesh does not split between hosts (in-layer parallelism over all of them).
            whole = multihost_utils.process_allgather(local, tiled=True)
            return jax.make_array_from_callback(shape, sharding, lambda index: whole[index])
        return jax.make_array_from_process_local_data(sharding, local, shape)

    return {name: place(local) for name, local in batch.items()}


def whole(x: jax.Array) -> np.ndarray:
    """All of an array, on every host; all hosts must ask for it."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)
