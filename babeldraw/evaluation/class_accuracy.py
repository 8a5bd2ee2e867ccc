"""How often an independent classifier agrees with the class that a picture was drawn of."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from babeldraw.config import require
from babeldraw.drawing.classifier_judge import ClassifierJudge
from babeldraw.drawing.judging import best
from babeldraw.evaluation.base import Context, Value
from babeldraw.evaluation.drawn import Drawn
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import Speed, guidance_of, of_drawing
from babeldraw.objectives.base import TrainState


@dataclasses.dataclass(frozen=True)
class ClassAccuracyConfig:
    """Attributes:
    classifier_run: run folder of a classifier trained on real pictures, such as one of
      configs/digits/classifier.py; empty leaves the evaluator out.
    num: pictures of each class.
    batch_size: pictures at a time.
    acceptance: share of the drawn pictures that the classifier keeps, in (0, 1]; 1 is no
      rejection, 0.5 that of ViT-VQGAN (2022, section 5.2; after Razavi et al., "VQ-VAE-2", 2019,
      section 3.4). Rejection and judgement are then by one classifier.
    sampling: fields of `config.sampling` that are others here; the paper's are all off.
    """

    classifier_run: str = ""
    num: int = 32
    batch_size: int = 64
    acceptance: float = 1.0
    sampling: Any = None

    def __post_init__(self):
        path = "config.evaluators.class_accuracy"
        for name in ("num", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"{path}.{name} is {value}; at least 1 is needed")
        require(
            0 < self.acceptance <= 1,
            f"{path}.acceptance is {self.acceptance}; a share in (0, 1] is needed",
        )

    def tiny(self) -> "ClassAccuracyConfig":
        # No classifier is asked of a first run.
        return dataclasses.replace(self, classifier_run="")

    @property
    def drawn(self) -> int:
        """Pictures of each class so that `num` are accepted."""
        return math.ceil(round(self.num / self.acceptance, 9))


class ClassAccuracy:
    """`accuracy`: share of the pictures whose class the classifier takes for its likeliest.

    With a guidance other than 1 that without guidance as well (`accuracy_without_guidance`).

    `accuracy_accepted`, where pictures are rejected: the same of those that stay. `worst_class`
    and `worst_accuracy` tell where most goes wrong.
    """

    def __init__(self, generate: Callable, config: ClassAccuracyConfig, context: Context):
        self._drawn = Drawn(generate, context)
        self._config, self._num_classes = config, context.condition.num_classes
        self._classifier = ClassifierJudge.open(config.classifier_run)
        path = f"config.evaluators.class_accuracy.classifier_run={config.classifier_run}"
        self._classifier.check_knows(self._num_classes, context.classes, path)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        config, each, class_N = self._config, self._config.drawn, self._classes()
        probability_NK = self._probabilities(state, config.sampling)
        right_N = probability_NK.argmax(axis=-1) == class_N
        yield "accuracy", mean_figure(right_N)
        per_class = right_N.reshape(self._num_classes, each).mean(axis=1)
        yield "worst_class", float(per_class.argmin())
        yield "worst_accuracy", float(per_class.min())
        if config.acceptance < 1:
            score_N = np.take_along_axis(probability_NK, class_N[:, None], axis=-1)[:, 0]
            rows = score_N.reshape(self._num_classes, each)
            kept = [start * each + best(row, config.num) for start, row in enumerate(rows)]
            yield "accuracy_accepted", mean_figure(right_N[np.concatenate(kept)])
        if config.sampling.guidance != 1:
            plain = dataclasses.replace(config.sampling, guidance=1.0)
            found_N = self._probabilities(state, plain).argmax(axis=-1)
            yield "accuracy_without_guidance", mean_figure(found_N == class_N)

    def protocol(self) -> dict[str, Any]:
        sampling = self._config.sampling
        return of_drawing(self._words(), sampling, guidance_of(sampling))

    @property
    def speed(self) -> Speed:
        return self._drawn.speed

    def _classes(self) -> np.ndarray:
        """int32 [N]: the class of each picture."""
        return np.repeat(np.arange(self._num_classes, dtype=np.int32), self._config.drawn)

    def _words(self) -> list[str]:
        return [f"#{label}" for label in self._classes()]

    def _probabilities(self, state: TrainState, sampling: Any) -> np.ndarray:
        """What the classifier thinks of drawn pictures, float [N, K]."""
        size = self._config.batch_size
        images = self._drawn.draw(state, self._words(), sampling, size)
        return self._classifier.probabilities(images, size)
