"""What a row of a list, or a JSON file beside a picture, says: file, captions, label."""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, AnyStr

from absl import logging

FILE_COLUMNS = ("file_name", "file", "filename", "path", "image_path", "image", "img")
CAPTION_COLUMNS = ("caption", "text", "captions", "texts")
# Numbers beyond are ids (of a catalogue, of a category): no set of classes has so many. ImageNet
# with all its classes has 21,841, JFT-3B some 30,000.
MAX_CLASSES = 100_000
# As pandas and spreadsheets write what is missing.
NOTHING = ("", "nan", "none", "null", "na", "n/a", "-1")


def columns_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The row under names without space around them and in small letters; the first of equal ones.

    `File, Caption` are columns `file` and `caption`.
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(name, str):
            found.setdefault(name.strip().lower(), value)
    return found


def caption_of(columns: Mapping[str, Any], names: tuple[str, ...] = CAPTION_COLUMNS) -> str | None:
    """The captions, one a line; None where no column holds any.

    A list of texts is that many captions. Of one text the line breaks stay.
    """
    for name in names:
        value = columns.get(name)
        if isinstance(value, str):
            return value.strip()
        if isinstance(value, (list, tuple)) and any(isinstance(text, str) for text in value):
            return lines_of([text for text in value if isinstance(text, str)])
    return None


def lines_of(texts: Sequence[AnyStr]) -> AnyStr:
    """Several captions as one text, a line each; texts or UTF-8, at least one.

    A line break within one of several would make two of it: it becomes a space. Of one alone it
    stays.
    """
    if len(texts) == 1:
        return texts[0]
    nothing = texts[0][:0]
    space, line = (" ", "\n") if isinstance(nothing, str) else (b" ", b"\n")
    return line.join(filter(None, (space.join(text.split()) for text in texts)))


def label_of(value: Any, what: str = "label") -> int:
    """A class index, or another number of 0 or more. 1.0 and '1.0' are 1.

    -1 for None, '', NaN and other ways to say nothing.

    Args:
        value: of a column.
        what: its name, for the message.

    Raises:
        ValueError: it is no whole number of 0 or more.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in NOTHING):
        return -1
    if isinstance(value, float) and math.isnan(value):
        return -1
    try:
        # Not through float, which would round an id of many digits.
        number = int(value) if isinstance(value, (int, str, bytes)) else None
    except ValueError:
        number = None
    if number is None and isinstance(value, (float, str, bytes)):
        with contextlib.suppress(ValueError, OverflowError):
            number = int(float(value)) if float(value).is_integer() else None
    if number is None or number < -1 or isinstance(value, bool):
        raise ValueError(f"the {what} {value!r} is no whole number")
    return number


def numbered_classes(labels: Iterable[int], where: Any) -> tuple[str, ...] | None:
    """The numbers up to the highest label; none where they are ids; None without any label."""
    highest = max(labels, default=-1)
    if highest < 0:
        return None
    if highest >= MAX_CLASSES:
        logging.warning(
            "%s: labels go up to %d: ids, no classes (%d at most); they are left out",
            where,
            highest,
            MAX_CLASSES,
        )
        return ()
    return tuple(str(number) for number in range(highest + 1))
