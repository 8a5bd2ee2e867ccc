"""The regressor of captions: its arithmetic stated again, its run folder, and what it tells."""

import numpy as np
import pytest

from babeldraw.complexity.regressor import (
    PENALTIES,
    RegressorConfig,
    RegressorRun,
    on_scale,
    ridge,
    train_regressor,
)
from babeldraw.data.records import NO_PICTURE, Record
from babeldraw.errors import UserError

WORDS = {"plain": 0.0, "ring": 1.0, "crowd": 3.0, "chart": 2.0, "red": 0.2, "blue": 0.3}


def examples(count):
    rng, captions = np.random.default_rng(0), []
    for _ in range(count):
        chosen = rng.choice([*WORDS], 3, replace=False)
        captions.append(" ".join(chosen))
    target = [sum(WORDS[word] for word in caption.split()) for caption in captions]
    return captions, np.array(target)


def fit(x, y, penalty):
    """The normal equations, with a bias of no penalty."""
    whole = np.c_[x, np.ones(len(x))]
    weights = np.diag([penalty] * x.shape[1] + [0.0])
    return np.linalg.solve(whole.T @ whole + weights, whole.T @ y)


@pytest.mark.parametrize("most", [1, 4], ids=["once each", "some of them often"])
def test_ridge_is_that_of_the_normal_equations_and_leaves_one_out(most):
    rng = np.random.default_rng(1)
    x = (rng.random((30, 8)) < 0.4).astype(np.float32)
    y = x @ rng.normal(size=8) + rng.normal(size=30)
    count = rng.integers(1, most + 1, 30)
    which = np.repeat(np.arange(30), count)
    errors = []
    for penalty in PENALTIES:
        left = []
        for out in range(30):
            rest = which[which != out]
            found = fit(x[rest].astype(float), y[rest], penalty)
            left.append(y[out] - x[out] @ found[:-1] - found[-1])
        errors.append(np.average(np.square(left), weights=count))
    best = PENALTIES[int(np.argmin(errors))]
    expected = fit(x[which].astype(float), y[which], best)
    weight, bias, share = ridge(x, y, count)
    np.testing.assert_allclose([*weight, bias], expected, atol=1e-9)
    assert share == pytest.approx(1 - min(errors) / y[which].var())


def test_a_scale_has_each_ninth_as_often():
    ends = np.quantile(np.random.default_rng(0).normal(size=9000), np.linspace(0, 1, 257))
    assert on_scale(-99.0, ends) == 1 and on_scale(99.0, ends) == 9
    assert on_scale(float(ends[128]), ends) == pytest.approx(5)


def test_a_run_is_opened_again_and_orders_captions(tmp_path):
    captions, target = examples(200)
    config = RegressorConfig(vocabulary_size=200)
    share = train_regressor(captions, target, config, str(tmp_path / "run"), "words")
    assert share > 0.95
    run = RegressorRun.open(str(tmp_path / "run"))
    said = ["plain red blue", "plain ring red", "red chart crowd", "熊猫", ""]
    *found, foreign, none = run.score([Record(NO_PICTURE, caption) for caption in said])
    values = [score.value for score in found]
    assert values == sorted(values) and 1 <= values[0] < values[2] <= 9
    assert not none.there and not foreign.there
    assert run.identity == RegressorRun.open(str(tmp_path / "run")).identity
    with pytest.raises(UserError, match="is not empty"):
        train_regressor(captions, target, config, str(tmp_path / "run"), "words")


def test_too_few_captions_are_told(tmp_path):
    with pytest.raises(UserError, match="3 captions are too few"):
        train_regressor(["a"] * 3, np.zeros(3), RegressorConfig(), str(tmp_path / "run"), "x")


def test_a_caption_of_many_pictures_is_left_out_with_all_of_them(tmp_path):
    # Each caption its own target, which nothing else tells of.
    rng = np.random.default_rng(0)
    captions = [f"{number:03d}" for number in range(40) for _ in range(10)]
    target = np.repeat(rng.normal(size=40), 10)
    share = train_regressor(captions, target, RegressorConfig(60), str(tmp_path / "run"), "x")
    assert share < 0.2
