"""A host's share of a batch to one global array, split over the mesh."""

import jax
import numpy as np
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
        return jax.make_array_from_process_local_data(batch_sharding(mesh, shape), local, shape)

    return {name: place(local) for name, local in batch.items()}
