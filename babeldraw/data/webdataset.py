"""WebDataset tar files: one picture and its caption as neighbouring members of one name.

Members `KEY.jpg` and `KEY.txt` (or `KEY.json` with a field "caption" or "text") make a record;
`KEY.cls` holds its label.
"""

import bisect
import contextlib
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

from babeldraw.data.folder import CAPTION_COLUMNS, IMAGE_SUFFIXES
from babeldraw.data.image import decode
from babeldraw.data.sources import BadRecord, Record
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
class Damage:
    """Where a tar file cannot be read further, and why."""

    offset: int
    reason: str


def tar_files(path: str | os.PathLike) -> list[str]:
    """The tar files of a folder, a pattern such as 'data/*.tar', or a single one, sorted.

    Raises:
        UserError: there are none.
    """
    found = os.path.join(path, "*.tar") if os.path.isdir(path) else os.fspath(path)
    files = sorted(glob.glob(found))
    if not files:
        raise UserError(f"data.path={str(path)!r} holds no tar files (*.tar)")
    return files


def scan(file: BinaryIO) -> Iterator[Entry | Damage]:
    """The records of a tar file in order, by its headers alone; last, what is wrong with it."""
    entry: dict[str, Any] = {}
    offset = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                offset = member.offset
                # tarfile remembers every member it saw.
                tar.members = []
                if not member.isfile():
                    continue
                folder, name = os.path.split(member.name)
                key, _, suffix = name.partition(".")
                key = os.path.join(folder, key)
                if entry and entry["key"] != key:
                    yield Entry(**entry)
                    entry = {}
                entry = entry or {"key": key, "offset": member.offset}
                if kind := _kind(f".{suffix.lower()}"):
                    entry.setdefault(kind, Span(member.offset_data, member.size))
            offset = tar.offset
            # tarfile takes a damaged header, or the file's end, for the archive's end.
            file.seek(offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("the file is cut off or its header is damaged")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        # Of the record that was being read nobody knows whether members are missing.
        yield Damage(offset, str(error) or type(error).__name__)
        return
    if entry:
        yield Entry(**entry)


def _kind(suffix: str) -> str:
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return {".txt": "text", ".json": "fields", ".cls": "label"}.get(suffix, "")


def read_span(file: BinaryIO, span: Span, limit: int) -> bytes:
    """The bytes of a span, at most one more than `limit`. Safe to call from threads."""
    # `pread` moves no position that threads would share.
    return os.pread(file.fileno(), min(span.size, limit + 1), span.offset)


def read_text(file: BinaryIO, entry: Entry) -> tuple[bytes | str, int]:
    """The caption, as bytes where it has a member of its own, and the label.

    Raises:
        ValueError: the JSON or the label is none.
    """
    label = -1
    if entry.label is not None:
        label = int(read_span(file, entry.label, 64))
    if entry.text is not None:
        return read_span(file, entry.text, MAX_TEXT_BYTES), label
    if entry.fields is None:
        return "", label
    fields = json.loads(read_span(file, entry.fields, MAX_TEXT_BYTES))
    if not isinstance(fields, dict):
        raise ValueError("the JSON is no object")
    texts = [fields[c] for c in CAPTION_COLUMNS if isinstance(fields.get(c), str)]
    return (texts or [""])[0], label


class WebDatasetSource:
    """Random access to the records of tar files; one in twenty is the split 'test'.

    Opening reads every header: some hundreds of files take seconds, more are better prepared.

    Args:
        path: a folder of *.tar, a pattern, or one file.
        split: 'train', 'test' or 'all'.

    Raises:
        UserError: no tar files, no such split, or no records.
    """

    def __init__(self, path: str | os.PathLike, split: str):
        check_split(split, "WebDataset files")
        self._split, self._paths = split, tar_files(path)
        self._files: dict[int, BinaryIO] = {}
        self._closing = contextlib.ExitStack()
        weakref.finalize(self, self._closing.close)
        self._lock = threading.Lock()
        self._entries: list[list[Entry]] = []
        for file in self._paths:
            self._entries.append(self._scan(file))
        self._starts = [0, *itertools.accumulate(map(len, self._entries))]
        sizes = sum(Path(file).stat().st_size for file in self._paths)
        self.name = f"webdataset/{path}/{len(self._paths)} files/{sizes} bytes/{split}"

    def __len__(self) -> int:
        return split_length(self._starts[-1], self._split)

    def __getitem__(self, index: int) -> Record:
        file, entry, where = self._find(index)
        caption, label = self._text(file, entry, where)
        data = os.pread(file.fileno(), entry.image.size, entry.image.offset)
        return Record(decode(data, where), caption, label)

    def captions(self) -> Iterator[str]:
        """The captions in order, without reading a picture."""
        for index in range(len(self)):
            try:
                yield self._text(*self._find(index))[0]
            except BadRecord as error:
                logging.warning("caption skipped: %s", error)

    def _scan(self, path: str) -> list[Entry]:
        entries = []
        with open(path, "rb") as file:
            for entry in scan(file):
                if isinstance(entry, Damage):
                    logging.warning("damaged file: %s at %d: %s", path, entry.offset, entry.reason)
                elif entry.image is not None:
                    entries.append(entry)
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
        return caption.strip(), label
