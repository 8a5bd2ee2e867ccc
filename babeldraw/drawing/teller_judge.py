"""A CogLM as the judge of pictures: how likely it holds the text, told of the picture.

CogView2's post-selection (`--inverse-prompt`): pictures are kept by the perplexity of their text,
the lowest first. The score is minus its logarithm, so that the best has the highest, as everywhere
(their own order turned round when a library changed the sign of the perplexity's logarithm).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.data.text import Vocabulary
from babeldraw.data.vocabularies import vocabulary_of
from babeldraw.drawing.drawer import open_drawer
from babeldraw.drawing.text_judge import TextJudge
from babeldraw.errors import UserError
from babeldraw.models.coglm_captioner import CogLMCaptioner, captioner_of
from babeldraw.models.condition import Asked
from babeldraw.models.kinds import read_generator
from babeldraw.prediction.next_token import NextToken
from babeldraw.runs.folder import RunFolder
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.kinds import read_tokenizer
from babeldraw.tokenizers.pixels import CHANNELS, to_float


@dataclasses.dataclass(frozen=True)
class TellerJudge(TextJudge):
    """See `TextJudge`; scores are mean log-probabilities of a text's pieces and its end.

    A picture is made codes by the run's tokenizer, one of another size is resized before.

    Attributes:
      captioner: the network.
      tokenizer: of its pictures.
      params: {"generator": ..., "tokenizer": ...}.
      vocabulary: of the texts.
      step: the checkpoint's.
    """

    captioner: CogLMCaptioner
    tokenizer: Tokenizer
    params: Any
    vocabulary: Vocabulary
    step: int = 0

    title = "a model that tells pictures"

    @classmethod
    def open(cls, workdir: str, weights: str = "") -> "TellerJudge":
        """Reads a run folder. Raises `UserError`: its network tells nothing."""
        config = RunFolder.to_read(workdir).read_config()
        # Before the weights are read, which takes long where there are many.
        generator = read_generator(config, read_tokenizer(config))
        captioner = captioner_of(generator)
        if captioner is None:
            raise UserError(
                f"{workdir} is a run of config.model.kind={generator.config.kind}, which tells no "
                "pictures; name one of coglm, or of a contrastive captioner"
            )
        drawer, opened = open_drawer(workdir, weights=weights)
        vocabulary = vocabulary_of(opened.folder, generator.condition.vocabulary)
        return cls(captioner, drawer.tokenizer, drawer.params, vocabulary, opened.step)

    @property
    def limit(self) -> int:
        return self.captioner.codes.length

    def pieces(self, text: str) -> int:
        (pieces,) = self.vocabulary.lengths([text])
        return pieces

    def notes(self, asked: Asked) -> tuple[str, ...]:
        """As `Judge`. Raises `UserError`: a text in letters that its pieces do not know."""
        text = asked.text or ""
        require(
            self.vocabulary.knows(text),
            f"most letters of the prompt {text[:60]!r} are not in the judge's vocabulary: it is of "
            "a language that the judge has not learned; name one that was trained on such texts",
        )
        if text.strip():
            return super().notes(asked)
        return ("an empty prompt is never told: what the judge says of its pictures means nothing",)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.vocabulary.encode(texts, self.limit)

    def agreement(self, params: Any, images: jax.Array, text_BS: jax.Array) -> jax.Array:
        images = to_float(images)
        size = (images.shape[0], *self.tokenizer.image_size, CHANNELS)
        if images.shape != size:
            images = jax.image.resize(images, size, "bilinear", antialias=True)
        codes = self.tokenizer.encode(params["tokenizer"], jnp.clip(images, 0.0, 1.0))
        return -NextToken().score(self.captioner, params["generator"], codes, text_BS)
