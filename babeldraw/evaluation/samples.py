"""A grid of drawn pictures, to look at while a generator trains."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from babeldraw.config import require
from babeldraw.data.image import to_grid
from babeldraw.data.text import caption_at
from babeldraw.evaluation.base import Context, HeldOut, Value, open_held_out
from babeldraw.evaluation.drawn import Drawn
from babeldraw.evaluation.protocol import Speed, of_drawing
from babeldraw.objectives.base import TrainState


@dataclasses.dataclass(frozen=True)
class SamplesConfig:
    """Attributes:
    ask: what to draw, in words, such as prompts or classes; empty: the first things there are, of
      texts the captions of held-out data.
    num: of these, when `ask` is empty.
    each: pictures of each, side by side.
    sampling: fields of `config.sampling` that are others here.
    """

    ask: tuple[Any, ...] = ()
    num: int = 16
    each: int = 1
    sampling: Any = None

    def __post_init__(self):
        for name in ("num", "each"):
            value = getattr(self, name)
            require(
                value >= 1, f"config.evaluators.samples.{name} is {value}; at least 1 is needed"
            )

    def tiny(self) -> "SamplesConfig":
        return dataclasses.replace(self, num=2)


class Samples(HeldOut):
    """`grid`: always from the same seeds."""

    def __init__(self, generate: Callable, config: SamplesConfig, context: Context):
        self._drawn = Drawn(generate, context)
        self._config, self._context = config, context

    def check(self) -> None:
        if self._config.ask:
            for word in self._config.ask:
                self._context.condition.ask(word, self._context.lexicon)
        elif self._reads_captions:
            super().check()

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        config, words = self._config, self._words()
        images = self._drawn.draw(state, self._each(), config.sampling)
        yield "grid", to_grid(images, config.each if config.each > 1 else min(8, len(words)))

    def protocol(self) -> dict[str, Any]:
        sampling = self._config.sampling
        return of_drawing(self._each(), sampling, [sampling.guidance])

    @property
    def speed(self) -> Speed:
        return self._drawn.speed

    def _each(self) -> list[Any]:
        """What each picture is drawn of."""
        return [word for word in self._words() for _ in range(self._config.each)]

    @property
    def _reads_captions(self) -> bool:
        return self._context.text_length > 0

    def _words(self) -> list[Any]:
        config, captions = self._config, []
        if config.ask:
            return list(config.ask)
        if self._reads_captions:
            source = open_held_out(self._context)
            captions = [caption_at(c, 0) for c in itertools.islice(source.captions(), config.num)]
        return self._context.condition.first(config.num, captions)
