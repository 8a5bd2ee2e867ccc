"""Stage 2: next-token prediction of image tokens from text (Parti, section 5.4)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.models import babeldraw, vim
from babeldraw.objectives.base import Batch
from babeldraw.objectives.next_token import NextTokenObjective


@dataclasses.dataclass(frozen=True)
class TextToImageLossConfig:
    """Attributes:
    prompt_dropout: share of prompts replaced by padding, which teaches the unconditional branch of
      classifier-free guidance. Not published for Babeldraw; 0.1 is usual.
    """

    prompt_dropout: float = 0.1

    def __post_init__(self):
        require(
            0 <= self.prompt_dropout <= 1,
            f"config.loss.prompt_dropout is {self.prompt_dropout}; a share in [0, 1] is needed",
        )


@dataclasses.dataclass(frozen=True)
class TextToImageObjective(NextTokenObjective):
    """`model` is a `BabeldrawConfig`, or a `TextVIMConfig`: text and image in one decoder.

    A batch holds `text` int32 [B, S], and `image` [B, height, width, 3] or `tokens` int32 [B, T].
    """

    @functools.cached_property
    def _generator(self) -> babeldraw.Generator | vim.Generator:
        room = vim if isinstance(self.model, vim.TextVIMConfig) else babeldraw
        return room.Generator(self.model, self._tokenizer.codes)

    @property
    def _dropped_share(self) -> float:
        return self.loss.prompt_dropout

    def _condition_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        text = (self.batch_size, self.model.text_length)
        return {"text": jax.ShapeDtypeStruct(text, jnp.int32)}

    def _condition(self, batch: Batch) -> jax.Array:
        return batch["text"]
