"""What a generator, a sampler and an evaluator may know of any tokenizer."""

import dataclasses
import math
from typing import Any, Protocol

import jax


@dataclasses.dataclass(frozen=True)
class ImageTokens:
    """What a generator predicts: `shape` tokens, each one of `vocab_size` codes.

    Attributes:
      vocab_size: number of codes V.
      shape: (h, w) for a grid of tokens, (n,) for a one-dimensional sequence.
    """

    vocab_size: int
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens T."""
        return math.prod(self.shape)


class ImageTokenizer(Protocol):
    """Turns images into tokens and back.

    Attributes:
      tokens: their number, arrangement and vocabulary.
      image_size: (height, width) in pixels.
    """

    tokens: ImageTokens
    image_size: tuple[int, int]

    def encode(self, params: Any, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> int32 [B, number of tokens], raster order."""
        ...

    def decode(self, params: Any, ids: jax.Array) -> jax.Array:
        """int32 [B, number of tokens] -> float32 [B, height, width, 3] in [0, 1]."""
        ...
