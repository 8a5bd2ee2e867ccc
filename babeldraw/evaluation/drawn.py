"""What evaluators that draw have in common."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from babeldraw.data.image import to_uint8
from babeldraw.evaluation.base import Context
from babeldraw.evaluation.protocol import Speed
from babeldraw.models.condition import stacked
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import whole


class Drawn:
    """Draws what words ask for, a batch at a time.

    Args:
      generate: of the objective's `predict_fns`.
      context: of the run.

    Attributes:
      speed: of drawing, all there was so far.
    """

    def __init__(self, generate: Callable, context: Context):
        self._generate = jax.jit(generate, static_argnums=4)
        self._context = context
        self.speed = Speed()

    def draw(
        self, state: TrainState, words: Sequence[Any], sampling: Any, batch_size: int = 0
    ) -> np.ndarray:
        """uint8 [N, height, width, 3], one picture of each word, with the seeds 0 to N - 1.

        Args:
          state: as training leaves it.
          words: as the condition takes them.
          sampling: of the prediction.
          batch_size: pictures at a time; 0: all.
        """
        size = batch_size or len(words)
        parts = [to_uint8(part) for part in self.batches(state, words, sampling, size)]
        return np.concatenate(parts)

    def batches(
        self,
        state: TrainState,
        words: Sequence[Any],
        sampling: Any,
        batch_size: int,
        first_batch: int = 0,
    ) -> Iterator[np.ndarray]:
        """The same a batch at a time, float32 near [0, 1], from the batch `first_batch` on."""
        asked = {
            repr(word): self._context.condition.ask(word, self._context.lexicon).row
            for word in words
        }
        rows, size = [asked[repr(word)] for word in words], batch_size
        for start in range(first_batch * size, len(rows), size):
            # The last batch is padded: another shape would be another compilation.
            seeds = np.arange(start, start + size)
            batch = stacked([rows[seed % len(rows)] for seed in seeds])
            keys_B = jax.vmap(jax.random.key)(seeds)
            with self.speed.batch(size):
                traced, guided = sampling.traced(), sampling.guided
                drawn = whole(self._generate(state, batch, keys_B, traced, guided))
            yield drawn[: len(rows) - start]
