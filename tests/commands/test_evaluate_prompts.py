"""Pages of a table of prompts, by category and challenge, the pictures of several runs in a row."""

import shutil

import pytest

from babeldraw.commands.evaluate_prompts import pages_of, run_names, write_pages
from babeldraw.data.image import decode
from babeldraw.drawing.prompts import Prompt, read_prompts

TABLE = """Prompt\tCategory\tChallenge\tNote
a small red circle on a white background\tAbstract\tBasic\tsimple
two green rings <b>\tAnimals\tQuantity\t
a blue square\tAbstract\tQuantity\t
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "prompts.tsv").write_text(TABLE)
    return str(tmp_path / "prompts.tsv")


def test_prompts_are_grouped_by_category_and_challenge(table):
    found = {(page.column, page.value): [*page.prompts] for page in pages_of(read_prompts(table))}
    assert found == {
        ("Category", "Abstract"): [0, 2],
        ("Category", "Animals"): [1],
        ("Challenge", "Basic"): [0],
        ("Challenge", "Quantity"): [1, 2],
    }
    (page,) = pages_of([Prompt("a"), Prompt("b")])
    assert (page.value, [*page.prompts]) == ("all", [0, 1])


def test_runs_of_the_same_name_have_folders_of_their_own():
    assert run_names(["runs/a", "other/a/", "runs/B b"]) == ["a", "a_2", "b-b"]


def test_pages_show_the_pictures_of_each_run_in_a_row(table, tmp_path):
    lines = {
        "a": [{"number": 0, "file": "0_a b.png"}, {"number": 1, "file": "1.png"}],
        "c": [{"number": 0, "file": "0_c.png"}],
    }
    write_pages(tmp_path, read_prompts(table), lines)
    page = (tmp_path / "category_abstract.html").read_text()
    assert page.index('src="a/0_a%20b.png"') < page.index('src="c/0_c.png"')
    assert "simple" in page and "Challenge: Basic" in page and "1.png" not in page
    quantity = (tmp_path / "challenge_quantity.html").read_text()
    assert "two green rings &lt;b&gt;" in quantity and quantity.count("<img") == 1
    index = (tmp_path / "index.html").read_text()
    assert "3 prompts, 2 runs: a, c" in index and index.count(".html") == 4


@pytest.mark.slow
def test_each_run_draws_all_and_goes_on(cli, generator_run, table, tmp_path):
    shutil.copytree(generator_run, tmp_path / "other")
    out = tmp_path / "parti"
    words = [f"--workdir={generator_run},{tmp_path}/other", f"--prompts={table}", f"--out={out}"]
    status, _, said = cli("evaluate", *words)
    assert status == 0, said
    first, second = (out / name for name in run_names([str(generator_run), "other"]))
    pictures = sorted(path.name for path in first.glob("0*.png"))
    assert len(pictures) == 3 and pictures == sorted(path.name for path in second.glob("0*.png"))
    for name in pictures:
        assert (decode(first / name) == decode(second / name)).all()
        assert f"{first.name}/{name}" in "".join(p.read_text() for p in out.glob("*.html"))
    # Again, nothing is drawn.
    before = {path: path.stat().st_mtime_ns for path in first.glob("0*.png")}
    status, _, said = cli("evaluate", f"--workdir={generator_run}", *words[1:])
    assert status == 0 and "3 of 3 prompts are drawn" in said
    assert before == {path: path.stat().st_mtime_ns for path in first.glob("0*.png")}


def test_one_line_for_each_mistake(cli, vim_run, generator_run, tokenizer_run, table, tmp_path):
    words = ["evaluate", f"--prompts={table}"]
    for more, line in (
        ([f"--workdir={generator_run}"], "--out is missing"),
        ([f"--workdir={vim_run}", f"--out={tmp_path}/a"], "class"),
        (
            [f"--workdir={generator_run}", "--evaluators=fd", f"--out={tmp_path}/a"],
            "--evaluators d",
        ),
        (
            [f"--workdir={generator_run}", f"--out={tmp_path}/a", "--set=sampling.colour=3"],
            "sampling.colour is no setting; those are",
        ),
    ):
        status, _, said = cli(*words, *more)
        assert status == 2 and line in said.splitlines()[-1], said
    # Of the last run too before the first one draws.
    runs, out = f"--workdir={generator_run},{tokenizer_run}", tmp_path / "kinds"
    status, _, said = cli(*words, runs, f"--out={out}")
    assert status == 2 and "is a run of image_tokenizer; name one of generator" in said
    assert not [*out.iterdir()]
