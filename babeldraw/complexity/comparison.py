"""How well scores tell the error that a tokenizer really makes, and what choosing by them gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from babeldraw.data.complexity import levels_of, mean_codes, thresholds_for
from babeldraw.evaluation.intervals import Figure, mean_figure, statistic_figure


def spearman(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Spearman's rank correlation, in [-1, 1]; of ties the mean rank; 0 where one is constant."""
    ranks = [rankdata(values) for values in (first_N, second_N)]
    first, second = (rank - rank.mean() for rank in ranks)
    spread = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / spread) if spread > 0 else 0.0


def spearman_figure(score_N: np.ndarray, error_N: np.ndarray) -> Figure:
    """The same with an interval of 95 %: pictures drawn again."""
    return statistic_figure(lambda i: spearman(score_N[i], error_N[i]), len(score_N))


@dataclass(frozen=True)
class Comparison:
    """One scorer's figures over N pictures, those that every scorer has scored.

    Attributes:
        scorer: its identity.
        correlations: with the mean of log error, and with the error of each level, in order.
        thresholds: by which pictures have as many codes on average as was asked.
        codes: the mean that they give.
        level_N: int32, of each picture by them.
        error: the mean error of pictures at their own level.
    """

    scorer: str
    correlations: tuple[Figure, ...]
    thresholds: tuple[float, ...]
    codes: float
    level_N: np.ndarray
    error: Figure


def compare(
    scorer: str,
    score_N: np.ndarray,
    error_NK: np.ndarray,
    log_error_N: np.ndarray,
    codes: Sequence[int],
    target: float,
) -> Comparison:
    """What a scorer's choice of levels gives.

    Args:
        scorer: its identity.
        score_N: finite.
        error_NK: of each picture at each level.
        log_error_N: the mean over levels of its logarithm.
        codes: of a picture at each level, descending.
        target: codes on average.
    """
    thresholds = thresholds_for(score_N, codes, target)
    level_N = levels_of(score_N, thresholds)
    errors = [log_error_N, *error_NK.T]
    return Comparison(
        scorer,
        tuple(spearman_figure(score_N, error_N) for error_N in errors),
        thresholds,
        mean_codes(score_N, thresholds, codes),
        level_N,
        mean_figure(error_NK[np.arange(len(score_N)), level_N]),
    )
