"""A trained contrastive captioner as the judge of pictures that were drawn from texts."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import build, require
from babeldraw.data.text import Vocabulary
from babeldraw.models.coca import CoCaConfig, ContrastiveCaptioner
from babeldraw.models.condition import Asked, Condition, Lexicon
from babeldraw.runs.opened import open_part
from babeldraw.tokenizers.pixels import CHANNELS, to_float

# Pictures are scored so many at a time, and the last ones padded: one program, bounded memory.
BATCH_SIZE = 16


def read_captioner(config: Mapping[str, Any]) -> ContrastiveCaptioner:
    """The network of a run's config."""
    return ContrastiveCaptioner(build(CoCaConfig, config["model"], "config.model"))


@dataclasses.dataclass(frozen=True)
class CaptionerJudge:
    """Scores by the cosine of the two embeddings of picture and text, in [-1, 1].

    Attributes:
      captioner: the network.
      params: of the newest checkpoint.
      vocabulary: of the texts.
    """

    captioner: ContrastiveCaptioner
    params: Any
    vocabulary: Vocabulary

    @classmethod
    def open(cls, workdir: str) -> "CaptionerJudge":
        """Reads a run folder. Raises `UserError` when it is none of a contrastive captioner."""
        opened = open_part(workdir, ("contrastive_captioner",), read_captioner)
        vocabulary = Vocabulary.of_run(opened.folder, opened.part.config.text_vocab_size)
        return cls(opened.part, opened.params, vocabulary)

    def check(self, condition: Condition, lexicon: Lexicon) -> None:
        require(
            condition.text_length > 0,
            "a contrastive captioner judges what is drawn from texts and the run draws from "
            f"{condition.drawn_from}; name a classifier's run",
        )

    def notes(self, asked: Asked) -> tuple[str, ...]:
        (pieces,) = self.vocabulary.lengths([asked.text])
        limit = self.captioner.config.text_length
        if pieces <= limit:
            return ()
        return (
            f"the judge reads {limit} of the {pieces} tokens that the prompt has for it: "
            f"{asked.text[:60]!r}...",
        )

    def score(self, images: np.ndarray, asked: Sequence[Asked]) -> np.ndarray:
        """As `Judge`; pictures of another size than the captioner's are resized to it.

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
        texts = [one.text or "" for one in asked]
        text = self.vocabulary.encode(texts, self.captioner.config.text_length)
        scores = [np.zeros(0, np.float32)]
        for start in range(0, len(images), BATCH_SIZE):
            rows = np.arange(start, start + BATCH_SIZE) % len(images)
            scores.append(np.asarray(self._program(self.params, images[rows], text[rows])))
        return np.concatenate(scores)[: len(images)]

    @functools.cached_property
    def _program(self):
        def cosine(params, images, text_BS):
            images = to_float(images)
            size = (images.shape[0], *self.captioner.config.image_size, CHANNELS)
            if images.shape != size:
                resized = jax.image.resize(images, size, "bilinear", antialias=True)
                images = jnp.clip(resized, 0.0, 1.0)
            image_BQ = self.captioner.embed_images(params, images)
            return jnp.sum(image_BQ * self.captioner.embed_text(params, text_BS), axis=-1)

        return jax.jit(cosine)
