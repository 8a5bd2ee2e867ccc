"""Holes in pictures: which pixels, what of the picture the model draws, and how that is put back.

A hole is bool [H, W] of a picture's size: true where it is drawn anew.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from babeldraw.config import require
from babeldraw.data.image import center_box, resize
from babeldraw.drawing.canvas import size_of

# The hole takes at most so much of a side of what is drawn: CogView2's completion draws the hole's
# box times 20 / 14.
HOLE_SHARE = 14 / 20


@dataclasses.dataclass(frozen=True)
class Crop:
    """A box of a picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of an array [H, W, ...]; a view."""
        down, across = self.top + self.height, self.left + self.width
        return array[self.top : down, self.left : across]

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width


# ------------------------------------------------------------------ which pixels


def box_hole(box: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: true in a box.

    Args:
      box: x0, y0, x1, y1, pixels from the left and from the top; x1 and y1 lie outside.
      shape: (H, W) of the picture.

    Raises:
      UserError: an empty box, or one that is not inside the picture.
    """
    x0, y0, x1, y1 = box
    require(
        0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0],
        f"box is {x0},{y0},{x1},{y1} and the picture {size_of(shape)}; give x0,y0,x1,y1 with "
        f"0 <= x0 < x1 <= {shape[1]} and 0 <= y0 < y1 <= {shape[0]}",
    )
    hole = np.zeros(shape, bool)
    hole[y0:y1, x0:x1] = True
    return hole


def lower_hole(complete: float, shape: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: true below the upper rows of pixels, of which a share is kept.

    Args:
      complete: the share, from 0 (all is drawn) to below 1; a row that it cuts is kept.
      shape: (H, W) of the picture.

    Raises:
      UserError: another share.
    """
    require(
        0 <= complete < 1,
        f"complete is {complete}; the share of the picture that is kept is from 0 to below 1",
    )
    # Rounded, for 0.1 * 30 is a little more than 3.
    kept = math.ceil(round(complete * shape[0], 6))
    hole = np.zeros(shape, bool)
    hole[kept:] = True
    return hole


def central(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest centred crop of `size`'s aspect, at the picture's own resolution."""
    return Crop(*center_box(image.shape[:2], size)).of(image)


# ------------------------------------------------------------------ what is drawn


def crop_around(hole: np.ndarray, size: tuple[int, int], scale: float | None = None) -> Crop:
    """What of a picture the model reads and draws: a box of its shape with the hole in the middle.

    At the picture's edges the box stays inside, and the hole is not in the middle.

    Args:
      hole: bool [H, W].
      size: (height, width) of the model's pictures.
      scale: pixels of the picture to one of the model's, along a side. None: 1, or, where the hole
        would take more than `HOLE_SHARE` of a side, as much as that asks for and the picture has.

    Raises:
      UserError: there is no hole, or the box does not fit the picture, or the hole the box.
    """
    require(hole.any(), "the mask has no hole: nothing in it is above 127; mark what to draw anew")
    spans = [_span(hole.any(axis=axis)) for axis in (1, 0)]
    extent = tuple(past - first for first, past in spans)
    least = max(of / side for of, side in zip(extent, size, strict=True))
    most = min(whole / side for whole, side in zip(hole.shape, size, strict=True))
    _check_scale(1.0 if scale is None else scale, most, size, hole.shape)
    box = _box(size, scale or min(max(1.0, least / HOLE_SHARE), most), hole.shape)
    larger = f"scale={_digits(least, math.ceil)} or more"
    require(
        all(of <= side for of, side in zip(extent, box, strict=True)),
        f"the hole is {size_of(extent)}, more than the {size_of(box)} of the picture "
        f"({size_of(hole.shape)}) that the model draws; give "
        + (larger if least <= most else "a smaller hole, or a part of the picture in that shape"),
    )
    top, left = map(_first_of_box, spans, box, hole.shape)
    return Crop(top, left, *box)


def _span(masked: np.ndarray) -> tuple[int, int]:
    """The first place that is masked, and the one behind the last."""
    places = np.flatnonzero(masked)
    return int(places[0]), int(places[-1]) + 1


def _check_scale(scale: float, most: float, size: tuple[int, int], shape: tuple[int, int]) -> None:
    require(0 < scale < math.inf, f"scale is {scale:g}; more than 0 is needed")
    require(
        scale <= most,
        f"scale is {scale:g}, at which the model draws {size_of(_box(size, scale))}, and the "
        f"picture is {size_of(shape)}; give a larger picture, or scale={_digits(most, math.floor)} "
        "at most",
    )


def _box(
    size: tuple[int, int], scale: float, shape: tuple[float, float] = (math.inf, math.inf)
) -> tuple[int, int]:
    """(height, width) of what the model draws of a picture: no more than there is."""
    height, width = (
        min(max(1, round(side * scale)), whole) for side, whole in zip(size, shape, strict=True)
    )
    return height, width


def _digits(scale: float, rounded: Callable[[float], int]) -> str:
    """A scale to be given, rounded to the side on which it will do."""
    return f"{rounded(scale * 1000) / 1000:g}"


def _first_of_box(span: tuple[int, int], side: int, whole: int) -> int:
    """Where a box of `side` begins, its middle on the span's, inside the picture."""
    first, past = span
    return min(max((first + past - side) // 2, 0), whole - side)


# ------------------------------------------------------------------ how it is put back


def put_back(
    image: np.ndarray, crop: Crop, drawn: np.ndarray, weight: np.ndarray | None
) -> np.ndarray:
    """A picture with a drawn part in it.

    Args:
      image: uint8 [H, W, 3].
      crop: the part.
      drawn: uint8 [h, w, 3], of any size; it is resized to the crop's.
      weight: float32 [H, W] in [0, 1], of what is drawn, beside `image`; None: 1 in all the crop.

    Returns:
      uint8 [H, W, 3]: equal to `image` where the weight is 0 and outside the crop.
    """
    edited = image.copy()
    part = crop.of(edited)
    new = resize(drawn, crop.shape)
    if weight is None:
        part[:] = new
        return edited
    old = part.astype(np.float32)
    part[:] = np.rint(old + crop.of(weight)[..., None] * (new - old)).astype(np.uint8)
    return edited


def weights_inside(hole: np.ndarray, feather: int) -> np.ndarray:
    """float32 [H, W] in [0, 1]: 0 outside the hole, rising to 1 within `feather` pixels inside.

    At a distance of d pixels from the nearest one outside it is d / (feather + 1); no edge of the
    picture is a seam.
    """
    if feather == 0 or hole.all():
        return hole.astype(np.float32)
    distance = ndimage.distance_transform_edt(hole)
    return np.minimum(distance / (feather + 1), 1.0).astype(np.float32)
