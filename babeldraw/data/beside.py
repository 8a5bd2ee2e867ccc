"""Two sources at once: pairs, and texts beside them."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from babeldraw.data.pipeline import TrainBatches
from babeldraw.data.records import Record, Source


class Beside:
    """A source of pairs with one of texts beside it; in all else that of pairs.

    Attributes:
        texts_beside: the texts.
    """

    def __init__(self, pairs: Source, texts: Source):
        self._pairs, self.texts_beside = pairs, texts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pairs, name)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        return self._pairs[index]

    def captions(self) -> Iterator[str]:
        """Those of the pairs, then the texts."""
        return itertools.chain(self._pairs.captions(), self.texts_beside.captions())


class WithTexts:
    """Batches of pairs, each with as many texts of another source, as `masked_text`.

    In all else they are the batches of pairs.

    Args:
        pairs: batches with a `text` of their own.
        texts: as many of texts, int32 of the same length.
    """

    def __init__(self, pairs: TrainBatches, texts: TrainBatches):
        self._pairs, self._texts = pairs, texts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pairs, name)

    def __iter__(self) -> "WithTexts":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return {**next(self._pairs), "masked_text": next(self._texts)["text"]}

    def state(self) -> dict[str, Any]:
        """As of `TrainBatches`, with that of the texts."""
        return {**self._pairs.state(), "texts": self._texts.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self._pairs.restore(state)
        self._texts.restore(state["texts"])

    def same_data(self, state: dict[str, Any]) -> bool:
        """Whether a state is of these data, both of them."""
        return self._pairs.same_data(state) and self._texts.same_data(state["texts"])

    def close(self) -> None:
        """Stops reading ahead."""
        self._pairs.close()
        self._texts.close()
