"""Bootstrap intervals of means and distances: how far another draw of pictures would move them.

Efron, "Bootstrap Methods", 1979. Pictures are drawn again from those there are, with repetition;
what a network's training would move is no part of it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import stdtrit

from babeldraw.evaluation import distances
from babeldraw.evaluation.distances import Gaussian
from babeldraw.evaluation.moments import Moments

# Of 95 %.
TAILS = (0.025, 0.975)
# Of a mean, which costs little, and of a Fréchet distance, each a decomposition of D x D.
RESAMPLES_OF_MEAN = 1000
RESAMPLES_OF_DISTANCE = 100


@dataclasses.dataclass(frozen=True)
class Interval:
    """Attributes:
    low, high: of 95 %.
    resamples: how often the pictures were drawn again; 0: the interval is of blocks.
    """

    low: float
    high: float
    resamples: int


class Figure(float):
    """A figure that knows how sure it is, and otherwise is a number like others.

    Attributes:
      interval: of 95 %; None where there is none.
      num: pictures that it is of; 0: not said.
    """

    interval: Interval | None
    num: int

    def __new__(cls, value: float, interval: Interval | None = None, num: int = 0) -> "Figure":
        figure = super().__new__(cls, value)
        figure.interval, figure.num = interval, num
        return figure


def mean_figure(
    value_N: Sequence[float] | np.ndarray,
    of_mean: Callable[[float], float] = float,
    resamples: int = RESAMPLES_OF_MEAN,
    seed: int = 0,
) -> Figure:
    """The mean over pictures with its percentile interval.

    Args:
      value_N: one number for each picture.
      of_mean: what the figure is of the mean, monotonic, such as PSNR of a squared error.
    """
    value_N = np.asarray(value_N, np.float64)
    rng, num = np.random.default_rng(seed), len(value_N)
    means = [value_N[rng.integers(0, num, num)].mean() for _ in range(resamples)]
    low, high = sorted(of_mean(float(end)) for end in np.quantile(means, TAILS))
    return Figure(of_mean(float(value_N.mean())), Interval(low, high, resamples), num)


def statistic_figure(
    statistic: Callable[[np.ndarray], float], num: int, resamples: int = RESAMPLES_OF_MEAN
) -> Figure:
    """A figure of examples that is no mean of theirs, with its percentile interval.

    Args:
      statistic: of the examples of these indices, int [N].
      num: how many there are.
    """
    rng = np.random.default_rng(0)
    found = [statistic(rng.integers(0, num, num)) for _ in range(resamples)]
    low, high = map(float, np.quantile(found, TAILS))
    return Figure(statistic(np.arange(num)), Interval(low, high, resamples), num)


def frechet_figure(
    first_ND: np.ndarray,
    second: np.ndarray | Gaussian,
    paired: bool = False,
    resamples: int = RESAMPLES_OF_DISTANCE,
    seed: int = 0,
) -> Figure:
    """The Fréchet distance of the first set from the second, with its interval.

    Resampled pictures repeat, which raises every distance: the spread of the resamples is taken
    about their own mean and laid about the value. Ends below 0 are 0.

    Args:
      first_ND: features of the pictures to judge.
      second: features of the true pictures, or what is known of them; it stays as it is, for it is
        the same in every comparison, unless paired.
      paired: picture n of one set belongs to picture n of the other, as a reconstruction to its
        original: both are then drawn together.
    """
    rng, num = np.random.default_rng(seed), len(first_ND)
    fixed = second if isinstance(second, Gaussian) else Gaussian.of(Moments.of(second))
    root_DD = distances.square_root(fixed.covariance_DD)
    value = distances.frechet_given_root(Gaussian.of(Moments.of(first_ND)), fixed, root_DD)
    found = []
    for _ in range(resamples):
        times_N = np.bincount(rng.integers(0, num, num), minlength=num)
        drawn = Gaussian.of(Moments.of(first_ND, times_N))
        if paired:
            found.append(
                distances.frechet_distance(drawn, Gaussian.of(Moments.of(second, times_N)))
            )
        else:
            found.append(distances.frechet_given_root(drawn, fixed, root_DD))
    ends = value + np.quantile(found, TAILS) - np.mean(found)
    low, high = (max(0.0, float(end)) for end in ends)
    return Figure(value, Interval(low, high, resamples), num)


def kernel_figure(first_ND: np.ndarray, second_MD: np.ndarray, seed: int = 0) -> Figure:
    """KID over subsets; its interval is of the spread of disjoint blocks, ten at least.

    Pictures are not drawn again: one that repeats would be alike to itself, which the estimate has
    no bias to leave out. Fewer than 20 pictures have no interval.
    """
    value, _ = distances.kernel_distance(first_ND, second_MD, seed=seed)
    num = min(len(first_ND), len(second_MD))
    block = min(1000, num // 10)
    if block < 2:
        return Figure(value, None, num)
    _, error = distances.kernel_distance_of_blocks(first_ND, second_MD, block, seed)
    # The error is of few blocks: Student's factor, 2.26 of ten.
    half = float(stdtrit(num // block - 1, TAILS[1])) * error
    return Figure(value, Interval(value - half, value + half, 0), num)
