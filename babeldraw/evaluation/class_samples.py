"""Pictures drawn by class: a grid to look at, and how often an independent classifier agrees."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import to_grid, to_uint8
from babeldraw.drawing.class_sampler import check_classes
from babeldraw.drawing.classifier import ClassifierRun
from babeldraw.drawing.rejection import drawn_for, most_likely
from babeldraw.evaluation.base import Context, Value
from babeldraw.objectives.base import TrainState
from babeldraw.prediction.logits import SamplingConfig, Settings
from babeldraw.sharding.batch import whole


@dataclasses.dataclass(frozen=True)
class ClassSamplesConfig:
    """Attributes:
    classes: what to draw, a row each; empty: the first classes there are. The number of classes
      is the no-class, which is all that an unconditional model has.
    rows: of the grid, when `classes` is empty.
    num: pictures of each class.
    sampling: temperature, filters, guidance.
    """

    classes: tuple[int, ...] = ()
    rows: int = 10
    num: int = 8
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self):
        for name in ("rows", "num"):
            value = getattr(self, name)
            require(
                value >= 1, f"config.evaluators.samples.{name} is {value}; at least 1 is needed"
            )


@dataclasses.dataclass(frozen=True)
class ClassAccuracyConfig:
    """Attributes:
    classifier_run: run folder of a classifier trained on real pictures, such as one of
      configs/digits/classifier.py; empty leaves the evaluator out.
    num: pictures of each class.
    batch_size: pictures at a time.
    acceptance: share of the drawn pictures that rejection by the classifier keeps, in (0, 1]; 1 is
      no rejection, 0.5 that of the paper. Rejection and judgement are then by one classifier.
    sampling: temperature, filters, guidance; the paper's are all off.
    """

    classifier_run: str = ""
    num: int = 32
    batch_size: int = 64
    acceptance: float = 1.0
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self):
        path = "config.evaluators.class_accuracy"
        for name in ("num", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"{path}.{name} is {value}; at least 1 is needed")
        require(
            0 < self.acceptance <= 1,
            f"{path}.acceptance is {self.acceptance}; a share in (0, 1] is needed",
        )


class ClassSamples:
    """`grid`: pictures of each class, a row each, always from the same seeds."""

    def __init__(
        self, generate: Callable, config: ClassSamplesConfig, context: Context, num_classes: int
    ):
        check_classes(config.classes, num_classes, "config.evaluators.samples.classes")
        first = range(min(config.rows, num_classes)) if num_classes else (0,)
        self._classes = config.classes or tuple(first)
        self._generate = jax.jit(generate)
        self._config = config

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        count, settings = self._config.num, Settings.of(self._config.sampling)
        class_B = np.repeat(np.array(self._classes, np.int32), count)
        keys_B = jax.vmap(jax.random.key)(np.arange(len(class_B)))
        images = self._generate(state, class_B, keys_B, settings)
        yield "grid", to_grid(to_uint8(whole(images)), count)


class ClassAccuracy:
    """`accuracy`: share of the pictures whose class the classifier takes for its likeliest.

    `accuracy_accepted`, where pictures are rejected: the same of those that stay. `worst_class`
    and `worst_accuracy` tell where most goes wrong.
    """

    def __init__(
        self, generate: Callable, config: ClassAccuracyConfig, context: Context, num_classes: int
    ):
        self._generate = jax.jit(generate)
        self._config, self._num_classes = config, num_classes
        self._classifier = ClassifierRun.open(config.classifier_run)
        path = f"config.evaluators.class_accuracy.classifier_run={config.classifier_run}"
        self._classifier.check_knows(num_classes, context.classes, path)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        config = self._config
        each = drawn_for(config.num, config.acceptance)
        class_N = np.repeat(np.arange(self._num_classes, dtype=np.int32), each)
        probability_NK = np.concatenate(
            [
                self._classifier.probabilities(images)
                for images in self._draw(state, class_N, config.batch_size)
            ]
        )[: len(class_N)]
        right_N = probability_NK.argmax(axis=-1) == class_N
        yield "accuracy", float(right_N.mean())
        per_class = right_N.reshape(self._num_classes, each).mean(axis=1)
        yield "worst_class", float(per_class.argmin())
        yield "worst_accuracy", float(per_class.min())
        if config.acceptance < 1:
            score_N = np.take_along_axis(probability_NK, class_N[:, None], axis=-1)[:, 0]
            rows = score_N.reshape(self._num_classes, each)
            kept = [start * each + most_likely(row, config.num) for start, row in enumerate(rows)]
            yield "accuracy_accepted", float(right_N[np.concatenate(kept)].mean())

    def _draw(self, state: TrainState, class_N: np.ndarray, size: int) -> Iterator[jax.Array]:
        settings = Settings.of(self._config.sampling)
        for start in range(0, len(class_N), size):
            # The last batch is padded: another shape would be another compilation.
            rows = np.arange(start, start + size)
            keys_B = jax.vmap(jax.random.key)(rows)
            yield self._generate(state, class_N[rows % len(class_N)], keys_B, settings)
