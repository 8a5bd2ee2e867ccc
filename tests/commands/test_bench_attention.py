"""The bench of attention: a row for each way, and wrong sizes in one line."""

import json

import pytest


def test_both_ways_are_measured(cli, tmp_path):
    out = tmp_path / "attention.json"
    words = ["--grid=12,15", "--window=5,3", "--heads=1", "--head_dim=4", f"--json={out}"]
    status, printed, _ = cli("bench", "attention", *words)
    assert status == 0
    rows = json.loads(out.read_text())["attention"]
    assert list(rows) == ["window", "window, with gradients", "dense", "dense, with gradients"]
    assert all(row["seconds"] > 0 and f"| {name} |" in printed for name, row in rows.items())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--window=9,4"], "the window is 9 x 4; odd numbers"),
        (["--grid=60"], "--grid is 60; rows and columns"),
        (["--heads=0"], "--heads is 0; at least 1"),
    ],
)
def test_a_wrong_size_is_one_line(cli, words, line):
    status, _, told = cli("bench", "attention", *words)
    assert status == 2 and line in told
