"""Says whether a picture shows what its caption asks, for captions of the shapes world.

Nothing here is learned. A picture is cut from its background, and each piece is explained as
"background + coverage * one colour": of all shapes, sizes and sub-pixel positions, drawn by the
same code that draws the training pictures, least squares picks the one that leaves the least over.
A piece that no shape explains, and a colour near none of the palette, count as wrong; they are not
rounded to the nearest right answer.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from babeldraw.data import shapes
from babeldraw.errors import UserError
from babeldraw.evaluation.intervals import Figure, mean_figure

# A little under half the least distance between two entries of the palette (109 of 255).
COLOUR_TOLERANCE = 0.21
# The share of a piece's energy that the best template may leave unexplained. Under noise of 0.03
# and a blur of 0.6 pixels true shapes leave up to 0.05 at 64 pixels, and 99 % of them up to 0.08
# at 32; a star, a bar, half a disc or a broken ring leaves over 0.13.
SHAPE_TOLERANCE = 0.1
# A pixel is foreground when it is this far from the background (purple on gray, the faintest pair,
# is 0.44) and at least this share as far as the strongest pixel around, which keeps the soft edges
# of two near objects from growing together.
MIN_CONTRAST = 0.2
MIN_LOCAL_CONTRAST = 0.4
# Pieces under this share of the picture are specks; the smallest shape covers 0.02.
SPECK_AREA = 0.004
# `left of` and the like hold from this distance on, in image sides (true pairs: 0.45 or more).
MIN_SEPARATION = 0.15
# Only so many of the largest pieces are looked at: no prompt asks for more than two, and a picture
# of confetti should not cost more than its number being wrong.
MAX_FOUND = 6

# Larger pictures are averaged down by whole factors to no less than this, where their side divides.
_WORKING_SIZE = 64
_CONNECTED = np.ones((3, 3), bool)
# Templates as drawn, and softened as a generator's decoder softens them; in pixels.
_BLURS = (0.0, 0.5, 1.0)
# A circle a tenth too large is still a circle, and still of its size.
_SCALES = (0.9, 1.0, 1.1)
# Of the centre from the nearest pixel's; a sixth of a pixel is then the largest error.
_OFFSETS = np.linspace(-0.5, 0.5, 4)


@dataclasses.dataclass(frozen=True)
class Found:
    """One object seen in a picture.

    Attributes:
        size: the nearest of `shapes.SIZES`.
        colour: a key of `shapes.COLOURS`, or None when it is near none of them.
        shape: one of `shapes.SHAPES`, or None when it is none of them.
        centre: (x, y) in image sides, y down.
    """

    size: str
    colour: str | None
    shape: str | None
    centre: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What of a scene a picture got right.

    Objects are compared under the one assignment of seen objects to wanted objects that gets the
    most right; an attribute is right when it is right for every wanted object. `number` alone
    minds objects too many. A scene of one object has its relation right.
    """

    number: bool
    colour: bool
    shape: bool
    size: bool
    relation: bool
    background: bool

    @property
    def exact(self) -> bool:
        """Whether everything is right."""
        return all(dataclasses.astuple(self))

    def as_dict(self) -> dict[str, bool]:
        """All seven answers by name."""
        return dataclasses.asdict(self) | {"exact": self.exact}


def score(image: np.ndarray, scene: shapes.Scene) -> Verdict:
    """Compares a picture with a scene.

    Args:
        image: [S, S, 3], float in [0, 1] or uint8, S at least `shapes.MIN_IMAGE_SIZE`.
        scene: what it should show.

    Raises:
        UserError: the image has another form.
    """
    background, found = find_objects(image)
    missing = [None] * (len(scene.objects) - len(found))
    candidates = itertools.permutations([*found, *missing], len(scene.objects))
    best = max((_compare(scene, candidate) for candidate in candidates), key=_count_right)
    hits = {name: all(row) for name, row in best.items()}
    return Verdict(
        number=len(found) == len(scene.objects),
        background=background == scene.background,
        **hits,
    )


def score_batch(images: np.ndarray, captions: Sequence[str]) -> dict[str, Figure]:
    """Means of the verdicts over pictures and their captions.

    Args:
        images: [N, S, S, 3], float in [0, 1] or uint8.
        captions: N captions of the shapes world.

    Returns:
        The share in [0, 1] of pictures right in `number`, `colour`, `shape`, `size`, `relation`,
        `background` and `exact`.

    Raises:
        UserError: no pictures, another number of captions, or a caption that is not of this world.
    """
    if not len(images) or len(images) != len(captions):
        raise UserError(
            f"images and captions to score are {len(images)} and {len(captions)}; give as many "
            "of each, at least one"
        )
    scenes = [parse(caption) for caption in captions]
    verdicts = [score(image, scene).as_dict() for image, scene in zip(images, scenes, strict=True)]
    return {name: mean_figure([verdict[name] for verdict in verdicts]) for name in verdicts[0]}


def find_objects(image: np.ndarray) -> tuple[str | None, list[Found]]:
    """Reads a picture without knowing its caption.

    Args:
        image: [S, S, 3], float in [0, 1] or uint8, S at least `shapes.MIN_IMAGE_SIZE`.

    Returns:
        The background, a key of `shapes.BACKGROUNDS` or None when it is near none of them, and the
        objects, largest first, at most `MAX_FOUND`.

    Raises:
        UserError: the image has another form.
    """
    image = working_image(image)
    ground = border_colour(image)
    difference = image - ground
    pieces = _segment(np.linalg.norm(difference, axis=-1))
    found = [_identify(difference, pieces, label, ground) for label in _by_area(pieces)]
    return _nearest(ground, shapes.BACKGROUNDS), found


def parse(caption: str) -> shapes.Scene:
    """What a caption says. Raises `UserError` where it is not of the shapes world."""
    scene = shapes.parse_caption(caption)
    if scene is None:
        example = "a small red circle on a white background"
        raise UserError(f"caption {caption!r} is not of the shapes world; write it as {example!r}")
    return scene


def working_image(image: np.ndarray) -> np.ndarray:
    """float32 in [0, 1], finite, averaged down to the working size."""
    image = np.asarray(image)
    side = image.shape[0] if image.ndim else 0
    if image.shape != (side, side, 3) or side < shapes.MIN_IMAGE_SIZE:
        raise UserError(
            f"image to score has shape {image.shape}; it must be square with three channels, "
            f"at least {shapes.MIN_IMAGE_SIZE} pixels a side"
        )
    scale = 255 if image.dtype == np.uint8 else 1
    image = np.clip(np.nan_to_num(image.astype(np.float32)) / np.float32(scale), 0, 1)
    factors = range(side // _WORKING_SIZE, 1, -1)
    factor = next((factor for factor in factors if side % factor == 0), 1)
    return image.reshape(side // factor, factor, side // factor, factor, 3).mean((1, 3))


def border_colour(image: np.ndarray) -> np.ndarray:
    """The median colour of the outermost pixels, [3]: no object comes there in a true picture."""
    edges = image[0], image[-1], image[:, 0], image[:, -1]
    return np.median(np.concatenate(edges), axis=0)


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str | None:
    distances = np.linalg.norm(np.array(list(palette.values())) / 255 - colour, axis=-1)
    nearest = int(distances.argmin())
    return list(palette)[nearest] if distances[nearest] < COLOUR_TOLERANCE else None


def _segment(contrast: np.ndarray) -> np.ndarray:
    """Labels the connected pieces of the foreground from 1 on, int [S, S]; the background is 0."""
    around = ndimage.maximum_filter(contrast, 5)
    foreground = contrast > np.maximum(MIN_CONTRAST, MIN_LOCAL_CONTRAST * around)
    pieces, _ = ndimage.label(foreground, _CONNECTED)
    return pieces


def _by_area(pieces: np.ndarray) -> list[int]:
    """The labels of the pieces that are no specks, largest first, at most `MAX_FOUND`."""
    areas = np.bincount(pieces.ravel())[1:]
    order = np.argsort(-areas, kind="stable")[:MAX_FOUND]
    return [int(at) + 1 for at in order if areas[at] >= SPECK_AREA * pieces.size]


def _identify(difference: np.ndarray, pieces: np.ndarray, label: int, ground: np.ndarray) -> Found:
    """Explains one piece by the best template.

    For a unit template u the best colour, as a difference from the background, is the projection
    of the piece on u, and the energy it explains is that projection's square.
    """
    side = difference.shape[0]
    own = pieces == label
    # Two pixels around hold the soft edge that the threshold cut off.
    reach = ndimage.binary_dilation(own, _CONNECTED, iterations=2) & (own | (pieces == 0))
    piece = difference * reach[..., None]
    energy = np.square(piece).sum(-1)
    row, column = ndimage.center_of_mass(np.sqrt(energy) * own)
    bank = _templates(side)
    window = _window(piece, round(row), round(column), bank.reach)
    projections = bank.units @ window.reshape(-1, 3)
    explained = np.square(projections).sum(-1)
    best = int(explained.argmax())
    size, shape = bank.names[best]
    is_shape = 1 - explained[best] / energy.sum() < SHAPE_TOLERANCE
    shift = projections[best] / bank.norms[best] if is_shape else _core(piece[own])
    return Found(
        size=size,
        colour=_nearest(np.clip(ground + shift, 0, 1), shapes.COLOURS),
        shape=shape if is_shape else None,
        centre=(float(column + 0.5) / side, float(row + 0.5) / side),
    )


def _core(pixels: np.ndarray) -> np.ndarray:
    """The median of the stronger half of a piece's pixels [K, 3]: the colour of what no template
    fits, so that a misshapen object may still have its colour right."""
    strength = np.square(pixels).sum(-1)
    return np.median(pixels[strength >= np.median(strength)], axis=0)


def _window(piece: np.ndarray, row: int, column: int, reach: int) -> np.ndarray:
    """The square of 2 * reach + 1 pixels around a pixel, zero outside the picture."""
    padded = np.pad(piece, ((reach, reach), (reach, reach), (0, 0)))
    return padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1]


@dataclasses.dataclass(frozen=True)
class _Templates:
    """All shapes at both sizes, at several scales, sub-pixel offsets and blurs.

    `units` float32 [K, W * W] are of length one, `norms` [K] their lengths before, `names` K pairs
    (size, shape), `reach` the half width of the window: W = 2 * reach + 1.
    """

    units: np.ndarray
    norms: np.ndarray
    names: list[tuple[str, str]]
    reach: int


@functools.lru_cache(maxsize=4)
def _templates(side: int) -> _Templates:
    reach = math.ceil(1.25 * max(shapes.SIZES.values()) * side) + 3
    pixels = np.arange(-reach, reach + 1)
    masks, names = [], []
    kinds = itertools.product(shapes.SIZES, shapes.SHAPES, _SCALES, _BLURS, _OFFSETS, _OFFSETS)
    for size, shape, scale, blur, x, y in kinds:
        radius = shapes.SIZES[size] * scale * side
        mask = shapes.coverage(shape, radius, pixels[None, :] - x, pixels[:, None] - y)
        masks.append(ndimage.gaussian_filter(mask, blur).ravel())
        names.append((size, shape))
    masks = np.array(masks, np.float32)
    norms = np.linalg.norm(masks, axis=-1)
    return _Templates(masks / norms[:, None], norms, names, reach)


def _compare(
    scene: shapes.Scene, candidate: tuple[Found | None, ...]
) -> dict[str, tuple[bool, ...]]:
    """Each attribute's answers under one assignment of seen objects (None: absent) to wanted."""
    pairs = list(zip(scene.objects, candidate, strict=True))
    answers = {
        name: tuple(getattr(wanted, name) == getattr(seen, name, None) for wanted, seen in pairs)
        for name in ("colour", "shape", "size")
    }
    return answers | {"relation": (_related(scene.relation, candidate),)}


def _related(relation: str | None, candidate: tuple[Found | None, ...]) -> bool:
    """Whether the first object is clearly, and mainly, off the second in the right direction."""
    if relation is None:
        return True
    if None in candidate:
        return False
    first, second = (np.array(seen.centre) for seen in candidate)
    step = np.array(shapes.RELATIONS[relation])
    along = (first - second) @ step
    across = np.abs((first - second) * (step == 0)).max()
    return bool(along > max(MIN_SEPARATION, across))


def _count_right(answers: dict[str, tuple[bool, ...]]) -> int:
    return sum(sum(row) for row in answers.values())
