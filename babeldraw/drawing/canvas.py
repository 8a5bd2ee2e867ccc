"""Codes to go on from: which of a picture's are kept and which are drawn anew.

Masked prediction sees all kept codes, and so does CogLM: a hole fits on every side. Others that
predict the next code see those before it alone, in raster order: they go on well from the first
rows, but fill a hole without a look at what lies below it, so that its lower edge may not fit.
"""

import dataclasses

import numpy as np

from babeldraw.config import require
from babeldraw.data.image import center_box
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Attributes:
    tokens: codes of a picture, int32 [T] for those of one factor.
    kept: bool [T], which of them stay.
    """

    tokens: np.ndarray
    kept: np.ndarray


def keep_first(count: int, codes: Codes) -> np.ndarray:
    """bool [T]: the first `count` tokens are kept.

    Raises:
      UserError: a picture has fewer tokens.
    """
    require(
        0 <= count <= codes.length,
        f"{count} tokens are to be kept and a picture has {codes.length}; give 0 to {codes.length}",
    )
    return np.arange(codes.length) < count


def keep_rows(rows: int, codes: Codes) -> np.ndarray:
    """bool [T]: the tokens of the first rows are kept.

    Raises:
      UserError: the tokens have no rows, or fewer.
    """
    h, w = _grid(codes, "rows are kept")
    require(0 <= rows <= h, f"rows is {rows}; a picture has {h} rows of tokens: give 0 to {h}")
    return keep_first(rows * w, codes)


def keep_unmasked(
    mask: np.ndarray, shape: tuple[int, int], image_size: tuple[int, int], codes: Codes
) -> np.ndarray:
    """bool [T]: tokens none of whose pixels are masked are kept.

    Args:
      mask: [H, W], true or above 127 where the picture is to be drawn anew.
      shape: (H, W) of the picture it belongs to; both are cropped alike.
      image_size: (height, width) that the tokenizer reads.
      codes: a grid.

    Raises:
      UserError: a mask of another size than its picture, or tokens without a grid.
    """
    masked = as_mask(mask, shape)
    top, left, height, width = center_box(shape, image_size)
    return keep_untouched(masked[top : top + height, left : left + width], codes)


def as_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: where a mask is true, or above 127.

    Raises:
      UserError: it is of another size than its picture's `shape`.
    """
    require(
        mask.shape == tuple(shape),
        f"the mask is {size_of(mask.shape)} and the picture {size_of(shape)}; they must be of one "
        "size",
    )
    return mask if mask.dtype == bool else mask > 127


def keep_untouched(masked: np.ndarray, codes: Codes) -> np.ndarray:
    """bool [T]: the codes of whose patch a mask touches no pixel.

    A kept code may still tell of what the mask covers: an encoder looks beyond a code's patch, a
    transformer's at the whole picture, a convolutional one's some patches far.

    Args:
      masked: bool [H, W], of what is resized to the size that the tokenizer reads.
      codes: a grid.

    Raises:
      UserError: codes without a grid.
    """
    h, w = _grid(codes, "a mask is laid on")
    down_hH, across_wW = _touches(h, masked.shape[0]), _touches(w, masked.shape[1])
    touched_hw = down_hH @ masked.astype(np.float32) @ across_wW.T > 0
    return ~touched_hw.reshape(-1)


def _touches(places: int, pixels: int) -> np.ndarray:
    """float32 [places, pixels]: 1 where a pixel lies in a place, or, before resizing, across it."""
    first = np.arange(pixels) * places // pixels
    last = ((np.arange(pixels) + 1) * places - 1) // pixels
    at = np.arange(places)[:, None]
    return ((first <= at) & (at <= last)).astype(np.float32)


def _grid(codes: Codes, what: str) -> tuple[int, int]:
    require(
        len(codes.shape) == 2,
        f"{what} a grid and the tokenizer gives a sequence of {codes.length} tokens; keep a "
        "number of tokens instead",
    )
    return codes.shape[0], codes.shape[1]


def size_of(shape: tuple[int, ...]) -> str:
    """(H, W, ...) as people say it."""
    return f"{shape[1]} x {shape[0]} px"
