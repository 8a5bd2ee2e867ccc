"""What is refused, and why: every kind of hostile record; what is kept, and how it is stored."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.image import decode
from babeldraw.data.prepare.examples import (
    BAD_REASONS,
    Options,
    Raw,
    Rejected,
    look_hash,
    make_example,
    nontext_share,
)
from babeldraw.errors import UserError

OPTIONS = Options(min_side=8, side=32)
SMOOTH = np.stack(np.meshgrid(np.arange(48) * 5, np.arange(40) * 6), -1).astype(np.uint8)
PIXELS = np.concatenate([SMOOTH, np.full((40, 48, 1), 90, np.uint8)], -1)


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(kind="JPEG", mode="RGB", **options):
    return encoded(Image.fromarray(PIXELS).convert(mode), kind, **options)


def png_of(width, height):
    """The head of a PNG of any size, without its pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


REFUSED = {
    "truncated JPEG": (Raw("a", picture()[:-300], "a cat"), "unreadable picture"),
    "no picture at all": (Raw("a", b"junk", "a cat"), "unreadable picture"),
    "an empty file": (Raw("a", b"", "a cat"), "no picture"),
    "40,000 x 40,000": (Raw("a", png_of(40_000, 40_000), "a cat"), "too many pixels"),
    "10,000 x 10,000": (Raw("a", png_of(10_000, 10_000), "a cat"), "too many pixels"),
    "1 x 1": (Raw("a", encoded(Image.new("RGB", (1, 1))), "a cat"), "too small"),
    "a strip": (Raw("a", encoded(Image.new("RGB", (400, 20))), "a cat"), "too long"),
    "too many bytes": (Raw("a", bytes(60_000_000), "a cat"), "too many bytes"),
    "invalid UTF-8": (Raw("a", picture(), b"caf\xe9"), "caption is not UTF-8"),
    "a lone surrogate": (Raw("a", picture(), "caf\udce9"), "caption is not UTF-8"),
    "empty caption": (Raw("a", picture(), " \n"), "caption too short"),
    "a megabyte of caption": (Raw("a", picture(), b"a cat " * 170_000), "caption too long"),
    "a long text": (Raw("a", picture(), "a cat " * 1000), "caption too long"),
    "numbers": (Raw("a", picture(), "IMG_20260103_1234.jpg"), "caption is not text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_records_are_refused_with_a_reason(name):
    raw, reason = REFUSED[name]
    with pytest.raises(Rejected) as refused:
        make_example(raw, OPTIONS)
    assert (refused.value.where, refused.value.reason) == ("a", reason)
    assert "at 0x" not in refused.value.detail and "\n" not in refused.value.detail


def test_damage_is_told_from_what_is_not_wanted():
    damaged = {reason for _, reason in REFUSED.values()} & set(BAD_REASONS)
    assert damaged == {
        "unreadable picture",
        "no picture",
        "too many pixels",
        "too many bytes",
        "caption is not UTF-8",
    }


KEPT = {
    "JPEG": picture(quality=98),
    "wrong extension: a PNG": picture("PNG"),
    "CMYK": picture(mode="CMYK", quality=98),
    "grey": encoded(Image.fromarray(PIXELS[..., 0])),
    "palette": picture("GIF", mode="P"),
    "16 bits": encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) << 8), "PNG"),
    "animated": encoded(
        Image.fromarray(PIXELS), "GIF", save_all=True, append_images=[Image.new("RGB", (48, 40))]
    ),
}


@pytest.mark.parametrize("kind", KEPT)
def test_odd_pictures_are_kept_as_baseline_jpeg_of_the_stored_side(kind):
    example = make_example(Raw("a", KEPT[kind], "  a cat\n", 3), OPTIONS)
    assert (example.where, example.caption, example.label) == ("a", "a cat", 3)
    with Image.open(io.BytesIO(example.jpeg)) as stored:
        assert (stored.format, stored.mode, min(stored.size)) == ("JPEG", "RGB", 32)
        assert "progressive" not in stored.info
    expected = Image.fromarray(PIXELS).resize((38, 32), Image.Resampling.BICUBIC)
    red = np.asarray(expected)[..., 0].astype(float)
    assert np.abs(decode(example.jpeg)[..., 0] - red).mean() < 8


def test_exif_rotation_is_applied_before_storing():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = make_example(Raw("a", picture(exif=exif, quality=98), "a cat"), Options(min_side=8))
    assert decode(turned.jpeg).shape == (48, 40, 3)
    np.testing.assert_allclose(
        decode(turned.jpeg).astype(float), np.rot90(PIXELS, -1).astype(float), atol=12
    )


def test_small_pictures_are_not_enlarged():
    example = make_example(Raw("a", picture(), "a cat"), Options(min_side=8, side=384))
    assert decode(example.jpeg).shape == PIXELS.shape


def test_equal_pictures_have_equal_content_whatever_the_file_or_the_caption():
    png = make_example(Raw("a", picture("PNG"), "a cat"), OPTIONS)
    bmp = make_example(Raw("b", picture("BMP"), "a dog"), OPTIONS)
    other = make_example(Raw("c", encoded(Image.fromarray(PIXELS[::-1]), "PNG"), "a cat"), OPTIONS)
    assert png.content == bmp.content != other.content
    pairs = Options(min_side=8, side=32, duplicates="pair")
    raws = [Raw("a", picture("PNG"), "a cat"), Raw("b", picture("BMP"), "a dog")]
    assert len({make_example(raw, pairs).content for raw in raws}) == 2


def test_the_look_survives_compression_and_size_but_not_another_picture():
    rng = np.random.default_rng(0)
    cells = Image.fromarray(rng.integers(0, 256, (8, 9), np.uint8))
    image = cells.resize((180, 160), Image.Resampling.BICUBIC).convert("RGB")
    small = Image.open(io.BytesIO(encoded(image.resize((90, 80)), quality=60)))

    def distance(one, other):
        return (int(look_hash(one), 16) ^ int(look_hash(other), 16)).bit_count()

    assert distance(image, small) <= 4
    assert distance(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 20


@pytest.mark.parametrize(
    ("text", "share"), [("a cat", 0), ("ab12", 0.5), ("1 2", 1), ("", 0), ("भाषा", 0), ("a!", 0.5)]
)
def test_the_share_of_what_is_no_text(text, share):
    assert nontext_share(text) == share


@pytest.mark.parametrize(
    "field",
    [{"side": 0}, {"quality": 101}, {"max_nontext": 2.0}, {"near_duplicates": 8}]
    + [{"duplicates": "none"}, {"min_caption": 10, "max_caption": 5}],
)
def test_an_option_out_of_range_is_named(field):
    with pytest.raises(UserError, match=f"^{next(iter(field))}="):
        Options(**field)
