"""Pictures of any size, edited: what lies outside the mask stays, bit by bit."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.image import resize
from babeldraw.drawing.editing import Editing, edit
from babeldraw.drawing.holes import crop_around
from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.tokenizers.base import Codes

SIZE = (32, 32)
# Odd ones, upright ones, and the model's own.
SHAPES = ((32, 32), (45, 37), (33, 80), (101, 32), (64, 64))
WORDS = ["a small red circle", "two green rings", "", "a large blue square", "a small pink cross"]


@pytest.fixture(scope="module")
def sampler(generator_run):
    return Sampler.from_run(str(generator_run))


@pytest.fixture(scope="module")
def pictures():
    """Of each shape a picture, and a mask of any pixels: at a corner, an edge or in the middle."""
    rng = np.random.default_rng(0)
    images, masks = [], []
    for number, (height, width) in enumerate(SHAPES):
        images.append(rng.integers(0, 256, (height, width, 3), np.uint8))
        mask = np.zeros((height, width), bool)
        top, left = ((0, 0), (height - 9, width - 11), (0, width // 2), (50, 0), (20, 25))[number]
        mask[top : top + 9, left : left + 11] = rng.random((9, 11)) < 0.5
        masks.append(mask)
    return images, masks


@pytest.mark.parametrize("seam", ["exact", "blend"])
def test_outside_the_mask_every_pixel_stays(sampler, pictures, seam):
    images, masks = pictures
    # Five at four at a time are five.
    edited = [*edit(sampler, WORDS, *pictures, batch_size=4, editing=Editing(seam))]
    assert [one.prompt for one in edited] == [asked.name for asked in sampler.ask(WORDS)]
    for one, image, mask in zip(edited, images, masks, strict=True):
        assert one.image.dtype == np.uint8
        np.testing.assert_array_equal(one.image[~mask], image[~mask])
        assert (one.image[mask] != image[mask]).mean() > 0.5


def test_a_picture_does_not_depend_on_those_beside_it(sampler, pictures):
    images, masks = pictures
    together = [*edit(sampler, WORDS, *pictures, num=2, seed=3, batch_size=8)]
    assert len(together) == 2 * len(images)
    for number in (1, 4):
        (alone,) = edit(
            sampler, [WORDS[number]], [images[number]], [masks[number]], seed=4, batch_size=1
        )
        beside = together[2 * number + 1]
        assert alone.seed == beside.seed == 4
        np.testing.assert_array_equal(alone.tokens, beside.tokens)
        np.testing.assert_allclose(alone.image.astype(int), beside.image.astype(int), atol=1)


def test_what_is_drawn_is_the_model_s_square_around_the_hole(sampler, pictures):
    images, masks = pictures
    whole = [*edit(sampler, WORDS, *pictures, editing=Editing("decoder"))]
    exact = [*edit(sampler, WORDS, *pictures)]
    for one, other, image, mask in zip(whole, exact, images, masks, strict=True):
        crop = crop_around(mask, SIZE)
        codes = sampler.drawer.encode(crop.of(image))
        kept = crop.of(mask).reshape(4, 8, 4, 8).sum(axis=(1, 3)).reshape(-1) == 0
        np.testing.assert_array_equal(one.tokens[kept], codes[kept])
        assert (one.tokens != codes).any()
        (drawn,) = sampler.drawer.pixels(one.tokens[None])
        np.testing.assert_allclose(crop.of(one.image).astype(int), drawn.astype(int), atol=1)
        np.testing.assert_array_equal(other.image[mask], one.image[mask])
        crop.of(one.image)[:] = crop.of(image)
        np.testing.assert_array_equal(one.image, image)


def test_a_large_hole_is_drawn_at_a_scale_at_which_it_fits(sampler):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (90, 121, 3), np.uint8)
    mask = np.zeros((90, 121), np.uint8)
    mask[20:62, 30:70] = 128
    (one,) = edit(sampler, WORDS[:1], [image], [mask])
    crop = crop_around(mask > 127, SIZE)
    assert crop.shape == (60, 60)
    (drawn,) = sampler.drawer.pixels(one.tokens[None])
    large = Image.fromarray(drawn).resize((60, 60), Image.Resampling.BILINEAR)
    expected = image.copy()
    inside = crop.of(mask) > 127
    crop.of(expected)[inside] = np.asarray(large)[inside]
    np.testing.assert_allclose(one.image.astype(int), expected.astype(int), atol=1)
    np.testing.assert_array_equal(one.image[mask == 0], image[mask == 0])


def test_what_was_filled_is_encoded_again(sampler, pictures):
    images, masks = pictures
    editing = Editing(encode_again=True)
    (again,) = edit(sampler, WORDS[1:2], images[1:2], masks[1:2], editing=editing)
    (once,) = edit(sampler, WORDS[1:2], images[1:2], masks[1:2])
    crop = crop_around(masks[1], SIZE)
    codes = sampler.drawer.encode(crop.of(once.image))
    expected = images[1].copy()
    inside = crop.of(masks[1])
    crop.of(expected)[inside] = sampler.drawer.pixels(codes[None])[0][inside]
    np.testing.assert_array_equal(again.image, expected)
    assert (again.image != once.image).any()
    np.testing.assert_array_equal(again.tokens, once.tokens)


def test_a_mask_of_all_is_drawing(sampler):
    image = np.full((64, 64, 3), 7, np.uint8)
    (one,) = edit(sampler, WORDS[:1], [image], [np.ones((64, 64), bool)], seed=5)
    (drawn,) = sampler.sample(WORDS[:1], seed=5)
    np.testing.assert_array_equal(one.tokens, drawn.tokens)
    large = resize(drawn.image, (64, 64))
    np.testing.assert_allclose(one.image.astype(int), large.astype(int), atol=1)


def test_of_several_the_best_are_put_back(sampler, pictures):
    class Judge:
        """Likes the brightest."""

        def notes(self, asked):
            return ()

        def score(self, images, asked):
            assert images.shape == (4, *SIZE, 3)
            return images.astype(np.float32).mean(axis=(1, 2, 3))

    images, masks = pictures
    judged = dataclasses.replace(sampler, judge=Judge())
    found = [*edit(judged, WORDS[:2], images[:2], masks[:2], num=4, keep=1)]
    every = [*edit(judged, WORDS[:2], images[:2], masks[:2], num=4)]
    assert [one.rank for one in found] == [0, 0]
    for one, best, image, mask in zip(found, every[::4], images, masks, strict=False):
        np.testing.assert_array_equal(one.image, best.image)
        np.testing.assert_array_equal(one.image[~mask], image[~mask])


IMAGE, MASK = np.zeros((40, 50, 3), np.uint8), np.eye(40, 50, dtype=bool)


@pytest.mark.parametrize(
    ("images", "masks", "line"),
    [
        ([IMAGE], [MASK[:, 1:]], "the mask is 49 x 40 px and the picture 50 x 40 px; they must be"),
        ([IMAGE], [np.full((40, 50), 127, np.uint8)], "the mask has no hole: nothing in it is abo"),
        ([IMAGE[:30]], [MASK[:30]], "at which the model draws 32 x 32 px, and the picture is 50 x"),
        ([IMAGE], [np.ones((40, 50), bool)], "the hole is 50 x 40 px, more than the 40 x 40 px of"),
        ([IMAGE[..., :1]], [MASK], r"the picture is uint8 \[40, 50, 1\]; uint8 \[height, width, 3"),
        ([IMAGE / 255], [MASK], r"the picture is float64 \[40, 50, 3\]; uint8 \[height, width, 3"),
        ([IMAGE, IMAGE], [MASK], "words, images and masks are 1, 2 and 1; give one of each for ea"),
    ],
)
def test_what_cannot_be_edited_is_one_line(sampler, images, masks, line):
    with pytest.raises(UserError, match=line) as caught:
        edit(sampler, WORDS[:1], images, masks)
    assert "\n" not in str(caught.value)


def test_canvases_are_one_of_each_thing(sampler):
    canvas = sampler.canvas(IMAGE, count=2)
    with pytest.raises(UserError, match="canvas holds 1 pictures to go on from and 2 things are"):
        sampler.sample(WORDS[:2], canvas=[canvas])


def test_a_way_that_there_is_not_is_one_line():
    with pytest.raises(UserError, match="seam is 'soft'; the choices are exact, blend, decoder"):
        Editing("soft")
    with pytest.raises(UserError, match="feather is 0; at least 1 is needed"):
        Editing("blend", feather=0)


def test_a_cascade_would_draw_all_anew(sampler):
    larger = dataclasses.replace(sampler, cascade=types.SimpleNamespace())
    with pytest.raises(UserError, match="leave super-resolution by codes out"):
        Editing().laid(IMAGE, MASK, larger)


def test_a_hole_needs_a_grid_of_codes():
    generator = types.SimpleNamespace(codes=Codes((16,), (8,)))
    drawer = types.SimpleNamespace(generator=generator)
    line = types.SimpleNamespace(drawer=drawer, image_size=SIZE, cascade=None)
    with pytest.raises(UserError, match="and the tokenizer gives a sequence of 16 tokens; keep a"):
        edit(line, WORDS[:1], [IMAGE], [MASK])
