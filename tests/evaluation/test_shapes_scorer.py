"""The scorer agrees with the renderer, and with nothing else."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from babeldraw.data import shapes
from babeldraw.data.shapes import Object, Scene
from babeldraw.errors import UserError
from babeldraw.evaluation import shapes_scorer
from babeldraw.evaluation.shapes_scorer import Found, Verdict

ALL_RIGHT = Verdict(*[True] * 6)
SINGLE = Scene((Object("large", "blue", "square"),), None, "white")
PAIR = Scene(
    (Object("small", "red", "circle"), Object("large", "yellow", "cross")), "above", "gray"
)
WHITE, RED, BLUE = (np.array(colour) / 255 for colour in ((255,) * 3, (215, 20, 35), (25, 80, 235)))


def draw(scene, seed=0, image_size=64):
    return shapes.render(scene, image_size, np.random.default_rng(seed))


def examples(count, image_size, split="train"):
    pairs = [shapes.example(index, split, image_size, seed=11) for index in range(count)]
    return np.stack([image for image, _ in pairs]), [caption for _, caption in pairs]


def spoil(images, blur, noise):
    rng = np.random.default_rng(3)
    images = ndimage.gaussian_filter(images.astype(np.float32) / 255, (0, blur, blur, 0))
    return np.clip(images + rng.normal(0, noise, images.shape), 0, 1).astype(np.float32)


def grid(image_size=64):
    """Pixel centres relative to the middle, (x, y), in image sides."""
    at = (np.arange(image_size) + 0.5) / image_size - 0.5
    return at[None, :], at[:, None]


def paint(mask, colour, ground=WHITE):
    return np.where(np.asarray(mask)[..., None], colour, ground).astype(np.float32)


def replace(scene, at, **change):
    objects = list(scene.objects)
    objects[at] = dataclasses.replace(objects[at], **change)
    return dataclasses.replace(scene, objects=tuple(objects))


@pytest.mark.parametrize("blur", [0.0, 0.6])
@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize(("image_size", "least"), [(64, 0.99), (32, 0.97)])
def test_true_pictures_are_right_also_when_noisy_and_soft(image_size, least, noise, blur):
    images, captions = examples(200, image_size)
    means = shapes_scorer.score_batch(spoil(images, blur, noise), captions)
    assert means["exact"] >= least


@pytest.mark.parametrize("image_size", [32, 64, 67, 96, 256])
@pytest.mark.parametrize("split", ["test", "unseen"])
def test_true_pictures_of_every_size_and_split_are_right(image_size, split):
    images, captions = examples(40, image_size, split)
    means = shapes_scorer.score_batch(images, captions)
    assert set(means.values()) == {1.0}


def test_every_object_of_the_world_is_read_back():
    for size in shapes.SIZES:
        for index, colour in enumerate(shapes.COLOURS):
            for shape in shapes.SHAPES:
                background = list(shapes.BACKGROUNDS)[index % 3]
                scene = Scene((Object(size, colour, shape),), None, background)
                seen, found = shapes_scorer.find_objects(draw(scene))
                assert seen == background
                assert [(thing.size, thing.colour, thing.shape) for thing in found] == [
                    (size, colour, shape)
                ]


def test_pictures_of_other_captions_are_wrong():
    images, captions = examples(300, 64)
    means = shapes_scorer.score_batch(images, captions[1:] + captions[:1])
    assert means["exact"] < 0.02
    assert means["background"] == pytest.approx(1 / 3, abs=0.1)


def test_floats_and_bytes_score_the_same():
    image = draw(PAIR)
    assert shapes_scorer.find_objects(image) == shapes_scorer.find_objects(
        image.astype(np.float32) / 255
    )


def test_centres_are_where_the_object_was_drawn():
    for shape in shapes.SHAPES:
        x, y = grid()
        alpha = shapes.coverage(shape, shapes.SIZES["large"] * 64, 64 * (x - 0.11), 64 * (y + 0.07))
        image = WHITE + alpha[..., None] * (RED - WHITE)
        _, [found] = shapes_scorer.find_objects(image)
        assert found.shape == shape
        np.testing.assert_allclose(found.centre, (0.61, 0.43), atol=0.25 / 64)


@pytest.mark.parametrize(
    ("attribute", "picture"),
    [
        ("colour", replace(PAIR, 0, colour="purple")),
        ("colour", replace(PAIR, 1, colour="orange")),
        ("colour", replace(PAIR, 1, colour="red")),
        ("shape", replace(PAIR, 0, shape="square")),
        ("shape", replace(PAIR, 0, shape="cross")),
        ("shape", replace(PAIR, 1, shape="diamond")),
        ("size", replace(PAIR, 0, size="large")),
        ("size", replace(PAIR, 1, size="small")),
        ("relation", dataclasses.replace(PAIR, relation="below")),
        ("relation", dataclasses.replace(PAIR, relation="left of")),
        ("background", dataclasses.replace(PAIR, background="black")),
    ],
)
def test_one_changed_attribute_flips_its_verdict_alone(attribute, picture):
    for seed in range(5):
        verdict = shapes_scorer.score(draw(picture, seed), PAIR)
        assert verdict == dataclasses.replace(ALL_RIGHT, **{attribute: False})
        assert not verdict.exact


def test_an_object_too_many_flips_number_alone():
    verdict = shapes_scorer.score(draw(PAIR), Scene(PAIR.objects[:1], None, "gray"))
    assert verdict == dataclasses.replace(ALL_RIGHT, number=False)


def test_a_missing_object_has_no_attribute_right():
    single = Scene(PAIR.objects[:1], None, "gray")
    verdict = shapes_scorer.score(draw(single), PAIR)
    assert verdict == Verdict(*[False] * 5, background=True)


def test_swapped_colours_are_a_wrong_binding():
    """The right words on the wrong objects: the multiset alone does not do."""
    swapped = replace(replace(PAIR, 0, colour="yellow"), 1, colour="red")
    verdict = shapes_scorer.score(draw(swapped), PAIR)
    assert verdict == dataclasses.replace(ALL_RIGHT, colour=False)


def test_the_mirrored_caption_is_right_too():
    mirrored = Scene(PAIR.objects[::-1], "below", "gray")
    assert shapes_scorer.score(draw(PAIR), mirrored).exact


def test_two_like_objects_stand_in_both_relations():
    like = Scene((PAIR.objects[0],) * 2, "left of", "black")
    assert shapes_scorer.score(draw(like), dataclasses.replace(like, relation="right of")).exact
    assert not shapes_scorer.score(draw(like), dataclasses.replace(like, relation="above")).exact


@pytest.mark.parametrize("background", shapes.BACKGROUNDS)
def test_an_empty_picture_has_no_number(background):
    image = np.full((64, 64, 3), shapes.BACKGROUNDS[background], np.uint8)
    assert shapes_scorer.find_objects(image) == (background, [])
    verdict = shapes_scorer.score(image, dataclasses.replace(SINGLE, background=background))
    assert verdict == dataclasses.replace(Verdict(*[False] * 6), relation=True, background=True)


@pytest.mark.parametrize("colour", [(0.45, 0.3, 0.1), (0.0, 0.0, 0.0), (0.7, 0.7, 0.7)])
def test_a_colour_near_no_other_is_none(colour):
    x, y = grid()
    image = paint(np.hypot(x, y) < shapes.SIZES["large"], colour)
    _, [found] = shapes_scorer.find_objects(image)
    assert (found.colour, found.shape, found.size) == (None, "circle", "large")


def test_a_background_near_no_other_is_none():
    x, y = grid()
    image = paint(np.hypot(x, y) < shapes.SIZES["large"], RED, ground=(0.4, 0.8, 0.5))
    background, [found] = shapes_scorer.find_objects(image)
    assert background is None
    assert (found.colour, found.shape) == ("red", "circle")


@pytest.mark.parametrize("radius", shapes.SIZES.values())
@pytest.mark.parametrize("image_size", [32, 64])
def test_a_blob_is_no_shape(radius, image_size):
    x, y = (axis / radius for axis in grid(image_size))
    blobs = {
        "bar": (abs(x) < 1) & (abs(y) < 0.5),
        "half disc": (np.hypot(x, y) < 1) & (y < 0),
        "L": (np.maximum(abs(x), abs(y)) < 1) & ((x < -0.2) | (y > 0.2)),
        "triangle upside down": shapes.coverage("triangle", 1.0, x, -y) > 0.5,
        "three quarters": (np.hypot(x, y) < 1) & ((x < 0) | (y < 0)),
    }
    for name, mask in blobs.items():
        _, [found] = shapes_scorer.find_objects(paint(mask, RED))
        assert found.shape is None, name
        assert found.colour == "red", name


def test_two_colours_on_one_object_are_no_shape():
    x, y = grid()
    disc = np.hypot(x, y) < shapes.SIZES["large"]
    image = np.where((disc & (x < 0))[..., None], BLUE, paint(disc, RED))
    _, [found] = shapes_scorer.find_objects(image)
    assert found.shape is None


def test_a_tenth_more_or_less_is_the_same_shape_and_size():
    x, y = grid()
    for size, radius in shapes.SIZES.items():
        for shape in shapes.SHAPES:
            for scale in (0.92, 1.08):
                alpha = shapes.coverage(shape, radius * scale * 64, 64 * x, 64 * y)
                image = WHITE + alpha[..., None] * (BLUE - WHITE)
                _, [found] = shapes_scorer.find_objects(image)
                assert (found.size, found.shape) == (size, shape)


def test_specks_are_overlooked_and_confetti_is_not_enumerated():
    image = draw(SINGLE)
    image[5:7, 5:7] = 0
    assert shapes_scorer.score(image, SINGLE).exact
    confetti = np.full((64, 64, 3), 255, np.uint8)
    for row in range(4, 60, 10):
        for column in range(4, 60, 10):
            confetti[row : row + 6, column : column + 6] = (215, 20, 35)
    _, found = shapes_scorer.find_objects(confetti)
    assert len(found) == shapes_scorer.MAX_FOUND
    assert not shapes_scorer.score(confetti, PAIR).number


@pytest.mark.parametrize(
    ("first", "second", "related"),
    [
        ((0.3, 0.5), (0.7, 0.5), True),
        ((0.7, 0.5), (0.3, 0.5), False),
        ((0.45, 0.5), (0.55, 0.5), False),  # too near to tell
        ((0.3, 0.2), (0.6, 0.8), False),  # above, rather
    ],
)
def test_a_relation_must_be_clear_and_dominate(first, second, related):
    pair = tuple(Found("small", "red", "circle", centre) for centre in (first, second))
    assert shapes_scorer._related("left of", pair) is related


def test_what_a_diverged_model_draws_is_wrong_rather_than_an_error():
    rng = np.random.default_rng(0)
    for image in (np.full((64, 64, 3), np.nan), rng.uniform(-9, 9, (64, 64, 3))):
        assert not shapes_scorer.score(image.astype(np.float32), SINGLE).exact


def test_batch_means_count_the_right_ones():
    images = np.stack([draw(SINGLE), draw(replace(SINGLE, 0, colour="green"))])
    means = shapes_scorer.score_batch(images, [SINGLE.caption()] * 2)
    right = dict.fromkeys(("number", "shape", "size", "relation", "background"), 1.0)
    assert means == {**right, "colour": 0.5, "exact": 0.5}


def test_mistakes_are_told_in_one_line():
    image = draw(SINGLE)
    with pytest.raises(UserError, match="caption 'a cat'.*not of the shapes world"):
        shapes_scorer.score_batch(image[None], ["a cat"])
    with pytest.raises(UserError, match="1 and 0"):
        shapes_scorer.score_batch(image[None], [])
    for bad in (image[:, :40], image[..., 0], image[:16, :16], np.float32(0)):
        with pytest.raises(UserError, match="square with three channels"):
            shapes_scorer.score(bad, SINGLE)
