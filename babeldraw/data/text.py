"""Captions as ids: a SentencePiece vocabulary, trained from captions and read back.

Ids: 0 is padding, 1 is an unknown piece; there is no begin or end piece. T5's, which are read too,
have an end, 1, and 2 is unknown. icetk's, CogView2's, are read as well: in its file 0 is unknown
and 3 padding, which change places here; all others stay in their ranges of languages. How texts are
normalised before they are cut into pieces stands in the file and goes with it.
"""

import io
import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sentencepiece
from absl import logging
from etils import epath

from babeldraw.config import require, require_choice
from babeldraw.data.image import write_whole
from babeldraw.errors import UserError

PAD_ID = 0
UNKNOWN_ID = 1
# Padding, unknown, begin, end; -1: none. Ours, and T5's.
OWN_IDS = (PAD_ID, UNKNOWN_ID, -1, -1)
T5_IDS = (0, 2, -1, 1)
# icetk's: unknown is 0, and padding the piece of this number, whatever its file calls padding.
ICETK_PAD, ICETK_PADDING = 3, "<pad>"
MAX_CAPTIONS = 1_000_000
# Below the 4,192 bytes that SentencePiece reads of a sentence.
MAX_SENTENCE_BYTES = 4000
# Pieces: padding and unknown; one for each byte; characters that a vocabulary of bytes has besides.
SPECIAL, BYTES, COMMON = 2, 256, 100
# Names here and as SentencePiece has them.
MODELS = {"byte_pair": "bpe", "unigram": "unigram"}
BYTES_OF = ("auto", "always", "never")
# SentencePiece's own rules: Unicode's NFKC with all spaces made one (nmt_), letters made small
# (_cf), or nothing at all.
NORMALIZATIONS = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")


@dataclass(frozen=True)
class VocabularyConfig:
    """How a vocabulary is made.

    Attributes:
        size: pieces that are wanted; 16,000 in Parti (arXiv:2206.10789, section 2.1).
        model: 'byte_pair' or 'unigram', as SentencePiece has them. Parti names neither; on captions
            of few words the unigram trainer keeps characters alone (51 pieces for the shapes world,
            34 to a caption), and merging gives whole words.
        bytes: whether characters without a piece are spelt as bytes, so that any text comes back:
            'always' (256 pieces go to them), 'never' (they are one unknown piece), or 'auto', where
            not every character of the captions has room.
        normalization: one of NORMALIZATIONS.
    """

    size: int = 16_000
    model: str = "byte_pair"
    bytes: str = "auto"
    normalization: str = "nmt_nfkc"

    def __post_init__(self):
        require(self.size > SPECIAL, f"size is {self.size}; more than {SPECIAL} pieces are needed")
        require_choice(self, "model", MODELS)
        require_choice(self, "bytes", BYTES_OF)
        require_choice(self, "normalization", NORMALIZATIONS)


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


def train_vocabulary(
    captions: Iterable[str],
    path: str | os.PathLike,
    config: VocabularyConfig | int = VocabularyConfig(),
) -> int:
    """Trains a vocabulary and writes it to `path`, whole or not at all.

    The same captions in the same order give the same file, byte for byte. Of more than 1,000,000
    captions a sample of that many is used.

    Args:
        captions: any Unicode texts; empty ones are passed over.
        path: where the SentencePiece model goes.
        config: how; a number is how many pieces are wanted.

    Returns:
        How many pieces it has, padding and unknown included; fewer than are wanted (said in one
        line of the log) where the captions carry no more.

    Raises:
        UserError: no captions, or a size too small for their characters.
    """
    config = VocabularyConfig(config) if isinstance(config, int) else config
    said = (text for caption in captions for text in captions_in(caption))
    texts = _sample(filter(None, map(_clean, said)), MAX_CAPTIONS)
    if not texts:
        raise UserError("no captions to train a vocabulary from; give data that has captions")
    model = _train(texts, config)
    write_whole(path, model)
    actual, size = _load(model, path).get_piece_size(), config.size
    if actual < size:
        logging.info("vocabulary: the captions carry %d pieces, %d were asked for", actual, size)
    return actual


def _train(texts: list[str], config: VocabularyConfig) -> bytes:
    model = io.BytesIO()
    # Every character has a piece while there is room; where there is none, the rare ones are bytes.
    texts, in_bytes = (texts, False) if config.bytes == "never" else _spelt(texts, config.size)
    in_bytes = in_bytes or config.bytes == "always"
    pieces = [part for text in texts for part in _parts(text)]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(pieces),
            character_coverage=1.0,
            byte_fallback=in_bytes,
            model_writer=model,
            model_type=MODELS[config.model],
            normalization_rule_name=config.normalization,
            vocab_size=config.size,
            hard_vocab_limit=False,
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # Two threads sum in another order and give another model.
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"no vocabulary of size={config.size} from these captions: {_reason(error, in_bytes)}"
        ) from error
    return model.getvalue()


def _reason(error: RuntimeError, in_bytes: bool) -> str:
    """Why SentencePiece makes none, in words of a user where it is a matter of room."""
    said = str(error).splitlines()[0]
    needed = re.search(r"smaller than required_chars\. \d+ vs (\d+)", said)
    if needed is None:
        return said
    bytes_too = f", {BYTES} of them for bytes" if in_bytes else ""
    return f"their characters alone take {needed[1]} pieces{bytes_too}; ask for more than that"


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
            own, or icetk's.

    Attributes:
        size: how many ids there are, padding and unknown included.

    Raises:
        UserError: the file is missing, is no SentencePiece model, or has other special ids.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            model = epath.Path(path).read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"vocabulary {path} cannot be read: {reason}") from error
        self._pieces = _load(model, path)
        self.size: int = self._pieces.get_piece_size()
        ids = _special_ids(self._pieces)
        self._end = [ids[3]] if ids == T5_IDS else []
        # Of the file, one of which is the other's here; equal where there is nothing to exchange.
        self._exchanged = (PAD_ID, PAD_ID if ids in (OWN_IDS, T5_IDS) else ICETK_PAD)

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

    def pieces(self, text: str) -> list[tuple[str, int]]:
        """The pieces of a text before any cut, each with its id; '▁' stands for a space."""
        (ids,) = self._encode([text])
        ids += self._end if ids else []
        return [(self._pieces.id_to_piece(self._exchange(number)), number) for number in ids]

    def normalized(self, text: str) -> str:
        """What is cut into pieces: the text after normalisation."""
        return self._pieces.normalize(_clean(text)).replace("\u2581", " ").strip()

    @property
    def spells_bytes(self) -> bool:
        """Whether characters without a piece are spelt as bytes."""
        return self._pieces.is_byte(self._pieces.piece_to_id("<0x00>"))

    @property
    def made(self) -> dict[str, str]:
        """How the file says that it was made: `model`, and the rule of `normalization`."""
        return _made(self._pieces.serialized_model_proto())

    def unknown(self, text: str) -> str:
        """The characters of a text that no piece stands for, each once, in order."""
        found = dict.fromkeys(
            character
            for character in _clean(text)
            if not character.isspace() and self._pieces.unk_id() in self._pieces.encode(character)
        )
        return "".join(found)

    def knows(self, text: str) -> bool:
        """Whether it has pieces for at least half of a text's letters: for its language."""
        letters = Counter(character for character in _clean(text) if character.isalpha())
        unknown = sum(letters[character] for character in self.unknown("".join(letters)))
        return 2 * unknown <= letters.total()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """One row of ids, int [length], to its text; padding gives nothing.

        Nor does what a network's table has beyond the vocabulary, see `vocabulary_of`.
        """
        own = [int(i) for i in ids if PAD_ID != i < self.size]
        return self._pieces.decode([self._exchange(i) for i in own])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        found = [self._pieces.encode(_clean(text)) for text in texts]
        return [[self._exchange(number) for number in ids] for ids in found]

    def _exchange(self, number: int) -> int:
        """An id of the file as one of ours, and back."""
        one, other = self._exchanged
        return other if number == one else one if number == other else number


def _load(model: bytes, path: str | os.PathLike) -> sentencepiece.SentencePieceProcessor:
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError:
        pieces = None
    if pieces is None or not (_special_ids(pieces) in (OWN_IDS, T5_IDS) or _is_icetk(pieces)):
        raise UserError(
            f"vocabulary {path} is no SentencePiece model with ids 0 for padding, 1 for unknown "
            "and none for begin and end, nor T5's or icetk's; train one with babeldraw"
        )
    return pieces


def _special_ids(pieces: sentencepiece.SentencePieceProcessor) -> tuple[int, ...]:
    return pieces.pad_id(), pieces.unk_id(), pieces.bos_id(), pieces.eos_id()


def _is_icetk(pieces: sentencepiece.SentencePieceProcessor) -> bool:
    padding = pieces.get_piece_size() > ICETK_PAD and pieces.id_to_piece(ICETK_PAD)
    return pieces.unk_id() == 0 and padding == ICETK_PADDING


def _made(model: bytes) -> dict[str, str]:
    """Two facts of SentencePiece's ModelProto.

    Its own Python classes ask for a protobuf that TensorFlow Datasets does not go with. Numbers are
    those of sentencepiece_model.proto: trainer_spec 2 with model_type 3, normalizer_spec 3 with
    name 1.
    """
    fields = _fields(model)
    kind = _fields(fields[2])[3] if 3 in _fields(fields[2]) else 1
    names = {1: "unigram", 2: "byte_pair", 3: "word", 4: "char"}
    return {"model": names[kind], "normalization": _fields(fields[3])[1].decode()}


def _fields(message: bytes) -> dict[int, bytes | int]:
    """The last value of each field of a message in protobuf's wire format."""
    found: dict[int, bytes | int] = {}
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            found[number] = varint()
            continue
        # Of eight bytes, of as many as a number says, or of four.
        size = {1: 8, 5: 4}[kind] if kind in (1, 5) else varint()
        found[number] = message[place : place + size]
        place += size
    return found
