"""The contract of evaluators."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from jax.sharding import Mesh

from babeldraw.data.sources import DataConfig
from babeldraw.data.text import Vocabulary
from babeldraw.objectives.base import TrainState

Value = float | np.ndarray


class Evaluator(Protocol):
    """Judges a state. Every host yields the same names in the same order."""

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        """Figures (float) and pictures (uint8 [H, W, 3])."""
        ...


@dataclasses.dataclass(frozen=True)
class Context:
    """What any evaluator may need beside its own config.

    Attributes:
      data: where held-out examples come from.
      image_size: (height, width).
      seed: of the run.
      mesh: over which batches are split.
      vocabulary, text_length: of a text-to-image run.
    """

    data: DataConfig
    image_size: tuple[int, int]
    seed: int
    mesh: Mesh
    vocabulary: Vocabulary | None = None
    text_length: int = 0
