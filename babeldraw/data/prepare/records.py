"""Files of tf.train.Example records, TFRecord or ArrayRecord, and TFDS datasets as inputs."""

import glob
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from babeldraw.data.prepare.examples import Raw, Rejected
from babeldraw.data.rows import lines_of
from babeldraw.data.shards import READER_OPTIONS, array_record
from babeldraw.errors import UserError

# Where features go by one of these names, the first that a record has is read.
IMAGE_KEYS = ("image", "image/encoded", "jpg", "jpeg", "png")
CAPTION_KEYS = ("caption", "captions", "captions/text", "text", "image/caption", "txt")
LABEL_KEYS = ("label", "image/class/label", "cls")
# A TFRecord is a length of 8 bytes, its masked CRC32C, the data, their masked CRC32C.
HEAD, TAIL = 12, 4
MASK_DELTA = 0xA282EAD8
# Of a caption or label: what is longer is no record of ours.
MAX_OTHER_BYTES = 1 << 24


def _files(path: str, suffix: str) -> list[str]:
    """The files of a folder whose names hold `suffix`, of a pattern, or the one file."""
    files = sorted(glob.glob(os.path.join(path, f"*{suffix}*") if os.path.isdir(path) else path))
    if not files:
        raise UserError(f"path={path!r} holds no {suffix} files")
    return files


def _raw(data: bytes, where: str) -> Raw | Rejected:
    """One tf.train.Example: its first picture, all its captions and its first label."""
    # TFDS carries the definition of the record by itself: no TensorFlow in workers.
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        example = tf_example_pb2.Example.FromString(data)
    except Exception as error:  # Of protobuf, by whichever implementation.
        return Rejected(where, "damaged input", f"no tf.train.Example: {type(error).__name__}")
    features = example.features.feature
    pictures, captions = _bytes(features, IMAGE_KEYS), _bytes(features, CAPTION_KEYS)
    label = next((features[k].int64_list.value for k in LABEL_KEYS if k in features), ())
    return Raw(
        where,
        pictures[0] if pictures else b"",
        lines_of(captions) if captions else b"",
        int(label[0]) if label else -1,
    )


def _bytes(features: Any, keys: tuple[str, ...]) -> list[bytes]:
    return next((list(features[key].bytes_list.value) for key in keys if key in features), [])


@dataclass(frozen=True)
class TFRecordInput:
    """Attributes:
    path: a folder of *.tfrecord*, a pattern, or one file; a file is a piece.
    """

    path: str

    @property
    def name(self) -> str:
        return f"tfrecord/{Path(self.path).name}"

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def pieces(self, size: int) -> list[dict]:
        del size
        files = _files(self.path, ".tfrecord")
        return [{"file": path, "bytes": os.path.getsize(path)} for path in files]

    def read(self, piece: dict, max_bytes: int) -> Iterator[Raw | Rejected]:
        name = Path(piece["file"]).name
        with open(piece["file"], "rb") as file:
            for offset, data in read_tfrecords(file, max_bytes + MAX_OTHER_BYTES):
                where = f"{name}@{offset}"
                if isinstance(data, str):
                    yield Rejected(where, "damaged input", data)
                else:
                    yield _raw(data, where)


def read_tfrecords(file: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | str]]:
    """(offset, record, or what is wrong with it); goes on behind a record whose data are damaged.

    A length that cannot be trusted ends the file: nothing says where the next record begins.
    """
    while head := file.read(HEAD):
        offset = file.tell() - len(head)
        if len(head) < HEAD:
            yield offset, "the file is cut off"
            return
        size, check = struct.unpack("<QI", head)
        if masked_crc(head[:8]) != check:
            yield offset, "the checksum of a record's length is wrong; the rest is not read"
            return
        if size > limit:
            yield offset, f"a record of {size} bytes"
            file.seek(size + TAIL, os.SEEK_CUR)
            continue
        body = file.read(size + TAIL)
        if len(body) < size + TAIL:
            yield offset, "the file is cut off"
            return
        data = body[:size]
        if masked_crc(data) != struct.unpack("<I", body[size:])[0]:
            yield offset, "the checksum is wrong"
        else:
            yield offset, data


def masked_crc(data: bytes) -> int:
    """CRC32C, rotated and shifted, as TFRecord files hold it (tensorflow/core/lib/hash/crc32c.h).

    Raises:
        UserError: the package that computes it is not installed.
    """
    try:
        import google_crc32c
    except ImportError as error:
        raise UserError(
            "TFRecord files need the package google-crc32c; pip install 'babeldraw[prepare]'"
        ) from error
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


@dataclass(frozen=True)
class ArrayRecordInput:
    """Attributes:
    path: a folder of *.array_record*, a pattern, or one file.
    """

    path: str

    @property
    def name(self) -> str:
        return f"array_record/{Path(self.path).name}"

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def pieces(self, size: int) -> list[dict]:
        pieces = []
        for path in _files(self.path, ".array_record"):
            count = array_record().ArrayRecordReader(path, READER_OPTIONS).num_records()
            # A file that cannot be opened has no records: its piece says so.
            for start in range(0, max(1, count), size):
                stop = min(start + size, count)
                span = {"start": start, "stop": stop, "bytes": os.path.getsize(path)}
                pieces.append({"file": path, **span})
        return pieces

    def read(self, piece: dict, max_bytes: int) -> Iterator[Raw | Rejected]:
        del max_bytes
        path, name = piece["file"], Path(piece["file"]).name
        reader = array_record().ArrayRecordReader(path, READER_OPTIONS)
        if piece["start"] == piece["stop"]:
            yield Rejected(name, "damaged input", "the file is empty or cut off")
        for index in range(piece["start"], piece["stop"]):
            where = f"{name}[{index}]"
            try:
                data = reader.read([index])[0]
            except (RuntimeError, IndexError) as error:
                yield Rejected(where, "damaged input", str(error).splitlines()[0])
                continue
            yield _raw(data, where)


@dataclass(frozen=True)
class TfdsInput:
    """Attributes:
    path: a dataset as TFDS knows it, prepared with random access.
    split: one of its splits, or a slice.
    data_dir: where it was prepared; '' for the default of TFDS.
    """

    path: str
    split: str
    data_dir: str = ""

    @property
    def name(self) -> str:
        return f"tfds/{self.path}/{self.split}"

    @property
    def classes(self) -> tuple[str, ...]:
        return self._open().classes

    def pieces(self, size: int) -> list[dict]:
        total = len(self._open())
        starts = range(0, total, size)
        return [{"start": start, "stop": min(start + size, total)} for start in starts]

    def read(self, piece: dict, max_bytes: int) -> Iterator[Raw | Rejected]:
        del max_bytes
        from babeldraw.data.records import BadRecord

        source = self._open()
        for index in range(piece["start"], piece["stop"]):
            try:
                yield Raw(source.where(index), *source.encoded(index))
            except BadRecord as error:
                yield Rejected(error.where, "damaged input", error.reason)

    def _open(self) -> Any:
        from babeldraw.data.tfds import TfdsSource

        return TfdsSource(self.path, self.split, self.data_dir)
