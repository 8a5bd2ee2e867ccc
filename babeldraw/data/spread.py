"""Any first records of a source, taken evenly from all of it.

Evaluators judge by the first so many records. In a folder of classes, sorted by name, these would
be of one class alone; so would those of a mixture be of its first part.
"""

from collections.abc import Iterator

import numpy as np
from absl import logging

from babeldraw.data.rearranged import Rearranged
from babeldraw.data.records import BadRecord, Source


class Spread(Rearranged):
    """A source in another order, of which any first records lie evenly over all.

    Places go by van der Corput's sequence: the first, half of the way, a quarter, three quarters,
    and so on. In all else it is that source.

    Args:
        source: the data.
    """

    def __init__(self, source: Source):
        super().__init__(source, even_order(len(source)), "spread")

    @property
    def levels(self) -> np.ndarray | None:
        """Of each record, in this order; see `data.levels`."""
        found = getattr(self._source, "levels", None)
        return None if found is None else found[self._places]

    def captions(self) -> Iterator[str]:
        """In this order; what cannot be read is left out."""
        one_by_one = getattr(self._source, "caption", None)
        for place in map(int, self._places):
            try:
                yield one_by_one(place) if one_by_one else self._source[place].caption
            except BadRecord as error:
                logging.warning("caption skipped: %s", error)


def even_order(count: int) -> np.ndarray:
    """int64 [count], a permutation.

    >>> even_order(6).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    bits = max(1, (count - 1).bit_length())
    number, reversed_bits = np.arange(1 << bits), np.zeros(1 << bits, np.int64)
    for bit in range(bits):
        reversed_bits |= (number >> bit & 1) << (bits - 1 - bit)
    # Of those that fall upon one place the first.
    places, first = np.unique(reversed_bits * count >> bits, return_index=True)
    return places[np.argsort(first)]
