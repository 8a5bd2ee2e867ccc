"""How a tokenizer's codebook is used."""

from collections.abc import Iterator

import numpy as np

from babeldraw.evaluation import measures
from babeldraw.tokenizers.base import Codes


class CodeUse:
    """Counts codes over groups of pictures, one after the other.

    Args:
      codes: discrete ones.
    """

    def __init__(self, codes: Codes):
        self._codes = codes
        # Codes of several factors are numbered together.
        self._offsets = np.cumsum((0, *codes.vocab[:-1]))
        self._counts_V = np.zeros(codes.entries, np.int64)
        self._group: list[np.ndarray] = []
        self._groups: list[dict[str, float]] = []
        self._partial: list[dict[str, float]] = []

    def add(self, codes: np.ndarray) -> None:
        """Codes of some pictures, int32 [b, T] or [b, T, factors]."""
        codes = codes.reshape(len(codes), self._codes.length, len(self._codes.vocab))
        self._group.append(codes)
        numbered = (codes + self._offsets).reshape(-1)
        self._counts_V += np.bincount(numbered, minlength=self._codes.entries)

    def close(self, complete: bool) -> None:
        """Ends a group; one that is not complete counts only where it is the only one."""
        group, self._group = np.concatenate(self._group), []
        if len(group):
            (self._groups if complete else self._partial).append(self._of(group))

    def figures(self) -> Iterator[tuple[str, float]]:
        """Means over the groups, then the perplexity of all pictures."""
        counted = self._groups or self._partial[:1]
        for name in counted[0]:
            yield name, float(np.mean([group[name] for group in counted]))
        # Of codes with several factors, the geometric mean of those of the factors.
        yield "perplexity", measures.perplexity(self._counts_V) / len(self._codes.vocab)

    def _of(self, codes_NTf: np.ndarray) -> dict[str, float]:
        vocab = self._codes.vocab
        factors = [codes_NTf[..., factor] for factor in range(len(vocab))]
        used = sum(len(np.unique(factor)) for factor in factors)
        by_place = [
            measures.used_by_place(factor, size)
            for factor, size in zip(factors, vocab, strict=True)
        ]
        return {
            "codebook_usage": used / self._codes.entries,
            "codebook_usage_uniform": measures.uniform_usage(vocab, factors[0].size),
            "codebook_usage_pictures": len(codes_NTf),
            "place_usage": float(np.mean(by_place)),
            "place_usage_least": float(np.mean(by_place, axis=0).min()),
        }
