"""A trained tokenizer, read from its run folder."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from babeldraw.drawing import text_states
from babeldraw.drawing.text_states import TextStates
from babeldraw.errors import UserError
from babeldraw.runs.opened import open_part
from babeldraw.tokenizers.all_levels import CodesOfLevels
from babeldraw.tokenizers.base import Codes, Tokenizer, identity
from babeldraw.tokenizers.kinds import read_tokenizer
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class TokenizerRun:
    """Attributes:
    tokenizer: the network.
    params: of the newest checkpoint.
    identity: of what makes its codes; equal identities give equal codes.
    weights: `ema`, the average of the run's weights, or `params`.
    text: what makes of captions the states that the decoder draws beside; None where it needs none,
      or where Python alone has them: then take `tokenizer.decode`.
    """

    tokenizer: Tokenizer
    params: Any
    identity: str
    weights: str = "params"
    text: TextStates | None = None

    @classmethod
    def open(
        cls, workdir: str, codes_of: str = "", weights: str = "", level: str = ""
    ) -> "TokenizerRun":
        """Reads a run folder.

        Args:
          workdir: the folder, such as one of configs/vit_vqgan/decoder.py.
          codes_of: identity of the tokenizer whose codes it shall draw; empty: its own.
          weights: `ema` or `params`; empty: the average where the run keeps one.
          level: of the tokenizer's; empty: its first, most have one.

        Raises:
          UserError: it is none of a tokenizer, its codes are others, no such weights or level.
        """
        read = functools.partial(read_tokenizer, level=level)
        opened = open_part(
            workdir, ("image_tokenizer",), read, frozen=text_states.shapes, weights=weights
        )
        own = identity(opened.part, opened.params)
        if codes_of not in ("", own):
            raise UserError(
                f"the tokenizer {workdir} has the encoder and codebook {own} and the generator was "
                f"trained on {codes_of}; name a run whose decoder was trained for the same"
            )
        return cls(opened.part, opened.params, own, opened.weights, TextStates.of(opened))

    @property
    def codes(self) -> Codes:
        return self.tokenizer.codes

    @property
    def image_size(self) -> tuple[int, int]:
        return self.tokenizer.image_size

    def encode(self, images: np.ndarray) -> jax.Array:
        """uint8 or float32 in [0, 1], [B, height, width, 3] -> codes."""
        return self._encode(self.params, images)

    def sampled(self, images: np.ndarray, key: jax.Array) -> jax.Array:
        """The same of continuous codes, drawn in place of their means."""
        return self._sampled(self.params, images, key)

    def decode(self, ids: np.ndarray, captions: Sequence[str] | None = None) -> jax.Array:
        """Codes -> float32 [B, height, width, 3] in [0, 1].

        Args:
          ids: the codes.
          captions: of each picture; read by a decoder that draws beside a text alone.

        Raises:
          UserError: there are none, and the decoder needs them.
        """
        return self._decode(self.params, ids, **self._beside(captions))

    def reconstruct(
        self, images: np.ndarray, captions: Sequence[str] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """As `encode` takes them -> float32 [B, height, width, 3] in [0, 1], and codes.

        `captions` as in `decode`.
        """
        return self._reconstruct(self.params, images, **self._beside(captions))

    def _beside(self, captions: Sequence[str] | None) -> dict[str, jax.Array]:
        if self.text is None or captions is None:
            # Of a decoder that needs some the tokenizer says so; others need not know of any.
            return {}
        return {"condition": self.text(captions)}

    @functools.cached_property
    def _encode(self):
        return jax.jit(lambda params, images: self.tokenizer.encode(params, to_float(images)))

    @functools.cached_property
    def _sampled(self):
        return jax.jit(
            lambda params, images, key: self.tokenizer.sampled(params, to_float(images), key)
        )

    @functools.cached_property
    def _decode(self):
        return jax.jit(self.tokenizer.decode)

    @functools.cached_property
    def _reconstruct(self):
        def reconstruct(params: Any, images: jax.Array, **beside: jax.Array) -> Any:
            return self.tokenizer.reconstruct(params, to_float(images), **beside)

        return jax.jit(reconstruct)


@dataclasses.dataclass(frozen=True)
class AllLevels(TokenizerRun):
    """The same where pictures become codes of all levels at once, as `CodesOfLevels` has them.

    Raises (from `of`):
      UserError: there is one level, or they are of pictures of several sizes.
    """

    @classmethod
    def of(cls, run: TokenizerRun) -> "AllLevels":
        """Of a run at its first level, whose identity is also that of all."""
        CodesOfLevels.of(run.tokenizer)
        return cls(run.tokenizer, run.params, run.identity, run.weights, run.text)

    @property
    def levels(self) -> CodesOfLevels:
        return CodesOfLevels.of(self.tokenizer)

    @property
    def codes(self) -> Codes:
        return self.levels.whole

    @functools.cached_property
    def _encode(self):
        def encode(params: Any, images: jax.Array) -> jax.Array:
            # What the levels have in common the compiler computes once.
            at = [self.tokenizer.at(name) for name in self.levels.names]
            return self.levels.joined([each.encode(params, to_float(images)) for each in at])

        return jax.jit(encode)
