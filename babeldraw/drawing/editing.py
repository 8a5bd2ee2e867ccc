"""Pictures to go on from: which tokens of a picture are kept, and which are drawn anew.

Masked prediction sees all kept tokens: a hole fits on every side. Prediction of the next token sees
those before it alone, in raster order: it goes on well from the first rows, but fills a hole
without a look at what lies below it, so that its lower edge may not fit.
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
    h, w = _grid(codes, "a mask is laid on")
    require(
        mask.shape == tuple(shape),
        f"the mask is {_size(mask.shape)} and the picture {_size(shape)}; they must be of one size",
    )
    masked = mask if mask.dtype == bool else mask > 127
    top, left, height, width = center_box(mask.shape, image_size)
    masked = masked[top : top + height, left : left + width]
    # A token's pixels, before resizing, are those whose place falls into its cell.
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    drawn = np.zeros((h, w), bool)
    down, right = np.nonzero(masked)
    drawn[rows[down], columns[right]] = True
    return ~drawn.reshape(-1)


def _grid(codes: Codes, what: str) -> tuple[int, int]:
    require(
        len(codes.shape) == 2,
        f"{what} a grid and the tokenizer gives a sequence of {codes.length} tokens; keep a "
        "number of tokens instead",
    )
    return codes.shape[0], codes.shape[1]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} px"
