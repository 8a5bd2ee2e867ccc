"""What a scorer of complexity is.

Shen et al., "CAT: Content-Adaptive Image Tokenization", 2025: a language model reads the caption
and gives 1 to 9, from which the level of the tokenizer follows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from babeldraw.data.records import Record

# Of scores that are given on the article's scale.
LEAST, MOST = 1.0, 9.0


@dataclass(frozen=True)
class Score:
    """How complex a picture is.

    Attributes:
        value: more is more complex; NaN where there is no score.
        reasoning: why, in words, where the scorer has any.
    """

    value: float
    reasoning: str = ""

    @property
    def there(self) -> bool:
        """Whether there is a score."""
        return not math.isnan(self.value)


NO_SCORE = Score(math.nan)


class ComplexityScorer(Protocol):
    """Scores records, by one caption of each or by its picture.

    Attributes:
        identity: equal ones score alike; a key is no part of it.
        reads_pictures: whether it needs the picture, so that it decides nothing before there is
            one.
    """

    identity: str
    reads_pictures: bool

    def score(self, records: Sequence[Record]) -> Iterator[Score]:
        """A score of each, in order. Raises `UserError` where it cannot go on.

        Args:
            records: with one caption each; pictures may be empty where none are read.
        """
        ...
