"""The shapes world: its language, its splits and its pictures."""

import itertools

import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.shapes import Object, Scene
from babeldraw.errors import UserError

OBJECTS = [
    Object(*words) for words in itertools.product(shapes.SIZES, shapes.COLOURS, shapes.SHAPES)
]
PAIR = (Object("small", "red", "circle"), Object("large", "orange", "square"))


def sample(split, count, seed=0):
    rng = np.random.default_rng(seed)
    return [shapes.sample_scene(rng, split) for _ in range(count)]


def test_captions_read_as_documented():
    one = Scene((Object("small", "red", "circle"),), None, "white")
    two = Scene(
        (Object("large", "blue", "ring"), Object("small", "pink", "cross")), "left of", "black"
    )
    assert one.caption() == "a small red circle on a white background"
    assert two.caption() == ("a large blue ring left of a small pink cross on a black background")


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_parse_inverts_caption(split):
    for scene in sample(split, 300):
        assert shapes.parse_caption(scene.caption()) == scene
        assert shapes.parse_caption(f"  {scene.caption().upper()}\n") == scene


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle on a white background",
        "a small mauve circle on a white background",
        "a small red circle near a small red ring on a white background",
        "a small red circle left of a small red ring",
        "a small red circle on a white background, oil on canvas",
    ],
)
def test_parse_refuses_other_sentences(text):
    assert shapes.parse_caption(text) is None


@pytest.mark.parametrize(
    ("relation", "mirrored"), [("left of", "right of"), ("above", "below"), ("below", "above")]
)
def test_both_ways_to_say_a_scene_share_their_canonical_form_and_split(relation, mirrored):
    for first, second in zip(OBJECTS, OBJECTS[::-1], strict=True):
        scene = Scene((first, second), relation, "gray")
        same = Scene((second, first), mirrored, "gray")
        assert scene.canonical() == same.canonical()
        assert scene.split() == same.split()
        assert scene.canonical().canonical() == scene.canonical()


def test_training_never_shows_a_held_out_pair_nor_a_test_scene():
    train, test = sample("train", 4000), sample("test", 1000)
    shown = {(thing.colour, thing.shape) for scene in train + test for thing in scene.objects}
    assert len(shown) == len(shapes.COLOURS) * len(shapes.SHAPES) - len(shapes.HELD_OUT_PAIRS)
    assert not shown & shapes.HELD_OUT_PAIRS
    canonical = [{scene.canonical() for scene in scenes} for scenes in (train, test)]
    assert canonical[0].isdisjoint(canonical[1])


def test_unseen_scenes_hold_every_held_out_pair_and_never_none():
    scenes = sample("unseen", 1000)
    held_out = [[thing for thing in scene.objects if thing.held_out] for scene in scenes]
    assert all(held_out)
    pairs = {(thing.colour, thing.shape) for things in held_out for thing in things}
    assert pairs == shapes.HELD_OUT_PAIRS


def test_splits_do_not_drift():
    """A hash that changed would leak test scenes into training runs that go on."""
    singles = [Scene((thing,), None, ground) for thing in OBJECTS for ground in shapes.BACKGROUNDS]
    counts = {split: sum(scene.split() == split for scene in singles) for split in shapes.SPLITS}
    assert counts == {"train": 229, "test": 29, "unseen": 30}
    assert Scene(PAIR, "left of", "white").split() == "train"


def test_about_a_tenth_of_the_scenes_is_test():
    seen = [thing for thing in OBJECTS if not thing.held_out]
    scenes = [Scene((first, second), "above", "white") for first in seen for second in seen]
    share = np.mean([scene.split() == "test" for scene in scenes])
    deviation = np.sqrt(0.1 * 0.9 / len(scenes))
    assert abs(share - 0.1) < 4 * deviation


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_one_and_two_objects_are_equally_likely(split):
    share = np.mean([len(scene.objects) == 2 for scene in sample(split, 1600)])
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 1600)


def test_every_word_is_drawn_as_often():
    scenes = sample("test", 3000) + sample("train", 3000)
    for words, choices in (
        ([scene.background for scene in scenes], shapes.BACKGROUNDS),
        ([scene.relation for scene in scenes if scene.relation], shapes.RELATIONS),
        ([thing.size for scene in scenes for thing in scene.objects], shapes.SIZES),
    ):
        shares = [words.count(choice) / len(words) for choice in choices]
        np.testing.assert_allclose(shares, 1 / len(choices), atol=0.05)


def test_example_is_a_pure_function_of_its_arguments():
    image, caption = shapes.example(12345, "train", 64, seed=7)
    again, caption_again = shapes.example(12345, "train", 64, seed=7)
    np.testing.assert_array_equal(image, again)
    assert caption == caption_again
    assert caption == shapes.example(12345, "train", 96, seed=7)[1]
    others = [(12346, "train", 7), (12345, "train", 8), (12345, "test", 7)]
    for index, split, seed in others:
        assert not np.array_equal(image, shapes.example(index, split, 64, seed)[0])


@pytest.mark.parametrize("image_size", [32, 64, 96, 256])
def test_pictures_have_their_form_background_and_colours(image_size):
    for index in range(20):
        image, caption = shapes.example(index, "train", image_size, seed=0)
        scene = shapes.parse_caption(caption)
        assert image.shape == (image_size, image_size, 3)
        assert image.dtype == np.uint8
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert (border == shapes.BACKGROUNDS[scene.background]).all()
        colours = {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}
        assert {shapes.COLOURS[thing.colour] for thing in scene.objects} <= colours


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi),
        ("square", 4 * 0.85**2),
        ("triangle", 3 * np.sqrt(3) / 4 * 1.15**2),
        ("diamond", 2 * 1.05**2),
        ("cross", 4 * 0.66 - 0.66**2),
        ("ring", np.pi * (1 - 0.55**2)),
    ],
)
def test_coverage_has_the_area_and_the_centroid_of_the_shape(shape, area):
    radius, at = 40.0, np.arange(-60, 61)
    x, y = at[None, :] + 0.3, at[:, None] - 0.2
    alpha = shapes.coverage(shape, radius, x, y)
    assert alpha.min() == 0
    assert alpha.max() == 1
    np.testing.assert_allclose(alpha.sum(), area * radius**2, rtol=2e-3)
    centroid = (alpha * x).sum() / alpha.sum(), (alpha * y).sum() / alpha.sum()
    np.testing.assert_allclose(centroid, 0, atol=0.02)


def test_coverage_moves_by_parts_of_a_pixel():
    """Anti-aliasing: the alpha's centroid follows the centre, not the pixel grid."""
    at = np.arange(-20, 21)
    for shift in (0.0, 0.25, 0.5):
        alpha = shapes.coverage("circle", 8.0, at[None, :] - shift, at[:, None])
        np.testing.assert_allclose((alpha * at).sum() / alpha.sum(), shift, atol=1e-2)


def test_two_large_objects_never_touch():
    """For every pair of shapes at the worst jitter some whole row or column lies between them."""
    side, gap = 256, 2 * (shapes.PAIR_OFFSET - shapes.PAIR_JITTER)
    at = np.arange(-side // 2, side // 2)
    masks = {
        shape: shapes.coverage(shape, shapes.SIZES["large"] * side, at[None, :], at[:, None]) > 0
        for shape in shapes.SHAPES
    }
    for first, second in itertools.product(masks.values(), repeat=2):
        for axis in (0, 1):
            lowest = at[first.any(axis)].max()
            highest = at[second.any(axis)].min() + gap * side
            assert highest - lowest > side / shapes.MIN_IMAGE_SIZE


@pytest.mark.parametrize("relation", shapes.RELATIONS)
def test_the_first_object_lies_where_the_relation_says(relation):
    scene = Scene(PAIR, relation, "black")
    rng = np.random.default_rng(0)
    for _ in range(20):
        image = shapes.render(scene, 64, rng)
        first, second = (
            np.argwhere((image == shapes.COLOURS[thing.colour]).all(-1)).mean(0)[::-1]
            for thing in scene.objects
        )
        np.testing.assert_allclose((first - second) / 64 * 2, shapes.RELATIONS[relation], atol=0.13)


def test_the_palette_is_well_apart():
    palette = np.array([*shapes.COLOURS.values(), *shapes.BACKGROUNDS.values()], float)
    distances = np.linalg.norm(palette[:, None] - palette, axis=-1)
    assert distances[~np.eye(len(palette), dtype=bool)].min() > 105


def test_mistakes_are_told_in_one_line():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="split 'valid'.*train, test, unseen"):
        shapes.sample_scene(rng, "valid")
    with pytest.raises(UserError, match="split 'valid'"):
        shapes.example(0, "valid", 64, 0)
    with pytest.raises(UserError, match="image_size 16 .*32"):
        shapes.example(0, "train", 16, 0)


def test_pictures_of_pairs_show_their_class():
    seen = set()
    for index in range(200):
        image, caption, label = shapes.pair_example(index, "train", 32, 0)
        scene = shapes.parse_caption(caption)
        (thing,) = scene.objects
        assert shapes.PAIRS[label] == (thing.colour, thing.shape)
        centre = image[12:20, 12:20].reshape(-1, 3)
        assert shapes.COLOURS[thing.colour] in map(tuple, centre) or thing.shape == "ring"
        seen.add(label)
    assert len(shapes.PAIRS) == 48 and len(seen) > 40
    assert min(seen) >= 0 and max(seen) < 48


def test_pairs_are_a_function_of_seed_split_and_index():
    first, again = (shapes.pair_example(7, "train", 32, 3) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    for other in ((8, "train", 32, 3), (7, "test", 32, 3), (7, "train", 32, 4)):
        assert (shapes.pair_example(*other)[0] != first[0]).any()
    with pytest.raises(UserError, match="data.split='unseen' is not of shape_pairs"):
        shapes.pair_example(0, "unseen", 32, 0)
