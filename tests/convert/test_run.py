"""A run as plain files and back: it draws and is judged as it was, without its optimizer."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import restore_parts
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import write_run
from babeldraw.runs.weights import read_weights, write_weights
from babeldraw.train.evaluation import evaluate_run
from babeldraw.train.loop import train


@pytest.fixture(scope="module")
def imported(generator_run, tmp_path_factory):
    """The folder of plain files, and the run that was made of it."""
    from babeldraw.convert.run import export_run, import_run

    folder = tmp_path_factory.mktemp("given")
    files, run = folder / "files", folder / "run"
    assert export_run(str(generator_run), files) == import_run(files, str(run))
    return files, run


@pytest.mark.slow
def test_it_draws_the_same_and_is_judged_the_same(generator_run, imported):
    drawn = []
    for folder in (generator_run, imported[1]):
        (picture,) = Sampler.from_run(str(folder)).sample(["a red ring"], seed=3)
        drawn.append(picture.image)
    np.testing.assert_array_equal(*drawn)
    before, after = (
        evaluate_run(str(folder), ["validation_loss"]) for folder in (generator_run, imported[1])
    )
    assert before["validation/loss"] == after["validation/loss"]


def test_the_commands_go_there_and_back(cli, imported, tmp_path):
    files, run = imported
    words = ["--kind=run", f"--workdir={run}", f"--folder={tmp_path / 'again'}"]
    assert cli("export", *words)[0] == 0
    first, second = (
        read_weights(str(folder / "weights.safetensors"), "")
        for folder in (files, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    status, _, said = cli("export", *words)
    assert status == 2 and "is not an empty folder; name another one" in said
    words = ["--kind=run", f"--workdir={run}", f"--folder={tmp_path / 'again'}"]
    status, _, said = cli("import", *words)
    assert status == 2 and "is not empty; name another folder" in said


@pytest.mark.parametrize(
    ("command", "words", "flag"),
    [
        ("import", ["--kind=run", "--out=x.safetensors"], "--out"),
        ("export", ["--kind=run", "--vgg=x.safetensors"], "--vgg"),
        ("import", ["--kind=vgg_lpips", "--workdir=runs/x"], "--workdir"),
    ],
)
def test_flags_of_another_kind_are_refused(cli, command, words, flag):
    status, _, said = cli(command, *words)
    assert status == 2 and f"{flag} does not go with --kind=" in said


@pytest.mark.slow
def test_an_imported_run_is_not_trained_on_in_place(imported):
    config = ConfigDict(RunFolder.of(str(imported[1])).read_config())
    with pytest.raises(UserError, match="came from elsewhere, without an optimizer; they are not"):
        train(config, str(imported[1]))


def test_a_folder_may_begin_at_home(generator_run, tmp_path, monkeypatch):
    from babeldraw.convert.run import export_run

    monkeypatch.setenv("HOME", str(tmp_path))
    export_run(str(generator_run), Path("~/files"))
    assert (tmp_path / "files" / "weights.safetensors").exists()
    assert (tmp_path / "files" / "config.json").exists()


def test_what_is_no_such_folder_is_told(imported, tmp_path):
    from babeldraw.convert.run import import_run

    config = (imported[0] / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="weights.safetensors is not there"):
        import_run(tmp_path, str(tmp_path / "run"))
    write_weights(tmp_path / "weights.safetensors", {"other/x": np.zeros(2, np.float32)}, {})
    with pytest.raises(UserError, match="holds other/x; names begin with params/ or frozen/"):
        import_run(tmp_path, str(tmp_path / "run"))
    write_weights(tmp_path / "weights.safetensors", {"params/x": np.full(2, np.nan)}, {})
    with pytest.raises(UserError, match="params/x holds a value that is not finite"):
        import_run(tmp_path, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_written_keeps_no_average(tmp_path):
    config = {"objective": "x", "train": {"ema": {"decay": 0.5}}}
    folder = write_run(str(tmp_path), config, {"w": np.zeros(3, np.float32)}, source="a test")
    assert json.loads(folder.config_file.read_text())["train"] == {"ema": None}


@pytest.mark.slow
def test_half_is_half_the_size_and_a_run_of_float32_again(generator_run, tmp_path):
    from babeldraw.convert.run import WEIGHTS, export_run, import_run
    from babeldraw.runs.weights import flatten

    for name, half in (("whole", False), ("half", True)):
        export_run(str(generator_run), tmp_path / name, half=half)
        import_run(tmp_path / name, str(tmp_path / f"{name}_run"))
    whole, half = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    states = [
        restore_parts(RunFolder.of(str(tmp_path / f"{n}_run")).checkpoints, ("params",))[1]
        for n in ("whole", "half")
    ]
    for key, array in flatten(states[0]["params"]).items():
        rounded = flatten(states[1]["params"])[key]
        assert rounded.dtype == array.dtype
        np.testing.assert_allclose(rounded, array, rtol=2**-11, atol=2**-25)


def test_what_float16_cannot_hold_is_refused():
    from babeldraw.convert.run import _half

    with pytest.raises(UserError, match="w holds 70000, which is beyond float16"):
        _half(np.float32([1, -7e4]), "w")
