"""WebDataset tar files: a picture and its caption as members of one name, wherever they stand.

Members `KEY.jpg` and `KEY.txt` (or `KEY.json` with a field "caption" or "text") make a record;
`KEY.cls` holds its label. KEY may hold dots. Hidden members are passed over.
"""

import bisect
import contextlib
import functools
import glob
import itertools
import json
import os
import tarfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from absl import logging

from babeldraw.data.fields import (
    CAPTIONS_CHECKED,
    TEXT_FILE,
    Fields,
    as_caption,
    choices_of,
    no_record_has,
    texts_in,
)
from babeldraw.data.files import hidden
from babeldraw.data.image import decode, image_suffixes
from babeldraw.data.records import BadRecord, Record
from babeldraw.data.rows import MAX_CLASSES, caption_of, columns_of, label_of, numbered_classes
from babeldraw.data.splits import check_split, split_length, split_position
from babeldraw.errors import UserError

# A caption's member is read no further.
MAX_TEXT_BYTES = 1 << 22


@dataclass(frozen=True)
class Span:
    """Bytes of a file."""

    offset: int
    size: int


@dataclass(frozen=True)
class Entry:
    """One record of a tar file, by where its members lie; None where there is none."""

    key: str
    offset: int
    image: Span | None = None
    text: Span | None = None
    fields: Span | None = None
    label: Span | None = None


@dataclass(frozen=True)
class Further:
    """A member beyond those that a record is read from, as `a.left.jpg` beside `a.jpg`."""

    key: str
    offset: int


@dataclass(frozen=True)
class Damage:
    """Where a tar file cannot be read further, and why."""

    offset: int
    reason: str


def tar_files(path: str | os.PathLike) -> list[str]:
    """The tar files of a folder, a single one, or those of a pattern such as 'data/*.tar', sorted.

    Raises:
        UserError: there are none.
    """
    # What is there is a path, whatever its letters mean in a pattern.
    path = os.path.expanduser(os.fspath(path))
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        files = [n for n in names if n.lower().endswith(".tar") and not n.startswith(".")]
        files = [os.path.join(path, name) for name in files]
    else:
        files = [path] if os.path.isfile(path) else sorted(glob.glob(path))
    if not files:
        raise UserError(f"data.path={str(path)!r} holds no tar files (*.tar)")
    return files


def scan(file: BinaryIO) -> Iterator[Entry | Further | Damage]:
    """The records of a tar file by its headers alone, in the order in which they begin.

    Last comes what is wrong with the file.
    """
    parts: dict[str, dict[str, Any]] = {}
    offset, last, damage = 0, "", None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                offset = member.offset
                # tarfile remembers every member it saw.
                tar.members = []
                if not member.isfile() or hidden(member.name):
                    continue
                last, suffix = os.path.splitext(member.name)
                if kind := _kind(suffix.lower()):
                    entry = parts.setdefault(last, {"key": last, "offset": member.offset})
                    entry.setdefault(kind, Span(member.offset_data, member.size))
            offset = tar.offset
            # tarfile takes a damaged header, or the file's end, for the archive's end.
            file.seek(offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("the file is cut off or its header is damaged")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        damage = Damage(offset, str(error) or type(error).__name__)
        # Of the record that was being read nobody knows whether members are missing.
        parts.pop(last, None)
    for key, entry in parts.items():
        if _of_another(key, entry, parts):
            yield Further(key, entry["offset"])
        else:
            yield Entry(**entry)
    if damage is not None:
        yield damage


def _of_another(key: str, entry: dict[str, Any], parts: dict[str, dict[str, Any]]) -> bool:
    """Whether it is one more member of a record: `a.left.jpg` where there is `a.jpg` or `a.txt`.

    WebDataset's key ends at the first dot; a pair such as `v1.5.jpg` and `v1.5.txt` is its own.
    """
    folder, name = os.path.split(key)
    first = os.path.join(folder, name.partition(".")[0])
    alone = len(entry) == 3  # Its key, its offset and one member.
    return alone and first != key and first in parts


def _kind(suffix: str) -> str:
    if suffix in image_suffixes():
        return "image"
    return {".txt": "text", ".json": "fields", ".cls": "label"}.get(suffix, "")


def read_span(file: BinaryIO, span: Span, limit: int) -> bytes:
    """The bytes of a span, at most one more than `limit`. Safe to call from threads."""
    # `pread` moves no position that threads would share.
    return os.pread(file.fileno(), min(span.size, limit + 1), span.offset)


def read_text(file: BinaryIO, entry: Entry) -> tuple[bytes | str, int]:
    """The captions, as bytes where they have a member of their own, and the label.

    Raises:
        ValueError: the JSON is none.
    """
    columns: dict[str, Any] = {}
    try:
        columns = _columns(file, entry)
    except (ValueError, RecursionError) as error:
        # A caption of its own needs none.
        if entry.text is None:
            raise ValueError(f"the JSON cannot be read: {error}") from None
    try:
        number = _label(file, entry, columns)
    except ValueError:
        number = -1
    if entry.text is not None:
        return read_span(file, entry.text, MAX_TEXT_BYTES), number
    return caption_of(columns) or "", number


def read_kinds(file: BinaryIO, entry: Entry, fields: Fields) -> tuple[str, ...]:
    """Of each kind of caption what the record says: of its JSON, and of the text of its own.

    Raises:
        ValueError: the JSON is none, or the text not UTF-8.
    """
    columns = _columns(file, entry)
    if entry.text is not None:
        text = read_span(file, entry.text, MAX_TEXT_BYTES).decode("utf-8-sig").strip()
        columns = {**columns, TEXT_FILE: text}
    return texts_in(columns, fields)


def read_label(file: BinaryIO, entry: Entry) -> int:
    """The label of a record, -1 where there is none.

    Raises:
        ValueError: it is no whole number.
    """
    columns: dict[str, Any] = {}
    if entry.label is None:
        with contextlib.suppress(ValueError, RecursionError):
            columns = _columns(file, entry)
    return _label(file, entry, columns)


def _columns(file: BinaryIO, entry: Entry) -> dict[str, Any]:
    """What the record's JSON says; nothing where there is none."""
    if entry.fields is None:
        return {}
    fields = json.loads(read_span(file, entry.fields, MAX_TEXT_BYTES))
    if not isinstance(fields, dict):
        raise ValueError("the JSON is no object")
    return columns_of(fields)


def _label(file: BinaryIO, entry: Entry, columns: dict[str, Any]) -> int:
    if entry.label is None:
        return label_of(columns.get("label"))
    return label_of(read_span(file, entry.label, 64).decode("utf-8", "replace"))


class WebDatasetSource:
    """Random access to the records of tar files; one in twenty is the split 'test'.

    Opening reads every header: some hundreds of files take seconds, more are better prepared.

    Args:
        path: a folder of *.tar, a pattern, or one file.
        split: 'train', 'test' or 'all'.
        fields: kinds of captions: fields of the JSON, or 'txt' for KEY.txt.

    Raises:
        UserError: no tar files, no such split, no records, or a field that none of the first has.
    """

    def __init__(self, path: str | os.PathLike, split: str, fields: Fields = ()):
        check_split(split, "WebDataset files")
        self._split, self._paths, self._fields = split, tar_files(path), fields
        self._files: dict[int, BinaryIO] = {}
        self._closing = contextlib.ExitStack()
        weakref.finalize(self, self._closing.close)
        self._lock = threading.Lock()
        self._entries: list[list[Entry]] = []
        self._lone: list[str] = []
        self._further: list[str] = []
        for file in self._paths:
            self._entries.append(self._scan(file))
        self._tell()
        self._starts = [0, *itertools.accumulate(map(len, self._entries))]
        sizes = sum(Path(file).stat().st_size for file in self._paths)
        self.identity = f"webdataset/{len(self._paths)} files/{sizes} bytes/{split}"
        self.name = f"webdataset/{path}/{len(self._paths)} files/{sizes} bytes/{split}"
        self._check_fields()

    def __len__(self) -> int:
        return split_length(self._starts[-1], self._split)

    def __getitem__(self, index: int) -> Record:
        file, entry, where = self._find(index)
        caption, label = self._text(file, entry, where)
        choices = choices_of(self._kinds(file, entry, where), self._fields)
        data = os.pread(file.fileno(), entry.image.size, entry.image.offset)
        return Record(decode(data, where), caption, label, choices=choices)

    def captions(self) -> Iterator[str]:
        """The captions in order, without reading a picture."""
        for index in range(len(self)):
            try:
                yield self._text(*self._find(index))[0]
            except BadRecord as error:
                logging.warning("caption skipped: %s", error)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The numbers up to the highest label of any record; none without labels, or of ids."""
        return numbered_classes(self._labels, self.name) or ()

    @property
    def unlabelled(self) -> int:
        """How many pictures have no class."""
        positions = (split_position(index, self._split) for index in range(len(self)))
        classes = range(len(self.classes))
        return sum(self._labels[position] not in classes for position in positions)

    @functools.cached_property
    def _labels(self) -> list[int]:
        """Of each record of all splits, -1 where there is none."""
        labels, unread = [], 0
        for path, entries in zip(self._paths, self._entries, strict=True):
            with open(path, "rb") as file:
                for entry in entries:
                    labels.append(-1)
                    try:
                        labels[-1] = read_label(file, entry)
                    except ValueError:
                        unread += 1
        if unread:
            logging.warning(
                "%s: %d labels are no whole numbers and are left out", self.name, unread
            )
        return labels

    def _tell(self) -> None:
        """One line of pictures without caption and of captions without picture."""
        silent = [e for entries in self._entries for e in entries if not (e.text or e.fields)]
        if silent and len(silent) < sum(map(len, self._entries)):
            logging.warning(
                "%s: %d pictures have no caption, first: %s",
                os.path.dirname(self._paths[0]),
                len(silent),
                silent[0].key,
            )
        if self._further:
            logging.warning(
                "%s: %d members are further ones of other records and are left out, first: %s",
                os.path.dirname(self._paths[0]),
                len(self._further),
                self._further[0],
            )
        if self._lone:
            logging.warning(
                "%s: %d captions or labels have no picture and are left out, first: %s",
                os.path.dirname(self._paths[0]),
                len(self._lone),
                self._lone[0],
            )

    def _scan(self, path: str) -> list[Entry]:
        entries = []
        with open(path, "rb") as file:
            for entry in scan(file):
                if isinstance(entry, Damage):
                    logging.warning("damaged file: %s at %d: %s", path, entry.offset, entry.reason)
                elif isinstance(entry, Further):
                    self._further.append(f"{path}:{entry.key}")
                elif entry.image is not None:
                    entries.append(entry)
                else:
                    self._lone.append(f"{path}:{entry.key}")
        return entries

    def _find(self, index: int) -> tuple[BinaryIO, Entry, str]:
        position = split_position(index, self._split)
        number = bisect.bisect_right(self._starts, position) - 1
        entry = self._entries[number][position - self._starts[number]]
        with self._lock:
            if number not in self._files:
                file = self._closing.enter_context(open(self._paths[number], "rb"))
                self._files[number] = file
        return self._files[number], entry, f"{self._paths[number]}:{entry.key}@{entry.offset}"

    def _text(self, file: BinaryIO, entry: Entry, where: str) -> tuple[str, int]:
        try:
            caption, label = read_text(file, entry)
            if isinstance(caption, bytes):
                caption = caption.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRecord(where, "the caption is not UTF-8") from error
        except ValueError as error:
            raise BadRecord(where, str(error)) from error
        if self._fields:
            caption = as_caption(self._kinds(file, entry, where))
        return caption.strip(), label if label < MAX_CLASSES else -1

    def _kinds(self, file: BinaryIO, entry: Entry, where: str) -> tuple[str, ...]:
        try:
            return read_kinds(file, entry, self._fields) if self._fields else ()
        except (ValueError, RecursionError) as error:
            raise BadRecord(where, f"its captions cannot be read: {error}") from error

    def _check_fields(self) -> None:
        """Raises `UserError` for a field that none of the first records has."""
        found, columns = [], set()
        for index in range(min(len(self), CAPTIONS_CHECKED) if self._fields else 0):
            file, entry, where = self._find(index)
            with contextlib.suppress(BadRecord, ValueError, RecursionError):
                found.append(self._kinds(file, entry, where))
                columns |= _columns(file, entry).keys()
        for field, texts in zip(self._fields, zip(*found, strict=True), strict=False):
            if not any(texts):
                there = ", ".join(sorted(columns)) or "no JSON"
                raise no_record_has(field.name, "data.caption_fields", self.name, there)
