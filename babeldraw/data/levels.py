"""The level of a tokenizer that data name for each picture: an order by it, records that say it."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from babeldraw.data.mixture import Pattern
from babeldraw.data.rearranged import Rearranged
from babeldraw.data.records import NO_LEVEL, Record, Source
from babeldraw.errors import UserError
from babeldraw.say import say


def with_levels(source: Source, names: Sequence[str], counts: Sequence[int]) -> Source:
    """The source with each group of pictures by their levels; itself where it tells of none.

    A source tells them by `levels`, int32 [len], the names of levels as numbers, such as 8, 16 and
    32, and `NO_LEVEL`. Pictures without one are taken into the first level, the finest: nothing of
    them is lost.

    Args:
        source: the data.
        names: of the levels.
        counts: of the pictures of a group, those of each level.

    Raises:
        UserError: a level that there is not, one that no picture has, or a mixture.
    """
    found = getattr(source, "levels", None)
    if found is None:
        return source
    if hasattr(source, "pattern"):
        raise UserError(
            f"{source.name} has the column level, and a mixture has an order of its own; train on "
            "one of its parts, or take the column away"
        )
    return ByLevel(source, found, names, counts)


def told_levels(source: Source, names: Sequence[str]) -> Source:
    """The source, in its own order, with `Record.level` of each record.

    Args:
        source: the data, as of `with_levels`.
        names: of the levels.

    Raises:
        UserError: the data name no levels, or one that there is not.
    """
    found = getattr(source, "levels", None)
    if found is None:
        raise UserError(
            f"{source.name} has no column level, which config.tokenizer.routing='data' goes by; "
            "`babeldraw score` writes one into a folder or shards (docs/cat.md), or set "
            "routing='drawn'"
        )
    return Told(source, found, names)


class Told:
    """A source whose records say their level, `NO_LEVEL` where the data say none.

    In all else it is that source.

    Args:
        levels: of each record.
        others: as of `told_levels`.
    """

    tells_levels = True

    def __init__(self, source: Source, levels: np.ndarray, names: Sequence[str]):
        self._source, self._levels = source, levels
        _check_known(source, levels, names)
        sizes = {name: int(np.sum(levels == int(name))) for name in names}
        told = ", ".join(f"{size} of level {name}" for name, size in sizes.items())
        drawn = int(np.sum(levels == NO_LEVEL))
        if not drawn and not all(sizes.values()):
            raise UserError(
                f"{source.name} has {told} by its column level, and every level is to be trained; "
                "score it by other thresholds, or set config.tokenizer.routing='drawn'"
            )
        say(f"{source.name} has {told}" + (f"; of {drawn} it is drawn" if drawn else ""))
        digest = hashlib.sha256(np.int64(levels).tobytes()).hexdigest()[:8]
        self.name = f"{source.name}/told/{digest}"
        self.identity = f"{getattr(source, 'identity', source.name)}/told/{digest}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(self._source[index], level=int(self._levels[index]))

    def jpeg(self, index: int) -> Record:
        """As of a source that gives JPEG files."""
        return dataclasses.replace(self._source.jpeg(index), level=int(self._levels[index]))


class ByLevel(Rearranged):
    """A source whose positions go round a group: first so many of the first level, and so on.

    The order is a function of the position alone, as a mixture's is, whose pattern it has: pictures
    of one level are shuffled among themselves, each given once before one is given again. In all
    else it is that source.

    Args:
        levels: of each record.
        others: as of `with_levels`.
    """

    def __init__(
        self, source: Source, levels: np.ndarray, names: Sequence[str], counts: Sequence[int]
    ):
        numbers = _numbers(source, levels, names)
        self.sizes = np.bincount(numbers, minlength=len(names)).tolist()
        _check_sizes(source, self.sizes, names, counts)
        self.starts = [sum(self.sizes[:i]) for i in range(len(names))]
        self.pattern = Pattern(
            np.repeat(np.arange(len(counts)), counts),
            np.concatenate([np.arange(count) for count in counts]),
            np.asarray(counts, np.int64),
        )
        digest = hashlib.sha256(numbers.tobytes() + repr(tuple(counts)).encode()).hexdigest()[:8]
        # One level after another.
        super().__init__(source, np.argsort(numbers, kind="stable"), f"levels/{digest}")


def _numbers(source: Source, levels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """int64 [len]: which level each record goes into, counted in the order of the names."""
    _check_known(source, levels, names)
    known = {name: number for number, name in enumerate(names)}
    values, which = np.unique(levels, return_inverse=True)
    missing = int(np.sum(levels == NO_LEVEL))
    if missing:
        say(
            f"{missing} of {len(levels)} pictures of {source.name} have no level and are taken "
            f"into {names[0]}"
        )
    return np.array([known.get(str(value), 0) for value in values], np.int64)[which.reshape(-1)]


def _check_known(source: Source, levels: np.ndarray, names: Sequence[str]) -> None:
    """Raises `UserError`: a level that there is not."""
    unknown = [v for v in np.unique(levels) if str(v) not in names and v != NO_LEVEL]
    if unknown:
        first = int(np.argmax(levels == unknown[0]))
        raise UserError(
            f"the column level of {source.name} is {unknown[0]} in record {first} and the "
            f"tokenizer has the levels {', '.join(names)}; write one of these"
        )


def _check_sizes(
    source: Source, sizes: Sequence[int], names: Sequence[str], counts: Sequence[int]
) -> None:
    told = ", ".join(f"{size} of level {name}" for size, name in zip(sizes, names, strict=True))
    if not all(sizes):
        raise UserError(
            f"{source.name} has {told} by its column level, and config.levels draws into all; "
            "score it by other thresholds, or take the column away"
        )
    say(f"{source.name} has {told}; a group holds {', '.join(map(str, counts))}")
