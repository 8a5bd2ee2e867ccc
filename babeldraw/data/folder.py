"""A folder of pictures, captioned by a text file beside each or by a list at the top."""

import bisect
import csv
import hashlib
import json
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from babeldraw.data.image import decode, image_suffixes
from babeldraw.data.records import BadRecord, Record
from babeldraw.data.rows import FILE_COLUMNS, caption_of, columns_of, label_of, numbered_classes
from babeldraw.errors import UserError

SPLITS = ("train", "test", "all")
TEST_SHARE = 0.05
# What stands beside pictures and is none; files of other kinds are counted.
BESIDE = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".html", ".parquet", "")
HOW_TO_CAPTION = (
    "put NAME.txt beside each NAME.jpg, or a .jsonl file of "
    '{"file": ..., "caption": ...} or a .csv file with columns file,caption at the top'
)


@dataclass(frozen=True)
class Listed:
    """What a list says of one picture."""

    caption: str
    label: int = -1

    def joined(self, other: "Listed") -> "Listed":
        """With what another row says of the same picture: one more caption, a line of its own."""
        said = self.caption.split("\n") + other.caption.split("\n")
        caption = "\n".join(dict.fromkeys(text for text in said if text))
        return Listed(caption, other.label if self.label < 0 else self.label)


class FolderSource:
    """Pictures, of any suffix that Pillow reads, at any depth, in the order of their paths.

    A caption is the content of `NAME.txt` beside the picture; else what a `*.jsonl` or `*.csv` file
    in the top folder says: "file", "file_name", "path" or "image" (relative to that folder),
    "caption" or "text", and optionally "label", an integer. Of several captions, lines of a file or
    rows of a list, each is used in turn. Linked folders are followed, hidden files passed over;
    files of kinds that are not read are counted in the log.

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
        self._root = Path(path).expanduser()
        if not str(path) or not self._root.is_dir():
            raise UserError(f"data.path={str(path)!r} is not a folder; give a folder of pictures")
        names, sidecars = _find(self._root)
        if not names:
            raise UserError(f"data.path={path} holds no pictures (.jpg, .png, .webp, ...)")
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
        self.identity = f"folder/{split}/{self._digest()}"
        self.name = f"folder/{self._root.name}/{split}/{self._digest()}"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        caption = self._caption(name)
        return Record(decode(self._root / name), caption, self._label(name))

    def captions(self) -> Iterator[str]:
        """The captions in order; what is not UTF-8 is left out."""
        for name in self._names:
            try:
                yield self._caption(name)
            except BadRecord as error:
                logging.warning("caption skipped: %s", error)

    def entries(self) -> Iterator[tuple[str, str, str, int]]:
        """Per picture in order: its relative path; that of its caption's file, '' without one;
        what a list says its caption is; its label."""
        for name in self._names:
            listed, sidecar = self._listed.get(name, Listed("")), _sidecar(name)
            label = self._label(name)
            yield name, sidecar * (sidecar in self._sidecars), listed.caption, label

    def _caption(self, name: str) -> str:
        sidecar = _sidecar(name)
        if sidecar not in self._sidecars:
            return self._listed.get(name, Listed("")).caption
        try:
            text = (self._root / sidecar).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRecord(str(self._root / sidecar), "the caption is not UTF-8") from error
        except OSError as error:
            raise BadRecord(str(self._root / sidecar), error.strerror or str(error)) from error
        return text.strip()

    def _find_classes(self, names: list[str]) -> tuple[tuple[str, ...], bool]:
        """Names of the classes over all splits, and whether they are the numbers of a list."""
        classes = numbered_classes((listed.label for listed in self._listed.values()), self._root)
        if classes is not None:
            return classes, True
        return tuple(sorted({self._holder(name) for name in names} - {""})), False

    @property
    def unlabelled(self) -> int:
        """How many pictures have no class."""
        return sum(self._label(name) < 0 for name in self._names)

    def _holder(self, name: str) -> str:
        """The folder that holds a picture, below that of the split; '' where there is none."""
        folder = posixpath.dirname(name)
        return posixpath.basename(folder) if name.count("/") > self._depth else ""

    def _label(self, name: str) -> int:
        if self._numbered:
            label = self._listed.get(name, Listed("")).label
            return label if label < len(self.classes) else -1
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
    names, texts, others = [], set(), Counter()
    # Linked folders are followed, but not in circles.
    around = {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, followlinks=True):
        kept = []
        # A folder before the links to it, whatever the order of the disk.
        for name in sorted(folders, key=lambda n: (os.path.islink(os.path.join(folder, n)), n)):
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in around:
                around.add(real)
                kept.append(name)
        folders[:] = kept
        relative = Path(folder).relative_to(root)
        for file in files:
            # Archives made on a Mac hold a hidden "._NAME.jpg", no picture, beside each picture.
            if file.startswith("."):
                continue
            name = (relative / file).as_posix()
            suffix = posixpath.splitext(file)[1].lower()
            if suffix in image_suffixes():
                names.append(name)
            elif suffix == ".txt":
                texts.add(name)
            elif suffix not in BESIDE:
                others[suffix] += 1
    if others:
        told = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
        logging.warning("%s: files that are read by nobody here are left out: %s", root, told)
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
    """What the lists in the top folder say, by relative path; several captions are joined."""
    listed: dict[str, Listed] = {}
    missing: list[str] = []
    composed = {_composed(name): name for name in names}
    for path in sorted(p for p in root.iterdir() if p.suffix.lower() in (".jsonl", ".csv")):
        if path.name.startswith("."):
            continue
        rows = json_rows(path) if path.suffix.lower() == ".jsonl" else csv_rows(path)
        bad: list[str] = []
        labels: list[str] = []
        found: set[str] = set()
        for line, row in rows:
            entry = _entry(row)
            if isinstance(row, dict):
                found.update(columns_of(row))
            if entry is None:
                bad.append(f"{path}:{line}")
                continue
            file, said, problem = entry
            if problem:
                labels.append(f"{path}:{line}: {problem}")
            # Lists come from Windows; and Macs write letters with marks in two parts.
            for other in (file, file.replace("\\", "/")):
                other = posixpath.normpath(other)
                file = other if other in names else composed.get(_composed(other), file)
                if file in names:
                    break
            if file in names:
                listed[file] = listed[file].joined(said) if file in listed else said
            else:
                missing.append(file)
        if bad:
            logging.warning(
                "%d lines are no captions and are skipped, first: %s; the columns are %s",
                len(bad),
                bad[0],
                ", ".join(sorted(found)) or "not there",
            )
        if labels:
            logging.warning("%d labels are left out, first: %s", len(labels), labels[0])
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


def _entry(row: Any) -> tuple[str, Listed, str] | None:
    """(path, what is said of it, what is wrong with its label or ''); None: not such a row."""
    if not isinstance(row, dict):
        return None
    columns, problem, label = columns_of(row), "", -1
    file = next((columns[c] for c in FILE_COLUMNS if isinstance(columns.get(c), str)), None)
    caption = caption_of(columns)
    if not file or caption is None:
        return None
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:
        return None
    try:
        label = label_of(columns.get("label"))
    except ValueError as error:
        problem = str(error)
    return file.strip(), Listed(caption, label), problem


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
