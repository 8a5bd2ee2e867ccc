"""Whichever vocabulary a file holds: SentencePiece's pieces, or CLIP's tokens."""

import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from babeldraw.data.clip_words import ClipWords, holds_merges
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder


class ClipVocabulary(Vocabulary):
    """CLIP's tokens as ids of texts: a start, tokens, an end, then 0, which CLIP reads too.

    Any text can be spelt, by its bytes. An empty one is a start and an end.

    Args:
        data: what a file of merges holds, see `ClipWords`.
        path: what the user calls it.

    Raises:
        UserError: it holds none.
    """

    def __init__(self, data: bytes, path: str | os.PathLike):
        self._words = ClipWords.of_merges(data, path)
        self.size: int = self._words.size

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        return self._words.encode(texts, length)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(self._words.tokens(text)) + 2 for text in texts]

    def unknown(self, text: str) -> str:
        return ""

    def knows(self, text: str) -> bool:
        return True


def open_vocabulary(path: str | os.PathLike) -> Vocabulary:
    """That of a file.

    Raises:
        UserError: it is missing, or holds none that is known.
    """
    try:
        data = epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error
    return ClipVocabulary(data, path) if holds_merges(data) else Vocabulary(path)


def vocabulary_of(folder: RunFolder, size: int) -> Vocabulary:
    """That of a run whose table has `size` pieces.

    Raises:
        UserError: the file is another one than the run was trained with, or none.
    """
    vocabulary = open_vocabulary(folder.vocabulary_file)
    folder.check_vocabulary()
    # T5's table has some to spare.
    if vocabulary.size > size:
        raise UserError(
            f"{folder.vocabulary_file} has {vocabulary.size} pieces and the run knows {size}: "
            "it is another run's; put that of the run back"
        )
    return vocabulary
