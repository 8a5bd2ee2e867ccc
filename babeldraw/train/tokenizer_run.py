"""A trained tokenizer, read from its run folder."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from babeldraw.drawing.tokenizers import open_tokenizer
from babeldraw.objectives.base import to_float
from babeldraw.tokenizers.base import Codes, Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerRun:
    """Attributes:
    tokenizer: the network.
    params: of the newest checkpoint.
    identity: of encoder and codebook; equal identities give equal tokens.
    """

    tokenizer: Tokenizer
    params: Any
    identity: str

    @classmethod
    def open(cls, workdir: str) -> "TokenizerRun":
        """Reads a run folder. Raises `UserError` when it is none of a tokenizer."""
        return cls(*open_tokenizer(workdir))

    @property
    def codes(self) -> Codes:
        return self.tokenizer.codes

    @property
    def image_size(self) -> tuple[int, int]:
        return self.tokenizer.image_size

    def encode(self, images: np.ndarray) -> jax.Array:
        """uint8 or float32 in [0, 1], [B, height, width, 3] -> codes."""
        return self._encode(self.params, images)

    def decode(self, ids: np.ndarray) -> jax.Array:
        """Codes -> float32 [B, height, width, 3] in [0, 1]."""
        return self._decode(self.params, ids)

    def reconstruct(self, images: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """As `encode` takes them -> float32 [B, height, width, 3] in [0, 1], and codes."""
        return self._reconstruct(self.params, images)

    @functools.cached_property
    def _encode(self):
        return jax.jit(lambda params, images: self.tokenizer.encode(params, to_float(images)))

    @functools.cached_property
    def _decode(self):
        return jax.jit(self.tokenizer.decode)

    @functools.cached_property
    def _reconstruct(self):
        return jax.jit(lambda params, images: self.tokenizer.reconstruct(params, to_float(images)))
