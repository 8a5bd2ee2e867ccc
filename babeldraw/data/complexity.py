"""How complex pictures are said to be, and the level of a tokenizer that each goes into.

Levels are counted as a tokenizer lists them, the one of most codes first: of a nested VAE of 8, 16
and 32 pixels to a code, level 0 is 8 pixels. A picture without a score goes into level 0: nothing
of it is lost.

Beside the shards of `babeldraw prepare` lie `complexity-SHARD.npy`, float32 [n], NaN where there is
no score, and `complexity.json`, which names the scorer, the levels and the thresholds. Files are
written whole or not at all, `complexity.json` last.
"""

import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from babeldraw.data.image import write_whole
from babeldraw.errors import UserError

MANIFEST = "complexity.json"
# A list of this name is what `babeldraw score` writes into a folder of pictures.
LIST = "complexity.jsonl"
# Steps of a bisection: beyond, float64 knows no smaller ones.
BISECTIONS = 60
# Of the exponent of the shares of levels: at either end nearly all pictures are of one level.
STEEPEST = 200.0


def level_of(score: float, thresholds: Sequence[float]) -> int:
    """The level of a score, 0 for the most complex; of NaN, no score, 0 too.

    Args:
        score: how complex, in the unit of the thresholds.
        thresholds: ascending, one fewer than there are levels. A score that is at least the last
            one is of level 0, one below the first of the last level.

    >>> [level_of(score, (3, 6)) for score in (1, 3, 5.9, 6, 9)]
    [2, 1, 1, 0, 0]
    """
    return sum(score < threshold for threshold in thresholds)


def levels_of(scores_N: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """`level_of` of each score, int32 [N]."""
    below_NK = np.asarray(scores_N)[:, None] < np.asarray(thresholds, np.float64)[None, :]
    return below_NK.sum(axis=1).astype(np.int32)


def check_thresholds(thresholds: Sequence[float], levels: int, where: str = "thresholds") -> None:
    """Raises `UserError` unless they are finite, ascending, and one fewer than the levels."""
    given = list(thresholds)
    if len(given) != levels - 1 or not all(map(math.isfinite, given)) or given != sorted(given):
        raise UserError(
            f"{where} is {', '.join(map(str, given)) or 'empty'}; {levels - 1} ascending numbers "
            f"are needed between {levels} levels"
        )


def check_target(target: float, codes: Sequence[int]) -> None:
    """Raises `UserError` where no choice of levels has so many codes on average."""
    if not min(codes) <= target <= max(codes):
        raise UserError(
            f"the mean of {target:g} codes is out of reach: a picture has {min(codes)} to "
            f"{max(codes)}"
        )


def mean_codes(scores_N: np.ndarray, thresholds: Sequence[float], codes: Sequence[int]) -> float:
    """Codes of a picture, the mean over those with these scores."""
    return float(np.asarray(codes, np.float64)[levels_of(scores_N, thresholds)].mean())


def thresholds_for(scores_N: np.ndarray, codes: Sequence[int], target: float) -> tuple[float, ...]:
    """Thresholds by which a picture has so many codes on average, as near as ties allow.

    Of all shares of the levels with that mean those of the highest entropy are taken, p ~ exp(b c)
    for c codes: with three levels many have it, and these assume nothing else. The article does not
    tell its thresholds.

    Args:
        scores_N: of the pictures; NaN, of those without a score, are left aside.
        codes: of a picture at each level, descending.
        target: the mean that is wanted.

    Raises:
        UserError: no score, or a mean that no choice gives.
    """
    score_N = np.sort(np.asarray(scores_N, np.float64))
    score_N = score_N[np.isfinite(score_N)]
    if not len(score_N):
        raise UserError("no picture has a score, so there is nothing to choose thresholds by")
    check_target(target, codes)
    low, high = -STEEPEST, STEEPEST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = mean_codes(score_N, _quantiles(score_N, codes, middle), codes) > target
        low, high = (low, middle) if over else (middle, high)
    # The mean jumps where scores are alike: the nearer side of the jump.
    return min(
        (_quantiles(score_N, codes, end) for end in (low, high)),
        key=lambda thresholds: abs(mean_codes(score_N, thresholds, codes) - target),
    )


def _quantiles(score_N: np.ndarray, codes: Sequence[int], exponent: float) -> tuple[float, ...]:
    """Thresholds of sorted scores that give each level its share, p ~ exp(b c)."""
    code_K = np.asarray(codes, np.float64)
    power_K = exponent * (code_K - code_K.min()) / (code_K.max() - code_K.min())
    share_K = np.exp(power_K - power_K.max())
    below = np.cumsum((share_K / share_K.sum())[::-1])[:-1]
    last = np.nextafter(score_N[-1], np.inf)
    places = np.round(below * len(score_N)).astype(int)
    return tuple(float(score_N[i]) if i < len(score_N) else float(last) for i in places)


@dataclass(frozen=True)
class LevelThresholds:
    """Which scores go into which level.

    Attributes:
        names: of the levels, as the tokenizer has them; () where only scores are known.
        thresholds: see `level_of`.
    """

    names: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()

    def name_of(self, score: float) -> str:
        """The level's name, such as '16'."""
        return self.names[level_of(score, self.thresholds)]


class StoredComplexity:
    """The scores beside the shards of a folder.

    Args:
        folder: of the shards.
        counts: of the records of each shard, by its file's name, in order.

    Attributes:
        scorer: identity of what scored them.
        levels: what the scores lead to.
        scores: float32 [N], NaN where there is none.

    Raises:
        UserError: there are none, or not of every record.
    """

    def __init__(self, folder: Path, counts: Mapping[str, int]):
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            self.scorer = str(manifest["scorer"])
            names, thresholds = map(tuple, (manifest["levels"], manifest["thresholds"]))
            self.levels = LevelThresholds(names, thresholds)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} holds no readable {MANIFEST}; make it with `babeldraw score`"
            ) from error
        parts = [self._part(folder / file_of(shard), count) for shard, count in counts.items()]
        self.scores = np.concatenate([np.zeros(0, np.float32), *parts])

    @property
    def numbers(self) -> np.ndarray | None:
        """int32 [N], the level of each record, counted from 0; None: only scores are known."""
        return levels_of(self.scores, self.levels.thresholds) if self.levels.names else None

    @staticmethod
    def _part(file: Path, count: int) -> np.ndarray:
        try:
            found = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _damaged(file) from error
        if found.shape != (count,) or found.dtype != np.float32:
            raise _damaged(file)
        return found


def _damaged(file: Path) -> UserError:
    return UserError(f"{file} is missing or damaged; run the same `babeldraw score` once more")


def file_of(shard: str) -> str:
    """The file of scores beside a shard."""
    return f"complexity-{Path(shard).stem}.npy"


def write_complexity(
    folder: Path,
    counts: Mapping[str, int],
    scores_N: np.ndarray,
    scorer: str,
    levels: LevelThresholds,
) -> None:
    """Writes the columns beside shards; see `StoredComplexity`."""
    ends = [0, *itertools.accumulate(counts.values())]
    for shard, (start, end) in zip(counts, itertools.pairwise(ends), strict=True):
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(scores_N[start:end], np.float32), allow_pickle=False)
        write_whole(folder / file_of(shard), buffer.getvalue())
    said = {"scorer": scorer, "levels": levels.names, "thresholds": levels.thresholds}
    write_whole(folder / MANIFEST, (json.dumps(said, indent=2) + "\n").encode())
