"""What judges of pictures by the texts that they were drawn from have in common."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.models.condition import Asked, Condition, Lexicon
from babeldraw.tokenizers.pixels import CHANNELS

# Pictures are scored so many at a time, and the last ones padded: one program, bounded memory.
BATCH_SIZE = 16


class TextJudge:
    """Scores by how well picture and text agree.

    Most by the cosine of their two embeddings, in [-1, 1].

    Attributes:
      title: what it is, as in "a contrastive captioner".
      params: of its network, an argument of the program.
    """

    title: str
    params: Any

    @property
    def limit(self) -> int:
        """Tokens of a text that it reads."""
        raise NotImplementedError

    def pieces(self, text: str) -> int:
        """Tokens that a text has for it."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [B, S], as `agreement` takes them."""
        raise NotImplementedError

    def agreement(self, params: Any, images: jax.Array, text_BS: jax.Array) -> jax.Array:
        """float32 [B], of B pictures as `score` takes them and as many texts."""
        raise NotImplementedError

    def check(self, condition: Condition, lexicon: Lexicon) -> None:
        """As `Judge`."""
        require(
            condition.text_length > 0,
            f"{self.title} judges what is drawn from texts and the run draws from "
            f"{condition.drawn_from}; name a classifier's run",
        )

    def notes(self, asked: Asked) -> tuple[str, ...]:
        """As `Judge`."""
        pieces = self.pieces(asked.text or "")
        if pieces <= self.limit:
            return ()
        return (
            f"the judge reads {self.limit} of the {pieces} tokens that the prompt has for it: "
            f"{asked.text[:60]!r}...",
        )

    def score(self, images: np.ndarray, asked: Sequence[Asked]) -> np.ndarray:
        """As `Judge`; pictures of another size than the network's are brought to it.

        Raises:
          UserError: images of another form, or another number of texts.
        """
        images = np.asarray(images)
        require(
            images.ndim == 4
            and images.shape[-1] == CHANNELS
            and images.dtype in (np.float32, np.uint8),
            f"images to score have shape {images.shape} and type {images.dtype}; "
            "[B, height, width, 3] is needed, uint8, or float32 in [0, 1]",
        )
        require(
            len(images) == len(asked),
            f"images and texts to score are {len(images)} and {len(asked)}; give as many of each",
        )
        text = self.encode([one.text or "" for one in asked])
        scores = [np.zeros(0, np.float32)]
        for start in range(0, len(images), BATCH_SIZE):
            rows = np.arange(start, start + BATCH_SIZE) % len(images)
            scores.append(np.asarray(self._program(self.params, images[rows], text[rows])))
        return np.concatenate(scores)[: len(images)]

    @functools.cached_property
    def _program(self):
        return jax.jit(self.agreement)
