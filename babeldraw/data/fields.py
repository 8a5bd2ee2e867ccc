"""Captions of several kinds, such as alt-text, a written caption and labels: `data.caption_fields`.

Of those that a record has, each example reads one, drawn by the odds.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babeldraw.data.records import Record, Source
from babeldraw.data.rows import lines_of
from babeldraw.data.text import captions_in
from babeldraw.errors import UserError

# Sources whose records have fields of names; of others, lines have numbers.
WITH_FIELDS = ("folder", "webdataset", "tfds")
# The text file beside a picture, where other fields are columns of a list or a JSON file.
TEXT_FILE = "txt"
# Captions that are looked at for a line of a number.
CAPTIONS_CHECKED = 1000


@dataclass(frozen=True)
class CaptionField:
    """One kind of caption.

    Attributes:
        name: a column of a list, a field of a JSON file, 'txt' for the text file beside a picture,
            a feature of TFDS such as 'objects/label'; or, of any source, the number of a line of
            the caption, from '1'.
        odds: how often it is read, over that of the other fields that a record has; 0: never.
        joined: its texts are labels, which make one text with commas between; else one of them is
            read, as `data.captions` says.
    """

    name: str
    odds: float = 1.0
    joined: bool = False

    def text(self, value: Any) -> str:
        """The texts of a value (one, or a list of them), one a line; '' where there is none."""
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, (list, tuple)):
            return ""
        texts = [text.strip() for text in found if isinstance(text, str) and text.strip()]
        said = lines_of(texts) if texts else ""
        if not self.joined:
            return said
        return ", ".join(dict.fromkeys(filter(None, captions_in(said))))


Fields = tuple[CaptionField, ...]


def check_fields(fields: Fields, source: str, where: str) -> None:
    """Refuses fields that cannot be drawn from, or that a source has not.

    Args:
        fields: of `caption_fields`; none are fine.
        source: as `data.source`.
        where: how the user calls them.

    Raises:
        UserError: naming the odds or the name.
    """
    if not fields:
        return
    odds = [field.odds for field in fields]
    if any(not 0 <= one < math.inf for one in odds) or not sum(odds) > 0:
        raise UserError(
            f"{where} has the odds {odds}; each must be at least 0, and one of them more"
        )
    names = [field.name for field in fields]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"{where} has the names {names}; each must be there, and once")
    numbers = [name for name in names if is_line(name)]
    if numbers and len(numbers) < len(names):
        raise UserError(f"{where} has the names {names}; take numbers of lines, or names alone")
    if not numbers and source not in WITH_FIELDS:
        raise UserError(
            f"{where} has the names {names}, which {', '.join(WITH_FIELDS)} have and source="
            f"{source!r} has not; take the numbers of lines, '1' for the first"
        )


def is_line(name: str) -> bool:
    """Whether a field is the number of a line."""
    return name.isascii() and name.isdigit() and int(name) > 0


def read(fields: Fields) -> Fields:
    """Those that are ever read."""
    return tuple(field for field in fields if field.odds > 0)


def named(fields: Fields) -> Fields:
    """Those that a source itself looks for, by their names."""
    return tuple(field for field in read(fields) if not is_line(field.name))


def texts_in(columns: Mapping[str, Any], fields: Fields) -> tuple[str, ...]:
    """Of each field what a row says, whose columns have names in small letters."""
    return tuple(field.text(columns.get(field.name.lower())) for field in fields)


def choices_of(texts: Sequence[str], fields: Fields) -> tuple[tuple[float, str], ...]:
    """`Record.choices` of the texts of each field."""
    return tuple((f.odds, text) for f, text in zip(fields, texts, strict=True) if text)


def as_caption(texts: Sequence[str]) -> str:
    """All texts as a record's caption, a line each."""
    return "\n".join(dict.fromkeys(line for text in texts for line in captions_in(text) if line))


def chosen(choices: Sequence[tuple[float, str]], position: int, seed: int) -> str:
    """One of the texts, drawn by the odds for a position of the endless sequence of examples."""
    digest = hashlib.sha256(f"field/{seed}/{position}".encode()).digest()
    ends = [*itertools.accumulate(odds for odds, _ in choices)]
    place = int.from_bytes(digest[:6], "big") / 2**48 * ends[-1]
    return next(text for end, (_, text) in zip(ends, choices, strict=True) if place < end)


def with_lines(source: Source, fields: Fields, where: str) -> Source:
    """The source with lines of its captions as fields; itself where no field is a line.

    Raises:
        UserError: none of the first captions has such a line.
    """
    fields = tuple(field for field in read(fields) if is_line(field.name))
    return OfLines(source, fields, where) if fields else source


class OfLines:
    """A source whose records read one of the lines of their captions, by odds.

    In all else it is that source.
    """

    def __init__(self, source: Source, fields: Fields, where: str):
        self._source, self._fields = source, fields
        looked = itertools.islice(source.captions(), CAPTIONS_CHECKED)
        found = [self._texts(caption) for caption in looked]
        for number, field in enumerate(fields):
            if not any(texts[number] for texts in found):
                raise no_record_has(field.name, where, source.name, "one line a caption")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._of_lines(self._source[index])

    def jpeg(self, index: int) -> Record:
        """As of a source that gives JPEG files."""
        return self._of_lines(self._source.jpeg(index))

    def captions(self) -> Iterator[str]:
        """The lines that are read, of each record in order."""
        return (as_caption(self._texts(caption)) for caption in self._source.captions())

    def _of_lines(self, record: Record) -> Record:
        texts = self._texts(record.caption)
        choices = choices_of(texts, self._fields)
        return dataclasses.replace(record, caption=as_caption(texts), choices=choices)

    def _texts(self, caption: str) -> tuple[str, ...]:
        lines = captions_in(caption)
        numbers = [int(field.name) - 1 for field in self._fields]
        return tuple(lines[number] if number < len(lines) else "" for number in numbers)


def no_record_has(name: str, where: str, source: str, there: str) -> UserError:
    """What is said of a field that is nowhere; `there` tells what is."""
    return UserError(f"{where} names {name!r}, which no record of {source} has; there is {there}")
