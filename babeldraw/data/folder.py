"""A folder of pictures, captioned by a text file beside each or by a list at the top."""

import bisect
import csv
import hashlib
import json
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from babeldraw.data.image import decode
from babeldraw.data.sources import BadRecord, Record
from babeldraw.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
SPLITS = ("train", "test", "all")
TEST_SHARE = 0.05
FILE_COLUMNS = ("file_name", "file")
CAPTION_COLUMNS = ("caption", "text")
HOW_TO_CAPTION = (
    "put NAME.txt beside each NAME.jpg, or a .jsonl file of "
    '{"file": ..., "caption": ...} or a .csv file with columns file,caption at the top'
)


@dataclass(frozen=True)
class Listed:
    """What a list says of one picture."""

    caption: str
    label: int = -1


class FolderSource:
    """Pictures (.png .jpg .jpeg .webp .bmp .gif) at any depth, in the order of their paths.

    A caption is the content of `NAME.txt` beside the picture; else what a `*.jsonl` or `*.csv`
    file in the top folder says: "file" or "file_name" (relative to that folder), "caption" or
    "text", and optionally "label", an integer. Hidden files are passed over.

    Where no list gives labels, the class of a picture is the folder that holds it: `cats/1.jpg`,
    or `train/cats/1.jpg` with split 'train/'. Classes are numbered in the order of their names.

    About 5 % of the pictures are the split 'test', the rest 'train', by a hash of the relative
    path: a picture stays in its split when others come or go. Of two or more pictures each split
    has at least one. 'all' gives both. A name that ends in a slash, such as 'holidays/', is the
    split of all pictures in the sub-folder of that name.

    Args:
        path: the folder.
        split: 'train', 'test', 'all' or 'SUBFOLDER/'.
        require_captions: whether pictures without caption are left out (their number is logged)
            or kept with an empty one.

    Raises:
        UserError: no folder, no pictures, no captions where they are required, no such split, or
            a list none of whose files exist.
    """

    def __init__(self, path: str | os.PathLike, split: str, require_captions: bool = True):
        if split not in SPLITS and not split.endswith("/"):
            raise UserError(
                f"data.split={split!r} is unknown to a folder; use {', '.join(SPLITS)}, or "
                "'NAME/' for the pictures in sub-folder NAME"
            )
        self._root = Path(path)
        if not str(path) or not self._root.is_dir():
            raise UserError(f"data.path={str(path)!r} is not a folder; give a folder of pictures")
        names, sidecars = _find(self._root)
        if not names:
            raise UserError(f"data.path={path} holds no pictures ({' '.join(IMAGE_SUFFIXES)})")
        self._listed = _read_lists(self._root, set(names))
        self._sidecars = sidecars
        self._depth = split.count("/")
        self.classes, self._numbered = self._find_classes(names)
        if require_captions:
            names = self._captioned(names)
        self._names = _split(names, split)
        if not self._names and split.endswith("/"):
            raise UserError(
                f"data.split={split!r}: there are no pictures in a sub-folder of that name of "
                f"data.path={path}"
            )
        if not self._names:
            raise UserError(
                f"data.path={path} holds {len(names)} picture, none of them in split {split!r}; "
                "add pictures or use split 'all'"
            )
        self.name = f"folder/{self._root.name}/{split}/{self._digest()}"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        caption, label = self._caption(name)
        if not self._numbered:
            label = self._label(name)
        return Record(decode(self._root / name), caption, label)

    def captions(self) -> Iterator[str]:
        """The captions in order; what is not UTF-8 is left out."""
        for name in self._names:
            try:
                yield self._caption(name)[0]
            except BadRecord as error:
                logging.warning("caption skipped: %s", error)

    def entries(self) -> Iterator[tuple[str, str, str, int]]:
        """Per picture in order: its relative path; that of its caption's file, '' without one;
        what a list says its caption is; its label."""
        for name in self._names:
            listed, sidecar = self._listed.get(name, Listed("")), _sidecar(name)
            yield name, sidecar * (sidecar in self._sidecars), listed.caption, listed.label

    def _caption(self, name: str) -> tuple[str, int]:
        listed = self._listed.get(name, Listed(""))
        sidecar = _sidecar(name)
        if sidecar not in self._sidecars:
            return listed.caption, listed.label
        try:
            text = (self._root / sidecar).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRecord(str(self._root / sidecar), "the caption is not UTF-8") from error
        except OSError as error:
            raise BadRecord(str(self._root / sidecar), error.strerror or str(error)) from error
        return text.strip(), listed.label

    def _find_classes(self, names: list[str]) -> tuple[tuple[str, ...], bool]:
        """Names of the classes over all splits, and whether they are the numbers of a list."""
        highest = max((listed.label for listed in self._listed.values()), default=-1)
        if highest >= 0:
            return tuple(str(number) for number in range(highest + 1)), True
        return tuple(sorted({self._holder(name) for name in names} - {""})), False

    def _holder(self, name: str) -> str:
        """The folder that holds a picture, below that of the split; '' where there is none."""
        folder = posixpath.dirname(name)
        return posixpath.basename(folder) if name.count("/") > self._depth else ""

    def _label(self, name: str) -> int:
        holder = self._holder(name)
        return bisect.bisect_left(self.classes, holder) if holder else -1

    def _captioned(self, names: list[str]) -> list[str]:
        kept = [n for n in names if n in self._listed or _sidecar(n) in self._sidecars]
        if not kept:
            raise UserError(
                f"data.path={self._root} holds {len(names)} pictures but no captions; "
                f"{HOW_TO_CAPTION}"
            )
        if len(kept) < len(names):
            missing = len(names) - len(kept)
            logging.warning(
                "%s: %d of %d pictures have no caption and are left out",
                self._root,
                missing,
                len(names),
            )
        return kept

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name in self._names:
            listed = self._listed.get(name, Listed(""))
            digest.update(f"{name}\0{listed.caption}\0{listed.label}\n".encode("utf-8", "replace"))
        return digest.hexdigest()[:8]


def _find(root: Path) -> tuple[list[str], set[str]]:
    """Relative paths of the pictures, sorted, and of the text files that may be captions."""
    names, texts = [], set()
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(folder).relative_to(root)
        for file in files:
            # Archives made on a Mac hold a hidden "._NAME.jpg", no picture, beside each picture.
            if file.startswith("."):
                continue
            name = (relative / file).as_posix()
            if name.lower().endswith(IMAGE_SUFFIXES):
                names.append(name)
            elif name.endswith(".txt"):
                texts.add(name)
    return sorted(names), texts


def _sidecar(name: str) -> str:
    return posixpath.splitext(name)[0] + ".txt"


def _split(names: list[str], split: str) -> list[str]:
    if split == "all":
        return names
    if split.endswith("/"):
        return [name for name in names if name.startswith(split)]
    ranks = {name: _rank(name) for name in names}
    test = {name for name in names if ranks[name] < TEST_SHARE}
    if len(names) > 1:
        test.add(min(names, key=ranks.__getitem__))
        test.discard(max(names, key=ranks.__getitem__))
    return [name for name in names if (name in test) == (split == "test")]


def _rank(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _read_lists(root: Path, names: set[str]) -> dict[str, Listed]:
    """What the lists in the top folder say, by relative path; the first mention of a file holds."""
    listed: dict[str, Listed] = {}
    missing: list[str] = []
    for path in sorted(p for p in root.iterdir() if p.suffix.lower() in (".jsonl", ".csv")):
        rows = json_rows(path) if path.suffix.lower() == ".jsonl" else csv_rows(path)
        bad: list[str] = []
        for line, row in rows:
            entry = _entry(row)
            if entry is None:
                bad.append(f"{path}:{line}")
            elif entry[0] in names:
                listed.setdefault(*entry)
            else:
                missing.append(entry[0])
        if bad:
            logging.warning("%d lines are no captions and are skipped, first: %s", len(bad), bad[0])
    if missing and not listed:
        raise UserError(
            f"none of the {len(missing)} files listed in data.path={root} exist, such as "
            f"{missing[0]!r}; list them relative to that folder"
        )
    if missing:
        logging.warning("%d listed files do not exist, first: %s", len(missing), missing[0])
    return listed


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, what it holds) of a file of JSON lines; None where a line is no JSON."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                yield number, None


def csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, its fields by column) of a CSV file with a header; None where a line is none."""
    # Bytes that are not UTF-8 become surrogates, which `_entry` refuses row by row.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.DictReader(lines)
        while True:
            try:
                row = next(rows)
                yield rows.line_num, row
            except StopIteration:
                return
            except csv.Error:
                yield rows.line_num, None


def _entry(row: Any) -> tuple[str, Listed] | None:
    """(relative path, what is said of it), None if the row does not say it."""
    if not isinstance(row, dict):
        return None
    file = next((row[c] for c in FILE_COLUMNS if isinstance(row.get(c), str)), None)
    caption = next((row[c] for c in CAPTION_COLUMNS if isinstance(row.get(c), str)), None)
    if not file or caption is None:
        return None
    try:
        caption.encode("utf-8")
        label = int(row.get("label") or 0) if row.get("label") not in (None, "") else -1
    except (ValueError, TypeError):
        return None
    name = posixpath.normpath(file.replace("\\", "/"))
    return name, Listed(caption.strip(), label)
