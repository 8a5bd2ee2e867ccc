"""A trained classifier that scores drawn pictures: for rejection, and to judge a generator."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import build, require
from babeldraw.errors import UserError
from babeldraw.judges.classifier import Classifier, ClassifierConfig
from babeldraw.runs.checkpoints import on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder, weights_in


@dataclasses.dataclass(frozen=True)
class ClassifierRun:
    """Attributes:
    classifier: the network.
    params: of the newest checkpoint.
    classes: their names, where the run kept them.
    """

    classifier: Classifier
    params: Any
    classes: tuple[str, ...] = ()

    @classmethod
    def open(cls, workdir: str) -> "ClassifierRun":
        """Reads a run folder. Raises `UserError` when it is none of a classifier."""
        folder = RunFolder.of(workdir)
        config = folder.read_config()
        if config["objective"] != "image_classifier":
            raise UserError(
                f"{workdir} is a run of {config['objective']}; name one of image_classifier"
            )
        classifier = Classifier(build(ClassifierConfig, config["model"], "config.model"))
        shapes = nn.unbox(jax.eval_shape(classifier.init, jax.random.key(0)))
        weights = weights_in(config)
        _, state = restore_subset(folder.checkpoints, {weights: on_first_device(shapes)})
        return cls(classifier, state[weights], folder.read_classes())

    def check_knows(self, num_classes: int, names: tuple[str, ...], path: str) -> None:
        """Refuses to judge a model of other classes.

        Args:
          num_classes: of the model.
          names: of them, in their order; empty where the model's run kept none.
          path: how the classifier is named, for the message.
        """
        require(
            self.num_classes == num_classes,
            f"{path} knows {self.num_classes} classes and the model {num_classes}; name one of the "
            "same classes",
        )
        if not (names and self.classes):
            return
        for number, (own, other) in enumerate(zip(self.classes, names, strict=True)):
            require(
                own == other,
                f"{path} knows class {number} as {own!r} and the model as {other!r}; name one of "
                "the same classes",
            )

    @property
    def num_classes(self) -> int:
        return self.classifier.config.num_classes

    def probabilities(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """[B, height, width, 3], float32 in [0, 1] or uint8 -> float32 [B, K].

        Pictures of another size are resized, antialiased, as they are: not cropped.
        """
        images = np.asarray(images)
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        return np.asarray(self._probabilities(self.params, images))

    @functools.cached_property
    def _probabilities(self):
        def classify(params, images):
            shape = (images.shape[0], *self.classifier.config.image_size, 3)
            if images.shape != shape:
                images = jnp.clip(jax.image.resize(images, shape, "bilinear"), 0.0, 1.0)
            return jax.nn.softmax(self.classifier.logits(params, images))

        return jax.jit(classify)
