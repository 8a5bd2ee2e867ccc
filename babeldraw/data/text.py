"""Captions as ids: a SentencePiece vocabulary, trained from captions and read back.

Ids: 0 is padding, 1 is an unknown piece; there is no begin or end piece. T5's, which are read too,
have an end, 1, and 2 is unknown.
"""

import io
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece
from absl import logging
from etils import epath

from babeldraw.data.image import write_whole
from babeldraw.errors import UserError

PAD_ID = 0
UNKNOWN_ID = 1
# Of T5's vocabularies: padding, unknown, no begin, end.
T5_IDS = (0, 2, -1, 1)
MAX_CAPTIONS = 1_000_000
# Below the 4,192 bytes that SentencePiece reads of a sentence.
MAX_SENTENCE_BYTES = 4000
# Pieces: padding and unknown; one for each byte; characters that a vocabulary of bytes has besides.
SPECIAL, BYTES, COMMON = 2, 256, 100


def captions_in(caption: str) -> list[str]:
    """A record's captions, one a line; [''] where there is none.

    Lines end at a line feed alone: other separators, such as U+2028, belong to the text.
    """
    found = [line for line in map(str.strip, caption.split("\n")) if line]
    return found or [""]


def caption_at(caption: str, turn: int) -> str:
    """One of a record's captions: each is used in its turn, epoch after epoch."""
    found = captions_in(caption)
    return found[turn % len(found)]


def train_vocabulary(captions: Iterable[str], path: str | os.PathLike, size: int = 16_000) -> int:
    """Trains a byte-pair vocabulary and writes it to `path`, whole or not at all.

    The same captions in the same order give the same file, byte for byte. Of more than 1,000,000
    captions a sample of that many is used. 16,000 pieces: Babeldraw's own (arXiv:2206.10789, 2.1).

    Args:
        captions: any Unicode texts; empty ones are passed over.
        path: where the SentencePiece model goes.
        size: how many pieces are wanted.

    Returns:
        How many pieces it has, padding and unknown included; fewer than `size` (said in one line
        of the log) where the captions carry no more.

    Raises:
        UserError: no captions, or `size` too small for their characters.
    """
    said = (text for caption in captions for text in captions_in(caption))
    texts = _sample(filter(None, map(_clean, said)), MAX_CAPTIONS)
    if not texts:
        raise UserError("no captions to train a vocabulary from; give data that has captions")
    model = _train(texts, size)
    write_whole(path, model)
    actual = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    if actual < size:
        logging.info("vocabulary: the captions carry %d pieces, %d were asked for", actual, size)
    return actual


def _train(texts: list[str], size: int) -> bytes:
    model = io.BytesIO()
    # Every character has a piece while there is room; where there is none, the rare ones are bytes.
    texts, in_bytes = _spelt(texts, size)
    pieces = [part for text in texts for part in _parts(text)]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(pieces),
            character_coverage=1.0,
            byte_fallback=in_bytes,
            model_writer=model,
            # On captions of few words the unigram trainer keeps characters only (51 pieces for the
            # shapes world, 34 to a caption); merging gives whole words. Babeldraw names neither.
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # Two threads sum in another order and give another model.
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no vocabulary of size={size} from these captions: {reason}") from error
    return model.getvalue()


def _parts(text: str) -> Iterator[str]:
    """A text in parts that the trainer reads: it passes over longer ones without a word."""
    line: list[str] = []
    room = MAX_SENTENCE_BYTES
    for word in text.split(" "):
        size = len(word.encode()) + 1
        if line and size > room:
            yield " ".join(line)
            line, room = [], MAX_SENTENCE_BYTES
        while size > MAX_SENTENCE_BYTES:
            # A character has at most four bytes.
            yield word[: MAX_SENTENCE_BYTES // 4]
            word = word[MAX_SENTENCE_BYTES // 4 :]
            size = len(word.encode()) + 1
        line.append(word)
        room -= size
    if line:
        yield " ".join(line)


def _spelt(texts: list[str], size: int) -> tuple[list[str], bool]:
    """The texts, and whether characters that have no room are left out of them, to be bytes."""
    counts = Counter(itertools.chain.from_iterable(texts))
    # Half of the room for the most frequent characters, half for what is merged of them.
    room = (size - SPECIAL - BYTES) // 2
    if 2 * len(counts) + SPECIAL <= size or room < COMMON:
        return texts, False
    kept = {character for character, _ in counts.most_common(room)}
    return ["".join(c if c in kept else " " for c in text) for text in texts], True


def _sample(texts: Iterable[str], count: int) -> list[str]:
    """At most `count` of the texts, each as likely as any other (reservoir sampling)."""
    chosen: list[str] = []
    rng = random.Random(0)
    for index, text in enumerate(texts):
        if index < count:
            chosen.append(text)
        elif (slot := rng.randrange(index + 1)) < count:
            chosen[slot] = text
    return chosen


def _clean(text: str) -> str:
    # A lone surrogate has no UTF-8 form; a line break would end the sentence for the trainer.
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").split())


class Vocabulary:
    """A trained vocabulary. Safe to use from threads.

    Args:
        path: a file that `train_vocabulary` wrote, or T5's, whose texts end in a piece of their
            own.

    Attributes:
        size: how many ids there are, padding and unknown included.

    Raises:
        UserError: the file is missing, is no SentencePiece model, or has other special ids.
    """

    def __init__(self, path: str | os.PathLike):
        self._pieces = _load(path)
        self.size: int = self._pieces.get_piece_size()
        self._end = [end] if (end := self._pieces.eos_id()) >= 0 else []

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Texts to int32 [len(texts), length], cut at `length` and padded with 0 on the right.

        Where texts have an end they keep it when they are cut; an empty one is padding alone.
        """
        ids = np.full((len(texts), length), PAD_ID, np.int32)
        for row, pieces in zip(ids, self._encode(texts), strict=True):
            kept = [*pieces[: length - len(self._end)], *self._end] if pieces else []
            row[: len(kept)] = kept
        return ids

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many ids each text has before any cut: more than `length` means it would be cut."""
        return [len(pieces) + len(self._end) * bool(pieces) for pieces in self._encode(texts)]

    def unknown(self, text: str) -> str:
        """The characters of a text that no piece stands for, each once, in order."""
        found = dict.fromkeys(
            character
            for character in _clean(text)
            if not character.isspace() and self._pieces.unk_id() in self._pieces.encode(character)
        )
        return "".join(found)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """One row of ids, int [length], to its text; padding gives nothing."""
        return self._pieces.decode([int(i) for i in ids if i != PAD_ID])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._pieces.encode(_clean(text)) for text in texts]


def _load(path: str | os.PathLike) -> sentencepiece.SentencePieceProcessor:
    try:
        model = epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = (pieces.pad_id(), pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
    except RuntimeError:
        ids = ()
    if ids not in ((PAD_ID, UNKNOWN_ID, -1, -1), T5_IDS):
        raise UserError(
            f"vocabulary {path} is no SentencePiece model with ids 0 for padding, 1 for unknown "
            "and none for begin and end, nor T5's; train one with babeldraw"
        )
    return pieces
