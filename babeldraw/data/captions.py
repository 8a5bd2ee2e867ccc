"""Which of a record's captions is used where it has several: `data.captions`."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

from babeldraw.data.fields import chosen
from babeldraw.data.records import Record, Source
from babeldraw.data.text import caption_at, captions_in

# The next one with each epoch; one drawn anew for each example; the first alone; all as one text.
CAPTIONS = ("in_turn", "random", "first", "joined")


def turn_of(captions: str, position: int, length: int, seed: int) -> int:
    """The turn (see `text.caption_at`) of an example at a position of the endless sequence.

    Args:
        captions: one of CAPTIONS.
        position: 0 and up.
        length: of an epoch.
        seed: of the order of the data.
    """
    if captions != "random":
        return position // length
    digest = hashlib.sha256(f"caption/{seed}/{position}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def text_of(record: Record, captions: str, position: int, length: int, seed: int) -> str:
    """What an example reads of a record: a function of its place and of the seed alone.

    Args:
        record: with one kind of caption, or several.
        captions, position, length, seed: as of `turn_of`.
    """
    turn = turn_of(captions, position, length, seed)
    said = chosen(record.choices, position, seed) if record.choices else record.caption
    return caption_at(said, turn)


def with_captions(source: Source, captions: str) -> Source:
    """The source as `data.captions` has it read; itself where that takes all captions."""
    return OneCaption(source, captions) if captions in ("first", "joined") else source


class OneCaption:
    """A source whose records have one caption each, of what another source says.

    In all else it is that source, whatever that has beside the contract of `Source`.
    """

    def __init__(self, source: Source, captions: str):
        self._source = source
        self._joined = captions == "joined"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._with_one(self._source[index])

    def jpeg(self, index: int) -> Record:
        """As of a source that gives JPEG files."""
        return self._with_one(self._source.jpeg(index))

    def captions(self) -> Iterator[str]:
        """One for each record in order."""
        return map(self._one, self._source.captions())

    def _with_one(self, record: Record) -> Record:
        return dataclasses.replace(record, caption=self._one(record.caption))

    def _one(self, caption: str) -> str:
        found = captions_in(caption)
        return " ".join(found) if self._joined else found[0]
