"""`babeldraw score` and its parts: columns, what is gone on with, the report, and mistakes."""

import json

import numpy as np
import pytest

from babeldraw.complexity.comparison import spearman
from babeldraw.complexity.scoring import class_scores
from babeldraw.data.complexity import LIST
from babeldraw.data.folder import FolderSource
from babeldraw.data.image import save_png
from tests.complexity.test_language_model import GOOD, Server


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures, noisier from one to the next; the last one has no caption."""
    rng = np.random.default_rng(0)
    for number in range(12):
        image = 128 + number * rng.normal(size=(32, 32, 3))
        save_png(tmp_path / "data" / f"{number:02d}.png", image.clip(0, 255).astype(np.uint8))
        if number < 11:
            (tmp_path / "data" / f"{number:02d}.txt").write_text(f"picture {number}")
    return tmp_path


def errors_of(folder):
    data = FolderSource(folder / "data", "all", require_captions=False).name
    head = {"tokenizer": "t", "data": data, "measure": "mse", "codes": {"8": 16, "16": 4, "32": 1}}
    rows = [
        {
            "record": i,
            "caption": f"picture {i}" if i < 11 else "",
            "errors": {"8": 0.1 * (i + 1), "16": 0.2 * (i + 1), "32": 0.4 * (i + 1)},
        }
        for i in range(12)
    ]
    file = folder / "errors.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [head, *rows]))
    return file


def words(folder, **more):
    given = {"scorer": "jpeg", "path": folder / "data", "scores": folder / "jpeg.jsonl"}
    return ["score", *(f"--{name}={value}" for name, value in (given | more).items())]


def test_scores_are_kept_and_gone_on_with(cli, folder):
    status, _, said = cli(*words(folder))
    assert status == 0, said
    whole = (folder / "jpeg.jsonl").read_text()
    head, *rows = map(json.loads, whole.splitlines())
    assert head["scorer"] == "jpeg:75" and [row["record"] for row in rows] == [*range(12)]
    assert rows[3]["caption"] == "picture 3"
    assert rows[0]["score"] < rows[11]["score"]
    # A kill in the middle of the fourth row.
    (folder / "jpeg.jsonl").write_text("\n".join(whole.splitlines()[:5])[:-9])
    assert cli(*words(folder))[0] == 0
    assert (folder / "jpeg.jsonl").read_text() == whole
    status, _, said = cli(*words(folder, quality=50))
    assert status == 2 and "is of scorer 'jpeg:75', not 'jpeg:50'" in said
    # Bits of a pixel hang on the picture's size.
    status, _, said = cli(*words(folder, size=16))
    assert status == 2 and "is of size None, not 16" in said
    assert cli(*words(folder, size=-5))[0] == 2


def test_a_folder_is_told_by_a_list_and_reads_as_before(cli, folder):
    before = [*FolderSource(folder / "data", "all").captions()]
    assert cli(*words(folder))[0] == 0
    rows = [json.loads(line) for line in (folder / "data" / LIST).read_text().splitlines()]
    assert [row["file"] for row in rows] == [f"{i:02d}.png" for i in range(12)]
    assert all(row["complexity"] > 0 for row in rows)
    assert [*FolderSource(folder / "data", "all").captions()] == before


def test_a_language_model_s_scores_are_kept_with_its_reasons(cli, folder, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-mine")
    with Server(GOOD) as server:
        more = {"url": server.url, "model": "m", "key_variable": "MY_KEY"}
        status, _, said = cli(*words(folder, scorer="language_model", **more))
    assert status == 0 and "1 of 12 records have no score" in said, said
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-mine"}
    kept = (folder / "jpeg.jsonl").read_text()
    rows = [json.loads(line) for line in kept.splitlines()[1:]]
    assert [row["record"] for row in rows] == [*range(11)] and "sk-mine" not in kept
    assert {row["reasoning"] for row in rows} == {"one flat shape"}


def test_a_key_is_sent_to_no_other_machine_in_plain_text(cli, folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    more = {"scorer": "language_model", "model": "m", "url": "http://192.0.2.1/v1"}
    status, _, said = cli(*words(folder, **more))
    line = "--key_variable is set and url=http://192.0.2.1/v1 is plain http to another machine"
    assert status == 2 and line in said and said.count("\n") == 1 and "sk-mine" not in said
    # Without the key the server is asked, and is not there.
    with Server(GOOD) as server:
        url = server.url
    more |= {"url": url, "key_variable": "", "attempts": 1}
    status, _, said = cli(*words(folder, **more))
    assert status == 2 and f"url={url} gave no answer at 1 attempts" in said


@pytest.mark.slow
def test_the_report_compares_scorers(cli, folder):
    assert cli(*words(folder))[0] == 0
    again = {"scorer": "squared_error", "scores": folder / "error.jsonl"}
    assert cli(*words(folder, **again))[0] == 0
    files = f"{folder / 'jpeg.jsonl'},{folder / 'error.jsonl'}"
    out = folder / "levels"
    status, _, said = cli(
        "score", "report", f"--errors={errors_of(folder)}", f"--scores={files}", f"--out={out}"
    )
    assert status == 0, said
    found = json.loads((out / "figures.json").read_text())
    by_error = found["scorers"]["squared_error:16"]
    value, low, high = by_error["spearman"]["16"]
    assert 0.9 < value <= 1 and low <= value <= high
    assert found["fixed"]["16"][0] == pytest.approx(0.2 * np.mean(np.arange(1, 13)))
    page = (out / "index.html").read_text()
    assert "picture 3" in page and "squared_error:16" in page


def test_what_is_no_number_of_a_level_is_told(cli, folder):
    for more, line in (
        ({"thresholds": "1,2"}, "levels need --tokenizer"),
        ({"target": 16}, "levels need --tokenizer"),
        ({"source": "tokens"}, "tokens are codes already"),
        ({"scorer": "regressor"}, "--workdir is missing"),
        ({"scorer": "language_model"}, "--url is missing"),
        ({"scorer": "language_model", "url": "x", "model": "m"}, "url is not of the form"),
        ({"quality": 0}, "quality is 0"),
    ):
        status, _, said = cli(*words(folder, **more))
        assert status == 2 and line in said and said.count("\n") == 1, said


def test_a_report_of_other_data_is_refused(cli, folder):
    file, errors = folder / "other.jsonl", errors_of(folder)
    same = json.loads(errors.read_text().splitlines()[0])["data"]
    given = [f"--errors={errors}", f"--scores={file}", f"--out={folder / 'out'}"]
    for data, caption, line in (
        ("b", "picture 0", f"is of b and --errors of {same}: they are of other data"),
        (same, "else", "says 'else' of record 0 and --errors 'picture 0': they are of other data"),
    ):
        rows = [{"scorer": "a", "data": data}, {"record": 0, "caption": caption, "score": 3}]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        status, _, said = cli("score", "report", *given)
        assert status == 2 and line in said, said


def test_spearman_is_that_of_ranks():
    assert spearman(np.array([1, 2, 3, 4.0]), np.array([1, 8, 27, 64.0])) == pytest.approx(1)
    assert spearman(np.array([1, 2, 3.0]), np.array([3, 2, 1.0])) == pytest.approx(-1)
    assert spearman(np.ones(3), np.arange(3.0)) == 0
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    expected = np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    assert spearman(np.array([0, 5, 5, 9.0]), np.arange(4.0)) == pytest.approx(expected)


def test_a_class_has_the_mean_of_its_pictures():
    found = class_scores(np.array([1, 3, np.nan, 5]), [0, 0, 1, -1], 2)
    assert found[0] == 2 and np.isnan(found[1])
