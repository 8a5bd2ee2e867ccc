"""An average of the weights over the steps (EMA), beside any recipe."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.objectives.base import Batch, Metrics, Objective, TrainState


@dataclasses.dataclass(frozen=True)
class AverageConfig:
    """Attributes:
    decay: share of the average that a step keeps.
    warmup: begins with less: the first step keeps nothing, and one that s steps went before keeps
      min(decay, (1 + s) / (10 + s)), so that the first weights are soon forgotten (TiTok's, and
      that of many before).
    """

    decay: float = 0.999
    warmup: bool = True

    def __post_init__(self):
        require(
            0 <= self.decay < 1,
            f"config.train.ema.decay is {self.decay}; a share in [0, 1) is needed",
        )

    def at(self, step: jax.Array) -> jax.Array:
        """The share that is kept when `step` updates (int32) were done before, float32."""
        decay = jnp.asarray(self.decay, jnp.float32)
        if not self.warmup:
            return decay
        done = step.astype(jnp.float32)
        return jnp.where(done > 0, jnp.minimum(decay, (1 + done) / (10 + done)), 0.0)


@dataclasses.dataclass(frozen=True)
class Averaged:
    """An objective whose state holds the average of its parameters, by which it is judged.

    Attributes:
      objective: the recipe.
      config: how fast the average forgets.
    """

    objective: Objective
    config: AverageConfig

    def init(self, key: jax.Array) -> TrainState:
        return begin_average(self.objective.init(key))

    def axes(self) -> TrainState:
        axes = self.objective.axes()
        return axes.replace(ema=axes.params)

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """The recipe's step; then the average takes its share of what came of it."""
        average, decay = state.ema, self.config.at(state.step)
        state, metrics = self.objective.update(state.replace(ema=None), batch, key)

        def mixed(old: jax.Array, new: jax.Array) -> jax.Array:
            # In this form what does not move stays as it is, bit for bit.
            return old + ((1 - decay) * (new - old)).astype(old.dtype)

        with jax.named_scope("ema"):
            average = jax.tree.map(mixed, average, state.params)
        return state.replace(ema=average), metrics

    def forward(self, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return self.objective.forward(state.replace(ema=None), batch, key)

    def gradients(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        return self.objective.gradients(state.replace(ema=None), batch, key)

    @property
    def after_gradients(self) -> tuple[str, ...]:
        return (*self.objective.after_gradients, "average")

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        return self.objective.batch_spec()

    def at(self, level: str) -> "Averaged":
        """The same at a level, of recipes that have some."""
        return dataclasses.replace(self, objective=self.objective.at(level))

    def predict_fns(self) -> dict[str, Callable]:
        """Those of the recipe, with the average in place of the parameters."""

        def of_average(fn: Callable) -> Callable:
            return lambda state, *inputs: fn(state.replace(params=state.ema, ema=None), *inputs)

        return {name: of_average(fn) for name, fn in self.objective.predict_fns().items()}


def begin_average(state: TrainState) -> TrainState:
    """`state` with an average of nothing but its parameters as they are."""
    # A copy: a donated buffer may be given only once.
    return state.replace(ema=jax.tree.map(jnp.copy, state.params))
