"""A trained classifier as the judge of pictures that were drawn of classes."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import build, require
from babeldraw.judges.classifier import Classifier, ClassifierConfig
from babeldraw.models.condition import Asked, Condition, Lexicon
from babeldraw.runs.opened import open_part
from babeldraw.tokenizers.pixels import to_float

# Pictures are judged so many at a time, and the last ones padded: one program, bounded memory.
BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class ClassifierJudge:
    """Scores by the probability of the class, in [0, 1].

    Attributes:
      classifier: the network.
      params: of the newest checkpoint.
      classes: their names, where the run kept them.
    """

    classifier: Classifier
    params: Any
    classes: tuple[str, ...] = ()

    @classmethod
    def open(cls, workdir: str) -> "ClassifierJudge":
        """Reads a run folder. Raises `UserError` when it is none of a classifier."""

        def make(config: Mapping[str, Any]) -> Classifier:
            return Classifier(build(ClassifierConfig, config["model"], "config.model"))

        opened = open_part(workdir, ("image_classifier",), make)
        return cls(opened.part, opened.params, opened.folder.read_classes())

    def check(self, condition: Condition, lexicon: Lexicon) -> None:
        require(
            condition.num_classes > 0,
            "a classifier judges what is drawn from classes and the run draws from "
            f"{condition.drawn_from}; name a contrastive captioner's run",
        )
        self.check_knows(condition.num_classes, lexicon.classes, "the classifier")

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

    def notes(self, asked: Asked) -> tuple[str, ...]:
        require(
            asked.label is not None,
            f"{asked.name} is to be judged, of which no classifier knows; draw it without a judge",
        )
        return ()

    def score(self, images: np.ndarray, asked: Sequence[Asked]) -> np.ndarray:
        labels = np.array([one.label for one in asked])
        return np.take_along_axis(self.probabilities(images), labels[:, None], axis=-1)[:, 0]

    @property
    def num_classes(self) -> int:
        return self.classifier.config.num_classes

    def probabilities(
        self, images: np.ndarray | jax.Array, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """[B, height, width, 3], float32 in [0, 1] or uint8 -> float32 [B, K].

        Pictures of another size are resized, antialiased, as they are: not cropped.
        """
        images, found = np.asarray(images), []
        for start in range(0, len(images), batch_size):
            rows = np.arange(start, start + batch_size) % len(images)
            found.append(np.asarray(self._probabilities(self.params, images[rows])))
        return np.concatenate(found)[: len(images)]

    @functools.cached_property
    def _probabilities(self):
        def classify(params, images):
            images = to_float(images)
            shape = (images.shape[0], *self.classifier.config.image_size, 3)
            if images.shape != shape:
                images = jnp.clip(jax.image.resize(images, shape, "bilinear"), 0.0, 1.0)
            return jax.nn.softmax(self.classifier.logits(params, images))

        return jax.jit(classify)
