"""Scores drawn pictures against their prompts, so that the best of many can be kept.

Parti draws 16 pictures of each prompt and keeps the one that CoCa likes best (section 2.3).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import build, require
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.models.coca import CoCaConfig, ContrastiveCaptioner
from babeldraw.runs.checkpoints import on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder, weights_in
from babeldraw.tokenizers.vit_vqgan import CHANNELS

# Pictures are scored so many at a time, and the last ones padded: one program, bounded memory.
BATCH_SIZE = 16


class Scorer(Protocol):
    """Whatever tells how well a picture shows what its prompt says."""

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """One score a picture; of two pictures of one prompt the better has the higher.

        Args:
          images: float32 [B, height, width, 3] in [0, 1].
          prompts: the B prompts that they were drawn from.

        Returns:
          float32 [B].
        """
        ...


@dataclasses.dataclass(frozen=True)
class CoCaScorer:
    """Scores by a trained contrastive captioner: the cosine of its two embeddings, in [-1, 1].

    Attributes:
      captioner: the network.
      params: of the newest checkpoint.
      vocabulary: of the prompts.
      step: the checkpoint's.
    """

    captioner: ContrastiveCaptioner
    params: Any
    vocabulary: Vocabulary
    step: int

    @classmethod
    def from_run(cls, workdir: str) -> "CoCaScorer":
        """Reads a run's config, vocabulary and newest checkpoint.

        Raises:
          UserError: no such folder, a run of another kind, or no checkpoint yet.
        """
        folder = RunFolder.of(workdir)
        config = folder.read_config()
        if config["objective"] != "contrastive_captioner":
            raise UserError(
                f"{workdir} is a run of {config['objective']}; reranking needs one of "
                "contrastive_captioner"
            )
        captioner = ContrastiveCaptioner(build(CoCaConfig, config["model"], "config.model"))
        shapes = nn.unbox(jax.eval_shape(captioner.init, jax.random.key(0)))
        weights = weights_in(config)
        step, state = restore_subset(folder.checkpoints, {weights: on_first_device(shapes)})
        return cls(captioner, state[weights], Vocabulary(folder.vocabulary_file), step)

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """As `Scorer`; pictures of another size than the captioner's are resized to it.

        Raises:
          UserError: images of another form, or another number of prompts.
        """
        images = np.asarray(images)
        require(
            images.ndim == 4 and images.shape[-1] == CHANNELS and images.dtype == np.float32,
            f"images to score have shape {images.shape} and type {images.dtype}; float32 "
            "[B, height, width, 3] in [0, 1] is needed",
        )
        require(
            len(images) == len(prompts),
            f"images and prompts to score are {len(images)} and {len(prompts)}; give as many of "
            "each",
        )
        text = self.vocabulary.encode(list(prompts), self.captioner.config.text_length)
        scores = [np.zeros(0, np.float32)]
        for start in range(0, len(images), BATCH_SIZE):
            rows = np.arange(start, start + BATCH_SIZE) % len(images)
            scores.append(np.asarray(self._program(self.params, images[rows], text[rows])))
        return np.concatenate(scores)[: len(images)]

    def too_long(self, prompts: Sequence[str]) -> list[tuple[str, int]]:
        """Prompts of more tokens than the captioner reads, each with its number of tokens."""
        lengths, limit = self.vocabulary.lengths(prompts), self.captioner.config.text_length
        return [(p, n) for p, n in zip(prompts, lengths, strict=True) if n > limit]

    @functools.cached_property
    def _program(self):
        def cosine(params, images, text_BS):
            size = (images.shape[0], *self.captioner.config.image_size, CHANNELS)
            if images.shape != size:
                resized = jax.image.resize(images, size, "bilinear", antialias=True)
                images = jnp.clip(resized, 0.0, 1.0)
            image_BQ = self.captioner.embed_images(params, images)
            return jnp.sum(image_BQ * self.captioner.embed_text(params, text_BS), axis=-1)

        return jax.jit(cosine)


def best(scores: np.ndarray, keep: int) -> np.ndarray:
    """Indices of the `keep` highest of one prompt's scores [N], the best first.

    Raises:
      UserError: `keep` is not in [1, N].
    """
    require(
        1 <= keep <= len(scores),
        f"keep is {keep} of {len(scores)} pictures; a number from 1 to {len(scores)} is needed",
    )
    return np.argsort(-np.asarray(scores), kind="stable")[:keep]
