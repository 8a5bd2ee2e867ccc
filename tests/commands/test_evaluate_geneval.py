"""GenEval: the folders that its detector reads, drawn by each run; a table of its results."""

import json
from pathlib import Path

import numpy as np
import pytest

from babeldraw.commands.evaluate_geneval import NEEDED
from babeldraw.data.image import decode
from tests.evaluation.test_geneval import TASKS, result, written


@pytest.fixture
def tasks(tmp_path):
    own = [
        {**TASKS[0], "prompt": "a small red circle on a white background"},
        {**TASKS[2], "prompt": "two green rings"},
    ]
    return written(tmp_path / "metadata.jsonl", own)


@pytest.mark.slow
def test_each_run_draws_the_folders_of_the_detector_and_goes_on(
    cli, generator_run, tasks, tmp_path
):
    out = tmp_path / "geneval"
    words = ["evaluate", f"--workdir={generator_run}", f"--geneval={tasks}", f"--out={out}"]
    status, _, said = cli(*words, "--num=3")
    assert status == 0 and NEEDED in said, said
    (run,) = (path for path in out.iterdir() if path.is_dir())
    lines = [json.loads(line) for line in Path(tasks).read_text().splitlines()]
    for number, line in enumerate(lines):
        own = run / f"{number:05d}"
        assert sorted(path.name for path in own.iterdir()) == [
            "grid.png",
            "metadata.jsonl",
            "samples",
        ]
        assert json.loads((own / "metadata.jsonl").read_text()) == line
        samples = sorted((own / "samples").iterdir())
        assert [path.name for path in samples] == ["0000.png", "0001.png", "0002.png"]
        grid, first = decode(own / "grid.png"), decode(samples[0])
        assert grid.shape == (2 * first.shape[0], 2 * first.shape[1], 3)
        np.testing.assert_array_equal(grid[: len(first), : len(first)], first)
    page = (out / "tag_counting.html").read_text()
    assert f"{run.name}/00001/grid.png" in page and "two green rings" in page

    # The same pictures as `sample` draws with the same seeds; again, nothing is drawn.
    lines = [json.loads(line) for line in (run / "manifest.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1, 2] * 2
    (run / "00001" / "grid.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/samples/*.png")}
    status, _, said = cli(*words, "--num=3")
    assert status == 0 and "2 of 2 prompts are drawn" in said
    assert before == {path: path.stat().st_mtime_ns for path in run.glob("*/samples/*.png")}
    assert (run / "00001" / "grid.png").exists()

    # What was taken away is drawn again, what is damaged is told.
    lost = run / "00001" / "samples" / "0001.png"
    held, image = lost.read_bytes(), decode(lost)
    lost.unlink()
    status, _, said = cli(*words, "--num=3")
    assert status == 0 and "1 of 2 prompts are drawn" in said
    # Up to a level: products of matrices round by the size of a batch.
    np.testing.assert_allclose(decode(lost).astype(int), image.astype(int), atol=1)
    lost.write_bytes(held[:50])
    for change, line in (
        ("--num=2", "holds pictures with num 3 and now it is 2; name another folder"),
        ("--num=3", "remove it, and the same command draws it again"),
    ):
        status, _, said = cli(*words, change)
        assert status == 2 and line in said.splitlines()[-1], said


def test_results_become_a_record_or_a_table(cli, tmp_path):
    tasks = written(tmp_path / "metadata.jsonl", TASKS)
    results = [result(number, sample) for number in range(4) for sample in (0, 1)]
    first = written(tmp_path / "first.jsonl", results)
    second = written(tmp_path / "second.jsonl", [{**own, "correct": True} for own in results])
    words = ["evaluate", f"--geneval={tasks}"]
    status, printed, said = cli(*words, f"--results={first}")
    assert status == 0, said
    record = json.loads(printed)
    assert record["figures"]["overall"] == {"value": pytest.approx(1.25 / 3), "n": 8}
    assert record["protocol"]["pictures_of_each"] == 2
    out = tmp_path / "table"
    assert cli(*words, f"--results={first},{second}", f"--out={out}")[0] == 0
    rows = (out / "table.md").read_text().splitlines()
    assert rows[0] == f"|  | {first} | {second} |"
    assert rows[2] == "| geneval/single_object | 0.75 [0.5, 1] | 1 [1, 1] |"
    assert rows[5] == "| geneval/overall | 0.4167 | 1 |"
    assert [*json.loads((out / "figures.json").read_text())] == [first, second]


def test_one_line_for_each_mistake(cli, generator_run, vim_run, tasks, tmp_path):
    results, run, out = f"{tmp_path}/none.jsonl", f"--workdir={generator_run}", tmp_path / "a"
    for words, line in (
        ([f"--geneval={tasks}"], "--workdir is missing"),
        ([run, f"--geneval={tasks}"], "--out is missing"),
        ([run, f"--geneval={tasks}", "--num=0"], "--num is 0; at least 1 is needed"),
        ([run, f"--geneval={tasks}", "--evaluators=fd"], "--evaluators does not go with --geneval"),
        ([run, f"--geneval={tasks}", "--set=fd.file=a"], "--set=fd does not go with --geneval"),
        ([run, f"--geneval={tmp_path}/no.jsonl", f"--out={out}"], "no.jsonl cannot be read: "),
        ([f"--workdir={vim_run}", f"--geneval={tasks}", f"--out={out}"], "class"),
        ([f"--results={results}"], "--geneval is missing"),
        ([f"--geneval={tasks}", f"--results={results}"], "none.jsonl cannot be read: "),
        ([f"--geneval={tasks}", f"--results={results}", run], "--workdir does not go with --resul"),
        ([f"--geneval={tasks}", f"--results={results},b"], "--out is missing"),
        ([run, "--num=3"], "--num goes with --geneval alone"),
        ([run, "--prompts=a.tsv", f"--geneval={tasks}"], "--geneval does not go with --prompts"),
    ):
        status, _, said = cli("evaluate", *words)
        assert status == 2 and line in said.splitlines()[-1], (words, said)
