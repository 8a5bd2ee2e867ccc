"""Prepared pictures with their captions: what `babeldraw prepare` writes and training reads.

A folder of ArrayRecord files, each record one picture, and `manifest.json`. A record is a msgpack
map: `image`, the bytes of a baseline JPEG file; `caption`, text; `label`, an integer, -1 for none;
`source`, where it came from. Every record is a chunk of its own with a checksum of its own, so any
is read without its neighbours and damage costs the damaged records alone.
"""

import bisect
import functools
import hashlib
import itertools
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import numpy as np
from absl import logging
from etils import epath

from babeldraw.data.complexity import MANIFEST as COMPLEXITY
from babeldraw.data.complexity import StoredComplexity
from babeldraw.data.image import decode
from babeldraw.data.records import BadRecord, Record, checked_label
from babeldraw.data.splits import check_split, split_length, split_position
from babeldraw.errors import UserError

MANIFEST = "manifest.json"
# JPEG files do not shrink any more.
WRITER_OPTIONS = "group_size:1,uncompressed"
# Records are read here and there: what lies behind one is not wanted.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
# `captions` gives no more than this: a vocabulary is trained on no more.
MAX_CAPTIONS = 1_000_000
JPEG_HEAD, JPEG_TAIL = b"\xff\xd8", b"\xff\xd9"
COPIED_BYTES = 1 << 20
FIELDS = {
    "name": str,
    "digest": str,
    "count": int,
    "complete": bool,
    "classes": list,
    "shards": list,
}
SHARD_FIELDS = {"file": str, "count": int, "bytes": int, "sha256": str}
RECORD_FIELDS = {"image": bytes, "caption": str, "label": int, "source": str}


def array_record() -> ModuleType:
    """The reader and writer of ArrayRecord files, imported on the first call.

    Raises:
        UserError: it is not installed, as on Windows.
    """
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise UserError("shards need the package array-record; pip install array-record") from error
    return array_record_module


def write_shard(path: str | os.PathLike, records: Iterable[bytes]) -> dict[str, Any]:
    """Writes packed records to one shard, whole or not at all; returns its entry of a manifest.

    Args:
        path: local or any path etils knows; its folder must be there.
        records: as `pack` gives them.
    """
    path = epath.Path(path)
    with tempfile.TemporaryDirectory() as folder:
        # ArrayRecord writes local files alone.
        local = Path(folder) / path.name
        writer = array_record().ArrayRecordWriter(str(local), WRITER_OPTIONS)
        count = 0
        for record in records:
            writer.write(record)
            count += 1
        writer.close()
        entry = {"file": path.name, "count": count, "bytes": local.stat().st_size}
        return {**entry, "sha256": _publish(local, path)}


def _publish(local: Path, path: epath.Path) -> str:
    """Copies a file to its place, where it is seen whole or not at all; returns its SHA-256."""
    digest = hashlib.sha256()
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        with local.open("rb") as source, partial.open("wb") as target:
            while block := source.read(COPIED_BYTES):
                digest.update(block)
                target.write(block)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def pack(image: bytes, caption: str, label: int, source: str) -> bytes:
    """One record; `image` is a JPEG file."""
    return msgpack.packb({"image": image, "caption": caption, "label": label, "source": source})


def unpack(data: bytes, where: str) -> dict[str, Any]:
    """The fields of a record.

    Raises:
        BadRecord: it is none of `pack`.
    """
    try:
        record = msgpack.unpackb(data)
    except Exception as error:  # Damaged bytes raise many types.
        raise BadRecord(where, f"no record of a shard: {error}") from error
    if not _has(record, RECORD_FIELDS):
        raise BadRecord(where, f"no record of a shard, which has {', '.join(RECORD_FIELDS)}")
    return record


def read_shard(path: str | os.PathLike) -> Iterator[bytes]:
    """The packed records of a shard in order; raises RuntimeError where it is damaged.

    Args:
        path: local or any path etils knows.
    """
    with tempfile.TemporaryDirectory() as folder:
        local = os.fspath(path)
        if not os.path.exists(local):
            # ArrayRecord reads local files alone.
            local = os.path.join(folder, "shard")
            epath.Path(path).copy(local)
        reader = array_record().ArrayRecordReader(local, READER_OPTIONS)
        for index in range(reader.num_records()):
            yield reader.read([index])[0]


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a folder of shards.

    Raises:
        UserError: there is none, or it lacks a field or holds one of another type.
    """
    path = epath.Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.path={str(folder)!r} holds no readable {MANIFEST}; make one with "
            "`babeldraw prepare`"
        ) from error
    if not _has(manifest, FIELDS) or not all(_is_shard(entry) for entry in manifest["shards"]):
        raise UserError(f"{path} is not a manifest of `babeldraw prepare`")
    return manifest


def _has(value: Any, fields: dict[str, type]) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(value.get(name), kind) for name, kind in fields.items())


def _is_shard(entry: Any) -> bool:
    """The name alone of a file: no manifest reads one from elsewhere."""
    return _has(entry, SHARD_FIELDS) and Path(entry["file"]).name == entry["file"]


class ShardSource:
    """Random access to prepared pictures; one record in twenty is the split 'test'.

    Args:
        path: the folder that `babeldraw prepare` wrote.
        split: 'train', 'test' or 'all'.

    Attributes:
        name: says which data, with which options prepared.
        gives_jpeg: true; see `jpeg`.
        classes: names of the classes that labels count; none without labels.

    Raises:
        UserError: no manifest, not complete, no such split, or a shard that is missing.
    """

    gives_jpeg = True

    def __init__(self, path: str | os.PathLike, split: str):
        check_split(split, "prepared shards")
        self._folder = Path(path)
        manifest = read_manifest(self._folder)
        if not manifest["complete"]:
            raise UserError(
                f"data.path={path} is not complete; run the same `babeldraw prepare` once more"
            )
        self._split, self._shards = split, manifest["shards"]
        self.classes = tuple(map(str, manifest["classes"]))
        self._starts = [0, *itertools.accumulate(shard["count"] for shard in self._shards)]
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()
        missing = [e["file"] for e in self._shards if not (self._folder / e["file"]).is_file()]
        if missing:
            raise UserError(
                f"data.path={path} lacks {len(missing)} of {len(self._shards)} shards, such as "
                f"{missing[0]}; copy them, or run the same `babeldraw prepare` once more"
            )
        self._check_sizes()
        self.name = f"shards/{manifest['name']}/{manifest['digest'][:16]}/{split}"

    def __len__(self) -> int:
        return split_length(self._starts[-1], self._split)

    def __getitem__(self, index: int) -> Record:
        record = self.jpeg(index)
        where = self._where(*self._place(index))
        return Record(decode(record.jpeg, where), record.caption, record.label)

    def jpeg(self, index: int) -> Record:
        """The record with its picture as the bytes of a JPEG file, and an empty `image`."""
        shard, row = self._place(index)
        fields, where = self._read(shard, row), self._where(shard, row)
        if not (fields["image"].startswith(JPEG_HEAD) and fields["image"].endswith(JPEG_TAIL)):
            raise BadRecord(where, "the picture is no whole JPEG file")
        label = checked_label(fields["label"], self.classes, where)
        return Record(np.zeros((0, 0, 3), np.uint8), fields["caption"], label, jpeg=fields["image"])

    def captions(self) -> Iterator[str]:
        """The captions in order, without decoding a picture; of more than a million every k-th."""
        for index in range(0, len(self), max(1, len(self) // MAX_CAPTIONS)):
            try:
                yield self._read(*self._place(index))["caption"]
            except BadRecord as error:
                logging.warning("caption skipped: %s", error)

    @functools.cached_property
    def complexity(self) -> StoredComplexity | None:
        """What `babeldraw score` wrote beside the shards, of all splits; None: nothing."""
        if not (self._folder / COMPLEXITY).exists():
            return None
        return StoredComplexity(self._folder, self.counts)

    @property
    def counts(self) -> dict[str, int]:
        """Records of each shard, by its file's name."""
        return {entry["file"]: entry["count"] for entry in self._shards}

    @property
    def levels(self) -> np.ndarray | None:
        """int32 [len], the level that each record goes into, by its name; None: nothing is known.

        A level's name is a number, as 16 of a nested VAE is. A record without a score goes into
        the level of most codes.
        """
        stored = self.complexity
        if stored is None or stored.numbers is None:
            return None
        names = np.array(stored.levels.names, np.int32)
        places = [split_position(index, self._split) for index in range(len(self))]
        return names[stored.numbers[places]]

    def source_of(self, index: int) -> str:
        """Where the record came from when it was prepared."""
        return self._read(*self._place(index))["source"]

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of a record, and its row there."""
        position = split_position(index, self._split)
        shard = bisect.bisect_right(self._starts, position) - 1
        return shard, position - self._starts[shard]

    def _read(self, shard: int, row: int) -> dict[str, Any]:
        where = self._where(shard, row)
        try:
            data = self._reader(shard).read([row])[0]
        except (RuntimeError, IndexError, ValueError) as error:
            raise BadRecord(where, _line(error)) from error
        return unpack(data, where)

    def _reader(self, shard: int) -> Any:
        # Files are opened when first needed: a host of many reads few records of each.
        if shard not in self._readers:
            with self._lock:
                path = str(self._folder / self._shards[shard]["file"])
                reader = array_record().ArrayRecordReader(path, READER_OPTIONS)
                self._readers.setdefault(shard, reader)
        return self._readers[shard]

    def _check_sizes(self) -> None:
        """A shard of another size is damaged: its records will be bad ones; one line says so."""
        for entry in self._shards:
            size = (self._folder / entry["file"]).stat().st_size
            if size != entry["bytes"]:
                logging.warning(
                    "damaged shard: %s has %d bytes where the manifest says %d; its %d records "
                    "count as bad where they cannot be read",
                    self._folder / entry["file"],
                    size,
                    entry["bytes"],
                    entry["count"],
                )

    def _where(self, shard: int, row: int) -> str:
        return f"{self._folder / self._shards[shard]['file']}[{row}]"


def damaged_shards(folder: str | os.PathLike, entries: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the shards whose bytes are not those of the manifest; reads all of them."""
    damaged = []
    for entry in entries:
        path, digest = Path(folder) / entry["file"], hashlib.sha256()
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(COPIED_BYTES):
                    digest.update(block)
        if digest.hexdigest() != entry["sha256"]:
            damaged.append(entry["file"])
    return damaged


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
