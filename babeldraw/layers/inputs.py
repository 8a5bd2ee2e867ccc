"""What a part of a block may read beside its own input."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Attributes:
    context: arrays by name, those of the stack's context.
    layer: the block's number, int or int32 [].
    drop: dropout of what a feed-forward has between its products; None: none.
    drop_weights: dropout of attention's weights; None: none.
    """

    context: Mapping[str, Any]
    layer: jax.Array | int = 0
    drop: Callable[[jax.Array], jax.Array] | None = None
    drop_weights: Callable[[jax.Array], jax.Array] | None = None

    def named(self, name: str) -> Any:
        """What the context holds under a name; None where it has no such."""
        return self.context[name] if name in self.context else None

    def at_slot(self, name: str, index: jax.Array, otherwise: jax.Array) -> jax.Array:
        """Of what goes with slots, [T] or [B, T], that of slot `index`: [1] or [B, 1].

        Args:
          name: in the context; where it holds no such, `otherwise` is given.
          index: int32 [], or [B].
          otherwise: what is taken then.
        """
        of_slots = self.named(name)
        if of_slots is None:
            return otherwise
        if index.ndim and of_slots.ndim == 1:
            return of_slots[index][:, None]
        if index.ndim:
            return jnp.take_along_axis(of_slots, index[:, None], axis=-1)
        return jax.lax.dynamic_slice_in_dim(of_slots, index, 1, axis=-1)
