"""`(3 n h) d -> 3 d n h`: reshape, transpose, reshape, written in one line and read both ways."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

# Each dimension of an array as the axes that it is made of, outermost first.
Side = tuple[tuple[str, ...], ...]
DIMENSION = re.compile(r"\(([^()]*)\)|([^\s()]+)")
AXIS = re.compile(r"([A-Za-z]\w*)(?:=(\d+))?|(\d+)")


@dataclasses.dataclass(frozen=True)
class Rearrangement:
    """How the dimensions of their array are those of ours.

    Attributes:
      theirs, ours: the two sides. The axes of both are the same but for ones, `("1",)`, which hold
        nothing and may stand anywhere.
      given: the sizes that the pattern itself states.
    """

    theirs: Side
    ours: Side
    given: Mapping[str, int]

    @classmethod
    def parse(cls, how: str) -> "Rearrangement":
        """Reads `THEIRS -> OURS`.

        A dimension is an axis or several in brackets, an axis a word (`d`, `heads`), a word with
        its size (`r=16`) or a size that stands for itself (`3`). Sizes come from the shape of ours;
        where a bracket of ours holds several axes, all but one state theirs:
        `d c=3 r=16 k=16 -> (r k c) d`.

        Raises:
          ValueError: the pattern is none; this is no user's mistake but the table's.
        """
        sides, given = how.split("->"), {"1": 1}
        if len(sides) != 2:
            raise ValueError(f"{how!r} is not of the form 'a b -> b a'")
        theirs, ours = (_side(text, given, how) for text in sides)
        kept = [sorted(_axes(side)) for side in (theirs, ours)]
        if kept[0] != kept[1] or len(set(kept[0])) < len(kept[0]):
            raise ValueError(f"{how!r} must have each axis once on each side")
        for axes in ours:
            open_sizes = [axis for axis in axes if axis not in given]
            if len(open_sizes) > 1:
                raise ValueError(f"{how!r}: write the size of {open_sizes[0]}, {open_sizes[0]}=2")
        return cls(theirs, ours, given)

    @classmethod
    def identity(cls, dimensions: int) -> "Rearrangement":
        """An array of so many dimensions as it is."""
        side = tuple((f"axis{i}",) for i in range(dimensions))
        return cls(side, side, {"1": 1})

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theirs where ours is `shape`.

        Raises:
          ValueError: `shape` does not fit the pattern.
        """
        sizes = self._sizes(shape)
        return tuple(math.prod(sizes[axis] for axis in axes) for axes in self.theirs)

    def to_ours(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Their array as ours, of `shape`."""
        return _moved(array, self.theirs, self.ours, self._sizes(shape)).reshape(shape)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Our array as theirs."""
        moved = _moved(array, self.ours, self.theirs, self._sizes(array.shape))
        return moved.reshape(self.their_shape(array.shape))

    def _sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
        sizes = dict(self.given)
        if len(shape) != len(self.ours):
            raise ValueError(f"{len(shape)} dimensions where there must be {len(self.ours)}")
        for axes, size in zip(self.ours, shape, strict=True):
            known = math.prod(self.given.get(axis, 1) for axis in axes)
            unknown = [axis for axis in axes if axis not in self.given]
            if size % known or (not unknown and size != known):
                raise ValueError(f"{size} is no size of ({' '.join(axes)})")
            sizes |= dict.fromkeys(unknown, size // known)
        return sizes


def _side(text: str, given: dict[str, int], how: str) -> Side:
    """The dimensions of one side; `given` gets the sizes that it states."""
    if DIMENSION.sub("", text).strip():
        raise ValueError(f"{how!r}: brackets do not nest, and each one closes")
    return tuple(
        tuple(_axis(word, given, how) for word in (inside or single).split())
        for inside, single in DIMENSION.findall(text)
    )


def _axis(word: str, given: dict[str, int], how: str) -> str:
    found = AXIS.fullmatch(word)
    if found is None:
        raise ValueError(f"{how!r}: {word!r} is no axis; write d, d=64 or 3")
    name, size, number = found.groups()
    if size or number:
        given[name or number] = int(size or number)
    return name or number


def _axes(side: Side) -> list[str]:
    """All axes in order, without ones."""
    return [axis for axes in side for axis in axes if axis != "1"]


def _moved(array: np.ndarray, source: Side, target: Side, sizes: Mapping[str, int]) -> np.ndarray:
    """The array with a dimension per axis, in the order of `target`."""
    before, after = _axes(source), _axes(target)
    split = array.reshape([sizes[axis] for axis in before])
    return split.transpose([before.index(axis) for axis in after])
