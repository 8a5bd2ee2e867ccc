"""The run folder: its config goes in and out whole; what is no run folder is said in one line."""

import json
import re

import pytest

from babeldraw.errors import UserError
from babeldraw.runs.folder import FORMAT, RunFolder, write_json

CONFIG = {"objective": "image_tokenizer", "train": {"steps": 3}, "prompts": ["Käse", "貓"]}


def test_the_config_comes_back(tmp_path):
    folder = RunFolder.of(str(tmp_path / "runs" / "one"))
    folder.write_config(CONFIG)
    assert folder.read_config() == CONFIG
    folder.write_config({**CONFIG, "train": {"steps": 4}})
    assert folder.read_config()["train"] == {"steps": 4}


@pytest.mark.parametrize(("written", "found"), [({}, 1), ({"format": 3}, 3)])
def test_a_folder_of_another_format_is_refused(tmp_path, written, found):
    folder = RunFolder.of(str(tmp_path))
    write_json(folder.config_file, {**CONFIG, **written})
    line = f"the run folder {tmp_path} has the format {found} and this program reads {FORMAT}; "
    with pytest.raises(UserError, match=re.escape(line)):
        folder.read_config()


def test_everything_lies_inside(tmp_path):
    folder = RunFolder.of(str(tmp_path))
    names = ("config_file", "checkpoints", "metrics", "samples", "report_file", "vocabulary_file")
    paths = [getattr(folder, name) for name in names]
    assert {path.parent for path in paths} == {folder.path} and len(set(paths)) == len(names)


def test_a_step_may_stand_behind_the_folder_of_a_run(tmp_path):
    named = RunFolder.to_read(f"{tmp_path}/run@20")
    assert (str(named.path), named.step) == (f"{tmp_path}/run", 20)
    assert RunFolder.to_read(f"{tmp_path}/run@last").step is None
    # A folder of that name is meant.
    (tmp_path / "run@20").mkdir()
    named = RunFolder.to_read(f"{tmp_path}/run@20")
    assert (named.path.name, named.step) == ("run@20", None)
    assert RunFolder.of(f"{tmp_path}/run@30").path.name == "run@30"


def test_a_tilde_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder.of("~/runs").path == tmp_path / "runs"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run folder: it holds no config.json"),
        ("{", "config.json is not JSON"),
        ("[]", "config.json is not a babeldraw config: no field `objective`"),
        ('{"model": {}}', "config.json is not a babeldraw config: no field `objective`"),
    ],
)
def test_a_foreign_folder_is_named(tmp_path, content, message):
    (tmp_path / "notes.txt").touch()
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as error:
        RunFolder.of(str(tmp_path)).read_config()
    assert str(tmp_path) in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=f"the run folder {tmp_path}/none does not exist; "):
        RunFolder.of(str(tmp_path / "none")).read_config()


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json(path, {"step": 1})
    with pytest.raises(TypeError):
        write_json(path, {"step": object()})
    assert json.loads(path.read_text()) == {"step": 1}
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("name", ["exp[v2]", "a*b", "why?", "back\\slash", "caf\udce9"])
def test_a_folder_that_checkpoints_cannot_be_read_from_is_refused(name):
    with pytest.raises(UserError, match="name (one without|another)"):
        RunFolder.of(f"runs/{name}")


@pytest.mark.parametrize("name", ["my run", 'it\'s "quoted"', "Käse", "(1) {a} #%&$!"])
def test_other_names_are_paths(name, tmp_path):
    folder = RunFolder.of(str(tmp_path / name))
    folder.write_config(CONFIG)
    assert folder.read_config() == CONFIG
