"""Codes of a picture at all levels of its tokenizer, as one array: how they are stored."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike

from babeldraw.config import require
from babeldraw.tokenizers.base import Codes, Tokenizer


@dataclasses.dataclass(frozen=True)
class CodesOfLevels:
    """The places of one level after another, in the tokenizer's order.

    Of a nested VAE those of the finest level are three quarters of all: that a picture may go into
    another level in another epoch costs a third more than the finest alone.

    Attributes:
      names, codes: of each level.
    """

    names: tuple[str, ...]
    codes: tuple[Codes, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "CodesOfLevels":
        """Raises `UserError`: there is one level, or they are of pictures of several sizes."""
        kind, at = tokenizer.config.kind, [tokenizer.at(name) for name in tokenizer.levels]
        require(len(at) > 1, f"level is 'all' and tokenizer.kind={kind} has one level")
        require(
            len({each.image_size for each in at}) == 1,
            f"level is 'all' and the levels of tokenizer.kind={kind} are of pictures of several "
            f"sizes; name one of {', '.join(tokenizer.levels)}",
        )
        return cls(tokenizer.levels, tuple(each.codes for each in at))

    @property
    def whole(self) -> Codes:
        """What all of them are together: codes in one dimension."""
        length = sum(codes.length for codes in self.codes)
        return dataclasses.replace(self.codes[0], shape=(length,))

    def joined(self, found: Sequence[ArrayLike]) -> ArrayLike:
        """Codes [B, ...] of each level -> [B, places of all, ...]."""
        rest = self.whole.each[1:]
        return jnp.concatenate([jnp.reshape(a, (len(a), -1, *rest)) for a in found], axis=1)

    def of_level(self, stored: ArrayLike, name: str) -> ArrayLike:
        """The way back to one level: [B, places of all, ...] -> [B, ...] as its `Codes` say."""
        number = self.names.index(name)
        ends = [0, *itertools.accumulate(codes.length for codes in self.codes)]
        own = stored[:, ends[number] : ends[number + 1]]
        return own.reshape(len(own), *self.codes[number].each)
