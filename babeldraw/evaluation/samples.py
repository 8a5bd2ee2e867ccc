"""A grid of drawn prompts, to look at while a generator trains."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import to_grid, to_uint8
from babeldraw.evaluation.base import Context, HeldOut, Value, open_held_out
from babeldraw.objectives.base import TrainState
from babeldraw.prediction.logits import SamplingConfig, Settings
from babeldraw.sharding.batch import whole


@dataclasses.dataclass(frozen=True)
class SamplesConfig:
    """Attributes:
    prompts: what to draw; empty: the first captions of the held-out data.
    num: pictures when `prompts` is empty.
    sampling: temperature, filters, guidance.
    """

    prompts: tuple[str, ...] = ()
    num: int = 16
    sampling: SamplingConfig = SamplingConfig(guidance=1.5)

    def __post_init__(self):
        require(self.num >= 1, f"config.evaluators.samples.num is {self.num}; at least 1 is needed")


class Samples(HeldOut):
    """`grid`: a picture of each prompt, always from the same seeds."""

    def __init__(self, generate: Callable, config: SamplesConfig, context: Context):
        self._generate = jax.jit(generate)
        self._config, self._context = config, context

    def check(self) -> None:
        if not self._config.prompts:
            super().check()

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        context, prompts = self._context, self._prompts()
        text = context.vocabulary.encode(prompts, context.text_length)
        keys_B = jax.vmap(jax.random.key)(np.arange(len(prompts)))
        images = self._generate(state, text, keys_B, Settings.of(self._config.sampling))
        yield "grid", to_grid(to_uint8(whole(images)), min(8, len(prompts)))

    def _prompts(self) -> list[str]:
        if self._config.prompts:
            return list(self._config.prompts)
        source = open_held_out(self._context)
        return list(itertools.islice(source.captions(), self._config.num))
