"""Texts without pictures: the lines of files, and the captions of any source."""

import pathlib
from collections.abc import Iterator

import numpy as np
from absl import logging

from babeldraw.data.records import NO_PICTURE, BadRecord, Record, Source
from babeldraw.data.splits import check_split, split_length, split_position
from babeldraw.errors import UserError


class TextFileSource:
    """The lines of a .txt file, or of all those in a folder and below it, as UTF-8 texts.

    Lines without a text are left out, and a mark of byte order before the first. One line in
    twenty is of the split 'test'. Files are read through once when they are opened, afterwards line
    by line; 8 bytes a line stay in memory.

    Args:
        path: the file or the folder.
        split: 'train', 'test' or 'all'.

    Raises:
        UserError: no such file, or no text in it.
    """

    texts_alone = True

    def __init__(self, path: str, split: str):
        check_split(split, "texts")
        self._files = _text_files(path)
        lines = [_lines(file) for file in self._files]
        # The number of the first line of each file, and of the line behind the last.
        self._firsts = np.cumsum([0, *(len(starts) for starts in lines)])
        self._starts = np.concatenate(lines)
        if not len(self._starts):
            raise UserError(f"data.path={path!r} holds no text, only empty lines")
        self._split = split
        self.name = f"texts/{path}/{split}"
        sizes = "".join(f"/{file.name}:{file.stat().st_size}" for file in self._files)
        self.identity = f"texts{sizes}/{split}"

    def __len__(self) -> int:
        return split_length(len(self._starts), self._split)

    def __getitem__(self, index: int) -> Record:
        return Record(NO_PICTURE, self.caption(index))

    def caption(self, index: int) -> str:
        """The text at `index`. Raises BadRecord."""
        line = split_position(index, self._split)
        number = int(np.searchsorted(self._firsts, line, side="right")) - 1
        file, start = self._files[number], int(self._starts[line])
        with file.open("rb") as stream:
            stream.seek(start)
            data = stream.readline()
        # UTF-16 is mostly such bytes, which UTF-8 would let through.
        if b"\0" in data:
            raise BadRecord(f"{file} at byte {start}", "the line is not UTF-8: it has bytes of 0")
        try:
            return data.decode("utf-8" if start else "utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise BadRecord(f"{file} at byte {start}", "the line is not UTF-8") from error

    def captions(self) -> Iterator[str]:
        """The texts in order; lines that are no UTF-8 are left out, and told in one line.

        Raises:
            UserError: there is no other line.
        """
        bad: list[BadRecord] = []
        for index in range(len(self)):
            try:
                yield self.caption(index)
            except BadRecord as error:
                bad.append(error)
        if bad and len(bad) == len(self):
            raise UserError(f"{self.name} holds no line in UTF-8, such as {bad[0]}; convert it")
        if bad:
            logging.warning("%d of %d texts skipped, such as %s", len(bad), len(self), bad[0])


def _text_files(path: str) -> list[pathlib.Path]:
    place = pathlib.Path(path)
    files = [place] if place.is_file() else sorted(place.rglob("*.txt"))
    if not files:
        raise UserError(f"data.path={path!r} is no file of texts and no folder with *.txt in it")
    return files


def _lines(file: pathlib.Path) -> np.ndarray:
    """Where each line with a text begins, int64."""

    def starts() -> Iterator[int]:
        at = 0
        with file.open("rb") as stream:
            for line in stream:
                if line.strip():
                    yield at
                at += len(line)

    return np.fromiter(starts(), np.int64)


class CaptionSource:
    """The captions of a source of pictures, as records of texts alone; no picture is read.

    Args:
        source: one that gives single captions (`caption(index)`) is asked for each as it is
            wanted; of others all are kept in memory.

    Raises:
        UserError: it has none.
    """

    texts_alone = True

    def __init__(self, source: Source):
        self._source = source
        self._texts = None if hasattr(source, "caption") else [*filter(None, source.captions())]
        if not len(self):
            raise UserError(f"{source.name} has no captions; name data with texts")
        self.name = f"captions of {source.name}"
        self.identity = f"captions of {getattr(source, 'identity', source.name)}"

    def __len__(self) -> int:
        return len(self._source if self._texts is None else self._texts)

    def __getitem__(self, index: int) -> Record:
        return Record(NO_PICTURE, self.caption(index))

    def caption(self, index: int) -> str:
        """The caption at `index`. Raises BadRecord."""
        return self._source.caption(index) if self._texts is None else self._texts[index]

    def captions(self) -> Iterator[str]:
        """All captions in order, or as many as the source tells of an endless world."""
        return self._source.captions() if self._texts is None else iter(self._texts)
