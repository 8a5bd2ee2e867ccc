"""A classifier of real pictures, which judges those that a generator draws."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.judges.classifier import Classifier, ClassifierConfig
from babeldraw.objectives.base import Batch, Metrics, TrainState
from babeldraw.objectives.one_network import OneNetwork
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageClassifierObjective(OneNetwork):
    """Cross-entropy of the class; no augmentation beyond that of the data.

    Attributes: model: the network.
    """

    model: ClassifierConfig

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        image = (self.batch_size, *self.model.image_size, 3)
        return {
            "image": jax.ShapeDtypeStruct(image, jnp.uint8),
            "label": jax.ShapeDtypeStruct((self.batch_size,), jnp.int32),
        }

    def _loss(self, params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        del key  # There is nothing random in a step.
        logits = self._network.logits(params, to_float(batch["image"]))
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
            return self._network.logits(state.params, to_float(batch["image"]))

        return {"classify": classify}

    @functools.cached_property
    def _network(self) -> Classifier:
        return Classifier(self.model)
