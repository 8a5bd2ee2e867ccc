"""The loop: stopped or not, on one device or eight, a run comes to the same numbers."""

import contextlib
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.hosts.presence import GO_ON
from babeldraw.runs.checkpoints import Checkpoints, on_first_device
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars
from babeldraw.train.start import whole_objective

# Whole runs, some of them in processes of their own.
pytestmark = pytest.mark.budget(20)

ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def recipe(runlocal, tokenizer_run):
    """`recipe("generator")`: a config of six steps, each logged, and no evaluator."""

    def make(name):
        config = runlocal(
            {"tokenizer": "demo/tokenizer.py", "generator": "demo/text_to_image.py"}[name]
        )
        if name == "generator":
            config.tokenizer_run = str(tokenizer_run)
            config.optimizer.name = "adafactor"
            config.model.encoder.dropout = config.model.decoder.dropout = 0.1
        config.train.update(steps=STEPS, log_every=1, checkpoint_every=4)
        for evaluator in config.evaluators:
            config.evaluators[evaluator] = None
        return config

    return make


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    """`undisturbed("generator")`: the folder of that run in one go on one device."""
    folders = {}

    def run(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "undisturbed"
            train(recipe(name), str(folders[name]), devices=jax.devices()[:1])
        return folders[name]

    return run


def saved(folder):
    """The newest state, its step and the position in the data."""
    run = RunFolder.of(str(folder))
    objective = whole_objective(parse(run.read_config()))
    abstract = jax.eval_shape(objective.init, jax.random.key(0))
    checkpoints = Checkpoints(run.checkpoints)
    step = checkpoints.latest_step()
    state, progress = checkpoints.restore(step, on_first_device(abstract))
    checkpoints.close()
    return jax.device_get(state), step, progress["batches"]


def metrics(folder):
    """Each line of the metrics, without the time it took."""
    lines = read_scalars(RunFolder.of(str(folder)))
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_run(one, other):
    (left, *left_place), (right, *right_place) = saved(one), saved(other)
    assert left_place == right_place
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert metrics(one) == metrics(other)


# ------------------------------------------------------------------ the same numbers


# That a run goes on as if never stopped is tested quickly too: tests/test_toys.py.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer", "generator"])
def test_resumed_equals_never_stopped_bit_for_bit(recipe, undisturbed, name, tmp_path):
    config = recipe(name)
    for steps in (3, STEPS):
        config.train.steps = steps
        train(config, str(tmp_path), devices=jax.devices()[:1])
    assert [line["step"] for line in metrics(tmp_path)] == [*range(1, STEPS + 1)]
    assert_same_run(tmp_path, undisturbed(name))


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        # One step on eight devices as on one: tests/objectives/test_image_tokenizer.py.
        pytest.param("tokenizer", "data_parallel", marks=pytest.mark.slow),
        pytest.param("generator", "fsdp", marks=pytest.mark.slow),
        pytest.param("tokenizer", "fsdp", marks=pytest.mark.slow),
        pytest.param("generator", "data_parallel", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(recipe, undisturbed, name, rules, tmp_path):
    config = recipe(name)
    config.mesh.rules = rules
    train(config, str(tmp_path))
    ours, theirs = (
        [line["train/loss"] for line in metrics(f)] for f in (tmp_path, undisturbed(name))
    )
    assert len(set(theirs)) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def four_devices(recipe, tmp_path_factory):
    """The folder of a tokenizer after three steps on four devices."""
    config, folder = recipe("tokenizer"), tmp_path_factory.mktemp("four") / "run"
    config.mesh.rules = "fsdp"
    config.train.steps = 3
    train(config, str(folder), devices=jax.devices()[:4])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_checkpoint_of_four_devices_goes_on_on_any_number(
    recipe, undisturbed, four_devices, count, tmp_path, capsys
):
    shutil.copytree(four_devices, tmp_path / "run")
    config = recipe("tokenizer")
    config.mesh.rules = "fsdp"
    train(config, str(tmp_path / "run"), devices=jax.devices()[:count])
    here = f"data {count}" if count > 1 else "1 device"
    said = f"goes on from step 3 of {STEPS}, saved on data 4 and now split over {here}"
    assert said in capsys.readouterr().err
    ours, theirs = (
        [line["train/loss"] for line in metrics(folder)]
        for folder in (tmp_path / "run", undisturbed("tokenizer"))
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_tokenizer_of_a_generator_is_that_of_its_run(tokenizer_run, generator_run):
    trained, (state, *_) = saved(tokenizer_run)[0], saved(generator_run)
    jax.tree.map(np.testing.assert_array_equal, state.frozen["tokenizer"], trained.params)


# ------------------------------------------------------------------ what a run refuses


def test_a_finished_run_says_so_and_trains_nothing(runlocal, tokenizer_run, capsys):
    def times():
        return {path: path.stat().st_mtime_ns for path in tokenizer_run.rglob("*")}

    before = times()
    figures = train(runlocal("demo/tokenizer.py"), str(tokenizer_run))
    assert capsys.readouterr().err == f"train: {tokenizer_run} is finished, 4 steps\n"
    assert times() == before
    assert {"step": 4, **figures} == json.loads((tokenizer_run / "report.json").read_text())


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("tokenizer.quantizer.codebook_size", 64, 128),
        ("model.encoder.hidden", 64, 65),
        ("data.num_examples", 1000, 999),
    ],
)
def test_a_run_keeps_what_its_weights_and_data_hang_on(generator_run, field, old, new):
    config = json.loads((generator_run / "config.json").read_text())
    *sections, name = field.split(".")
    section = config
    for part in sections:
        section = section[part]
    section[name] = new
    expected = f"{generator_run} was trained with config.{field} = {old} and now it is {new}; "
    with pytest.raises(UserError, match=re.escape(expected)):
        train(config, str(generator_run))


def test_a_run_of_another_recipe_is_refused(runlocal, generator_run):
    with pytest.raises(UserError, match="with config.objective = 'generator' and now it is"):
        train(runlocal("demo/tokenizer.py"), str(generator_run))


@pytest.fixture(scope="module")
def exploded(recipe, tmp_path_factory):
    """What a run of an absurd learning rate says, and its folder."""
    config = recipe("tokenizer")
    config.optimizer.name = "adamw"
    config.optimizer.schedule.peak = 1e30
    config.train.update(checkpoint_every=1, log_every=100)
    folder = tmp_path_factory.mktemp("exploded") / "run"
    with pytest.raises(UserError) as error:
        train(config, str(folder), devices=jax.devices()[:1])
    return str(error.value), folder


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(exploded):
    message, _ = exploded
    assert re.match(r"step [2-6]: (\w+ is -?(nan|inf)(, )?)+; ", message)
    assert re.search(r"\bloss is (nan|inf)\b", message) and "\n" not in message
    assert "config.optimizer.schedule.peak" in message


@pytest.mark.slow
def test_no_step_that_is_not_finite_is_saved(exploded):
    message, folder = exploded
    state, step, _ = saved(folder)
    assert step < int(re.match(r"step (\d+)", message)[1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


# ------------------------------------------------------------------ signals


def test_afterwards_sigterm_ends_the_process_as_before(exploded):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@contextlib.contextmanager
def started(folder, steps, **train_fields):
    """`babeldraw train` of the tokenizer in a process of its own, that ends with the test."""
    fields = {"steps": steps, "log_every": 1} | train_fields
    command = [sys.executable, "-m", "babeldraw.cli", "train", f"--workdir={folder}"]
    command += ["--config=configs/demo/tokenizer.py:runlocal"]
    command += [f"--config.train.{name}={value}" for name, value in fields.items()]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_step(folder, step, process):
    """Until the run has written the metrics of a step."""
    deadline = time.monotonic() + 120
    while not any(line["step"] >= step for line in metrics(folder)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    with started(tmp_path, steps=100_000, checkpoint_every=100_000) as process:
        wait_for_step(tmp_path, 2, process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == GO_ON, said
    last = metrics(tmp_path)[-1]["step"]
    assert said.splitlines()[-1] == (
        f"stopped after step {last}, which is saved; the same command goes on from it"
    )
    state, step, place = saved(tmp_path)
    assert (step, state.step, place["step"]) == (last, last, last)


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [False, True], ids=["plain", "with an average"])
def test_killed_at_any_moment_a_run_comes_to_the_same_end(runlocal, tmp_path, averaged):
    fields = {"steps": 120 if averaged else 300, "checkpoint_every": 7}
    step, delay = random.randint(1, fields["steps"] * 2 // 3), random.uniform(0, 0.1)
    average = {"ema.decay": 0.9} if averaged else {}
    with started(tmp_path / "killed", **fields, **average) as process:
        wait_for_step(tmp_path / "killed", step, process)
        time.sleep(delay)
    reached = metrics(tmp_path / "killed")[-1]["step"]
    assert step <= reached < fields["steps"]
    config = runlocal("demo/tokenizer.py")
    config.train.update(log_every=1, **fields)
    config.train.ema = {"decay": 0.9} if averaged else None
    for name in ("killed", "undisturbed"):
        figures = train(config, str(tmp_path / name))
        assert all(math.isfinite(value) for value in figures.values())
    assert_same_run(tmp_path / "killed", tmp_path / "undisturbed")
