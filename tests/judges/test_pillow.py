"""The bicubic resize is Pillow's own, level by level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from babeldraw.errors import UserError
from babeldraw.judges.pillow import SIDE, cropped, squeezed

RNG = np.random.default_rng(0)


def pillow(image, width, height):
    """The resized picture, uint8."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(256, 256), (300, 411), (173, 100)])
def test_the_shorter_side_is_resized_and_the_middle_cut(size):
    images = RNG.integers(0, 256, (2, *size, 3), np.uint8)
    found = jax.jit(cropped)(images) * 255
    # As torchvision counts: the longer side rounded down, halves of a pixel to the even one.
    short = min(size)
    height, width = (SIDE * side // short for side in size)
    top, left = (round((side - SIDE) / 2) for side in (height, width))
    for image, own in zip(images, found, strict=True):
        expected = pillow(image, width, height)[top : top + SIDE, left : left + SIDE]
        np.testing.assert_allclose(own, expected, atol=1e-4)


def test_edges_that_overshoot_are_cut_as_pillow_does():
    images = np.where(np.indices((64, 80)).sum(0) // 7 % 2, 255, 0).astype(np.uint8)
    images = np.repeat(images[None, ..., None], 3, axis=-1)
    found = jax.jit(squeezed)(images)[0] * 255
    np.testing.assert_allclose(found, pillow(images[0], SIDE, SIDE), atol=1e-4)


def test_a_picture_of_the_size_stays_and_floats_are_rounded_to_8_bits():
    images = RNG.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    near = images.astype(np.float32) / 255 + np.float32(0.4 / 255)
    for taken in (cropped, squeezed):
        np.testing.assert_allclose(jax.jit(taken)(images) * 255, images, atol=1e-4)
        np.testing.assert_array_equal(jax.jit(taken)(near), jax.jit(taken)(images))


def test_a_lost_pixel_is_not_hidden_by_rounding():
    images = np.full((2, 230, 240, 3), 0.5, np.float32)
    images[1, 3, 4, 0] = np.nan
    found = jax.jit(cropped)(images)
    assert np.isnan(found[1]).all() and np.isfinite(found[0]).all()


def test_pictures_of_another_type_are_refused():
    with pytest.raises(UserError, match="pictures are int32; uint8, or floats in"):
        cropped(jnp.zeros((1, 8, 8, 3), jnp.int32))
