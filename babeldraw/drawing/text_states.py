"""Captions as the states of their words, by the encoder that a tokenizer was trained beside."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from babeldraw.data.text import Vocabulary
from babeldraw.data.vocabularies import vocabulary_of
from babeldraw.models.condition import Condition
from babeldraw.models.kinds import read_condition
from babeldraw.runs.digest import digests
from babeldraw.runs.opened import Opened


@dataclasses.dataclass(frozen=True)
class TextStates:
    """Attributes:
    condition: of the run: how a text is read.
    frozen: parameters of what reads it, by name.
    vocabulary: of the run.
    """

    condition: Condition
    frozen: Mapping[str, Any]
    vocabulary: Vocabulary

    @classmethod
    def of(cls, opened: Opened) -> "TextStates | None":
        """Those of a run that was opened with `shapes`; None where it reads no captions."""
        condition = condition_of(opened.config)
        if condition is None or not condition.text_length:
            return None
        vocabulary = vocabulary_of(opened.folder, condition.vocabulary)
        return cls(condition, opened.frozen, vocabulary)

    def __call__(self, captions: Sequence[str]) -> jax.Array:
        """float32 [B, S, E]; of a caption that is too long the beginning is read."""
        ids = self.vocabulary.encode(captions, self.condition.text_length)
        return self._states(self.frozen, ids)

    def read_alike(self, frozen: Mapping[str, Any]) -> bool:
        """Whether another run's frozen networks, by name, have the weights that read texts here."""
        return all(
            name in frozen and _numbers(own) == _numbers(frozen[name])
            for name, own in self.frozen.items()
        )

    @functools.cached_property
    def _states(self):
        def states(frozen: Any, ids: np.ndarray) -> jax.Array:
            return self.condition.states(self.condition.encoded(frozen, ids))

        return jax.jit(states)


def _numbers(tree: Any) -> list[int]:
    return [int(number) for number in digests(tree)]


def condition_of(config: Mapping[str, Any]) -> Condition | None:
    """Of a tokenizer's config.json; runs from before there was one have none."""
    return read_condition(config) if "condition" in config else None


def shapes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the parameters of what reads a tokenizer's text, by name."""
    condition = condition_of(config)
    needs = {} if condition is None else condition.needs
    return {
        name: nn.unbox(jax.eval_shape(network.init, jax.random.key(0)))
        for name, network in needs.items()
    }
