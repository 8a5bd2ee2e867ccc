"""The loss on held-out examples."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.pipeline import eval_batches
from babeldraw.evaluation.base import Context, HeldOut, Value, open_held_out
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import place_batch, whole


@dataclasses.dataclass(frozen=True)
class ValidationLossConfig:
    """Attributes:
    num_examples: held-out examples, at most.
    batch_size: examples at a time.
    """

    num_examples: int = 1024
    batch_size: int = 128

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(
                value >= 1,
                f"config.evaluators.validation_loss.{field.name} is {value}; at least 1 is needed",
            )

    def tiny(self) -> "ValidationLossConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_examples=8, batch_size=8)


class ValidationLoss(HeldOut):
    """`loss`: the mean over examples."""

    def __init__(self, loss: Callable, config: ValidationLossConfig, context: Context):
        self._loss = jax.jit(loss)
        self._config, self._context = config, context

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        context = self._context
        source = open_held_out(context)
        found: list[np.ndarray] = []
        for batch in eval_batches(
            source,
            batch_size=self._config.batch_size,
            image_size=context.image_size,
            vocabulary=context.vocabulary,
            text_length=context.text_length,
            num_examples=self._config.num_examples,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            names = ("image", "tokens", "text", "label", "states", "count", "mask")
            inputs = {name: batch[name] for name in names if name in batch}
            placed = place_batch(inputs, context.mesh)
            mask_B = whole(placed.pop("mask"))
            loss_B = whole(self._loss(state, placed))
            found.append(loss_B[mask_B])
        loss_N = np.concatenate(found)
        require(len(loss_N) > 0, f"no held-out record of {source.name} could be read")
        yield "loss", mean_figure(loss_N)
