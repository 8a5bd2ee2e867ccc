"""A .zip of pictures, read where it lies: nothing is unpacked, and no name in it is a path here."""

import re
import stat
import struct
import threading
import unicodedata
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from babeldraw.data.files import hidden
from babeldraw.data.image import MAX_PIXELS
from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError

# Of what a picture may have at most, the bytes as RGB: nothing larger would be decoded.
MAX_BYTES = 3 * MAX_PIXELS
# Files of pictures are packed already. Flat ones as BMP give deflate's own limit of 1,032, but are
# small: a ratio says something of a large member alone, and of the archive.
MAX_RATIO = 200
LARGE = 1 << 24
LARGE_ARCHIVE = 1 << 30
# Of the other methods Python cannot bound what one read unpacks (`ZipExtFile._read1`).
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED, UTF8 = 0x1, 0x800
FROM_DOS = 0
# What zipfile raises on damaged archives.
FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


class ZipFiles:
    """The members of a .zip as the files of the folder that was packed.

    Where one folder holds everything, as where a folder was packed whole, paths begin inside it.
    Members that are left out (links, encrypted ones, names that lead outside, what would unpack to
    far more than a picture) are counted by reason in `left_out`. No .zip in it is opened.

    Raises:
        UserError: it cannot be read, or its members claim to unpack to 200 times its size.
    """

    def __init__(self, path: Path):
        self._path, self.name = path, path.stem
        try:
            file = path.open("rb")
            weakref.finalize(self, file.close)
            # A file that is given and not a path is never closed by a count of readers, which
            # threads would race for.
            self._zip = zipfile.ZipFile(file)
        except FAULTS as error:
            raise UserError(
                f"data.path={path} cannot be read as a .zip file ({error}); download it again"
            ) from error
        self.left_out: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._members = self._indexed()
        self._refuse_bomb()

    def names(self) -> Iterator[str]:
        return iter(self._members)

    def size(self, name: str) -> int:
        return self._members[name].file_size

    def read(self, name: str) -> bytes:
        info = self._members[name]
        try:
            with self._lock:
                member = self._zip.open(info)
            # Of a member that is larger than it claims no more is unpacked. Its parts are read
            # under a lock of zipfile's own.
            with member:
                data = member.read(info.file_size + 1)
        except FAULTS as error:
            raise BadRecord(self.where(name), str(error) or type(error).__name__) from error
        if len(data) != info.file_size:
            raise BadRecord(self.where(name), "the member is not of the size that it claims")
        return data

    def where(self, name: str) -> str:
        return f"{self._path}:{name}" if name else str(self._path)

    def _indexed(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = _name(info)
            if name.endswith("/") or hidden(name):
                continue
            if reason := _refused(info, name):
                self.left_out.setdefault(reason, []).append(name)
                continue
            if name in members:
                # As unpacking does.
                self.left_out.setdefault("have later ones of their name", []).append(name)
            members[name] = info
        return _without_top(members)

    def _refuse_bomb(self) -> None:
        total = sum(info.file_size for info in self._members.values())
        size = self._path.stat().st_size
        if total > max(LARGE_ARCHIVE, MAX_RATIO * size):
            raise UserError(
                f"data.path={self._path} has {size:,} bytes and would unpack to {total:,}, more "
                f"than {MAX_RATIO} times as many: no archive of pictures; give another"
            )


def _name(info: zipfile.ZipInfo) -> str:
    """The member's path as unpacking would make it, with '/'."""
    name = info.orig_filename
    if not info.flag_bits & UTF8:
        try:
            # Macs write UTF-8 without saying so.
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    # Archives of older Windows programs; elsewhere it is a letter of the name.
    return name.replace("\\", "/") if info.create_system == FROM_DOS else name


def _refused(info: zipfile.ZipInfo, name: str) -> str:
    """Why a member is left out; '' where it is not."""
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "are links or devices"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "have absolute names"
    # A terminal would obey them where the name is told.
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "have control characters in their names"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "have names that lead elsewhere"
    if info.flag_bits & ENCRYPTED:
        return "are encrypted"
    if info.compress_type not in METHODS:
        return "are compressed otherwise than by deflate"
    if info.file_size > MAX_BYTES:
        return f"have more than {MAX_BYTES:,} bytes unpacked"
    if info.file_size > max(LARGE, MAX_RATIO * info.compress_size):
        return f"would unpack to more than {MAX_RATIO} times their size"
    return ""


def _without_top(members: dict[str, zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Paths within the one folder that holds everything, where there is one."""
    tops = {name.partition("/")[0] for name in members}
    if len(tops) != 1 or not all("/" in name for name in members):
        return members
    return {name.partition("/")[2]: info for name, info in members.items()}
