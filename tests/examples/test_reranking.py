"""docs/examples/reranking.py: what is counted, and its table, on scores that are constructed."""

import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.image import decode

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("reranking")


def test_a_scorer_that_knows_gains_all_and_one_that_guesses_nothing(script):
    exact = RNG.random((400, script.NUM)) < 0.3
    knows = script.figures(exact, exact.astype(np.float32))
    assert knows["best_of_16"] == knows["any"] == np.mean(exact.any(axis=1))
    assert knows["single"] < knows["best_of_2"] < knows["best_of_4"] < knows["best_of_16"]
    assert knows["gain_low"] < knows["gain"] < knows["gain_high"]
    assert knows["gain"] == pytest.approx(knows["best_of_16"] - knows["single"])
    guesses = script.figures(exact, RNG.random(exact.shape))
    assert guesses["gain_low"] < 0 < guesses["gain_high"]
    errs = script.figures(exact, -exact.astype(np.float32))
    assert errs["gain_high"] < 0


def test_the_interval_is_that_of_a_mean(script):
    values = (RNG.random(900) < 0.4).astype(float)
    low, high = script.bootstrap(values)
    half = 1.96 * values.std() / 30
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)


def test_true_pictures_are_exact_and_others_are_not(script):
    prompts = [
        "a small red circle on a white background",
        "a large blue ring on a black background",
    ]
    scenes = [shapes.parse_caption(prompt) for prompt in prompts]
    right, wrong = (shapes.render(scene, 64, RNG) for scene in scenes)
    images = np.stack([np.stack([right, wrong]), np.stack([right, wrong])])
    np.testing.assert_array_equal(script.judge(images, prompts), [[True, False], [False, True]])


def test_table_and_picture(script, tmp_path):
    exact = np.zeros((4, script.NUM), bool)
    exact[:, 3] = True
    found = script.figures(exact, exact.astype(np.float32))
    heads, _, row = script.table({"seen": found}).splitlines()
    assert heads.split(" | ")[1:3] == ["single", "best of 2"]
    cells = row.split(" | ")
    assert cells[0] == "| 4 seen" and cells[1:6] == ["6.2%", "0.0%", "100.0%", "100.0%", "100.0%"]
    assert cells[-1].startswith("+93.8 points [+93.8, +93.8]")
    assert script.most_mixed(np.array([[1, 1], [1, 0], [0, 0]], bool)) == 1
    images = RNG.integers(0, 256, (script.NUM, 32, 32, 3), dtype=np.uint8)
    shown = {"seen": ("a prompt", images, exact[0], RNG.random(script.NUM))}
    script.draw_examples(shown, tmp_path / "out.png")
    assert decode(tmp_path / "out.png").ndim == 3
