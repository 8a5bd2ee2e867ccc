"""What eyes call crisp: true outlines are, blurred, ragged, rounded and filled ones are not."""

import numpy as np
import pytest
from scipy import ndimage

from babeldraw.data import shapes
from babeldraw.data.shapes import Object, Scene
from babeldraw.evaluation.crispness import crisp_share, is_crisp, outlines

SEEN = [shapes.example(index, "test", 64, seed=7) for index in range(24)]
CAPTIONS = [caption for _, caption in SEEN]
SQUARE = Scene((Object("large", "blue", "square"),), None, "white")


def softened(image, blur):
    return ndimage.gaussian_filter(image / 255, (blur, blur, 0))


def moved_by_patches(image, by):
    """Each 8 x 8 patch moved by itself: what a tokenizer's patches do to an edge."""
    rng, moved = np.random.default_rng(0), np.empty((64, 64, 3))
    for row in range(0, 64, 8):
        for column in range(0, 64, 8):
            own = slice(row, row + 8), slice(column, column + 8)
            step = (*rng.normal(0, by, 2), 0)
            moved[own] = ndimage.shift(image / 255, step, order=1, mode="nearest")[own]
    return moved


SPOILT = {
    "true": (lambda image: image, 0.99, 1.0),
    "half a pixel of blur": (lambda image: softened(image, 0.5), 0.99, 1.0),
    "0.7 pixels of blur": (lambda image: softened(image, 0.7), 0.95, 1.0),
    "a pixel of blur": (lambda image: softened(image, 1.0), 0.0, 0.0),
    "ragged": (lambda image: moved_by_patches(image, 0.6), 0.0, 0.05),
    "slightly ragged": (lambda image: moved_by_patches(image, 0.3), 0.0, 0.35),
    "half of the pixels": (
        lambda image: image.reshape(32, 2, 32, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1) / 255,
        0.0,
        0.05,
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_it_falls_as_eyes_would(name):
    spoil, least, most = SPOILT[name]
    share = crisp_share([spoil(image) for image, _ in SEEN], CAPTIONS)
    assert least <= share <= most


def draw(scene, image_size=64):
    return shapes.render(scene, image_size, np.random.default_rng(0)) / 255


def test_a_corner_that_is_round_and_a_hole_that_is_filled_are_found():
    square = draw(SQUARE)
    (whole,) = outlines(square, SQUARE)
    assert whole.crisp and whole.along < 0.03 and whole.anywhere < 0.1
    blue = np.linalg.norm(square - 1, axis=-1) > 0.5
    disc = np.hypot(*np.mgrid[-3:4, -3:4]) <= 3
    rounded = np.where(ndimage.binary_opening(blue, disc)[..., None], square, 1.0)
    (found,) = outlines(rounded, SQUARE)
    assert found.anywhere > 1.5 and not found.crisp
    ring = Scene((Object("small", "red", "ring"),), None, "black")
    picture = draw(ring)
    assert is_crisp(picture, ring)
    filled = ndimage.grey_closing(picture, (5, 5, 1))
    assert not is_crisp(filled, ring)


def test_an_object_that_is_not_there_is_not_crisp():
    two = Scene((*SQUARE.objects, Object("small", "red", "ring")), "above", "white")
    assert not is_crisp(draw(SQUARE), two) and len(outlines(draw(SQUARE), two)) == 1
    other = Scene((Object("large", "red", "square"),), None, "white")
    assert not is_crisp(draw(SQUARE), other)


def test_larger_pictures_are_measured_at_sixty_four_pixels():
    (small,), (large,) = (outlines(draw(SQUARE, size), SQUARE) for size in (64, 256))
    assert small.crisp and large.crisp
