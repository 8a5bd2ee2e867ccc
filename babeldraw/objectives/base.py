"""What the training loop knows of a recipe."""

from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax

Metrics = dict[str, jax.Array]
Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that an update reads and writes; one checkpoint.

    Attributes:
      step: int32, number of updates done.
      params: trained parameters.
      opt_state: of the optimizer.
      frozen: parameters that are used and never trained, such as the tokenizer's in stage 2.
      extra: what a recipe keeps beside parameters, such as the use of each code.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    frozen: Any
    extra: Any


class Objective(Protocol):
    """One training recipe. All methods but `init` are pure and are jitted by the caller."""

    def init(self, key: jax.Array) -> TrainState:
        """A fresh state. Traced: may be evaluated abstractly."""
        ...

    def axes(self) -> TrainState:
        """Logical axes of each array of the state, in the same tree."""
        ...

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """One step; metrics are float32 scalars."""
        ...

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Global shapes and types of a batch."""
        ...

    def predict_fns(self) -> dict[str, Callable]:
        """What evaluators and the sample grid may call, by name."""
        ...


def apply_gradients(
    state: TrainState, grads: Any, optimizer: optax.GradientTransformation
) -> TrainState:
    """One optimizer step; `step` counts it."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


def to_float(images: jax.Array) -> jax.Array:
    """uint8 images, as hosts send them, to float32 in [0, 1]; floats pass through."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images
