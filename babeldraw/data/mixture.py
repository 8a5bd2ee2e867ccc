"""Several sources mixed by weight, in an order that is a function of the position alone.

Positions go round a pattern of slots, in which each source has its share of the slots, spread
evenly. How often a source came before a position follows from the position, so a mixture has no
state of its own, goes on from any step, and each source still gives every record once per epoch.
"""

import bisect
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from babeldraw.data.records import NO_LEVEL, Record, Source, classes_of, has_pictures
from babeldraw.errors import UserError

# Slots in which weights are expressed: a share is right to within 1 in so many.
SLOTS = 4096


@dataclass(frozen=True)
class Pattern:
    """Attributes:
    part: int64 [slots], the source of each slot.
    rank: int64 [slots], how many slots before it have that source.
    counts: int64 [sources], the slots of each source.
    """

    part: np.ndarray
    rank: np.ndarray
    counts: np.ndarray


def make_pattern(weights: Sequence[float]) -> Pattern:
    """Weights, each above 0 and of any sum, to a pattern; one source has one slot."""
    if len(weights) == 1:
        return Pattern(np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.int64))
    counts = _shares(np.asarray(weights, np.float64))
    parts = np.repeat(np.arange(len(counts)), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    # The j-th of n slots of a source stands at (j + 1/2) / n of the way; ties in order of sources.
    order = np.argsort((ranks + 0.5) / counts[parts], kind="stable")
    return Pattern(parts[order].astype(np.int64), ranks[order].astype(np.int64), counts)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Whole slots by largest remainder, at least one each."""
    exact = weights / weights.sum() * SLOTS
    counts = np.maximum(1, np.floor(exact)).astype(np.int64)
    missing = SLOTS - counts.sum()
    if missing > 0:
        counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    elif missing < 0:
        counts[np.argmax(counts)] += missing
    return counts


class MixtureSource:
    """Several sources as one, their records one source after another.

    In place of a bad record comes the next good one, which after a source's last is of the next.

    Args:
        sources: at least one.
        weights: how many records of each, relative to each other.

    Attributes:
        name: of all sources with their weights.
        starts: the index of each source's first record.
        sizes: the number of records of each source.
        pattern: which source comes when.
        gives_jpeg: whether all sources give JPEG files.
        texts_alone: whether they are texts without pictures.
        identity: the same, of what they hold and not of where they lie.

    Raises:
        UserError: a weight that is not above 0, stored tokens, or texts alone beside pictures.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        if any(not 0 < weight < float("inf") for weight in weights):
            raise UserError(f"data.mixture has the weights {list(weights)}; each must be above 0")
        if any(getattr(source, "token_spec", None) for source in sources):
            raise UserError("data.mixture holds stored tokens; mix pictures alone")
        kinds = {has_pictures(source): source.name for source in sources}
        if len(kinds) > 1:
            raise UserError(f"data.mixture holds pictures and {kinds[False]}, which has none")
        self.texts_alone = False in kinds
        self._sources = list(sources)
        self.sizes = [len(source) for source in sources]
        empty = [source.name for source in sources if not len(source)]
        if empty:
            raise UserError(f"{empty[0]} holds no records; leave it out of data.mixture")
        self.starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        self.pattern = make_pattern(weights)
        self.gives_jpeg = all(getattr(source, "gives_jpeg", False) for source in sources)
        parts = (f"{w:g}*{s.name}" for w, s in zip(weights, sources, strict=True))
        self.name = f"mixture({', '.join(parts)})"
        # Where the parts lie is no part of what they are.
        same = (getattr(source, "identity", source.name) for source in sources)
        parts = (f"{w:g}*{one}" for w, one in zip(weights, same, strict=True))
        self.identity = f"mixture({', '.join(parts)})"

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of all sources; none where they have different ones."""
        classes = {classes_of(source) for source in self._sources}
        return classes.pop() if len(classes) == 1 else ()

    @functools.cached_property
    def levels(self) -> np.ndarray | None:
        """As of `data.levels`; of sources that name none `NO_LEVEL`. None: no source names any."""
        found = [getattr(source, "levels", None) for source in self._sources]
        if all(levels is None for levels in found):
            return None
        pairs = zip(found, self.sizes, strict=True)
        return np.concatenate(
            [np.full(size, NO_LEVEL, np.int32) if own is None else own for own, size in pairs]
        )

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, index: int) -> Record:
        source, row = self._find(index)
        return source[row]

    def jpeg(self, index: int) -> Record:
        """As of the source that the record is of."""
        source, row = self._find(index)
        return source.jpeg(row)

    def captions(self) -> Iterator[str]:
        """Those of one source after another, each caption once whatever the weights."""
        for source in self._sources:
            yield from source.captions()

    def _find(self, index: int) -> tuple[Source, int]:
        part = bisect.bisect_right(self.starts, index) - 1
        return self._sources[part], index - self.starts[part]
