"""Holes: the box around one lies in the picture, and what is put back stays inside the hole."""

import itertools

import numpy as np
import pytest

from babeldraw.drawing.holes import (
    HOLE_SHARE,
    Crop,
    box_hole,
    central,
    crop_around,
    lower_hole,
    put_back,
    weights_inside,
)
from babeldraw.errors import UserError

RNG = np.random.default_rng(0)


def hole_of(shape, top, left, height, width):
    hole = np.zeros(shape, bool)
    hole[top : top + height, left : left + width] = True
    return hole


@pytest.mark.parametrize("shape", [(40, 50), (41, 97), (32, 32), (200, 33)])
@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
def test_a_box_lies_in_its_picture_has_the_model_s_shape_and_the_whole_hole(shape, size):
    most = min(shape[0] / size[0], shape[1] / size[1])
    corners = [
        (top, left)
        for top, left in itertools.product((0, shape[0] // 3, shape[0] - 7), (0, 9, shape[1] - 9))
    ]
    for top, left in corners:
        hole = hole_of(shape, top, left, 7, 9)
        crop = crop_around(hole, size)
        assert 0 <= crop.top <= crop.top + crop.height <= shape[0]
        assert 0 <= crop.left <= crop.left + crop.width <= shape[1]
        assert crop.of(hole).sum() == hole.sum()
        scale = min(max(1, 7 / (HOLE_SHARE * size[0]), 9 / (HOLE_SHARE * size[1])), most)
        assert crop.shape == (round(size[0] * scale), round(size[1] * scale))


def test_a_hole_is_in_the_middle_of_its_box_unless_the_picture_ends():
    assert crop_around(hole_of((100, 200), 50, 100, 10, 20), (32, 32)) == Crop(39, 94, 32, 32)
    assert crop_around(hole_of((100, 200), 0, 190, 10, 10), (32, 32)) == Crop(0, 168, 32, 32)
    assert crop_around(hole_of((100, 200), 99, 0, 1, 1), (32, 32)) == Crop(68, 0, 32, 32)


def test_a_hole_that_would_fill_the_model_s_picture_is_seen_from_further_off():
    # CogView2's box: the hole's times 20 / 14; no more than the picture.
    assert crop_around(hole_of((300, 300), 100, 100, 70, 20), (32, 32)).shape == (100, 100)
    assert crop_around(hole_of((300, 80), 100, 0, 70, 20), (32, 32)).shape == (80, 80)
    assert crop_around(hole_of((300, 300), 100, 100, 22, 20), (32, 32)).shape == (32, 32)
    assert crop_around(hole_of((64, 64), 0, 0, 64, 64), (32, 32)) == Crop(0, 0, 64, 64)


def test_a_scale_that_is_given_is_taken():
    hole = hole_of((100, 200), 50, 100, 10, 20)
    assert crop_around(hole, (32, 32), 2.5).shape == (80, 80)
    assert crop_around(hole, (32, 32), 0.75).shape == (24, 24)
    assert crop_around(hole, (16, 24), 1.3).shape == (21, 31)


@pytest.mark.parametrize(
    ("hole", "scale", "line"),
    [
        (np.zeros((40, 40), bool), None, "the mask has no hole: nothing in it is above 127; mark"),
        (hole_of((30, 40), 0, 0, 5, 5), None, "scale is 1, at which the model draws 32 x 32 px, "),
        (hole_of((30, 40), 0, 0, 5, 5), None, "40 x 30 px; give a larger picture, or scale=0.937"),
        (hole_of((60, 90), 0, 0, 5, 5), 2.0, "64 x 64 px, and the picture is 90 x 60 px; give a "),
        (hole_of((60, 90), 0, 0, 5, 5), 0.0, "scale is 0; more than 0 is needed"),
        (hole_of((60, 90), 0, 0, 5, 5), np.inf, "scale is inf; more than 0 is needed"),
        (hole_of((60, 90), 0, 0, 5, 40), 1.0, "the hole is 40 x 5 px, more than the 32 x 32 px of"),
        (
            hole_of((60, 90), 0, 0, 5, 40),
            1.0,
            "that the model draws; give scale=1.25 or more",
        ),
        (
            hole_of((60, 90), 0, 0, 5, 61),
            None,
            "60 x 60 px of the .* give a smaller hole, or",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_line(hole, scale, line):
    with pytest.raises(UserError, match=line) as caught:
        crop_around(hole, (32, 32), scale)
    assert "\n" not in str(caught.value)


def test_a_scale_that_a_message_names_will_do():
    hole = hole_of((30, 40), 0, 0, 5, 5)
    assert crop_around(hole, (32, 32), 0.937).shape == (30, 30)
    assert crop_around(hole_of((60, 90), 0, 0, 5, 41), (32, 32), 1.282).width == 41


def test_a_box_and_the_lower_part_are_holes():
    np.testing.assert_array_equal(np.argwhere(box_hole((3, 1, 5, 2), (4, 6))), [[1, 3], [1, 4]])
    assert box_hole((0, 0, 6, 4), (4, 6)).all()
    for share, height, kept in ((0, 7, 0), (0.5, 7, 4), (0.1, 30, 3), (0.999, 7, 7)):
        np.testing.assert_array_equal(
            lower_hole(share, (height, 2))[:, 0], np.arange(height) >= kept
        )
    for box in ((3, 1, 3, 2), (-1, 0, 2, 2), (0, 0, 7, 4), (0, 3, 6, 2)):
        with pytest.raises(UserError, match="and the picture 6 x 4 px; give x0,y0,x1,y1 with"):
            box_hole(box, (4, 6))
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="the share of the picture that is kept is from 0 to"):
            lower_hole(share, (4, 6))


def test_the_middle_of_a_picture_keeps_its_pixels():
    image = RNG.integers(0, 256, (10, 7, 3), np.uint8)
    np.testing.assert_array_equal(central(image, (32, 32)), image[1:8])
    np.testing.assert_array_equal(central(image, (20, 14)), image)


def test_pixels_fade_inside_the_hole_alone():
    hole = RNG.random((23, 31)) < 0.9
    outside = np.argwhere(~hole)
    for feather in (1, 4):
        weight = weights_inside(hole, feather)
        for place in np.ndindex(hole.shape):
            distance = np.sqrt(((outside - place) ** 2).sum(axis=1).min())
            expected = min(distance / (feather + 1), 1)
            assert weight[place] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(weights_inside(hole, 0), hole.astype(np.float32))
    # The edge of a picture is no seam.
    assert weights_inside(np.ones((5, 6), bool), 4).min() == 1
    assert weights_inside(hole_of((9, 9), 0, 0, 9, 5), 2)[:, 0].min() == 1


def test_what_is_put_back_is_the_drawn_by_its_weight():
    image, drawn = (RNG.integers(0, 256, (9, 11, 3), np.uint8) for _ in range(2))
    crop = Crop(2, 3, 5, 6)
    weight = np.zeros((9, 11), np.float32)
    weight[3:6, 4:8] = RNG.random((3, 4))
    weight[3, 4] = 1
    edited = put_back(image, crop, drawn[:5, :6], weight)
    np.testing.assert_array_equal(edited[weight == 0], image[weight == 0])
    np.testing.assert_array_equal(edited[3, 4], drawn[1, 1])
    share = weight[3:6, 4:8, None].astype(np.float64)
    expected = share * drawn[1:4, 1:5] + (1 - share) * image[3:6, 4:8]
    np.testing.assert_allclose(edited[3:6, 4:8], expected, atol=0.5 + 1e-4)

    whole = put_back(image, crop, drawn[:5, :6], None)
    np.testing.assert_array_equal(crop.of(whole), drawn[:5, :6])
    crop.of(whole)[:] = crop.of(image)
    np.testing.assert_array_equal(whole, image)
