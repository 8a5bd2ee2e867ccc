"""One raw record to one of a shard: what is refused and why, the stored size, the hashes."""

import hashlib
import io
import unicodedata
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from babeldraw.config import require
from babeldraw.data.image import (
    MAX_PIXELS,
    decode,
    open_image,
    why_unreadable,
    without_text,
)
from babeldraw.data.records import BadRecord

# Reasons that mean damage; of the others a record is merely not wanted.
BAD_REASONS = (
    "unreadable picture",
    "too many pixels",
    "too many bytes",
    "caption is not UTF-8",
    "unreadable caption",
    "no picture",
    "damaged input",
    "not fetched",
)
DUPLICATES = ("picture", "pair", "keep")
HASH_ROWS, HASH_COLUMNS = 8, 8
MAX_DISTANCE = 7


@dataclass(frozen=True)
class Options:
    """What is wanted of a record and how it is stored.

    Attributes:
        side: the shorter side of a stored picture is at most this, in pixels; larger ones are
            resized, smaller ones kept. 384 lets the tokenizer's crop of 256 be cut as published.
        quality: of the JPEG files, 1 to 100.
        min_side: pictures whose shorter side has fewer pixels are refused.
        max_aspect: pictures whose longer side is more than this many times the shorter are refused.
        max_bytes: picture files of more bytes are refused unread.
        min_caption: characters a caption has at least; 0 keeps pictures without.
        max_caption: characters a caption has at most.
        max_nontext: share of a caption's characters, spaces apart, that are neither letters nor
            marks, at most.
        duplicates: 'picture' keeps the first of equal pictures, 'pair' the first of equal pictures
            with equal captions, 'keep' all.
        near_duplicates: pictures whose 64-bit difference hashes differ in at most so many bits
            count as equal too, the first is kept; -1: off.

    Raises:
        UserError: a value outside its range.
    """

    side: int = 384
    quality: int = 95
    min_side: int = 32
    max_aspect: float = 3.0
    max_bytes: int = 50_000_000
    min_caption: int = 1
    max_caption: int = 4096
    max_nontext: float = 0.5
    duplicates: str = "picture"
    near_duplicates: int = -1

    def __post_init__(self):
        ranges = {
            "side": (1, 2**16),
            "quality": (1, 100),
            "min_side": (1, 2**16),
            "max_aspect": (1, float("inf")),
            "max_bytes": (1, 2**31),
            "min_caption": (0, self.max_caption),
            "max_caption": (0, 2**20),
            "max_nontext": (0, 1),
            "near_duplicates": (-1, MAX_DISTANCE),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            require(low <= value <= high, f"{name}={value} must lie between {low} and {high}")
        require(
            self.duplicates in DUPLICATES,
            f"duplicates={self.duplicates!r} is unknown; use {', '.join(DUPLICATES)}",
        )


@dataclass(frozen=True)
class Raw:
    """One record as it was found.

    Attributes:
        where: file and offset, or whatever leads a person back to it.
        image: the bytes of the picture's file.
        caption: text, or bytes that should be UTF-8.
        label: class index, -1 where there is none.
    """

    where: str
    image: bytes
    caption: str | bytes = ""
    label: int = -1


class Rejected(Exception):
    """A record that goes into no shard: where it lies, one of a few reasons, and the detail."""

    def __init__(self, where: str, reason: str, detail: str = ""):
        super().__init__(where, reason, detail)
        self.where, self.reason, self.detail = where, reason, detail


@dataclass(frozen=True)
class Example:
    """A record for a shard.

    Attributes:
        where: of the raw record.
        jpeg: a baseline JPEG file.
        caption: stripped of space at both ends.
        label: class index, -1 where there is none.
        content: hexadecimal hash of the stored pixels (with 'pair', of the caption too).
        look: the 64-bit difference hash, as 16 hexadecimal digits.
    """

    where: str
    jpeg: bytes
    caption: str
    label: int
    content: str
    look: str


def make_example(raw: Raw, options: Options) -> Example:
    """Checks, decodes, resizes and encodes one record.

    Raises:
        Rejected: it is damaged, or not what the options want.
    """
    caption = _caption(raw, options)
    _check_file(raw, options)
    try:
        pixels = decode(raw.image, raw.where)
    except BadRecord as error:
        raise Rejected(raw.where, "unreadable picture", error.reason) from error
    image = _fit(Image.fromarray(pixels), options.side)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=options.quality)
    said = caption if options.duplicates == "pair" else ""
    return Example(
        raw.where, file.getvalue(), caption, raw.label, _content(image, said), look_hash(image)
    )


def _caption(raw: Raw, options: Options) -> str:
    text = raw.caption
    if isinstance(text, bytes):
        # A character has at most four bytes: what is longer need not be read.
        if len(text) > 4 * options.max_caption + 4:
            raise Rejected(raw.where, "caption too long", f"{len(text)} bytes")
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Rejected(raw.where, "caption is not UTF-8", str(error)) from error
    text = text.strip()
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Rejected(raw.where, "caption is not UTF-8", str(error)) from error
    if len(text) < options.min_caption:
        raise Rejected(raw.where, "caption too short", f"{len(text)} characters")
    if len(text) > options.max_caption:
        raise Rejected(raw.where, "caption too long", f"{len(text)} characters")
    share = nontext_share(text)
    if share > options.max_nontext:
        raise Rejected(raw.where, "caption is not text", f"{share:.0%} of it")
    return text


def nontext_share(text: str) -> float:
    """Share of the characters, spaces apart, that are neither letters nor marks; 0 of none."""
    kinds = [unicodedata.category(character)[0] for character in text if not character.isspace()]
    return sum(kind not in "LM" for kind in kinds) / max(1, len(kinds))


def _check_file(raw: Raw, options: Options) -> None:
    """What the head of the file tells, before its pixels are decoded."""
    if not raw.image:
        raise Rejected(raw.where, "no picture")
    if len(raw.image) > options.max_bytes:
        raise Rejected(raw.where, "too many bytes", f"{len(raw.image)} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_image(without_text(raw.image)) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise Rejected(raw.where, "too many pixels", str(error)) from error
    except Exception as error:  # Pillow's decoders raise nearly any type on a damaged file.
        raise Rejected(raw.where, "unreadable picture", why_unreadable(error)) from error
    if width * height > MAX_PIXELS:
        raise Rejected(raw.where, "too many pixels", f"{width}x{height}")
    if min(width, height) < options.min_side:
        raise Rejected(raw.where, "too small", f"{width}x{height}")
    if max(width, height) > options.max_aspect * min(width, height):
        raise Rejected(raw.where, "too long", f"{width}x{height}")


def _fit(image: Image.Image, side: int) -> Image.Image:
    """The picture with its shorter side brought down to `side`, antialiased."""
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (max(side, round(length * side / shorter)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _content(image: Image.Image, said: str) -> str:
    head = f"{image.width}x{image.height}\n{said}\n".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()[:32]


def look_hash(image: Image.Image) -> str:
    """The difference hash: whether grey falls from each of 8 x 9 cells to its right neighbour."""
    grey = image.convert("L").resize((HASH_COLUMNS + 1, HASH_ROWS), Image.Resampling.BOX)
    cells = np.asarray(grey).astype(np.int16)
    return np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes().hex()
