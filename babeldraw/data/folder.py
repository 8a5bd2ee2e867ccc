"""A folder of pictures, or the .zip of one, captioned by a text file beside each or by a list."""

import bisect
import contextlib
import hashlib
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import logging

from babeldraw.data.fields import TEXT_FILE, Fields, as_caption, choices_of, no_record_has
from babeldraw.data.files import DiskFiles, Files
from babeldraw.data.image import decode, image_suffixes
from babeldraw.data.languages import PLAIN, check_language, in_language
from babeldraw.data.listed import Listed, read_lists
from babeldraw.data.records import BadRecord, Record
from babeldraw.data.rows import numbered_classes
from babeldraw.data.zipped import ZipFiles
from babeldraw.errors import UserError

SPLITS = ("train", "test", "all")
TEST_SHARE = 0.05
# Which folder is the class of a picture: the one that holds it, or the topmost.
CLASS_FOLDERS = ("inner", "outer")
# What a template of captions says in place of the class's name.
CLASS = "{class}"
# Files of captions, the first of them where there are several.
SIDECARS = (".txt", ".caption")
# What stands beside pictures and is none; files of other kinds are counted.
BESIDE = (".json", ".jsonl", ".csv", ".tsv", ".md", ".html", ".parquet", "")
HOW_TO_CAPTION = (
    "put NAME.txt beside each NAME.jpg, or a .jsonl file of "
    '{"file": ..., "caption": ...} or a .csv file with columns file,caption at the top, or set '
    "data.class_caption"
)


def open_files(path: str | os.PathLike) -> Files:
    """The files of a folder or of a .zip.

    Raises:
        UserError: nothing of that name is here, it is neither, or the .zip cannot be read.
    """
    here = Path(path).expanduser()
    if "://" in os.fspath(path):
        raise UserError(
            f"data.path={str(path)!r} is not a folder of this machine; mount that bucket, or copy "
            "the folder or .zip here"
        )
    if str(path) and here.is_dir():
        return DiskFiles(here)
    if str(path) and zipfile.is_zipfile(here):
        return ZipFiles(here)
    if here.is_file():
        raise UserError(
            f"data.path={str(path)!r} is not a folder, and no whole .zip file either; give a "
            "folder of pictures, or the .zip of one, downloaded to its end"
        )
    raise UserError(f"data.path={str(path)!r} is not a folder; give a folder of pictures or a .zip")


class FolderSource:
    """Pictures, of any suffix that Pillow reads, at any depth, in the order of their paths.

    A caption is the content of `NAME.txt` or `NAME.caption` beside the picture; else what a
    `*.jsonl` or `*.csv` file in the top folder, or a `metadata.jsonl` or `.csv` in any, says:
    "file", "file_name", "path" or "image" (relative to the list's folder), "caption" or "text", and
    optionally "label", an integer, and "level" (see `levels`); else, where asked for, a sentence
    with the class's name. Of several captions, lines of a file or rows of a list, each is used in
    turn. Linked folders are followed, hidden files passed over; files of kinds that are not read
    are counted in the log.

    Where no list gives labels, the class of a picture is the folder that holds it: `cats/1.jpg`,
    or `train/cats/1.jpg` with split 'train/'. Classes are numbered in the order of their names.

    About 5 % of the pictures are the split 'test', the rest 'train', by a hash of the relative
    path: a picture stays in its split when others come or go. Of two or more pictures each split
    has at least one. 'all' gives both. A name that ends in a slash, such as 'holidays/', is the
    split of all pictures in the sub-folder of that name.

    Args:
        path: the folder, or a .zip, whose pictures come in the same order and splits.
        split: 'train', 'test', 'all' or 'SUBFOLDER/'.
        require_captions: whether pictures without caption are left out (their number is logged)
            or kept with an empty one.
        language: of captions with translations: see `languages`.
        class_folder: 'inner' or 'outer', which of the folders around a picture is its class.
        class_caption: what is said of pictures without a caption, with {class} in it; '': nothing.
        fields: kinds of captions: columns of the lists, or 'txt' for the file beside a picture.

    Raises:
        UserError: no folder, no pictures, no captions where they are required, no such split, a
            list none of whose files exist, or a language or a field that no caption has.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        split: str,
        require_captions: bool = True,
        *,
        language: str = PLAIN,
        class_folder: str = "inner",
        class_caption: str = "",
        fields: Fields = (),
    ):
        if split not in SPLITS and not split.endswith("/"):
            raise UserError(
                f"data.split={split!r} is unknown to a folder; use {', '.join(SPLITS)}, or "
                "'NAME/' for the pictures in sub-folder NAME"
            )
        self._files, self._path = open_files(path), path
        self._language, self._class_folder = language, class_folder
        self._class_caption, self._fields = class_caption, fields
        names = list(self._files.names())
        _tell_left_out(self._files)
        pictures = _pictures(names, self._files)
        if not pictures:
            raise UserError(f"data.path={path} holds no pictures (.jpg, .png, .webp, ...)")
        self._listed = read_lists(self._files, names, set(pictures), fields)
        self._sidecars = _sidecars(names, pictures, self._files)
        if fields and self._reads_beside and not self._sidecars:
            where, there = self._files.where(""), "no text file beside a picture"
            raise no_record_has(TEXT_FILE, "data.caption_fields", where, there)
        self._depth = split.count("/")
        self.classes, self._numbered = self._find_classes(pictures)
        if require_captions:
            pictures = self._captioned(pictures)
        self._names = _split(pictures, split)
        if not self._names:
            raise self._nothing_in(split, len(pictures))
        check_language(self._texts(), language, path)
        self.identity = f"folder/{split}/{self._digest()}"
        self.name = f"folder/{self._files.name}/{split}/{self._digest()}"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        caption = self._caption(name)
        choices = choices_of(self._kinds(name), self._fields)
        image = decode(self._files.read(name), self._files.where(name))
        return Record(image, caption, self._label(name), choices=choices)

    def caption(self, index: int) -> str:
        """The caption of a record. Raises `BadRecord` where it is not UTF-8."""
        return self._caption(self._names[index])

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
            listed = self._listed.get(name, Listed(""))
            yield name, self._sidecar(name), listed.caption, self._label(name)

    @property
    def unlabelled(self) -> int:
        """How many pictures have no class."""
        return sum(self._label(name) < 0 for name in self._names)

    @property
    def levels(self) -> np.ndarray | None:
        """int32 [len], what the lists' column `level` says, as of `data.levels`; None: nothing."""
        levels = [self._listed.get(name, Listed("")).level for name in self._names]
        return np.int32(levels) if max(levels) >= 0 else None

    # ------------------------------------------------------------------ captions

    def _sidecar(self, name: str) -> str:
        return self._sidecars.get(posixpath.splitext(name)[0], "")

    def _caption(self, name: str) -> str:
        caption = in_language(self._text(name), self._language)
        if caption or not self._class_caption or self._sidecar(name):
            return caption
        label = self._label(name)
        said = self.classes[label].replace("_", " ") if label >= 0 else ""
        return said and self._class_caption.replace(CLASS, said)

    def _text(self, name: str) -> str:
        """What is written of a picture, in all its languages and of all kinds."""
        return as_caption(self._kinds(name)) if self._fields else self._written(name)

    def _kinds(self, name: str) -> tuple[str, ...]:
        """What is written of a picture, of each kind of caption."""
        listed = self._listed.get(name, Listed("", texts=("",) * len(self._fields))).texts
        return tuple(
            field.text(self._beside(name)) if field.name == TEXT_FILE else text
            for field, text in zip(self._fields, listed, strict=True)
        )

    def _written(self, name: str) -> str:
        sidecar = self._sidecar(name)
        return self._beside(name) if sidecar else self._listed.get(name, Listed("")).caption

    def _beside(self, name: str) -> str:
        """The text file beside a picture; '' where there is none."""
        sidecar = self._sidecar(name)
        try:
            return self._files.read(sidecar).decode("utf-8-sig").strip() if sidecar else ""
        except UnicodeDecodeError as error:
            where = self._files.where(sidecar)
            raise BadRecord(where, "the caption is not UTF-8") from error

    @property
    def _reads_beside(self) -> bool:
        """Whether the text beside a picture is among what is read."""
        return not self._fields or any(field.name == TEXT_FILE for field in self._fields)

    def _captioned(self, names: list[str]) -> list[str]:
        kept = [name for name in names if self._has_caption(name)]
        if not kept:
            raise UserError(
                f"data.path={self._path} holds {len(names)} pictures but no captions; "
                f"{HOW_TO_CAPTION}"
            )
        if len(kept) < len(names):
            missing = len(names) - len(kept)
            logging.warning(
                "%s: %d of %d pictures have no caption and are left out",
                self._path,
                missing,
                len(names),
            )
        return kept

    def _has_caption(self, name: str) -> bool:
        of_class = self._class_caption and self._label(name) >= 0
        beside = self._reads_beside and self._sidecar(name)
        # A list may know a picture by its level alone.
        listed = name in self._listed and self._listed[name].caption
        return bool(listed or beside or of_class)

    def _texts(self) -> Iterator[str]:
        """What is written of each picture; what cannot be read is told where it is used."""
        for name in self._names:
            with contextlib.suppress(BadRecord):
                yield self._text(name)

    # ------------------------------------------------------------------ classes

    def _find_classes(self, names: list[str]) -> tuple[tuple[str, ...], bool]:
        """Names of the classes over all splits, and whether they are the numbers of a list."""
        labels = (listed.label for listed in self._listed.values())
        classes = numbered_classes(labels, self._path)
        if classes is not None:
            return classes, True
        return tuple(sorted({self._holder(name) for name in names} - {""})), False

    def _holder(self, name: str) -> str:
        """The folder that is a picture's class, below that of the split; '' where there is none."""
        folders = name.split("/")[self._depth : -1]
        if not folders:
            return ""
        return folders[0] if self._class_folder == "outer" else folders[-1]

    def _label(self, name: str) -> int:
        if self._numbered:
            label = self._listed.get(name, Listed("")).label
            return label if label < len(self.classes) else -1
        holder = self._holder(name)
        return bisect.bisect_left(self.classes, holder) if holder else -1

    # ------------------------------------------------------------------ which data

    def _nothing_in(self, split: str, count: int) -> UserError:
        if split.endswith("/"):
            return UserError(
                f"data.split={split!r}: there are no pictures in a sub-folder of that name of "
                f"data.path={self._path}"
            )
        return UserError(
            f"data.path={self._path} holds {count} picture, none of them in split {split!r}; "
            "add pictures or use split 'all'"
        )

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name in self._names:
            listed = self._listed.get(name, Listed(""))
            digest.update(f"{name}\0{listed.caption}\0{listed.label}\n".encode("utf-8", "replace"))
        return digest.hexdigest()[:8]


def _pictures(names: Iterable[str], files: Files) -> list[str]:
    """The pictures among the files, sorted; files of kinds that nobody reads are counted."""
    found, others = [], Counter()
    for name in names:
        suffix = posixpath.splitext(name)[1].lower()
        if suffix in image_suffixes():
            found.append(name)
        elif suffix not in (*BESIDE, *SIDECARS):
            others[suffix] += 1
    if others:
        told = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
        logging.warning(
            "%s: files that are read by nobody here are left out: %s", files.where(""), told
        )
    return sorted(found)


def _sidecars(names: Iterable[str], pictures: Iterable[str], files: Files) -> dict[str, str]:
    """The file of a picture's caption, by the picture's path without its ending."""
    found: dict[str, str] = {}
    stems = {posixpath.splitext(name)[0] for name in pictures}
    lone, further = [], []
    for suffix in SIDECARS:
        for name in sorted(name for name in names if name.lower().endswith(suffix)):
            stem = posixpath.splitext(name)[0]
            if stem not in stems:
                lone.append(name)
            elif found.setdefault(stem, name) != name:
                further.append(name)
    for told, why in ((lone, "have no picture"), (further, "are second ones of their picture")):
        _tell(files, "text files", why, told)
    return found


def _tell_left_out(files: Files) -> None:
    for reason, names in files.left_out.items():
        _tell(files, "members", reason, names)


def _tell(files: Files, what: str, why: str, names: list[str]) -> None:
    if names:
        logging.warning(
            "%s: %d %s %s and are left out, first: %r",
            files.where(""),
            len(names),
            what,
            why,
            names[0],
        )


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
