"""Attention of packed pictures to sources of their own, as a part of a block."""

import functools

import jax
import jax.numpy as jnp

from babeldraw.layers.attention import CrossAttention, KeyValue
from babeldraw.layers.inputs import Inputs
from babeldraw.layers.packing import Drop, Packing, by_rows


class PackedCrossAttention(CrossAttention):
    """As `CrossAttention`, whole rows: each picture looks at its own source.

    Of the context it reads the source as [R, P, S, D], and `SOURCE_mask` as [R, P, 1, 1, S]. The
    products run over whole rows; pictures that are as long look together.

    Attributes:
      packing: of the rows.
    """

    packing: Packing | None = None

    def whole(self, x_RTD: jax.Array, inputs: Inputs) -> jax.Array:
        """All T slots of the rows at once."""
        source, mask = inputs.context[self.source], inputs.named(f"{self.source}_mask")
        rows, pictures = source.shape[:2]
        with jax.named_scope("attention"):
            keys = self.key_value(source.reshape(rows * pictures, *source.shape[2:]))
            # By rows and pictures again, of which a run takes its own.
            of_runs = jax.tree.map(
                lambda a: self.packing.of_pictures(a.reshape(rows, pictures, *a.shape[1:])),
                (keys.key, keys.value),
            )
            masks = [None] * len(self.packing.runs)
            if mask is not None:
                masks = self.packing.of_pictures(mask)
            queries = self.packing.apart(self.queries(x_RTD), axis=2)
            of_run = functools.partial(self._of_run, by_rows(inputs.drop_weights, rows))
            found = map(of_run, queries, *of_runs, masks)
            return self.joined(jnp.concatenate([*found], axis=2))

    def _of_run(
        self,
        drop: Drop | None,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array | None,
    ) -> jax.Array:
        """Queries [R, N, pictures, slots, H], keys and values [R, pictures, N, S, H].

        Returns:
          What they find, [R, N, pictures * slots, H].
        """
        query = jnp.swapaxes(query, 1, 2)
        shape = query.shape
        flat = [a.reshape(-1, *a.shape[2:]) for a in (query, key, value)]
        seen = None if mask is None else mask.reshape(-1, *mask.shape[2:])
        found = self.look(flat[0], KeyValue(flat[1], flat[2]), seen, drop=drop).reshape(shape)
        rows, pictures, heads, slots, dim = shape
        return jnp.swapaxes(found, 1, 2).reshape(rows, heads, pictures * slots, dim)
