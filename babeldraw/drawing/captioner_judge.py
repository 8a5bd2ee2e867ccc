"""A trained contrastive captioner as the judge of pictures that were drawn from texts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import build
from babeldraw.data.text import Vocabulary
from babeldraw.data.vocabularies import vocabulary_of
from babeldraw.drawing.text_judge import TextJudge
from babeldraw.models.coca import CoCaConfig, ContrastiveCaptioner
from babeldraw.runs.opened import open_part
from babeldraw.tokenizers.pixels import CHANNELS, to_float


def read_captioner(config: Mapping[str, Any]) -> ContrastiveCaptioner:
    """The network of a run's config."""
    return ContrastiveCaptioner(build(CoCaConfig, config["model"], "config.model"))


@dataclasses.dataclass(frozen=True)
class CaptionerJudge(TextJudge):
    """See `TextJudge`; pictures of another size than the captioner's are resized to it.

    Attributes:
      captioner: the network.
      params: of the newest checkpoint.
      vocabulary: of the texts.
    """

    captioner: ContrastiveCaptioner
    params: Any
    vocabulary: Vocabulary

    title = "a contrastive captioner"

    @classmethod
    def open(cls, workdir: str) -> "CaptionerJudge":
        """Reads a run folder. Raises `UserError` when it is none of a contrastive captioner."""
        opened = open_part(workdir, ("contrastive_captioner",), read_captioner)
        vocabulary = vocabulary_of(opened.folder, opened.part.config.text_vocab_size)
        return cls(opened.part, opened.params, vocabulary)

    @property
    def limit(self) -> int:
        return self.captioner.config.text_length

    def pieces(self, text: str) -> int:
        (pieces,) = self.vocabulary.lengths([text])
        return pieces

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.vocabulary.encode(texts, self.limit)

    def agreement(self, params: Any, images: jax.Array, text_BS: jax.Array) -> jax.Array:
        images = to_float(images)
        size = (images.shape[0], *self.captioner.config.image_size, CHANNELS)
        if images.shape != size:
            resized = jax.image.resize(images, size, "bilinear", antialias=True)
            images = jnp.clip(resized, 0.0, 1.0)
        image_BQ = self.captioner.embed_images(params, images)
        return jnp.sum(image_BQ * self.captioner.embed_text(params, text_BS), axis=-1)
