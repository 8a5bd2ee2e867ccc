"""A language model's score of a caption, 1 to 9, with its reasons: CAT's own way."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babeldraw.complexity.base import LEAST, MOST, NO_SCORE, Score
from babeldraw.complexity.endpoint import Endpoint, Unusable
from babeldraw.config import require
from babeldraw.data.records import Record
from babeldraw.errors import UserError
from babeldraw.say import say

# The article's own prompt is not public: these are our words, after what it says it asks.
PROMPT = (Path(__file__).parent / "prompt.txt").read_text()
# Characters of a caption that are sent, and of the reasons that are kept.
MAX_CAPTION, MAX_REASONING = 4000, 1000
# A model that has given so many captions in a row no score gives none at all.
MAX_FAILURES = 10


@dataclass(frozen=True)
class LanguageModel:
    """See `ComplexityScorer`.

    Captions go to it as data, inside JSON. What it answers is checked: one JSON object with a
    number from 1 to 9. A caption to which no answer of `tries` holds one has no score, which is
    told; ten such captions in a row stop the run.

    Attributes:
        endpoint: of the model.
        tries: answers to one caption, at most.
        workers: captions asked at the same time.
    """

    endpoint: Endpoint
    tries: int = 3
    workers: int = 4
    reads_pictures = False

    def __post_init__(self):
        require(self.tries >= 1, f"tries is {self.tries}; at least 1 is needed")
        require(self.workers >= 1, f"workers is {self.workers}; at least 1 is needed")

    @property
    def identity(self) -> str:
        digest = hashlib.sha256(PROMPT.encode()).hexdigest()[:8]
        return f"language_model:{self.endpoint.model}:{digest}"

    def score(self, records: Sequence[Record]) -> Iterator[Score]:
        failures = 0
        with ThreadPoolExecutor(self.workers) as pool:
            captions = [record.caption for record in records]
            try:
                for caption, found in zip(captions, pool.map(self._ask, captions), strict=True):
                    if isinstance(found, Score):
                        failures = 0
                        yield found
                        continue
                    failures += 1
                    say(f"no score: {found}: {caption[:60]!r}")
                    if failures == MAX_FAILURES:
                        raise UserError(
                            f"model={self.endpoint.model} gave {failures} captions in a row no "
                            f"score, the last time: {found}; name a model that answers in JSON"
                        )
                    yield NO_SCORE
            finally:
                pool.shutdown(cancel_futures=True)

    def _ask(self, caption: str) -> Score | Unusable:
        """The score, or why there is none."""
        cut = caption[:MAX_CAPTION].encode("utf-8", "replace").decode()
        messages = [
            {"role": "system", "content": PROMPT},
            {"role": "user", "content": json.dumps({"caption": cut}, ensure_ascii=False)},
        ]
        for _ in range(self.tries):
            try:
                return read_score(self.endpoint.ask(messages))
            except Unusable as error:
                found = error
        return found


def read_score(text: str) -> Score:
    """The score in what a model says, also where words or a fence of code stand around it.

    Raises:
        Unusable: there is no JSON object, or no number from 1 to 9 in it.
    """
    # Not by a regular expression, which a hostile answer of braces keeps busy for long.
    try:
        answer: Any = json.loads(text[max(0, text.find("{")) : text.rfind("}") + 1])
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Unusable("the model gave no JSON object")
    value, reasoning = answer.get("score"), answer.get("reasoning", "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable("the model gave no number as the score")
    # NaN, which Python's JSON knows, is not between them either.
    if not LEAST <= value <= MOST:
        raise Unusable(f"the model gave the score {str(value)[:20]}, which is not of 1 to 9")
    return Score(float(value), _plain(reasoning))


def _plain(reasoning: Any) -> str:
    """One line that any terminal shows and any file holds."""
    text = reasoning if isinstance(reasoning, str) else ""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:MAX_REASONING]
