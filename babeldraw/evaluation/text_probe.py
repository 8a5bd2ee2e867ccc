"""What a text encoder has understood: a softmax layer on its frozen features, on a task of GLUE.

Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding", 2019: accuracy of SST-2, Matthews correlation of CoLA. Parti (section 2.3) finds its
encoder better at language before it has learned to draw than after; which features it takes is not
told.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from babeldraw.config import require, require_choice, require_positive, to_dict
from babeldraw.data.config import DataConfig
from babeldraw.data.fields import CaptionField
from babeldraw.data.pipeline import eval_batches
from babeldraw.data.records import Source, classes_of
from babeldraw.data.sources import open_texts
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context, Value
from babeldraw.evaluation.intervals import mean_figure, statistic_figure
from babeldraw.evaluation.linear_probe import OPTIMIZERS, probe_logits
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import place_batch, whole

PATH = "config.evaluators.text_probe"


@dataclasses.dataclass(frozen=True)
class TextProbeConfig:
    """Attributes:
    path: TFDS name of texts with a class label, such as `glue/sst2` or `glue/cola`; empty leaves
      the evaluator out.
    data_dir: as `data.data_dir`.
    split, eval_split: to train the layer on, and to judge it by; GLUE hides the labels of `test`.
    text: the feature that is read.
    num_train, num_test: texts, at most, of the two splits.
    epochs: passes over the training features.
    batch_size: of features in training, and of texts in making them.
    optimizer: adamw, or sgd with momentum 0.9; the rate falls to 0 on a cosine.
    learning_rate: at the start.
    weight_decay: decoupled, on the layer's matrix.
    """

    path: str = ""
    data_dir: str = ""
    split: str = "train"
    eval_split: str = "validation"
    text: str = "sentence"
    num_train: int = 20_000
    num_test: int = 5_000
    epochs: int = 20
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2

    def __post_init__(self):
        require_positive(self, PATH, "num_train", "num_test", "epochs", "batch_size")
        require(self.learning_rate > 0, f"{PATH}.learning_rate is {self.learning_rate}; above 0")
        require(self.weight_decay >= 0, f"{PATH}.weight_decay is {self.weight_decay}; at least 0")
        require_choice(self, "optimizer", OPTIMIZERS)

    def tiny(self) -> "TextProbeConfig":
        # No task is asked of a first run.
        return dataclasses.replace(self, path="")

    @property
    def data(self) -> DataConfig:
        """The texts, as data."""
        return DataConfig(
            source="tfds",
            path=self.path,
            split=self.split,
            eval_split=self.eval_split,
            data_dir=self.data_dir,
            caption_fields=(CaptionField(self.text),),
        )


class TextProbe:
    """`accuracy`; `matthews`, where there are two classes; `majority`, of the more frequent class.

    And `cut`, the share of the texts that have more pieces than the encoder reads. A text's
    features are the mean of the encoder's output over its pieces, padding left out.

    Args:
      features: (state, batch) -> float32 [B, D] of `text`, int32 [B, S].
      config, context: of the run, which reads texts.
    """

    def __init__(self, features: Callable, config: TextProbeConfig, context: Context):
        self._features = jax.jit(features)
        self._config, self._context = config, context

    def check(self) -> None:
        """Raises what opening either split would raise, and where there are no classes."""
        for split in (self._config.split, self._config.eval_split):
            self._open(split)

    def protocol(self) -> dict[str, Any]:
        """How it is measured."""
        return {"probe": to_dict(self._config), "features": "mean of the output over pieces"}

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        """The figures. Raises `UserError`: no text of a split has a label."""
        config = self._config
        train_ND, train_N, classes = self._examples(state, config.split, config.num_train)
        test_ND, test_N, _ = self._examples(state, config.eval_split, config.num_test)
        # The features of one layer.
        train_NLD, test_NLD = train_ND[:, None], test_ND[:, None]
        logits_NLK = probe_logits(train_NLD, train_N, test_NLD, classes, config)
        found_N = logits_NLK[:, 0].argmax(axis=-1)
        yield "accuracy", mean_figure(found_N == test_N)
        if classes == 2:
            yield (
                "matthews",
                statistic_figure(lambda rows: matthews(found_N[rows], test_N[rows]), len(test_N)),
            )
        yield "majority", float(np.mean(test_N == np.bincount(train_N).argmax()))
        yield "cut", self._cut()

    def _examples(
        self, state: TrainState, split: str, count: int
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Features of the first texts that have a label, float32 [N, D]; labels; classes."""
        context, source = self._context, self._open(split)
        features, labels = [], []
        for batch in eval_batches(
            source,
            batch_size=self._config.batch_size,
            image_size=context.image_size,
            vocabulary=context.vocabulary,
            text_length=context.text_length,
            num_examples=count,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            placed = place_batch({n: batch[n] for n in ("text", "label", "mask")}, context.mesh)
            label, mask = (whole(placed.pop(name)) for name in ("label", "mask"))
            kept = mask & (label >= 0)
            features.append(whole(self._features(state, placed))[kept])
            labels.append(label[kept])
        label = np.concatenate(labels)
        require(len(label) > 0, f"no text of {source.name} has a label; name another split")
        return np.concatenate(features), label, len(classes_of(source))

    def _cut(self) -> float:
        """Of the texts that judge the share that is cut."""
        context, source = self._context, self._open(self._config.eval_split)
        said = [*itertools.islice(source.captions(), self._config.num_test)]
        lengths = np.array(context.vocabulary.lengths(said))
        return float(np.mean(lengths > context.text_length))

    def _open(self, split: str) -> Source:
        """The texts of a split. Raises `UserError` where they have no classes."""
        try:
            source = open_texts(self._config.data, split, self._context.seed)
        except UserError as error:
            where = "split" if split == self._config.split else "eval_split"
            said = str(error).replace("data.caption_fields names", f"{PATH}.text names")
            said = said.replace("data.split=", f"{PATH}.{where}=")
            raise UserError(said.replace("data.path=", f"{PATH}.path=")) from error
        require(
            len(classes_of(source)) > 1,
            f"{PATH}.path={self._config.path!r} has no class label; name texts with some",
        )
        return source


def matthews(found_N: np.ndarray, label_N: np.ndarray) -> float:
    """Matthews correlation of two classes, in [-1, 1]; 0 where one of them is all there is.

    Matthews, 1975: of true and false positives and negatives.

    Args:
      found_N, label_N: int or bool, 0 or 1.
    """
    found_N, label_N = np.asarray(found_N, np.float64), np.asarray(label_N, np.float64)
    found_N, label_N = found_N - found_N.mean(), label_N - label_N.mean()
    # The same as Pearson's of two binary variables.
    spread = np.sqrt(np.sum(found_N**2) * np.sum(label_N**2))
    return float(np.sum(found_N * label_N) / spread) if spread > 0 else 0.0
