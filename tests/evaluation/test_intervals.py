"""Intervals hold what they promise: how far another draw of pictures moves a figure."""

import numpy as np
import pytest

from babeldraw.evaluation import distances
from babeldraw.evaluation.distances import Gaussian
from babeldraw.evaluation.intervals import Figure, frechet_figure, kernel_figure, mean_figure
from babeldraw.evaluation.measures import psnr_db
from babeldraw.evaluation.moments import Moments

RNG = np.random.default_rng(0)


def test_of_a_mean_it_is_the_normal_one():
    values = RNG.gamma(2.0, 1.0, 2000)
    found, error = mean_figure(values), values.std() / np.sqrt(2000)
    assert found == pytest.approx(values.mean()) and found.num == 2000
    assert found.interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert found.interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    assert found.interval.resamples == 1000


def test_a_function_of_the_mean_keeps_its_ends_in_order():
    found = mean_figure(RNG.uniform(0.001, 0.002, 500), psnr_db)
    assert found.interval.low < found < found.interval.high


def test_of_a_frechet_distance_it_covers_what_other_draws_give():
    def draws(seed):
        return np.random.default_rng([1, seed]).normal(0.3, 1.2, (400, 6))

    true = Gaussian(np.zeros(6), np.eye(6))
    others = [
        distances.frechet_distance(Gaussian.of(Moments.of(draws(i))), true) for i in range(200)
    ]
    found = [frechet_figure(draws(i), true).interval for i in range(20)]
    width, spread = (
        np.mean([i.high - i.low for i in found]),
        np.ptp(np.quantile(others, [0.025, 0.975])),
    )
    assert width == pytest.approx(spread, rel=0.25)
    covered = np.mean([i.low <= np.mean(others) <= i.high for i in found])
    assert covered >= 0.8


def test_pairs_are_drawn_together():
    true = RNG.normal(0, 1, (300, 4))
    near = true + RNG.normal(0, 0.05, true.shape)
    paired, apart = (frechet_figure(near, true, paired=p).interval for p in (True, False))
    # What another draw of originals moves, their reconstructions move with them.
    assert paired.high - paired.low < 0.2 * (apart.high - apart.low)


def test_of_a_kernel_distance_it_is_of_blocks():
    first, second = RNG.normal(0, 1, (400, 6)), RNG.normal(0.5, 1, (400, 6))
    found = kernel_figure(first, second)
    assert found.interval.low < found < found.interval.high and found.interval.resamples == 0
    assert found.interval.low > 0
    assert kernel_figure(first[:19], second[:19]).interval is None


def test_a_figure_is_a_number():
    import json

    assert json.dumps({"x": Figure(0.5)}) == '{"x": 0.5}' and Figure(0.5) + 1 == 1.5
