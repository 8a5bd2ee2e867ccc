"""Crops on known pixels: where they lie, at what size, whether mirrored; and of JPEG files."""

import io

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.crops import CROPS, check_crop, crop_image, crop_jpeg, make_plan, tensorflow
from babeldraw.data.image import center_crop
from babeldraw.errors import UserError

pytest.importorskip("tensorflow")
# A picture whose red is its row and whose green is its column.
ROWS, COLUMNS = np.mgrid[0:40, 0:60]
PLACES = np.stack([ROWS, COLUMNS, 0 * ROWS], -1).astype(np.uint8)


def cut(image, size, crop, seed):
    tensor = tensorflow().constant([5, seed], "int64")
    return crop_image(tensorflow().constant(image), size, crop, tensor).numpy()


def plans(shape, size, crop, count=200):
    tf = tensorflow()
    shape = tf.constant(shape, tf.int64)

    @tf.function
    def plan(seed):
        made = make_plan(shape, size, crop, tf.stack([tf.constant(5, tf.int64), seed]))
        mirrored = False if made.mirrored is None else made.mirrored
        return tf.stack([*made.box, *made.resized, *made.offset, tf.cast(mirrored, tf.int64)])

    return np.array([plan(tf.constant(i, tf.int64)).numpy() for i in range(count)]).T


def test_the_centre_crop_is_the_middle():
    np.testing.assert_array_equal(cut(PLACES, (40, 40), "center", 0), PLACES[:, 10:50])
    np.testing.assert_array_equal(cut(PLACES, (40, 60), "random", 0), PLACES)


def test_a_window_is_the_largest_crop_anywhere():
    for crop in ("window", "window_mirrored"):
        top, left, height, width, tall, wide, down, right, mirrored = plans((40, 60), (8, 8), crop)
        assert set(height) == set(width) == {40} and set(tall) == set(wide) == {8}
        assert set(top) == set(down) == set(right) == {0} and set(left) == set(range(21))
        share = mirrored.mean()
        assert 0.4 < share < 0.6 if crop == "window_mirrored" else share == 0


def test_a_mirrored_centre_is_the_centre_from_either_side():
    middle = PLACES[:, 10:50]
    made = [cut(PLACES, (40, 40), "center_mirrored", seed) for seed in range(12)]
    turned = [np.array_equal(one, middle[:, ::-1]) for one in made]
    assert 0 < sum(turned) < 12
    assert all(np.array_equal(one, middle) or t for one, t in zip(made, turned, strict=True))


def test_the_tokenizers_listing():
    """Any full square; resized to 9/8 to 12/8 of the side; any window; half of them mirrored."""
    top, left, height, width, tall, wide, down, right, mirrored = plans(
        (40, 60), (16, 16), "dalle_tokenizer"
    )
    assert set(top) == {0} and set(height) == set(width) == {40}
    assert set(left) == set(range(21))
    np.testing.assert_array_equal(tall, wide)
    assert set(tall) == set(range(18, 25))
    for offset in (down, right):
        assert (offset >= 0).all() and (offset + 16 <= tall).all()
        assert (offset + 16 == tall).any() and (offset == 0).any()
    assert 0.4 < mirrored.mean() < 0.6


def test_the_generators_listing():
    """A square in the band of 3/8 to 5/8 of the room; 1 to 9/8 of the side; never mirrored."""
    top, left, height, width, tall, wide, down, right, mirrored = plans(
        (40, 60), (16, 16), "dalle_generator"
    )
    assert set(top) == {0} and set(height) == set(width) == {40}
    # The room is 20: from 7 on and below 12.
    assert set(left) == set(range(7, 12))
    np.testing.assert_array_equal(tall, wide)
    assert set(tall) == {16, 17, 18}
    assert (down + 16 <= tall).all() and (right + 16 <= wide).all() and (down > 0).any()
    assert not mirrored.any()


def test_a_picture_barely_larger_is_never_enlarged_and_a_smaller_one_just_enough():
    *_, tall, _, _, _, _ = plans((17, 20), (16, 16), "dalle_tokenizer", 20)
    assert set(tall) == {17}
    *_, tall, _, _, _, _ = plans((10, 12), (16, 16), "dalle_tokenizer", 20)
    assert set(tall) == {16}


def test_pixels_are_averaged_over_their_areas():
    """A square of twice the side, brought down to it exactly where the scale is drawn as 1."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    expected = np.round(image.reshape(16, 2, 16, 2, 3).mean((1, 3)))
    seeds = np.flatnonzero(plans((32, 32), (16, 16), "dalle_generator", 20)[4] == 16)
    assert len(seeds)
    made = cut(image, (16, 16), "dalle_generator", int(seeds[0]))
    # Halves are rounded to even there and here, after sums in another order.
    assert np.abs(made.astype(int) - expected).max() <= 1
    assert (made == expected).mean() > 0.95


def test_a_square_of_the_side_is_only_mirrored():
    image = PLACES[:16, :16]
    made = [cut(image, (16, 16), "dalle_tokenizer", seed) for seed in range(12)]
    kinds = {
        0 if (one == image).all() else 1 if (one == image[:, ::-1]).all() else 2 for one in made
    }
    assert kinds == {0, 1}
    assert all((cut(image, (16, 16), "dalle_generator", s) == image).all() for s in range(5))


@pytest.mark.parametrize("crop", CROPS)
def test_a_jpeg_file_gives_what_its_pixels_give(crop):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((90, 60))
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95)
    tf = tensorflow()
    for number in range(4):
        seed = tf.constant([5, number], tf.int64)
        whole = tf.constant(np.asarray(Image.open(file)))
        one = crop_jpeg(tf.constant(file.getvalue()), (24, 24), crop, seed).numpy()
        other = crop_image(whole, (24, 24), crop, seed).numpy()
        # Colour has half the resolution; at a window's edge its neighbours beyond are not decoded.
        differences = np.abs(one.astype(int) - other)
        assert differences[2:-2, 2:-2].max() <= 1 and differences.max() <= 12
        if crop == "center":
            expected = center_crop(np.asarray(whole), (24, 24))
            assert np.abs(one.astype(int) - expected).max() <= 3


def test_wrong_crops_are_named():
    with pytest.raises(UserError, match="data.crop='left'.*'dalle_generator'"):
        check_crop("left", (8, 8))
    with pytest.raises(UserError, match=r"dalle_tokenizer.*squares.*\(8, 16\)"):
        check_crop("dalle_tokenizer", (8, 16))
