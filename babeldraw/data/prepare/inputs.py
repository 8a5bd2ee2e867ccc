"""Where raw records come from: each kind of input cuts itself into pieces, read one by one.

An input is a frozen dataclass of plain values: it is sent to every worker, and opens what it needs
there. A piece is plain JSON and becomes one shard, so what a shard holds depends on the data and on
the options alone, however many workers there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from babeldraw.config import require
from babeldraw.data.folder import FolderSource, open_files
from babeldraw.data.languages import PLAIN, in_language, is_language
from babeldraw.data.prepare.examples import Raw, Rejected
from babeldraw.data.prepare.fetch import Fetch
from babeldraw.data.prepare.lists import ListInput
from babeldraw.data.prepare.records import ArrayRecordInput, TfdsInput, TFRecordInput
from babeldraw.data.prepare.tars import TarInput
from babeldraw.data.records import BadRecord

Piece = dict[str, Any]
KINDS = ("folder", "webdataset", "tfrecord", "array_record", "list", "tfds")


class Input(Protocol):
    """Attributes:
    name: what the user calls these data.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that labels count, where known before reading; else none."""
        ...

    def pieces(self, size: int) -> list[Piece]:
        """The data in order, cut into pieces of about `size` records."""
        ...

    def read(self, piece: Piece, max_bytes: int) -> Iterator[Raw | Rejected]:
        """The records of a piece in order; what cannot be read comes as `Rejected`.

        Args:
            piece: one of `pieces`.
            max_bytes: a picture's file of more bytes need not be read.
        """
        ...


@dataclass(frozen=True)
class FolderInput:
    """Pictures at any depth with captions beside them or in a list, as `FolderSource` finds them.

    Attributes:
        path: the folder; every worker must see it under this path.
        split: 'all', or 'NAME/' for the pictures in that sub-folder.
        language: of captions with translations: see `languages`.
    """

    path: str
    split: str = "all"
    language: str = PLAIN

    @property
    def name(self) -> str:
        name = f"folder/{Path(self.path).name}/{self.split}"
        return f"{name}/{self.language}" if self.language else name

    @property
    def classes(self) -> tuple[str, ...]:
        return self._open().classes

    def pieces(self, size: int) -> list[Piece]:
        entries = list(self._open().entries())
        return [{"entries": entries[i : i + size]} for i in range(0, len(entries), size)]

    def read(self, piece: Piece, max_bytes: int) -> Iterator[Raw | Rejected]:
        files = open_files(self.path)
        for name, sidecar, caption, label in piece["entries"]:
            try:
                if files.size(name) > max_bytes:
                    yield Rejected(name, "too many bytes", f"{files.size(name)} bytes")
                    continue
                said = files.read(sidecar) if sidecar else caption
                yield Raw(name, files.read(name), self._in_language(said), label)
            except BadRecord as error:
                yield Rejected(name, "no picture", error.reason)

    def _in_language(self, said: bytes | str) -> bytes | str:
        text = said.decode("utf-8", "surrogateescape") if isinstance(said, bytes) else said
        chosen = in_language(text, self.language)
        # What is not UTF-8 is refused where it is read as it was found.
        return chosen.encode("utf-8", "surrogateescape") if isinstance(said, bytes) else chosen

    def _open(self) -> FolderSource:
        return FolderSource(self.path, self.split, require_captions=False, language=self.language)


def open_input(
    kind: str,
    path: str,
    split: str = "",
    data_dir: str = "",
    fetch: Fetch | None = None,
    language: str = PLAIN,
) -> Input:
    """The input that the flags of `babeldraw prepare` name.

    Args:
        kind: one of KINDS.
        path: where the data lie, or the name of a TFDS dataset.
        split: of a TFDS dataset, or 'SUBFOLDER/' of a folder; others have none.
        data_dir: where TFDS keeps prepared data; '' for its default.
        fetch: limits for the URLs of a list; None: they are not fetched.
        language: of a folder's captions that have translations: see `languages`.

    Raises:
        UserError: no such kind, or a setting that does not go with it.
    """
    require(kind in KINDS, f"kind={kind!r} is unknown; use {', '.join(KINDS)}")
    require(not split or kind in ("folder", "tfds"), f"split={split} is nothing to kind={kind}")
    require(not data_dir or kind == "tfds", f"data_dir={data_dir} is nothing to kind={kind}")
    require(is_language(language), f"language={language} is none; use '', 'any' or a code as 'fr'")
    require(not language or kind == "folder", f"language={language} is nothing to kind={kind}")
    require(fetch is None or kind == "list", f"fetch is nothing to kind={kind}")
    if kind == "tfds":
        return TfdsInput(path, split or "train", data_dir)
    if kind == "list":
        return ListInput(path, fetch)
    if kind == "folder":
        return FolderInput(path, split or "all", language)
    of_files = {"webdataset": TarInput, "tfrecord": TFRecordInput, "array_record": ArrayRecordInput}
    return of_files[kind](path)
