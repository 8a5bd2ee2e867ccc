"""Lists of pictures: rows of a .jsonl or .csv file that name a picture and say its captions."""

import csv
import io
import itertools
import json
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from absl import logging

from babeldraw.data.complexity import LIST
from babeldraw.data.fields import TEXT_FILE, Fields, as_caption, no_record_has, texts_in
from babeldraw.data.files import Files
from babeldraw.data.records import BadRecord
from babeldraw.data.rows import FILE_COLUMNS, caption_of, columns_of, label_of
from babeldraw.errors import UserError

SUFFIXES = (".jsonl", ".csv")
# Of this name a list may stand in any folder and tells of that one, as Hugging Face's imagefolder
# has it; others stand at the top.
IN_ANY_FOLDER = "metadata"


# Levels are held as int32.
MOST_LEVEL = 2**31 - 1


@dataclass(frozen=True)
class Listed:
    """What a list says of one picture.

    Attributes:
        caption: its captions, a line each.
        label: a class, -1 where there is none.
        texts: of each kind of caption that is asked for, a line each.
        level: of a tokenizer, as a number (`data.levels`); -1 where there is none.
    """

    caption: str
    label: int = -1
    texts: tuple[str, ...] = ()
    level: int = -1

    def joined(self, other: "Listed") -> "Listed":
        """With what another row says of the same picture: one more caption, a line of its own."""
        texts = tuple(itertools.starmap(_both, zip(self.texts, other.texts, strict=True)))
        label = other.label if self.label < 0 else self.label
        level = other.level if self.level < 0 else self.level
        return Listed(_both(self.caption, other.caption), label, texts, level)

    def before(self, other: "Listed") -> "Listed":
        """This, and of the other what this does not say."""
        texts = tuple(
            first or second for first, second in zip(self.texts, other.texts, strict=True)
        )
        label = other.label if self.label < 0 else self.label
        level = other.level if self.level < 0 else self.level
        return Listed(self.caption or other.caption, label, texts, level)


def _both(first: str, second: str) -> str:
    """Captions of two rows; what both say, or one alone says, stays as it is written."""
    return as_caption([first, second]) if first and second not in ("", first) else first or second


class Lists:
    """What lists say of pictures, gathered list by list; what cannot be used is told in the log.

    Args:
        files: the folder or .zip.
        pictures: their relative paths.
        fields: kinds of captions, read in place of one caption.

    Attributes:
        listed: what is said, by the picture's relative path.
        missing: files that are named and are not there.
        columns: those of all rows.
        disputed: pictures of which two lists say different levels; the first list's counts.
    """

    def __init__(self, files: Files, pictures: set[str], fields: Fields = ()):
        self._files, self._pictures, self._fields = files, pictures, fields
        self._composed = {_composed(name): name for name in pictures}
        self.listed: dict[str, Listed] = {}
        self.missing: list[str] = []
        self.columns: set[str] = set()
        self.disputed: list[str] = []

    def read(self, path: str) -> None:
        """One list. Raises UserError where the file cannot be read."""
        try:
            file = io.BytesIO(self._files.read(path))
        except BadRecord as error:
            raise UserError(f"the list {error}; mend the file or take it away") from error
        bad: list[str] = []
        labels: list[str] = []
        found: set[str] = set()
        for line, row in rows_of(path, file):
            entry, where = _entry(row, self._fields), f"{self._files.where(path)}:{line}"
            if isinstance(row, dict):
                found.update(columns_of(row))
            if entry is None:
                bad.append(where)
                continue
            name, said, problem = entry
            if problem:
                labels.append(f"{where}: {problem}")
            self._add(posixpath.dirname(path), name, said)
        self.columns |= found
        if bad:
            logging.warning(
                "%d lines are no captions and are skipped, first: %s; the columns are %s",
                len(bad),
                bad[0],
                ", ".join(sorted(found)) or "not there",
            )
        if labels:
            logging.warning("%d labels are left out, first: %s", len(labels), labels[0])

    def check_fields(self) -> None:
        """Raises `UserError` for a kind of caption that no picture has."""
        for number, field in enumerate(self._fields):
            found = any(listed.texts[number] for listed in self.listed.values())
            if not found and field.name != TEXT_FILE:
                there = ", ".join(sorted(self.columns)) or "no list"
                where = self._files.where("")
                raise no_record_has(field.name, "data.caption_fields", where, there)

    def add_scored(self, scored: "Lists") -> None:
        """What `babeldraw score` wrote: its levels count, captions only where no list has others.

        It copies them as they were, and a list may have been mended since; one that was emptied
        there is no other.
        """
        for path, said in scored.listed.items():
            there = self.listed.get(path)
            if there is None:
                self.listed[path] = said
                continue
            if there.level != said.level and min(there.level, said.level) >= 0:
                self.disputed.append(path)
            level = there.level if said.level < 0 else said.level
            self.listed[path] = replace(there.before(said), level=level)
        self.disputed += scored.disputed
        self.missing += scored.missing
        self.columns |= scored.columns

    def _add(self, folder: str, name: str, said: Listed) -> None:
        # Lists come from Windows; and Macs write letters with marks in two parts.
        for other in (name, name.replace("\\", "/")):
            path = posixpath.normpath(posixpath.join(folder, other))
            path = path if path in self._pictures else self._composed.get(_composed(path), "")
            if path:
                before = self.listed.get(path)
                self.listed[path] = before.joined(said) if before else said
                if before and before.level != said.level and min(before.level, said.level) >= 0:
                    self.disputed.append(path)
                return
        self.missing.append(name)


def read_lists(
    files: Files, names: Iterable[str], pictures: set[str], fields: Fields = ()
) -> dict[str, Listed]:
    """What the lists say, by the picture's relative path; several captions are joined.

    Args:
        files: the folder or .zip.
        names: its files.
        pictures: those of them that are pictures.
        fields: kinds of captions, read in place of one caption; 'txt' need not be in a list.

    Raises:
        UserError: a list cannot be read, none of the files that are listed exist, or none has one
            of the kinds of captions.
    """
    lists, scored = Lists(files, pictures, fields), Lists(files, pictures, fields)
    for path in sorted(filter(_is_list, names)):
        (scored if path == LIST else lists).read(path)
    lists.add_scored(scored)
    missing = lists.missing
    if missing and not lists.listed:
        raise UserError(
            f"none of the {len(missing)} files listed in data.path={files.where('')} exist, such "
            f"as {missing[0]!r}; list them relative to that folder"
        )
    if missing:
        logging.warning("%d listed files do not exist, first: %s", len(missing), missing[0])
    if lists.disputed:
        logging.warning(
            "of %d pictures two lists say different levels, first: %s; that of %s counts, or of "
            "the first list by name",
            len(lists.disputed),
            lists.disputed[0],
            LIST,
        )
    lists.check_fields()
    return lists.listed


def _is_list(name: str) -> bool:
    stem, suffix = posixpath.splitext(posixpath.basename(name))
    return suffix.lower() in SUFFIXES and ("/" not in name or stem == IN_ANY_FOLDER)


def rows_of(path: str, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """The numbered rows of a list, of the kind that its name says; None where one is none."""
    return (_json_rows if path.lower().endswith(".jsonl") else _csv_rows)(file)


def _json_rows(lines: BinaryIO) -> Iterator[tuple[int, Any]]:
    """(line, what it holds) of a file of JSON lines; None where a line is no JSON."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            yield number, None


def _csv_rows(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """(line, its fields by column) of a CSV file with a header; None where a line is none."""
    # Bytes that are not UTF-8 become surrogates, which `_entry` refuses row by row.
    with io.TextIOWrapper(
        file, encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as lines:
        rows = csv.DictReader(lines, skipinitialspace=True)
        while True:
            try:
                row = next(rows)
                # More fields than columns: of a comma that no quotes protect nobody knows more.
                yield rows.line_num, None if any(row.pop(None, ())) else row
            except StopIteration:
                return
            except csv.Error:
                yield rows.line_num, None


def _entry(row: Any, fields: Fields) -> tuple[str, Listed, str] | None:
    """(path, what is said of it, what is wrong with its label or ''); None: not such a row."""
    if not isinstance(row, dict):
        return None
    columns, problem, numbers = columns_of(row), "", {"label": -1, "level": -1}
    file = next((columns[c] for c in FILE_COLUMNS if isinstance(columns.get(c), str)), None)
    texts = texts_in(columns, fields)
    caption = as_caption(texts) or None if fields else caption_of(columns)
    for name in numbers:
        try:
            number = label_of(columns.get(name), name)
            if name == "level" and number > MOST_LEVEL:
                raise ValueError(f"the level {number} is above {MOST_LEVEL}")
            numbers[name] = number
        except ValueError as error:
            problem = str(error)
    # A row may say the level alone, as what `babeldraw score` writes does of other fields.
    if not file or (caption is None and numbers["level"] < 0):
        return None
    caption = caption or ""
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return file.strip(), Listed(caption, texts=texts, **numbers), problem


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
