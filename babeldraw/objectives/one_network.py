"""What objectives share whose one network is trained as a whole, by one optimizer."""

import abc
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from babeldraw.objectives.base import Batch, Metrics, TrainState, apply_gradients
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.sharding.constraint import Overrides, logical_axes, override


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneNetwork(abc.ABC):
    """An `Objective` but for its network, its loss and its batch. Nothing is frozen.

    Attributes:
      optimizer: its constants.
      batch_size: examples per step, over all devices.
      overrides: logical axes of some parameters, by regular expression over their names.
    """

    optimizer: OptimizerConfig
    batch_size: int
    overrides: Overrides = ()

    @property
    @abc.abstractmethod
    def _network(self) -> Any:
        """What has `init(key)`."""

    @abc.abstractmethod
    def _loss(self, params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """The loss, and the metrics of a step: it and its terms."""

    def init(self, key: jax.Array) -> TrainState:
        params = nn.unbox(self._network.init(key))
        opt_state = self._optimizer.init(params)
        step = jnp.zeros((), jnp.int32)
        return TrainState(step=step, params=params, opt_state=opt_state, frozen={}, extra={})

    def axes(self) -> TrainState:
        state, axes = jax.eval_shape(self.init, jax.random.key(0)), self._parameter_axes
        opt_axes = optimizer_axes(state.opt_state, state.params, axes)
        return TrainState(step=(), params=axes, opt_state=opt_axes, frozen={}, extra={})

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """batch: what `batch_spec` says."""
        grads, metrics = self.gradients(state, batch, key)
        return apply_gradients(state, grads, self._optimizer), metrics

    def forward(self, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return self._loss(state.params, batch, key)[1]

    def gradients(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        grads, metrics = jax.grad(self._loss, has_aux=True)(state.params, batch, key)
        return grads, {**metrics, "grad_norm": optax.tree.norm(grads)}

    @property
    def after_gradients(self) -> tuple[str, ...]:
        return ("optimizer",)

    @functools.cached_property
    def _parameter_axes(self) -> Any:
        axes = logical_axes(jax.eval_shape(self._network.init, jax.random.key(0)))
        return override(axes, self.overrides)

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._parameter_axes)
