"""Where figures are looked at: the same with TensorFlow and without; a board never stops a run."""

import contextlib
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.train import boards
from babeldraw.train.loop import train
from babeldraw.train.metrics import MetricsWriter, read_scalars
from babeldraw.train.settings import TrainConfig
from tests.train.board_case import PICTURE, read, write

ROOT = Path(__file__).parents[2]


def without(folder, *packages):
    """What TensorBoard reads of a process in which these cannot be imported, and what it says."""
    case = ["-m", "tests.train.board_case", str(folder), *packages]
    run = subprocess.run(
        [sys.executable, "-W", "error", *case], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), run.stderr


# ------------------------------------------------------------------ TensorBoard


def test_without_tensorflow_tensorboard_reads_the_same(tmp_path):
    pytest.importorskip("tensorboardX")
    found, said = without(tmp_path / "x", "tensorflow", "clu")
    assert said == ""
    assert found["train/loss"] == [[1, 1.0], [2, 0.5], [2, 0.5], [3, pytest.approx(1 / 3)]]
    assert found["samples/grid"] == [[step, PICTURE.tolist()] for step in (2, 3)]
    write(tmp_path / "clu")
    assert read(tmp_path / "clu") == found


def test_with_neither_one_line_says_so_and_the_lines_are_written(tmp_path):
    found, said = without(tmp_path, "tensorflow", "clu", "tensorboardX")
    assert found == {}
    line = (
        "tensorboard is left out (neither TensorFlow nor tensorboardX is there, of which "
        "babeldraw[tensorboardx] brings the latter); the run goes on, metrics.jsonl has its figures"
    )
    assert said.splitlines() == [line, line]
    lines = read_scalars(RunFolder.of(str(tmp_path)))
    assert [line["train/loss"] for line in lines] == [1.0, 0.5, 1 / 3]
    assert (tmp_path / "samples/samples_grid_0000003.png").exists()


def test_without_tensorflow_no_bucket_is_written_to():
    pytest.importorskip("tensorboardX")
    with pytest.raises(OSError, match="written to local folders alone, not gs://bucket/run"):
        boards.TensorBoardX("gs://bucket/run")


# ------------------------------------------------------------------ Weights & Biases


class Run:
    """As much of a run of Weights & Biases as is called; `down` raises on every call."""

    def __init__(self, asked, down):
        self.asked, self.down, self.logged, self.finished = asked, down, [], False
        self.axes = []

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))

    def log(self, values):
        if self.down:
            raise ConnectionError("no\nroute")
        self.logged.append(values)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A module in its place. `runs`: those begun; `refuse`: modes that raise; `down`: for runs."""
    module = types.ModuleType("wandb")
    module.runs, module.refuse, module.down, module.stuck = [], (), False, False

    def init(**asked):
        if module.stuck:
            raise ValueError("its id is in use")
        if asked["mode"] in module.refuse:
            module.stuck = True
            raise ConnectionError(f"no {asked['mode']}")
        module.runs.append(Run(asked, module.down))
        return module.runs[-1]

    def teardown():
        module.stuck = False

    module.teardown = teardown
    module.init, module.Settings, module.Image = init, dict, lambda picture: ("image", picture)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("API_KEY", "PROJECT", "ENTITY", "NAME", "MODE", "SILENT"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    return module


def writer(folder):
    return MetricsWriter(RunFolder.of(str(folder)), ("wandb",), {"train": {"steps": 3}})


def test_a_run_goes_on_as_the_same_run(wandb, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_PROJECT", "birds")
    picture = np.zeros((2, 2, 3), np.uint8)
    for step in (4, 3):
        begun = writer(tmp_path / "blue")
        begun.scalars(step, {"train/loss": 0.5}, 1.0)
        begun.timing(step, {"data_share": 0.25})
        begun.image(step, "samples/grid", picture)
        begun.close()
        # Of the environment what was there at the first start counts.
        monkeypatch.setenv("WANDB_PROJECT", "fish")
    first, second = wandb.runs
    assert second.logged == [
        {"step": 3, "train/loss": 0.5},
        {"step": 3, "timing/data_share": 0.25},
        {"step": 3, "samples/grid": ("image", picture)},
    ]
    same = ("project", "entity", "name", "id", "resume", "mode")
    assert [first.asked[k] for k in same] == [second.asked[k] for k in same]
    assert [first.asked[k] for k in same if k != "id"] == ["birds", None, "blue", "allow", "online"]
    assert first.asked["config"] == {"train": {"steps": 3}}
    assert first.axes == [("*", "step")] and first.finished and second.finished
    assert "secret" not in (tmp_path / "blue/metrics/wandb.json").read_text()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({}, "WANDB_API_KEY is not set: wandb keeps"),
        ({"API_KEY": "k"}, "wandb cannot be reached (no online): wandb keeps"),
        ({"MODE": "offline"}, None),
    ],
)
def test_what_cannot_be_sent_is_kept(wandb, monkeypatch, tmp_path, capsys, env, line):
    wandb.refuse = ("online",)
    for name, value in env.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with contextlib.closing(writer(tmp_path)) as begun:
        begun.scalars(1, {"train/loss": 1.0}, 1.0)
    (run,) = wandb.runs
    assert run.asked["mode"] == "offline" and run.asked["dir"] == str(tmp_path / "metrics")
    assert run.logged == [{"step": 1, "train/loss": 1.0}]
    said = capsys.readouterr().err
    if line is None:
        assert said == ""
    else:
        rest = f" the run in {tmp_path}/metrics/wandb; `wandb sync` sends it\n"
        assert said == line + rest


def test_a_board_that_fails_costs_one_line(wandb, tmp_path, capsys):
    wandb.down = True
    begun = writer(tmp_path)
    capsys.readouterr()
    for step in (1, 2):
        begun.scalars(step, {"train/loss": 1.0}, 1.0)
    begun.close()
    line = "wandb is left out (no route); the run goes on, metrics.jsonl has its figures\n"
    assert capsys.readouterr().err == line
    assert len(read_scalars(RunFolder.of(str(tmp_path)))) == 2
    assert not wandb.runs[0].finished


def test_a_missing_package_is_named(wandb, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    writer(tmp_path).close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wandb is left out (") and "; babeldraw[wandb] brings it); " in line


# ------------------------------------------------------------------ a run


@pytest.mark.slow
def test_a_run_writes_to_the_boards_of_its_config(runlocal, wandb, tmp_path, capsys):
    config = runlocal("demo/classifier.py")
    config.train.update(steps=2, log_every=1, metrics=("wandb",))
    figures = train(config, str(tmp_path))
    (run,) = wandb.runs
    losses = {line["step"]: line["train/loss"] for line in run.logged if "train/loss" in line}
    lines = read_scalars(RunFolder.of(str(tmp_path)))
    assert losses == {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert set(losses) == {1, 2}
    shown = [line for line in run.logged if "classification/accuracy" in line]
    assert shown[0]["classification/accuracy"] == figures["classification/accuracy"]
    assert run.asked["config"]["train"]["metrics"] == ["wandb"] and run.finished
    assert not list((tmp_path / "metrics").glob("events.*"))


def test_an_unknown_board_is_named():
    with pytest.raises(UserError, match="names 'wandbb'; there are tensorboard, wandb"):
        TrainConfig(steps=1, batch_size=1, metrics=("tensorboard", "wandbb"))
