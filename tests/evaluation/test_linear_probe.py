"""The linear probe: finds what is linear, each block for itself, best block and curve."""

import dataclasses

import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.evaluation.linear_probe import LinearProbe, LinearProbeConfig, draw_curve, probe

CONFIG = LinearProbeConfig(epochs=20, batch_size=32, learning_rate=0.05)


def examples(count, seed):
    """Three features of six classes: the class itself, half of it, and noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 6, count).astype(np.int32)
    known, halved = np.eye(8)[label], np.eye(8)[label // 2]
    features = np.stack([known, halved, np.zeros((count, 8))], axis=1)
    return (features + rng.normal(0, 0.05, features.shape)).astype(np.float32), label


@pytest.fixture(scope="module")
def scores():
    return probe(*examples(600, 0), *examples(300, 1), 6, CONFIG)


def test_a_probe_finds_what_is_linear_and_no_more(scores):
    top1, top5 = scores["top1"], scores["top5"]
    assert top1[0] == 1.0
    # Of two classes that look alike one is right; of six, one.
    assert 0.4 < top1[1] < 0.6 and top1[2] < 0.3
    assert top5[1] == 1.0 and 0.7 < top5[2] < 0.95


def test_each_block_is_trained_as_if_it_were_alone(scores):
    (train, label), (test, test_label) = examples(600, 0), examples(300, 1)
    alone = probe(train[:, 1:2], label, test[:, 1:2], test_label, 6, CONFIG)
    np.testing.assert_allclose(alone["top1"][0], scores["top1"][1], atol=1e-5)


def test_scale_and_offset_of_a_feature_do_not_matter(scores):
    (train, label), (test, test_label) = examples(600, 0), examples(300, 1)
    moved = probe(100 * train + 7, label, 100 * test + 7, test_label, 6, CONFIG)
    np.testing.assert_allclose(moved["top1"], scores["top1"], atol=0.02)


def test_sgd_finds_it_too_and_five_classes_have_no_top_5():
    config = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=0.1)
    (train, label), (test, test_label) = examples(600, 0), examples(300, 1)
    found = probe(train[:, :1], label // 2, test[:, :1], test_label // 2, 3, config)
    assert found.keys() == {"top1"} and found["top1"][0] == 1.0


def test_the_curve_is_a_picture():
    picture = draw_curve((0, 1), {"top1": np.array([0.5, 0.9])}, {"top1": np.array([0.7])})
    assert picture.dtype == np.uint8 and picture.shape == (400, 600, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "linear_probe.epochs is 0; at least 1"),
        ({"optimizer": "lbfgs"}, "linear_probe.optimizer is 'lbfgs'; the choices are adamw, sgd"),
        ({"learning_rate": 0.0}, "linear_probe.learning_rate is 0.0; above 0"),
    ],
)
def test_a_setting_that_is_none_is_named(changes, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(CONFIG, **changes)


def test_a_block_that_is_not_there_is_named():
    config = dataclasses.replace(CONFIG, blocks=(0, 7))
    with pytest.raises(UserError, match="blocks holds 7; the blocks are 1 to 6"):
        LinearProbe(lambda state, batch: None, config, None, 6)
