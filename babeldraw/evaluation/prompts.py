"""Draws held-out prompts of the shapes world and lets a program judge the pictures."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from babeldraw.config import require
from babeldraw.data import shapes
from babeldraw.data.image import to_grid
from babeldraw.evaluation.base import Context, Value
from babeldraw.evaluation.crispness import crisp_share
from babeldraw.evaluation.drawn import Drawn
from babeldraw.evaluation.protocol import Speed, guidance_of, of_drawing
from babeldraw.evaluation.shapes_scorer import score_batch
from babeldraw.objectives.base import TrainState

# Captions of scenes whose colour-shape pairs were seen, and of scenes with a pair never seen.
SPLITS = {"seen": "test", "unseen": "unseen"}


@dataclasses.dataclass(frozen=True)
class PromptsConfig:
    """Attributes:
    num_prompts: of each kind, seen and unseen.
    batch_size: pictures at a time.
    sampling: fields of `config.sampling` that are others here; its guidance is the one reported as
      `exact_*`.
    num_shown: pictures in the grid.
    """

    num_prompts: int = 256
    batch_size: int = 64
    sampling: Any = None
    num_shown: int = 16

    def __post_init__(self):
        for name in ("num_prompts", "batch_size", "num_shown"):
            value = getattr(self, name)
            require(
                value >= 1, f"config.evaluators.prompts.{name} is {value}; at least 1 is needed"
            )

    def tiny(self) -> "PromptsConfig":
        return dataclasses.replace(self, num_prompts=8, batch_size=8)


class Prompts:
    """Shares of pictures that are right: `exact_seen`, `exact_unseen`, each attribute, pictures.

    `crisp_seen` and `crisp_unseen`: shares whose objects are right and crisp of outline.

    With a guidance other than 1 the same is measured without guidance as well
    (`exact_seen_without_guidance`, ...).
    """

    def __init__(self, generate: Callable, config: PromptsConfig, context: Context):
        self._drawn = Drawn(generate, context)
        self._config, self._context = config, context

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        sampling = self._config.sampling
        yield "guidance", sampling.guidance
        for kind, split in SPLITS.items():
            captions = held_out_captions(split, self._config.num_prompts, self._context.seed)
            images = self._draw(state, captions, sampling)
            for name, value in score_batch(images, captions).items():
                yield f"{name}_{kind}", value
            yield f"crisp_{kind}", crisp_share(images, captions)
            yield f"samples_{kind}", _grid(images, self._config.num_shown)
            if sampling.guidance != 1:
                plain = dataclasses.replace(sampling, guidance=1.0)
                scores = score_batch(self._draw(state, captions, plain), captions)
                yield f"exact_{kind}_without_guidance", scores["exact"]

    def protocol(self) -> dict[str, Any]:
        sampling, config = self._config.sampling, self._config
        captions = [
            held_out_captions(split, config.num_prompts, self._context.seed)
            for split in SPLITS.values()
        ]
        guidance = guidance_of(sampling)
        of = [of_drawing(words, sampling, guidance) for words in captions]
        return dict(zip(SPLITS, of, strict=True))

    @property
    def speed(self) -> Speed:
        return self._drawn.speed

    def _draw(self, state: TrainState, captions: list[str], sampling: Any) -> np.ndarray:
        return self._drawn.draw(state, captions, sampling, self._config.batch_size)


def held_out_captions(split: str, count: int, seed: int) -> list[str]:
    """Captions of a split of the shapes world, as often one object as two."""
    rng = np.random.default_rng([seed, 1])
    return [shapes.sample_scene(rng, split).caption() for _ in range(count)]


def _grid(images: np.ndarray, count: int) -> np.ndarray:
    count = min(count, len(images))
    return to_grid(images[:count], min(8, count))
