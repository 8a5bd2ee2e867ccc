"""The bench of drawing: what a step is by the way of predicting, and what it is not asked."""

import json

import pytest

from babeldraw.commands import bench_decode


@pytest.fixture
def bench(cli, monkeypatch):
    monkeypatch.setattr(bench_decode, "PROBE_BYTES", 2**20)
    return lambda *words: cli("bench", "decode", *words)


def test_a_mistake_is_named(bench):
    status, _, said = bench("--config=configs/demo/tokenizer.py:runlocal")
    assert status == 2 and "one of image_tokenizer; name one of generator" in said
    status, _, said = bench("--config=configs/demo/maskgit.py:runlocal", "--batches=1,none")
    assert status == 2 and "--batches holds 'none'" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "steps", "cached"), [("text_to_image", 16, True), ("maskgit", 2, False)]
)
def test_a_row_for_each_batch(bench, tmp_path, config, steps, cached):
    out = tmp_path / "decode.json"
    words = ["--batches=1,3", "--guidance", f"--json={out}"]
    status, printed, _ = bench(f"--config=configs/demo/{config}.py:runlocal", *words)
    assert status == 0
    found = json.loads(out.read_text())["decode"]
    assert [one["batch"] for one in found] == [1, 3]
    assert all((one["steps"], one["tokens"]) == (steps, 16) for one in found)
    # Weights of so many steps cannot be read in no time; every row is there to read.
    assert all(one["seconds"] > 0 and one["floor"] > 0 for one in found)
    assert all((one["uncached"] is not None) == cached for one in found)
    rows = [line for line in printed.splitlines() if line.startswith(("| 1 |", "| 3 |"))]
    assert len(rows) == 2 and all(("times" in row) == cached for row in rows)
