"""A source in another order."""

from typing import Any

import numpy as np

from babeldraw.data.records import Record, Source


class Rearranged:
    """A source whose records stand in another order; in all else it is that source.

    Args:
        source: the data.
        places: int64 [len], where each record lies in the source.
        told: what tells this order from others; a part of the name.
    """

    def __init__(self, source: Source, places: np.ndarray, told: str):
        self._source, self._places = source, places
        self.name = f"{source.name}/{told}"
        self.identity = f"{getattr(source, 'identity', source.name)}/{told}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._places[index])]

    def jpeg(self, index: int) -> Record:
        """As of a source that gives JPEG files."""
        return self._source.jpeg(int(self._places[index]))
