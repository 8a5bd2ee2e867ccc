"""Several levels of a tokenizer, into which one network draws, each picture into one of them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import build, require
from babeldraw.layers.packing import Packing
from babeldraw.tokenizers.all_levels import CodesOfLevels
from babeldraw.tokenizers.base import Codes, Tokenizer


@dataclasses.dataclass(frozen=True)
class LevelsConfig:
    """A generator of all levels of its tokenizer. Training goes by groups of pictures.

    Every group holds so many pictures of each level, so that all batches have one shape, and one
    program serves them, in which each level is computed at its own size. Where the data have a
    column `level`, the pictures of a level are those that it names; else any may be.

    Attributes:
      counts: of a group's pictures, those of each level, in the tokenizer's order; (): one of
        each. They are the odds of the levels.
      packed: the pictures of a group lie in one sequence of the network.
    """

    counts: tuple[int, ...] = ()
    packed: bool = False

    def __post_init__(self):
        require(
            all(count >= 1 for count in self.counts),
            f"config.levels.counts is {self.counts}; at least 1 of each level is needed",
        )

    def of(self, tokenizer: Tokenizer) -> "LevelGroup":
        """The levels of a tokenizer.

        Raises:
          UserError: it has one, another number than there are counts, or pictures of several sizes.
        """
        names = tokenizer.levels
        require(
            len(names) > 1,
            f"config.levels is set and tokenizer.kind={tokenizer.config.kind} has one level; leave "
            "it out",
        )
        counts = self.counts or (1,) * len(names)
        require(
            len(counts) == len(names),
            f"config.levels.counts is {counts} and tokenizer.kind={tokenizer.config.kind} has the "
            f"levels {', '.join(names)}; give a number for each",
        )
        at = [tokenizer.at(name) for name in names]
        sizes = {each.image_size for each in at}
        require(
            len(sizes) == 1,
            f"config.levels is set and the levels of tokenizer.kind={tokenizer.config.kind} are of "
            f"pictures of {', '.join(map(str, sorted(sizes)))} pixels; train a run for each, by "
            "config.level",
        )
        return LevelGroup(names, tuple(each.codes for each in at), counts, self.packed)


@dataclasses.dataclass(frozen=True)
class LevelGroup:
    """What `LevelsConfig` says of a tokenizer; letters: R groups, P pictures of each.

    Attributes:
      names, codes, counts: of each level.
      packed: see `LevelsConfig`.
    """

    names: tuple[str, ...]
    codes: tuple[Codes, ...]
    counts: tuple[int, ...]
    packed: bool = False

    @property
    def size(self) -> int:
        """P."""
        return sum(self.counts)

    @property
    def stored(self) -> CodesOfLevels:
        """How stored codes hold those of all levels."""
        return CodesOfLevels(self.names, self.codes)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of all pictures, those of each level."""
        return tuple(count / self.size for count in self.counts)

    def grouped(self, tree: Any) -> Any:
        """Arrays [R P, ...] -> [R, P, ...]; the first pictures of a group are the first level's."""
        return jax.tree.map(lambda a: a.reshape(-1, self.size, *a.shape[1:]), tree)

    def apart(self, tree: Any) -> list[Any]:
        """Of arrays [R, P, ...] those of each level, [R, count, ...]."""
        ends = [0, *itertools.accumulate(self.counts)]

        def own(start: int, end: int) -> Any:
            return jax.tree.map(lambda a: a[:, start:end], tree)

        return list(itertools.starmap(own, itertools.pairwise(ends)))

    def joined(self, trees: Sequence[Any]) -> Any:
        """The way back, of [R count, ...] of each level to [R, P, ...]."""

        def join(*arrays: jax.Array) -> jax.Array:
            pairs = zip(arrays, self.counts, strict=True)
            return jnp.concatenate(
                [a.reshape(-1, count, *a.shape[1:]) for a, count in pairs], axis=1
            )

        return jax.tree.map(join, *trees)

    def packing(self, slots: tuple[int, ...]) -> Packing:
        """How a group lies in a row, where a picture of each level has so many slots."""
        return Packing(tuple(zip(self.counts, slots, strict=True)))


def flat(tree: Any) -> Any:
    """Arrays [R, P, ...] -> [R P, ...]."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)


def read_levels(config: Mapping[str, Any], tokenizer: Tokenizer) -> LevelGroup | None:
    """The levels of a run's config, as config.json holds it; None: the run draws into one."""
    if "levels" not in config or config["levels"] is None:
        return None
    return build(LevelsConfig, config["levels"], "config.levels").of(tokenizer)
