"""The shapes world: captioned pictures whose prompts a program can check.

One or two coloured shapes on a plain background, described by a caption of a fixed grammar:

    a small red circle on a white background
    a large blue ring left of a small pink cross on a black background

The world is an endless random-access dataset (`example`), small enough to learn on a laptop and
strict enough to score a text-to-image model honestly (`babeldraw.evaluation.shapes_scorer`): some
colour-shape pairs and about a tenth of all scenes never occur in training.

Pure NumPy. Positions are (x, y) with x to the right and y down, in units of the image side.
"""

import dataclasses
import functools
import hashlib
import math
import re

import numpy as np

from babeldraw.errors import UserError

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")

# No two of these eleven are nearer than 109 (Euclidean, of 255 a channel); the scorer's colour
# tolerance rests on it.
COLOURS = {
    "red": (215, 20, 35),
    "green": (30, 160, 50),
    "blue": (25, 80, 235),
    "yellow": (255, 225, 30),
    "purple": (125, 30, 185),
    "orange": (250, 120, 0),
    "cyan": (20, 205, 225),
    "pink": (255, 130, 190),
}
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}

# Radius of the circle; the other shapes are scaled to look as large. The ratio of 1.6 keeps every
# small shape clearly below every large one.
SIZES = {"small": 0.112, "large": 0.18}

# The unit step from the second object to the first.
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_MIRRORED = {"right of": "left of", "below": "above"}

# Two objects sit 0.25 either side of the middle. At the worst jitter their centres are 0.45 apart,
# and the tallest pair (a large triangle under a large circle) reaches 2.15 * 0.18 = 0.39: two
# objects never touch, and nothing touches the border; both by half a pixel or more at 32 pixels.
PAIR_OFFSET = 0.25
PAIR_JITTER = 0.025
SINGLE_JITTER = 0.03

# At 31 pixels or fewer a small ring loses its hole.
MIN_IMAGE_SIZE = 32

HELD_OUT_PAIRS = frozenset(
    {
        ("purple", "triangle"),
        ("orange", "ring"),
        ("cyan", "square"),
        ("pink", "diamond"),
        ("green", "cross"),
    }
)
SPLITS = ("train", "test", "unseen")
# The classes of pictures of one object: every colour with every shape, held out or not.
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
PAIR_SPLITS = ("train", "test")
_TEST_SHARE = 0.1

_OBJECT = rf"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(
    rf"{_OBJECT}(?: ({'|'.join(RELATIONS)}) {_OBJECT})? on a ({'|'.join(BACKGROUNDS)}) background"
)


@dataclasses.dataclass(frozen=True)
class Object:
    """One shape: a key of `SIZES`, a key of `COLOURS`, one of `SHAPES`."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"

    @property
    def held_out(self) -> bool:
        """Whether training never shows this colour on this shape."""
        return (self.colour, self.shape) in HELD_OUT_PAIRS


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a caption says: one object and no relation, or two objects and a key of `RELATIONS`."""

    objects: tuple[Object, ...]
    relation: str | None
    background: str

    def caption(self) -> str:
        """The one sentence for this scene; `parse_caption` is its inverse."""
        things = f" {self.relation} ".join(str(thing) for thing in self.objects)
        return f"{things} on a {self.background} background"

    def canonical(self) -> "Scene":
        """The same picture told with `left of` or `above` only."""
        if self.relation not in _MIRRORED:
            return self
        return Scene(self.objects[::-1], _MIRRORED[self.relation], self.background)

    def split(self) -> str:
        """The one split that may show this scene.

        The test share is drawn by a hash of the canonical caption, so both ways to say one scene
        fall on the same side, on every machine and in every version of Python.
        """
        if any(thing.held_out for thing in self.objects):
            return "unseen"
        digest = hashlib.sha256(self.canonical().caption().encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        return "test" if position < _TEST_SHARE else "train"


def parse_caption(text: str) -> Scene | None:
    """Reads a caption back, whatever its case and spacing; None when it is not of this world."""
    match = _CAPTION.fullmatch(" ".join(text.lower().split()))
    if match is None:
        return None
    *first, relation, size, colour, shape, background = match.groups()
    second = () if relation is None else (Object(size, colour, shape),)
    return Scene((Object(*first), *second), relation, background)


def sample_scene(rng: np.random.Generator, split: str) -> Scene:
    """Draws a scene of one split, one or two objects equally likely, all else uniform.

    Args:
        rng: the source of chance; advanced.
        split: `train` and `test` hold no held-out pair and share no scene; `unseen` holds at least
            one held-out pair in every scene.

    Raises:
        UserError: `split` is none of these.
    """
    _check_split(split)
    two = bool(rng.integers(2))
    while True:
        scene = _draw_scene(rng, two)
        if scene.split() == split:
            return scene


def coverage(shape: str, radius: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of each pixel that a shape covers, to first order of its signed distance.

    Args:
        shape: one of `SHAPES`.
        radius: a value of `SIZES` times the image side, in pixels.
        x, y: pixel centres relative to the shape's centroid, in pixels; broadcast together.

    Returns:
        Float in [0, 1] in the broadcast shape of `x` and `y`.
    """
    return np.clip(0.5 - _signed_distance(shape, radius, x, y), 0.0, 1.0)


def render(scene: Scene, image_size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a scene, anti-aliased.

    Args:
        scene: what to draw.
        image_size: the side in pixels, at least `MIN_IMAGE_SIZE`.
        rng: gives the positions their jitter; advanced.

    Returns:
        uint8 [image_size, image_size, 3].

    Raises:
        UserError: the image is too small to tell the shapes apart.
    """
    if image_size < MIN_IMAGE_SIZE:
        raise UserError(
            f"image_size {image_size} is too small for the shapes world; use at least "
            f"{MIN_IMAGE_SIZE}"
        )
    image = np.empty((image_size, image_size, 3), np.float32)
    image[:] = BACKGROUNDS[scene.background]
    for thing, centre in zip(scene.objects, _place(scene, rng), strict=True):
        _paint(image, thing, centre)
    return np.rint(image).astype(np.uint8)


def example(index: int, split: str, image_size: int, seed: int) -> tuple[np.ndarray, str]:
    """Record `index` of the endless world: a pure function of its arguments.

    Args:
        index: any integer from 0 on.
        split: one of `SPLITS`.
        image_size: the side in pixels, at least `MIN_IMAGE_SIZE`. The scene does not depend on it.
        seed: from 0 on; another seed is another world of the same kind.

    Returns:
        The image, uint8 [image_size, image_size, 3], and its caption.

    Raises:
        UserError: unknown split, or too small an image.
    """
    _check_split(split)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene = sample_scene(rng, split)
    return render(scene, image_size, rng), scene.caption()


def pair_example(index: int, split: str, image_size: int, seed: int) -> tuple[np.ndarray, str, int]:
    """Record `index` of an endless world of one object, whose class is its colour and shape.

    Classes, sizes and backgrounds are equally likely. They make 288 scenes, which the splits share:
    'train' and 'test' differ in the draws, places within a pixel or two included.

    Args:
        index, image_size, seed: as for `example`.
        split: one of `PAIR_SPLITS`.

    Returns:
        The image, uint8 [image_size, image_size, 3], its caption, and the index of its class in
        `PAIRS`.

    Raises:
        UserError: unknown split, or too small an image.
    """
    if split not in PAIR_SPLITS:
        raise UserError(f"data.split={split!r} is not of shape_pairs; use {', '.join(PAIR_SPLITS)}")
    rng = np.random.default_rng([seed, len(SPLITS) + PAIR_SPLITS.index(split), index])
    label = int(rng.integers(len(PAIRS)))
    size, background = (str(rng.choice(list(names))) for names in (SIZES, BACKGROUNDS))
    scene = Scene((Object(size, *PAIRS[label]),), None, background)
    return render(scene, image_size, rng), scene.caption(), label


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"split {split!r} is not of the shapes world; use {', '.join(SPLITS)}")


@functools.cache
def _choices() -> tuple[tuple[str, ...], ...]:
    thing = (tuple(SIZES), tuple(COLOURS), SHAPES)
    return (*thing, *thing, tuple(RELATIONS), tuple(BACKGROUNDS))


def _draw_scene(rng: np.random.Generator, two: bool) -> Scene:
    choices = _choices()
    picks = rng.integers([len(choice) for choice in choices])
    words = [choice[pick] for choice, pick in zip(choices, picks, strict=True)]
    first, second, relation, background = Object(*words[:3]), Object(*words[3:6]), *words[6:]
    if two:
        return Scene((first, second), relation, background)
    return Scene((first,), None, background)


def _place(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The objects' centres, [objects, 2]."""
    if scene.relation is None:
        return 0.5 + rng.uniform(-SINGLE_JITTER, SINGLE_JITTER, (1, 2))
    step = PAIR_OFFSET * np.array(RELATIONS[scene.relation])
    return 0.5 + np.stack([step, -step]) + rng.uniform(-PAIR_JITTER, PAIR_JITTER, (2, 2))


def _paint(image: np.ndarray, thing: Object, centre: np.ndarray) -> None:
    """Blends one object into a float image, looking only at the pixels that it can reach."""
    side = image.shape[0]
    radius = SIZES[thing.size] * side
    x, y = centre * side
    reach = 1.25 * radius + 1
    columns, rows = (
        slice(max(0, math.floor(at - reach)), min(side, math.ceil(at + reach))) for at in (x, y)
    )
    alpha = coverage(
        thing.shape,
        radius,
        np.arange(columns.start, columns.stop)[None, :] + 0.5 - x,
        np.arange(rows.start, rows.stop)[:, None] + 0.5 - y,
    )
    window = image[rows, columns]
    window += alpha[..., None] * (np.array(COLOURS[thing.colour], np.float32) - window)


def _signed_distance(shape: str, radius: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline, negative inside; the factors give all six a like visual extent.

    Corners stay sharp: near one the distance is to the nearer of its two lines.
    """
    across, along = np.abs(x), np.abs(y)
    match shape:
        case "circle":
            return np.hypot(x, y) - radius
        case "square":
            return np.maximum(across, along) - 0.85 * radius
        case "triangle":
            return np.maximum(y, (math.sqrt(3) * across - y) / 2) - 1.15 * radius / 2
        case "diamond":
            return (across + along - 1.05 * radius) / math.sqrt(2)
        case "cross":
            arm, half_width = radius, 0.33 * radius
            upright = np.maximum(across - half_width, along - arm)
            level = np.maximum(across - arm, along - half_width)
            return np.minimum(upright, level)
        case "ring":
            return np.abs(np.hypot(x, y) - 0.775 * radius) - 0.225 * radius
    raise ValueError(f"no shape {shape!r}")
