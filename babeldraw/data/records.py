"""What a source of records is: random access to pictures with their captions and labels.

A source answers for every index, in any order, from any thread; what it cannot read it says by
`BadRecord`, and `RecordReader` counts such records, skips them, and stops a run that has too many.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from absl import logging

from babeldraw.errors import UserError

# A share of bad records means something only once this many were read.
MIN_READ_FOR_SHARE = 100
# Of a picture of which nobody says into which level of a tokenizer it goes.
NO_LEVEL = -1
# The picture of a record that is a text alone.
NO_PICTURE = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Record:
    """One example.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        caption: any Unicode text, '' where there is none.
        label: class index, -1 where there is none.
        tokens: stored codes of an image, int32 [T] or [T, factors], or float32 of continuous ones;
            the image is then empty. Of several views (`data.views`) the first.
        views: stored codes of all views, [views, ...], where there are several.
        states: what an encoder made of the caption, by name; see `data.states`.
        jpeg: the bytes of a JPEG file, to be decoded by the pipeline; the image is then empty.
        choices: captions of several kinds, a line each, with the odds of each kind
            (`data.fields`), of which training draws one; `caption` is then all of them.
        level: the tokenizer's level that it goes through, where `data.levels.told_levels` says it.
    """

    image: np.ndarray
    caption: str
    label: int = -1
    tokens: np.ndarray | None = None
    views: np.ndarray | None = None
    states: dict[str, np.ndarray] | None = None
    jpeg: bytes = b""
    choices: tuple[tuple[float, str], ...] = ()
    level: int = NO_LEVEL


class BadRecord(Exception):
    """A record that cannot be read: where it lies, and why. Not a reason to stop by itself."""

    def __init__(self, where: str, reason: str):
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


class Source(Protocol):
    """Random access to records.

    Attributes:
        name: which data this is; equal names and lengths mean equal data.

    A source with classes has their names besides, `classes`: see `classes_of`. One of texts without
    pictures says so by `texts_alone`: see `has_pictures`. One that knows levels of a tokenizer has
    them as `levels`: see `data.levels`.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, 0 to len - 1. Raises BadRecord. Safe to call from threads."""
        ...

    def captions(self) -> Iterator[str]:
        """Captions in order, without decoding a picture; what cannot be read is left out."""
        ...


def classes_of(source: Source) -> tuple[str, ...]:
    """Names of the classes that labels count, where a source has them; else none."""
    return tuple(getattr(source, "classes", ()))


def checked_label(label: int, classes: Sequence[str], where: str) -> int:
    """The label of a record, at `where`, of a source that names its classes.

    Raises:
        BadRecord: it is none of them; a network would read it as no class at all.
    """
    if classes and label >= len(classes):
        raise BadRecord(where, f"its label is {label} and the data name {len(classes)} classes")
    return label


def has_pictures(source: Source) -> bool:
    """Whether its records are pictures or what was made of them, and not texts alone."""
    return not getattr(source, "texts_alone", False)


class RecordReader:
    """Reads records of a source; in the place of a bad one it gives the next good one.

    A bad record is logged once, with where it lies and why, and never read again. Which record
    takes its place (the next good index, going round) depends on the data alone, so batches stay
    a function of (seed, step). Safe to call from threads.

    Args:
        source: the data.
        max_bad_share: see below.
        read: gives a record by its index, where that is not `source[index]`.

    Attributes:
        read: how many distinct records were read.
        bad: how many of them were bad.

    Raises (from `read_at` and `try_read_at`):
        UserError: more than `max_bad_share` of at least 100 records read are bad, or all are.
    """

    def __init__(
        self,
        source: Source,
        max_bad_share: float = 0.01,
        read: Callable[[int], Record] | None = None,
    ):
        if len(source) == 0:
            raise UserError(f"{source.name} holds no records; point data.path at data")
        self.source = source
        self._read = read or source.__getitem__
        self.max_bad_share = max_bad_share
        self.read = 0
        self.bad = 0
        self._seen = bytearray(len(source))
        self._bad_indices: set[int] = set()
        self._first_bad = ""
        self._lock = threading.Lock()

    def read_at(self, index: int) -> Record:
        """The record at `index`, or the first good one after it, going round."""
        for step in range(len(self.source)):
            record = self.try_read_at((index + step) % len(self.source))
            if record is not None:
                return record
        raise self._too_many()

    def try_read_at(self, index: int) -> Record | None:
        """The record at `index`, None if it is bad."""
        if index in self._bad_indices:
            return None
        try:
            record = self._read(index)
        except BadRecord as error:
            self._count(index, error)
            return None
        self._count(index, None)
        return record

    def _count(self, index: int, error: BadRecord | None) -> None:
        with self._lock:
            if self._seen[index]:
                return
            self._seen[index] = 1
            self.read += 1
            if error is None:
                return
            self.bad += 1
            self._bad_indices.add(index)
            self._first_bad = self._first_bad or str(error)
            logging.warning("bad record skipped: %s", error)
            if self._stops():
                raise self._too_many()

    def _stops(self) -> bool:
        too_many = self.bad > self.max_bad_share * self.read
        return self.bad == len(self.source) or (too_many and self.read >= MIN_READ_FOR_SHARE)

    def _too_many(self) -> UserError:
        return UserError(
            f"{self.bad} of {self.read} records read from {self.source.name} are bad "
            f"({self.bad / max(1, self.read):.1%}) where data.max_bad_share={self.max_bad_share}; "
            f"mend the data or raise the share; the first: {self._first_bad}"
        )
