"""CLIP's tokens of a text: byte-pair merging over bytes, from the files that it is published with.

Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016, over the
bytes of UTF-8. Files lie beside the weights: `merges.txt` and `vocab.json` of transformers, or
OpenAI's `bpe_simple_vocab_16e6.txt.gz`. All are text; nothing in them is run.
"""

import dataclasses
import functools
import gzip
import html
import json
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.config import require
from babeldraw.errors import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
# How gzip's files begin.
PACKED = b"\x1f\x8b"
# Of the last letter of a word.
LAST = "</w>"
OPENAI, MERGES, VOCABULARY = "bpe_simple_vocab_16e6.txt.gz", "merges.txt", "vocab.json"
# Of OpenAI's file the merges that the tokens are made of: 49,152 less 512 bytes and the two marks.
COUNT = 48_894
# What stands as it is, wherever a word could begin.
WHOLE = re.compile(rf"{re.escape(START)}|{re.escape(END)}|'(?:s|t|re|ve|m|ll|d)")


@dataclasses.dataclass(frozen=True)
class ClipWords:
    """Attributes:
    ids: of each token.
    ranks: of each pair that is merged, the earlier first.
    """

    ids: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]

    @classmethod
    def beside(cls, file: str) -> "ClipWords":
        """Of the files in the folder of `file`.

        Raises:
          UserError: none is there, one cannot be read, or is none of its kind.
        """
        folder = Path(file).expanduser().parent
        if (folder / MERGES).is_file():
            return cls._of_two(folder / MERGES, folder / VOCABULARY)
        path = folder / OPENAI
        require(
            path.is_file(),
            f"{folder} holds neither {MERGES} nor {OPENAI}, CLIP's words; copy one beside {file}",
        )
        return cls.of_merges(_read(path), path)

    @classmethod
    def of_merges(cls, data: bytes, path: Any) -> "ClipWords":
        """Of what one of the two files of merges holds, from which OpenAI's numbers follow.

        Args:
          data: of merges.txt, or of OpenAI's file, packed.
          path: what the user calls it.

        Raises:
          UserError: it holds no merges.
        """
        merges = _merges(data, path)[:COUNT]
        letters = [*byte_letters().values()]
        tokens = [*letters, *(letter + LAST for letter in letters), *map("".join, merges)]
        return cls._checked(
            {token: i for i, token in enumerate([*tokens, START, END])}, merges, path
        )

    @classmethod
    def _of_two(cls, merges: Path, vocabulary: Path) -> "ClipWords":
        require(vocabulary.is_file(), f"{vocabulary} is not there; it goes with {merges}")
        try:
            ids = json.loads(vocabulary.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{vocabulary} is no JSON: {error}") from error
        require(
            isinstance(ids, dict) and all(type(number) is int for number in ids.values()),
            f"{vocabulary} is no object of tokens and their numbers",
        )
        return cls._checked(ids, _merges(_read(merges), merges), vocabulary)

    @classmethod
    def _checked(
        cls, ids: Mapping[str, int], merges: Sequence[tuple[str, str]], path: Any
    ) -> "ClipWords":
        letters = byte_letters().values()
        needed = [*letters, *(x + LAST for x in letters), *map("".join, merges), START, END]
        missing = next((token for token in needed if token not in ids), None)
        require(missing is None, f"{path} holds no {missing!r}: it is of another vocabulary")
        require(
            ids[END] == max(ids.values()),
            f"{path} numbers {END} {ids[END]}, which is not the highest, {max(ids.values())}: "
            "CLIP finds a text's end by it",
        )
        return cls(ids, {pair: rank for rank, pair in enumerate(merges)})

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return max(self.ids.values()) + 1

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """int32 [B, length]: start, tokens, end, then 0; a longer text is cut before its end."""
        rows = np.zeros((len(texts), length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.ids[START], *self.tokens(text)[: length - 2], self.ids[END]]
            row[: len(ids)] = ids
        return rows

    def tokens(self, text: str) -> list[int]:
        """Of a text, without start and end."""
        letters = byte_letters()
        found = []
        for word in _words(cleaned(text)):
            if word in (START, END):
                found.append(self.ids[word])
                continue
            parts = self._merged("".join(letters[byte] for byte in word.encode("utf-8", "replace")))
            found += [self.ids[part] for part in parts]
        return found

    def _merged(self, word: str) -> list[str]:
        """The parts of a word: of all neighbours the earliest pair is merged, again and again."""
        parts = [*word[:-1], word[-1] + LAST]
        while len(parts) > 1:
            pairs = set(zip(parts, parts[1:], strict=False))
            first = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if first not in self.ranks:
                break
            parts = _joined(parts, first)
        return parts


@functools.cache
def byte_letters() -> dict[int, str]:
    """A visible letter for each byte: its own where it is one, else those from U+0100 on.

    In the order of OpenAI's tokens: visible bytes come first.
    """
    own = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in own]
    return {byte: chr(byte) for byte in own} | {
        byte: chr(0x100 + i) for i, byte in enumerate(others)
    }


def cleaned(text: str) -> str:
    """Small letters, single spaces, HTML's entities as what they are, also those of entities.

    Letters and their marks are composed (NFC). OpenAI's code has ftfy for that, which also repairs
    broken encodings; nothing is repaired here.
    """
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return re.sub(r"\s+", " ", text).strip().lower()


def _words(text: str) -> Iterator[str]:
    """Contractions, runs of letters, single numerals, runs of other signs; spaces end them."""
    kinds, start = [_kind(letter) for letter in text], 0
    while start < len(text):
        whole = WHOLE.match(text, start)
        end = start + 1
        if whole:
            end = whole.end()
        elif kinds[start] != "N":
            while end < len(text) and kinds[end] == kinds[start]:
                end += 1
        if kinds[start] != " ":
            yield text[start:end]
        start = end


def _kind(letter: str) -> str:
    """L of letters, N of numerals, a space, or S of other signs; Unicode's categories."""
    if letter.isspace():
        return " "
    category = unicodedata.category(letter)[0]
    return category if category in "LN" else "S"


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return found


def holds_merges(data: bytes) -> bool:
    """Whether a file is one of the two of merges, by how it begins."""
    return data.startswith((PACKED, b"#version"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _merges(data: bytes, path: Any) -> list[tuple[str, str]]:
    """The pairs of a file, whose first line names its version.

    Raises:
      UserError: it cannot be read, or a line is none.
    """
    try:
        packed = data.startswith(PACKED) or str(path).endswith(".gz")
        data = gzip.decompress(data) if packed else data
        lines = data.decode("utf-8").split("\n")[1:]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, start=2):
        pair = tuple(line.split(" "))
        if not line.strip():
            continue
        require(
            len(pair) == 2 and all(pair), f"{path}, line {number}, is no pair of parts: {line!r}"
        )
        found.append(pair)
    return found
