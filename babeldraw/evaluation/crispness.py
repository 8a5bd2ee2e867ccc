"""Says how crisp a picture of the shapes world is: straight sides, sharp corners, open holes.

`shapes_scorer` forgives blur and ragged edges, for it asks what is shown. Here each object that it
finds is laid under the shape it should be, at the place, size and colour that fit best, and what
differs is measured along the outline, in pixels of a picture of 64.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from babeldraw.data import shapes
from babeldraw.evaluation.intervals import Figure, mean_figure
from babeldraw.evaluation.shapes_scorer import (
    Found,
    border_colour,
    find_objects,
    parse,
    working_image,
)

# Of the outline: the area that differs over its length, and the most that differs within any 3 x 3
# pixels. True pictures have at most 0.01 and 0.03; a blur of 0.5 pixels, which few see, 0.18 and
# 0.8; of 0.7, still as sharp as a photograph, 0.35 and 1.5; of a whole pixel, which is soft, 0.47
# to 0.54 and 1.7 to 2.2; patches of 8 x 8 moved by 0.3 pixels each 0.24 to 0.38 and 1.8 to 3.4, by
# 0.6 pixels 0.4 to 0.66 and 3.4 to 5.6 (medians to the 99th percentile of 100 pictures).
MOST_ALONG, MOST_ANYWHERE = 0.4, 1.5
# Of the fit: rounds, and the step of its numerical derivatives in pixels.
_ROUNDS, _STEP = 6, 0.1
# How far from its outline a shape is compared along it, pixels.
_BAND = 2.0
# Length of an outline over the radius.
_LENGTHS = {
    "circle": 2 * math.pi,
    "square": 8 * 0.85,
    "triangle": 3 * math.sqrt(3) * 1.15,
    "diamond": 4 * math.sqrt(2) * 1.05,
    "cross": 12 * 0.33 + 8 * (1 - 0.33),
    "ring": 2 * math.pi * (1 + 0.55),
}


@dataclasses.dataclass(frozen=True)
class Outline:
    """How an object's outline differs from the shape's own.

    Attributes:
      along: the area that differs over the outline's length, pixels.
      anywhere: the largest area that differs within 3 x 3 pixels.
    """

    along: float
    anywhere: float

    @property
    def crisp(self) -> bool:
        return self.along <= MOST_ALONG and self.anywhere <= MOST_ANYWHERE


def outlines(image: np.ndarray, scene: shapes.Scene) -> list[Outline]:
    """Of the objects of a scene that a picture shows, by shape and colour, in the scene's order.

    Args:
      image: [S, S, 3], float in [0, 1] or uint8, S at least `shapes.MIN_IMAGE_SIZE`.
      scene: what it should show.

    Raises:
      UserError: the image has another form.
    """
    seen = find_objects(image)[1]
    picture = working_image(image)
    difference = picture - border_colour(picture)
    found = []
    for wanted in scene.objects:
        own = [one for one in seen if (one.shape, one.colour) == (wanted.shape, wanted.colour)]
        if own:
            # The largest first, each once.
            seen.remove(own[0])
            found.append(_outline(difference, own[0], [one for one in seen if one != own[0]]))
    return found


def is_crisp(image: np.ndarray, scene: shapes.Scene) -> bool:
    """Whether a picture shows all objects of a scene, each with a crisp outline."""
    found = outlines(image, scene)
    return len(found) == len(scene.objects) and all(one.crisp for one in found)


def crisp_share(images: np.ndarray, captions: Sequence[str]) -> Figure:
    """The share in [0, 1] of pictures that are crisp.

    Args:
      images: [N, S, S, 3], float in [0, 1] or uint8.
      captions: N captions of the shapes world.

    Raises:
      UserError: a caption that is not of this world.
    """
    scenes = [parse(caption) for caption in captions]
    return mean_figure([is_crisp(*pair) for pair in zip(images, scenes, strict=True)])


def _outline(difference: np.ndarray, found: Found, others: list[Found]) -> Outline:
    side = difference.shape[0]
    rows, columns = np.mgrid[:side, :side] + 0.5
    x, y = (side * at for at in found.centre)
    radius = side * shapes.SIZES[found.size]
    near = np.hypot(columns - x, rows - y) <= 1.25 * radius + 4
    for other in others:
        away = [
            np.hypot(columns - side * u, rows - side * v) for u, v in (found.centre, other.centre)
        ]
        near &= away[0] < away[1]
    columns, rows, piece = columns[near], rows[near], difference[near]
    fit = _fitted(found.shape, np.array([x, y, radius]), columns, rows, piece)
    differs, around = np.zeros((side, side)), np.zeros((side, side))
    cover = _cover(found.shape, fit, columns, rows)
    colour = cover @ piece / (cover @ cover)
    # A unit is a pixel that is all of the one where it should be all of the other.
    differs[near] = np.linalg.norm(piece - cover[:, None] * colour, axis=-1)
    differs /= np.linalg.norm(colour) + 1e-6
    # The outline's surroundings: what lies further is weighed by no length.
    inside, outside = (
        _cover(found.shape, fit + np.array([0, 0, more]), columns, rows) for more in (-_BAND, _BAND)
    )
    around[near] = (outside > 0) & (inside < 1)
    length = _LENGTHS[found.shape] * fit[2]
    unit = 64 / side
    return Outline(
        along=float((differs * around).sum() / length * unit),
        anywhere=float(9 * ndimage.uniform_filter(differs, 3).max() * unit**2),
    )


def _cover(shape: str, fit: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return shapes.coverage(shape, fit[2], columns - fit[0], rows - fit[1])


def _fitted(
    shape: str, fit: np.ndarray, columns: np.ndarray, rows: np.ndarray, piece: np.ndarray
) -> np.ndarray:
    """(x, y, radius) by least squares, the colour being the best for each."""

    def left_over(fit: np.ndarray) -> np.ndarray:
        cover = _cover(shape, fit, columns, rows)
        colour = cover @ piece / max(cover @ cover, 1e-6)
        return (piece - cover[:, None] * colour).ravel()

    best, least = fit, np.square(left_over(fit)).sum()
    for _ in range(_ROUNDS):
        steps = _STEP * np.eye(3)
        slopes = [left_over(best + step) - left_over(best - step) for step in steps]
        slope = np.stack(slopes, axis=1) / (2 * _STEP)
        move = np.linalg.lstsq(slope, -left_over(best), rcond=None)[0]
        tried = best + np.clip(move, -1.0, 1.0)
        tried[2] = np.clip(tried[2], 0.7 * fit[2], 1.4 * fit[2])
        error = np.square(left_over(tried)).sum()
        if error >= least:
            break
        best, least = tried, error
    return best
