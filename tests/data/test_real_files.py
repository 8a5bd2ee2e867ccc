"""Files as people have them: what a folder, its lists and its pictures hold is read or counted."""

import io
import json
import logging
import os
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from babeldraw.data.folder import FolderSource
from babeldraw.data.image import decode, image_suffixes
from babeldraw.data.pipeline import TrainBatches
from babeldraw.data.records import BadRecord
from babeldraw.data.rows import MAX_CLASSES, label_of
from babeldraw.data.text import Vocabulary, caption_at, train_vocabulary
from babeldraw.errors import UserError


def picture(value=0, size=(12, 8)):
    image = Image.new("RGB", size, (value, 100, 200))
    image.paste((250, 250, 250), (0, 0, 4, 4))
    return image


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def paint(path, value=0, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(value), kind))


def records(path, **options):
    source = FolderSource(path, "all", **options)
    return {name: source[index] for index, name in enumerate(source._names)}


# ------------------------------------------------------------------ pixels that can be read


def exif(entries, extra=b""):
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return b"Exif\0\0" + head + body + b"\0\0\0\0" + extra


WRONG = {
    "resolution_unit_as_bytes": (296, 7, 8, 7),
    "date_as_floats": (306, 11, 2, 1),
    "description_as_rationals": (270, 5, 2, 7),
    "unit_as_longs": (296, 4, 4, 52),
    "xmp_as_a_double": (700, 12, 1, 1),
    "beyond_the_end": (270, 2, 4_000_000_000, 4_000_000_000),
    "no_such_type": (271, 99, 1, 1),
}


@pytest.mark.parametrize("entry", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("turn", [1, 6])
def test_a_damaged_tag_costs_neither_the_picture_nor_its_turn(entry, turn):
    data = encoded(picture(), "JPEG", exif=exif([(274, 3, 1, turn), entry], bytes(range(1, 64))))
    found = decode(data)
    assert found.shape == ((12, 8, 3) if turn == 6 else (8, 12, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_exif_says(orientation):
    upright = np.asarray(picture())
    tags = Image.Exif()
    tags[274] = orientation
    # How a camera held otherwise stores it: what the tag's turn undoes.
    undo = [0, 0, 0, 180, 0, 0, 90, 0, 270][orientation]
    stored = Image.fromarray(upright)
    if orientation in (3, 6, 8):
        stored = stored.rotate(undo, expand=True)
        np.testing.assert_array_equal(decode(encoded(stored, exif=tags)), upright)
    assert decode(encoded(stored, exif=tags)).shape[2] == 3


def chunk(kind, data, check=None):
    crc = zlib.crc32(kind + data) if check is None else check
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def with_chunk(png, made):
    at = png.index(b"IDAT") - 4
    return png[:at] + made + png[at:]


CHUNKS = {
    "much_text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000, 9)),
    "text_of_a_wrong_checksum": chunk(b"tEXt", b"a\0b", check=0),
    "broken_compression": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0nothing"),
    "broken_profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(b"no profile")),
    "uncompressed_profile": chunk(b"iCCP", b"p\0\0nothing"),
    "broken_exif": chunk(b"eXIf", b"II*\0garbage"),
    "resolution_of_a_wrong_size": chunk(b"pHYs", b"\0"),
    "a_wrong_checksum": chunk(b"tIME", b"1234567", check=1),
}


@pytest.mark.parametrize("made", CHUNKS.values(), ids=CHUNKS)
def test_chunks_beside_the_pixels_never_cost_the_picture(made):
    np.testing.assert_array_equal(decode(with_chunk(encoded(picture()), made)), picture())


def test_pixels_that_are_damaged_are_a_bad_record():
    png = bytearray(encoded(picture()))
    png[png.index(b"IDAT") + 8] ^= 0x15
    for data in (bytes(png), encoded(picture())[:60], encoded(picture(), "JPEG")[:300]):
        with pytest.raises(BadRecord):
            decode(data)


def test_segments_beside_the_pixels_never_cost_a_jpeg():
    data = encoded(picture(), "JPEG")
    for marker, body in ((0xE2, b"MPF\0garbage"), (0xE2, b"ICC_PROFILE\0\1\1none"), (0xED, b"8B")):
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
        np.testing.assert_array_equal(decode(data[:2] + segment + data[2:]), decode(data))


def test_an_embedded_profile_is_applied_and_without_one_nothing_changes():
    # A space whose red is the other's blue.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    for one, other in ((b"rXYZ", b"?XYZ"), (b"bXYZ", b"rXYZ"), (b"?XYZ", b"bXYZ")):
        profile = profile.replace(one, other)
    plain = encoded(picture())
    np.testing.assert_array_equal(decode(plain), picture())
    other = decode(encoded(picture(), icc_profile=profile))
    np.testing.assert_allclose(other, decode(plain)[..., ::-1], atol=2)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode(encoded(picture(), icc_profile=srgb)), picture())


# ------------------------------------------------------------------ which files are read


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".avif", ".tif", ".jp2", ".ppm"])
def test_every_suffix_that_pillow_reads_is_read(tmp_path, suffix):
    kind = Image.registered_extensions().get(suffix.lower(), "JPEG")
    paint(tmp_path / f"a{suffix}", kind=kind)
    (tmp_path / "a.txt").write_text("a box")
    assert [r.caption for r in records(tmp_path).values()] == ["a box"]
    assert not {".eps", ".ps", ".mpg", ".pdf"} & set(image_suffixes())


def test_files_that_are_not_read_are_counted_by_suffix(tmp_path, caplog):
    paint(tmp_path / "a.png")
    for name in ("b.heic", "c.HEIC", "d.mp4", "notes.md", ".hidden.cr2"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING):
        assert len(records(tmp_path, require_captions=False)) == 1
    (line,) = caplog.messages
    assert "2 .heic, 1 .mp4" in line and "cr2" not in line


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    paint(tmp_path / "data" / "one" / "a.png")
    paint(tmp_path / "elsewhere" / "b.png", 1)
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "two")
    os.symlink(tmp_path / "data", tmp_path / "data" / "one" / "round")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "again")
    found = records(tmp_path / "data", require_captions=False)
    assert len(found) == 2 and "one/a.png" in found


@pytest.mark.parametrize("folder", ["exp[v2]", "a*b?", "back\\slash", "it's", "Zürich 1"])
def test_a_folder_of_any_name_is_a_path(tmp_path, folder):
    paint(tmp_path / folder / "[a] *.png")
    (tmp_path / folder / "[a] *.txt").write_text("a box")
    assert [r.caption for r in records(tmp_path / folder).values()] == ["a box"]


# ------------------------------------------------------------------ lists


@pytest.mark.parametrize("header", ["file, caption", "File,Caption", "image,caption", "PATH ,Text"])
def test_space_and_case_of_a_header_do_not_matter(tmp_path, header):
    paint(tmp_path / "p.png")
    (tmp_path / "captions.csv").write_text(f'{header}\np.png, "a red, wide box"\n')
    assert records(tmp_path)["p.png"].caption == "a red, wide box"


def test_columns_that_are_not_known_are_named(tmp_path, caplog):
    paint(tmp_path / "p.png")
    (tmp_path / "captions.csv").write_text("photo,words\np.png,a box\n")
    with caplog.at_level(logging.WARNING), pytest.raises(UserError):
        records(tmp_path)
    assert "the columns are photo, words" in caplog.text


def test_a_comma_without_quotes_loses_no_half_of_a_caption_in_silence(tmp_path, caplog):
    for name in "ab":
        paint(tmp_path / f"{name}.png")
    (tmp_path / "captions.csv").write_text("file,caption\na.png,red, wide\nb.png,fine\n")
    with caplog.at_level(logging.WARNING):
        assert list(records(tmp_path)) == ["b.png"]
    assert "1 lines are no captions" in caplog.text and "1 of 2 pictures have no" in caplog.text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_with_marks_are_found_however_they_are_composed(tmp_path, form):
    paint(tmp_path / unicodedata.normalize(form, "Zürich é.png"))
    for listed in ("NFC", "NFD"):
        row = {"file": unicodedata.normalize(listed, "Zürich é.png"), "caption": "a box"}
        (tmp_path / "list.jsonl").write_text(json.dumps(row))
        assert [r.caption for r in records(tmp_path).values()] == ["a box"]


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("value", "label"),
    [(1, 1), (1.0, 1), ("1.0", 1), (" 2 ", 2), ("", -1), (None, -1), (float("nan"), -1)]
    + [("nan", -1), ("None", -1), (-1, -1), (2**53 + 1, 2**53 + 1)],
)
def test_a_label_is_a_whole_number_however_it_is_written(value, label):
    assert label_of(value) == label


@pytest.mark.parametrize("value", ["cat", 1.5, "1e400", -2, [1], {}, True, float("inf")])
def test_what_is_no_whole_number_is_no_label(value):
    with pytest.raises(ValueError, match="no whole number"):
        label_of(value)


def test_a_label_that_is_none_costs_the_label_alone(tmp_path):
    rows = "file,caption,label\n"
    for number, label in enumerate(["0.0", "1.0", "", "cat", "2"]):
        paint(tmp_path / f"{number}.png")
        rows += f"{number}.png,box {number},{label}\n"
    (tmp_path / "captions.csv").write_text(rows)
    found = list(records(tmp_path).values())
    assert [r.caption for r in found] == [f"box {i}" for i in range(5)]
    assert [r.label for r in found] == [0, 1, -1, -1, 2]


def test_numbers_that_are_ids_are_no_classes(tmp_path, caplog):
    for number, label in enumerate((3, MAX_CLASSES, 3_000_000_001)):
        paint(tmp_path / f"{number}.png")
        with (tmp_path / "list.jsonl").open("a") as file:
            row = {"file": f"{number}.png", "caption": "a box", "label": label}
            file.write(json.dumps(row) + "\n")
    with caplog.at_level(logging.WARNING):
        source = FolderSource(tmp_path, "all")
    assert source.classes == () and {source[i].label for i in range(3)} == {-1}
    assert "ids, no classes" in caplog.text


def test_pictures_in_no_class_folder_are_counted(tmp_path):
    for name in ("cats/a", "dogs/b", "cover"):
        paint(tmp_path / f"{name}.png")
    assert FolderSource(tmp_path, "all", False).unlabelled == 1


# ------------------------------------------------------------------ captions


def test_several_captions_are_used_in_turn(tmp_path):
    for number in range(4):
        paint(tmp_path / f"{number}.png")
        with (tmp_path / "captions.jsonl").open("a") as file:
            for word in ("box", "tile"):
                row = {"file": f"{number}.png", "caption": f"a {word} {number}"}
                file.write(json.dumps(row) + "\n")
    (tmp_path / "3.txt").write_text("a box 3\n\na tile 3\n")
    source = FolderSource(tmp_path, "all")
    train_vocabulary(source.captions(), tmp_path / "text.model", 100)
    vocabulary = Vocabulary(tmp_path / "text.model")
    options = {"batch_size": 4, "image_size": (8, 8), "seed": 0, "text_length": 8}
    batches = TrainBatches(source, vocabulary=vocabulary, **options)
    epochs = [[vocabulary.decode(ids) for ids in next(batches)["text"]] for _ in range(3)]
    batches.close()
    for epoch, word in zip(epochs, ("box", "tile", "box"), strict=True):
        assert sorted(epoch) == [f"a {word} {number}" for number in range(4)]


def test_lines_of_a_caption_end_at_a_line_feed_alone():
    assert caption_at("one\u2028still one\r\n\n two ", 0) == "one\u2028still one"
    assert caption_at("one\u2028still one\r\n\n two ", 3) == "two"
    assert caption_at("", 5) == ""


def test_every_letter_of_the_captions_has_a_piece(tmp_path):
    captions = ["a red box on the table near the blue lamp"] * 300 + ["a jazz quiz in Zürich"]
    train_vocabulary(captions, tmp_path / "t.model")
    vocabulary = Vocabulary(tmp_path / "t.model")
    assert vocabulary.unknown("jazz quiz Zürich") == ""
    assert vocabulary.unknown("a 貓 in a жук 貓") == "貓жук"


def test_where_there_is_no_room_letters_fall_back_to_bytes(tmp_path):
    letters = "".join(chr(0x4E00 + number) for number in range(600))
    captions = [f"{letter} {other}" for letter, other in zip(letters, letters[1:], strict=False)]
    train_vocabulary([*captions, "a box"] * 3, tmp_path / "t.model", 500)
    vocabulary = Vocabulary(tmp_path / "t.model")
    assert vocabulary.unknown(letters) == ""


@pytest.mark.parametrize("separator", [" ", "", "。"])
def test_long_captions_are_read_whole(tmp_path, separator):
    long = separator.join(["zebra"] * 3000)
    assert len(long) > 4192
    train_vocabulary([long, f"{long} quilt"], tmp_path / "t.model", 60)
    vocabulary = Vocabulary(tmp_path / "t.model")
    assert vocabulary.unknown("zebra quilt") == ""
