"""How well a classifier does on held-out pictures."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np
from scipy.special import logsumexp

from babeldraw.config import require, require_positive
from babeldraw.evaluation.base import Context, HeldOut, Value
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.pictures import open_pictures, picture_batches
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import place_batch, whole


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """Attributes:
    num_examples: held-out pictures, at most.
    batch_size: pictures at a time.
    """

    num_examples: int = 1024
    batch_size: int = 128

    def __post_init__(self):
        require_positive(self, "config.evaluators.classification")

    def tiny(self) -> "ClassificationConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_examples=8, batch_size=8)


class Classification(HeldOut):
    """`accuracy`, top-1, and `loss`, the cross-entropy, over pictures that have a label."""

    def __init__(self, classify: Callable, config: ClassificationConfig, context: Context):
        self._classify = jax.jit(classify)
        self._config, self._context = config, context

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        source, right, loss = open_pictures(self._context), [], []
        for batch in picture_batches(source, self._config, self._context):
            names = ("image", "label", "mask")
            placed = place_batch({name: batch[name] for name in names}, self._context.mesh)
            mask_B, all_B = whole(placed.pop("mask")), whole(placed.pop("label"))
            counted_B = mask_B & (all_B >= 0)
            logits_BK = whole(self._classify(state, placed))[counted_B]
            label_B = all_B[counted_B]
            right.append(logits_BK.argmax(axis=-1) == label_B)
            own_B = np.take_along_axis(logits_BK, label_B[:, None], axis=-1)[:, 0]
            loss.append(logsumexp(logits_BK, axis=-1) - own_B)
        require(any(map(len, loss)), f"no held-out record of {source.name} has a label")
        yield "accuracy", mean_figure(np.concatenate(right))
        yield "loss", mean_figure(np.concatenate(loss))
