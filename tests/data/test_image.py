"""Pictures: what is decoded is what is seen, damage is a bad record, PNG text comes back."""

import io

import numpy as np
import pytest
from PIL import Image

from babeldraw.data import image as images
from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_pictures_come_back_from_bytes_and_from_a_file(kind, tmp_path):
    data = encoded(PICTURE, kind)
    np.testing.assert_array_equal(images.decode(data), PICTURE)
    (tmp_path / "a").write_bytes(data)
    np.testing.assert_array_equal(images.decode(tmp_path / "a"), PICTURE)


@pytest.mark.parametrize(
    ("orientation", "seen"),
    [(3, PICTURE[::-1, ::-1]), (6, np.rot90(PICTURE, -1)), (8, np.rot90(PICTURE))],
)
def test_exif_orientation_is_applied(orientation, seen):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(images.decode(encoded(PICTURE, exif=exif)), seen)


def test_transparency_is_laid_over_white():
    alpha = np.full((6, 4, 1), 51, np.uint8)  # A fifth.
    seen = images.decode(encoded(np.concatenate([PICTURE, alpha], axis=2)))
    expected = 0.2 * PICTURE.astype(np.float64) + 0.8 * 255
    assert np.abs(seen - expected).max() <= 1
    palette = Image.fromarray(PICTURE).quantize(8)
    hidden = images.decode(encoded(palette, transparency=palette.getpixel((0, 0))))
    np.testing.assert_array_equal(hidden[0, 0], 255)


def test_grey_pictures_of_8_and_16_bits_become_rgb():
    grey = PICTURE[..., 0]
    wide = grey.astype(np.uint16) << 8
    for picture in (grey, wide):
        expected = np.repeat(grey[..., None], 3, axis=2)
        np.testing.assert_array_equal(images.decode(encoded(picture)), expected)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(images.decode(data), np.full((4, 4, 3), [255, 0, 0]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_damaged_files_are_bad_records_or_pictures_and_never_crash(kind):
    data = encoded(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8), kind)
    with pytest.raises(BadRecord, match="here: "):
        images.decode(data[: len(data) // 3], "here")
    for _ in range(200):
        damaged = bytearray(data)
        for place in RNG.integers(0, len(data), 3):
            damaged[place] = RNG.integers(256)
        try:
            assert images.decode(bytes(damaged)).shape[2] == 3
        except BadRecord:
            pass


@pytest.mark.parametrize("data", [b"", b"not a picture"])
def test_what_is_no_picture_is_a_bad_record(data):
    with pytest.raises(BadRecord):
        images.decode(data)


def test_a_missing_file_is_a_bad_record(tmp_path):
    with pytest.raises(BadRecord, match=r"gone\.png"):
        images.decode(tmp_path / "gone.png")


def test_a_bomb_is_refused_before_it_is_unpacked():
    data = encoded(Image.new("1", (20_000, 5_000)))
    assert len(data) < 50_000
    with pytest.raises(BadRecord, match=r"(?i)pixels"):
        images.decode(data)


def test_center_crop_without_scaling_takes_the_middle_pixels():
    wide = np.arange(4 * 10 * 3, dtype=np.uint8).reshape(4, 10, 3)
    np.testing.assert_array_equal(images.center_crop(wide, (4, 4)), wide[:, 3:7])
    tall = wide.swapaxes(0, 1)
    np.testing.assert_array_equal(images.center_crop(tall, (4, 4)), tall[3:7])
    np.testing.assert_array_equal(images.center_crop(wide, (4, 8)), wide[:, 1:9])


def test_center_crop_keeps_an_image_of_the_right_size():
    assert images.center_crop(PICTURE, (6, 4)) is PICTURE


def test_center_crop_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = images.center_crop(stripes, (8, 8)).astype(np.int32)
    assert np.abs(small[:, 1:-1] - 127).max() <= 2


@pytest.mark.parametrize("shape", [(1, 100), (100, 1), (7, 3), (500, 333)])
@pytest.mark.parametrize("size", [(8, 8), (3, 9), (256, 256)])
def test_center_box_is_the_largest_of_its_aspect_and_inside(shape, size):
    top, left, height, width = images.center_box(shape, size)
    assert top >= 0 and left >= 0
    assert 1 <= height and top + height <= shape[0]
    assert 1 <= width and left + width <= shape[1]
    assert height == shape[0] or width == shape[1]
    assert abs(2 * top + height - shape[0]) <= 1 and abs(2 * left + width - shape[1]) <= 1


def test_to_uint8_rounds_clips_and_undoes_division():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(every.astype(np.float32) / 255), every)
    odd = np.array([-1.0, 2.0, np.nan, np.inf, -np.inf, 0.5], np.float32)
    np.testing.assert_array_equal(images.to_uint8(odd), [0, 255, 0, 255, 0, 128])


def test_to_grid_puts_each_picture_in_its_cell():
    batch = RNG.integers(0, 256, (5, 2, 3, 3), dtype=np.uint8)
    grid = images.to_grid(batch, 2)
    assert grid.shape == (6, 6, 3)
    for index, picture in enumerate(batch):
        row, column = divmod(index, 2)
        cell = grid[2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        np.testing.assert_array_equal(cell, picture)
    np.testing.assert_array_equal(grid[4:, 3:], 255)
    assert images.to_grid(batch[:1], 4).shape == (2, 3, 3)


def test_png_keeps_pixels_and_text(tmp_path):
    text = {"prompt": "une étoile 星 🌟", "seed": "7", "long": "x" * 5000, "half": "a\ud800b"}
    path = tmp_path / "new" / "a.png"
    images.save_png(path, PICTURE, text)
    np.testing.assert_array_equal(images.decode(path), PICTURE)
    assert images.read_png_text(path) == text | {"half": "a?b"}
    images.save_png(path, PICTURE.astype(np.float32) / 255)
    np.testing.assert_array_equal(images.decode(path), PICTURE)
    assert images.read_png_text(path) == {}
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_reading_text_of_what_is_no_png_is_the_users_mistake(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(PICTURE, "JPEG"))
    for name in ("a.png", "gone.png"):
        with pytest.raises(UserError, match=name):
            images.read_png_text(tmp_path / name)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    images.write_whole(path, b"old")
    monkeypatch.setattr(type(images.epath.Path(path)), "replace", _fail)
    with pytest.raises(OSError, match="disk"):
        images.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def _fail(*_):
    raise OSError("disk full")
