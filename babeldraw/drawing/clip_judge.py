"""CLIP as the judge of pictures that were drawn from texts: a file of weights, and its words."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.data.clip_words import ClipWords
from babeldraw.drawing.text_judge import TextJudge
from babeldraw.judges.clip import CLIP, CLIPS, CLIPConfig, clip_shapes, prepared
from babeldraw.layers.linear import l2_normalize
from babeldraw.runs.weights import read_metadata, read_params


@dataclasses.dataclass(frozen=True)
class CLIPJudge(TextJudge):
    """See `TextJudge`; pictures are prepared as OpenAI's code does.

    Attributes:
      kind: of the weights, which tells the size.
      config: of the network.
      params: of both towers.
      words: its tokens.
    """

    kind: str
    config: CLIPConfig
    params: Any
    words: ClipWords

    title = "CLIP"

    @classmethod
    def open(cls, file: str, name: str = "judge") -> "CLIPJudge":
        """Reads what `babeldraw import --kind=clip_b32`, or another size's, wrote.

        Args:
          file: its path; CLIP's words lie beside it, see `ClipWords`.
          name: what the user calls it.

        Raises:
          UserError: it cannot be read or is no CLIP's, or the words are missing or of another.
        """
        kind = read_metadata(file, name).get("kind", "")
        require(
            kind in CLIPS,
            f"{name}={file} holds weights of {kind or 'no named kind'}; name a file that "
            f"`babeldraw import` wrote of one of {', '.join(CLIPS)}",
        )
        config, words = CLIPS[kind], ClipWords.beside(file)
        require(
            words.size == config.words,
            f"CLIP's words beside {file} are {words.size} and the network has {config.words}: they "
            "are of another vocabulary",
        )
        params = read_params(file, name, clip_shapes(config))["clip"]
        return cls(kind, config, params, words)

    @property
    def limit(self) -> int:
        # Beside its start and end.
        return self.config.length - 2

    def pieces(self, text: str) -> int:
        return len(self.words.tokens(text))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.words.encode(texts, self.config.length)

    def agreement(self, params: Any, images: jax.Array, text_BS: jax.Array) -> jax.Array:
        # A TPU would round each product to bfloat16: scores would differ from device to device.
        with jax.default_matmul_precision("highest"), jax.named_scope("clip"):
            pair = CLIP(self.config).apply({"params": params}, prepared(images), text_BS)
        image_BE, text_BE = map(l2_normalize, pair)
        return jnp.sum(image_BE * text_BE, axis=-1)
