"""What a stack of blocks reads beside its residual stream, and of whom each array is.

Said, not guessed from shapes: a pipeline sends what goes with examples along with them, and a step
through a cache takes its own slot of what goes with slots.
"""

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class PerExample:
    """[B, ...]: goes with its example; a float one gets a gradient."""

    array: jax.Array


@flax.struct.dataclass
class PerSlot:
    """[B, T, ...]: goes with its example, an entry for each slot; a float one gets a gradient."""

    array: jax.Array


@flax.struct.dataclass
class Shared:
    """The same for all examples; no gradient."""

    array: jax.Array


def is_said(leaf: Any) -> bool:
    """Whether it is an array of which it is said whose it is."""
    return isinstance(leaf, (PerExample, PerSlot, Shared))


def arrays(context: Any) -> Any:
    """A tree of such arrays to the arrays, as a block reads them.

    Raises:
      TypeError: of an array it is not said whose it is.
    """

    def array(leaf):
        if not is_said(leaf):
            raise TypeError(f"say of this context whose it is: {jax.typeof(leaf)}")
        return jax.lax.stop_gradient(leaf.array) if isinstance(leaf, Shared) else leaf.array

    return jax.tree.map(array, context, is_leaf=is_said)
