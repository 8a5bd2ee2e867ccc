"""What a part of a block may read beside its own input."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Attributes:
    context: arrays by name, those of the stack's context.
    layer: the block's number, int or int32 [].
    drop: dropout of what a feed-forward has between its products; None: none.
    """

    context: Mapping[str, Any]
    layer: jax.Array | int = 0
    drop: Callable[[jax.Array], jax.Array] | None = None

    def named(self, name: str) -> Any:
        """What the context holds under a name; None where it has no such."""
        return self.context[name] if name in self.context else None
