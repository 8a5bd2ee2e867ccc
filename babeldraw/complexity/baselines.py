"""Scores by the picture, which CAT's article finds worse than captions: JPEG size, squared error.

The article does not tell the quality of its JPEG files nor what its error is taken from.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from babeldraw.complexity.base import Score
from babeldraw.config import require
from babeldraw.data.records import Record

QUALITIES = (1, 95)
# Beyond, Pillow's own words, files grow and pictures hardly change.
QUALITY = 75


@dataclass(frozen=True)
class JpegSize:
    """Bits of a pixel in a JPEG file.

    Attributes:
        quality: as Pillow has it, 1 to 95.
    """

    quality: int = QUALITY
    reads_pictures = True

    def __post_init__(self):
        low, high = QUALITIES
        require(low <= self.quality <= high, f"quality is {self.quality}; {low} to {high}")

    @property
    def identity(self) -> str:
        return f"jpeg:{self.quality}"

    def score(self, records: Sequence[Record]) -> Iterator[Score]:
        for record in records:
            file = io.BytesIO()
            Image.fromarray(record.image).save(file, "JPEG", quality=self.quality)
            height, width, _ = record.image.shape
            yield Score(8 * file.tell() / (height * width))


@dataclass(frozen=True)
class SquaredError:
    """The mean squared error of a picture from what is left of it in squares of one colour.

    That is the variance inside the squares, of values in [0, 1]: no network is asked, so it stands
    for what any picture's error might be told by, beside the error of the tokenizer itself.

    Attributes:
        side: of a square in pixels. Squares at the lower and the right edge may be smaller.
    """

    side: int = 16
    reads_pictures = True

    def __post_init__(self):
        require(self.side >= 2, f"side is {self.side}; at least 2 is needed")

    @property
    def identity(self) -> str:
        return f"squared_error:{self.side}"

    def score(self, records: Sequence[Record]) -> Iterator[Score]:
        for record in records:
            image_HWC = record.image.astype(np.float64) / 255
            error = np.square(image_HWC - squares(image_HWC, self.side))
            yield Score(float(error.mean()))


def squares(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """Each pixel replaced by the mean of its square, float64 [H, W, C]."""
    means = image_HWC
    for axis in (0, 1):
        starts = np.arange(0, image_HWC.shape[axis], side)
        sizes = np.diff([*starts, image_HWC.shape[axis]])
        sums = np.add.reduceat(means, starts, axis=axis)
        shape = [1, 1, 1]
        shape[axis] = -1
        means = np.repeat(sums / sizes.reshape(shape), sizes, axis=axis)
    return means
