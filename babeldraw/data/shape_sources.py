"""The shapes world as sources of records: any index gives a picture and what is in it."""

import functools
from collections.abc import Iterator

from babeldraw.data import shapes
from babeldraw.data.records import Record
from babeldraw.errors import UserError

# Captions of the endless world come from few templates: this many carry its whole vocabulary.
SHAPES_CAPTIONS = 20_000


class ShapesSource:
    """The synthetic world of `babeldraw.data.shapes`: any index gives a picture and its caption.

    Raises:
        UserError: no such split, too small a picture, or a seed below 0.
    """

    def __init__(self, split: str, image_size: int, seed: int, num_examples: int):
        if split not in shapes.SPLITS:
            raise UserError(
                f"data.split={split!r} is unknown to shapes; use {', '.join(shapes.SPLITS)}"
            )
        if image_size < shapes.MIN_IMAGE_SIZE:
            raise UserError(
                f"image_size={image_size} is too small to draw shapes; use at least "
                f"{shapes.MIN_IMAGE_SIZE}"
            )
        if seed < 0:
            raise UserError(f"seed={seed} must be at least 0")
        self.name = f"shapes/{split}/{image_size}px/seed{seed}"
        self._split, self._image_size, self._seed = split, image_size, seed
        self._num_examples = num_examples

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> Record:
        return Record(*shapes.example(index, self._split, self._image_size, self._seed))

    def caption(self, index: int) -> str:
        """The caption of an example."""
        # It comes with its picture, is the same at the smallest size, and fastest there.
        return shapes.example(index, self._split, shapes.MIN_IMAGE_SIZE, self._seed)[1]

    def captions(self) -> Iterator[str]:
        """The captions of the first 20,000 examples."""
        return map(self.caption, range(min(len(self), SHAPES_CAPTIONS)))


class ShapePairsSource:
    """Pictures of one object of `babeldraw.data.shapes`, labelled with their colour and shape.

    Raises:
        UserError: no such split, too small a picture, or a seed below 0.
    """

    classes = tuple(" ".join(pair) for pair in shapes.PAIRS)

    def __init__(self, split: str, image_size: int, seed: int, num_examples: int):
        if seed < 0:
            raise UserError(f"seed={seed} must be at least 0")
        self._draw = functools.partial(
            shapes.pair_example, split=split, image_size=image_size, seed=seed
        )
        self._draw(0)
        self.name = f"shape_pairs/{split}/{image_size}px/seed{seed}"
        self._num_examples = num_examples

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> Record:
        return Record(*self._draw(index))

    def captions(self) -> Iterator[str]:
        """The captions of the first 20,000 examples."""
        return (self[index].caption for index in range(min(len(self), SHAPES_CAPTIONS)))
