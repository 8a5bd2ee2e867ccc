"""Scores to levels, thresholds for a mean of codes, and the columns beside shards."""

import numpy as np
import pytest

from babeldraw.data.complexity import (
    LevelThresholds,
    StoredComplexity,
    check_thresholds,
    file_of,
    level_of,
    levels_of,
    mean_codes,
    thresholds_for,
    write_complexity,
)
from babeldraw.errors import UserError

CODES = (64, 16, 4)


def test_more_complex_is_an_earlier_level_and_no_score_loses_nothing():
    scores = np.array([1.0, 2.9, 3.0, 5.9, 6.0, 9.0, np.nan])
    expected = [2, 2, 1, 1, 0, 0, 0]
    assert [level_of(score, (3, 6)) for score in scores] == expected
    found = levels_of(scores, (3, 6))
    assert found.dtype == np.int32 and found.tolist() == expected
    assert levels_of(scores, ()).tolist() == [0] * 7
    assert LevelThresholds(("8", "16", "32"), (3, 6)).name_of(4) == "16"


@pytest.mark.parametrize("target", [4, 5, 10, 16, 30, 63, 64])
def test_thresholds_meet_the_mean_of_codes(target):
    scores = np.random.default_rng(0).normal(size=5000)
    thresholds = thresholds_for(scores, CODES, target)
    check_thresholds(thresholds, 3)
    # One picture more or less of a level.
    assert abs(mean_codes(scores, thresholds, CODES) - target) <= 2 * 60 / 5000


def test_shares_are_those_of_the_highest_entropy():
    scores = np.arange(100_000.0)
    share = np.bincount(levels_of(scores, thresholds_for(scores, CODES, 16)), minlength=3) / 1e5
    # p ~ exp(b c): log ratios are as differences of codes.
    slopes = np.diff(np.log(share)) / np.diff(CODES)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-2)
    assert share @ CODES == pytest.approx(16, abs=1e-2)


def test_scores_that_are_alike_are_met_as_near_as_can_be():
    scores = np.repeat([2.0, 5.0, 8.0, np.nan], [50, 30, 20, 7])
    thresholds = thresholds_for(scores, CODES, 19.6)
    known = scores[np.isfinite(scores)]
    # 20 of 64 codes, 30 of 16, 50 of 4.
    assert mean_codes(known, thresholds, CODES) == pytest.approx(19.6)
    assert thresholds == (5.0, 8.0)
    assert mean_codes(np.ones(9), thresholds_for(np.ones(9), CODES, 15), CODES) == 16


@pytest.mark.parametrize(
    ("scores", "target", "line"),
    [([1.0, 2.0], 65, "4 to 64"), ([1.0], 3, "4 to 64"), ([np.nan], 16, "no picture has a score")],
)
def test_a_mean_out_of_reach_is_told(scores, target, line):
    with pytest.raises(UserError, match=line):
        thresholds_for(np.array(scores), CODES, target)


@pytest.mark.parametrize("thresholds", [(), (1,), (2, 1), (1, np.nan), (1, 2, 3)])
def test_thresholds_that_do_not_fit_are_told(thresholds):
    with pytest.raises(UserError, match="2 ascending numbers are needed between 3 levels"):
        check_thresholds(thresholds, 3)


def test_columns_come_back(tmp_path):
    counts = {"shard-0.array_record": 3, "shard-1.array_record": 2}
    scores = np.array([1, np.nan, 5, 7, 9], np.float32)
    write_complexity(
        tmp_path, counts, scores, "jpeg:75", LevelThresholds(("8", "16", "32"), (3.0, 6.0))
    )
    found = StoredComplexity(tmp_path, counts)
    np.testing.assert_array_equal(found.scores, scores)
    assert found.numbers.tolist() == [2, 0, 1, 0, 0] and found.scorer == "jpeg:75"
    write_complexity(tmp_path, counts, scores, "jpeg:75", LevelThresholds())
    assert StoredComplexity(tmp_path, counts).numbers is None
    (tmp_path / file_of("shard-1.array_record")).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"complexity-shard-1\.npy is missing or damaged"):
        StoredComplexity(tmp_path, counts)
    with pytest.raises(UserError, match="is missing or damaged"):
        StoredComplexity(tmp_path, {"shard-0.array_record": 4})
    with pytest.raises(UserError, match="holds no readable complexity.json"):
        StoredComplexity(tmp_path / "nowhere", counts)
