"""Handwritten digits that lie inside scikit-learn: real pictures with classes, without a download.

1,797 digits of 8 x 8 pixels in 17 shades by 13 writers: the test set of Alpaydin and Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (CC BY 4.0).
"""

import functools
from collections.abc import Iterator

import numpy as np
from PIL import Image

from babeldraw.data.records import Record
from babeldraw.errors import UserError

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# One digit in five is held out; writers are in both splits.
TEST_EVERY = 5
# Pixels of background around a digit, which fills its frame: a random crop cuts these off first.
BORDER = 1
ENLARGED = 8
SHADES = 16


class DigitsSource:
    """White digits on black, enlarged by cubic interpolation to 80 x 80 pixels.

    The label is the digit, the caption its name. Splits: 'train' (1,437), 'test' (360), 'all'.

    Raises:
        UserError: no such split, or scikit-learn is not installed.
    """

    classes = CLASSES

    def __init__(self, split: str):
        if split not in ("train", "test", "all"):
            raise UserError(f"data.split={split!r} is not of digits; use train, test, all")
        images, labels = _load()
        index = np.arange(len(labels))
        test = index % TEST_EVERY == 0
        kept = index[{"train": ~test, "test": test, "all": np.full_like(test, True)}[split]]
        self._images, self._labels = images[kept], labels[kept]
        self.name = f"digits/{split}"

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Record:
        label = int(self._labels[index])
        return Record(_enlarge(self._images[index]), CLASSES[label], label)

    def captions(self) -> Iterator[str]:
        """The names of the digits in order."""
        return (CLASSES[label] for label in self._labels)


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """float [1797, 8, 8] from 0 to 16, and the digits, int [1797]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "data.source='digits' needs scikit-learn; run `pip install -e '.[examples]'`"
        ) from error
    found = load_digits()
    return found.images, found.target


def _enlarge(digit: np.ndarray) -> np.ndarray:
    """[8, 8] from 0 to 16 -> uint8 [80, 80, 3]."""
    grey = np.rint(np.pad(digit, BORDER) * (255 / SHADES)).astype(np.uint8)
    side = ENLARGED * len(grey)
    large = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(large)[..., None], 3, axis=-1)
