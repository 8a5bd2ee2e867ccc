"""How crisp a tokenizer gives back the pictures of the shapes world."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from babeldraw.config import require_positive
from babeldraw.data.image import to_grid
from babeldraw.evaluation.base import Context, HeldOut, Value
from babeldraw.evaluation.crispness import crisp_share
from babeldraw.evaluation.pictures import (
    open_pictures,
    picture_batches,
    picture_pairs,
    place_pictures,
)
from babeldraw.objectives.base import TrainState


@dataclasses.dataclass(frozen=True)
class OutlinesConfig:
    """Attributes:
    num_examples: held-out pictures.
    batch_size: pictures at a time.
    num_shown: pictures in the grid, four times as large.
    """

    num_examples: int = 256
    batch_size: int = 64
    num_shown: int = 8

    def __post_init__(self):
        require_positive(self, "config.evaluators.outlines")

    def tiny(self) -> "OutlinesConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_examples=8, batch_size=8)


class Outlines(HeldOut):
    """`crisp`, the share of reconstructions whose outlines are crisp, and the grid `enlarged`.

    Args:
      reconstruct: (state, batch) -> (images [B, height, width, 3] in [0, 1], codes).
    """

    def __init__(self, reconstruct: Callable, config: OutlinesConfig, context: Context):
        self._reconstruct = jax.jit(lambda state, batch: reconstruct(state, batch)[0])
        self._config, self._context = config, context

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        source, config = open_pictures(self._context), self._config
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        for batch in picture_batches(source, self._config, self._context):
            placed = place_pictures(batch, self._context)
            pairs += picture_pairs(placed, self._reconstruct(state, placed))
        # All of the source can be read: it draws them itself.
        captions = [source[place].caption for place in range(len(pairs))]
        yield "crisp", crisp_share([image for _, image in pairs], captions)
        pairs = [picture for pair in pairs[: config.num_shown] for picture in pair]
        large = np.stack(pairs).repeat(4, axis=1).repeat(4, axis=2)
        yield "enlarged", to_grid(large, 4)
