"""A classifier of real pictures, which judges those that a generator draws."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from babeldraw.judges.classifier import Classifier, ClassifierConfig
from babeldraw.objectives.base import Batch, Metrics, TrainState, apply_gradients
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.sharding.constraint import logical_axes
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class ImageClassifierObjective:
    """Cross-entropy of the class; no augmentation beyond that of the data.

    Attributes:
      model: the network.
      optimizer: its constants.
      batch_size: images per step, over all devices.
    """

    model: ClassifierConfig
    optimizer: OptimizerConfig
    batch_size: int

    def init(self, key: jax.Array) -> TrainState:
        params = nn.unbox(self._classifier.init(key))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self._optimizer.init(params),
            frozen={},
            extra={},
        )

    def axes(self) -> TrainState:
        state = jax.eval_shape(self.init, jax.random.key(0))
        axes = self._parameter_axes
        opt_state = optimizer_axes(state.opt_state, state.params, axes)
        return TrainState(step=(), params=axes, opt_state=opt_state, frozen={}, extra={})

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        image = (self.batch_size, *self.model.image_size, 3)
        return {
            "image": jax.ShapeDtypeStruct(image, jnp.uint8),
            "label": jax.ShapeDtypeStruct((self.batch_size,), jnp.int32),
        }

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """batch: what `batch_spec` says. There is nothing random in a step."""
        grads, metrics = self.gradients(state, batch, key)
        return apply_gradients(state, grads, self._optimizer), metrics

    def forward(self, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        del key
        return self._loss(state.params, batch)[1]

    def gradients(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        del key
        grads, metrics = jax.grad(self._loss, has_aux=True)(state.params, batch)
        return grads, {**metrics, "grad_norm": optax.tree.norm(grads)}

    @property
    def after_gradients(self) -> tuple[str, ...]:
        return ("optimizer",)

    def _loss(self, params: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits = self._classifier.logits(params, to_float(batch["image"]))
        log = jax.nn.log_softmax(logits)
        label_B = batch["label"]
        # A picture without a label, -1, trains nothing and is no mistake.
        known_B = (label_B >= 0) & (label_B < logits.shape[-1])
        at_B1 = jnp.where(known_B, label_B, 0)[:, None]
        losses_B = -jnp.take_along_axis(log, at_B1, axis=-1)[:, 0]
        count = jnp.maximum(jnp.sum(known_B.astype(jnp.float32)), 1.0)
        right_B = known_B & (jnp.argmax(logits, axis=-1) == label_B)
        loss = jnp.sum(jnp.where(known_B, losses_B, 0)) / count
        return loss, {"loss": loss, "accuracy": jnp.sum(right_B.astype(jnp.float32)) / count}

    def predict_fns(self) -> dict[str, Callable]:
        def classify(state: TrainState, batch: Batch) -> jax.Array:
            """Logits of each class, float32 [B, K]."""
            return self._classifier.logits(state.params, to_float(batch["image"]))

        return {"classify": classify}

    @functools.cached_property
    def _classifier(self) -> Classifier:
        return Classifier(self.model)

    @functools.cached_property
    def _parameter_axes(self):
        return logical_axes(jax.eval_shape(self._classifier.init, jax.random.key(0)))

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._parameter_axes)
