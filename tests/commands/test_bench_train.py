"""The bench of a training step: its parts add up, nothing compiles while it is timed."""

import json
from types import SimpleNamespace

import jax
import pytest

from babeldraw.commands import bench_train
from babeldraw.commands.bench_train_step import PARTS, Bench
from babeldraw.train.experiment import parse
from babeldraw.train.start import whole_objective
from tests.durations import COMPILING, LOWERING

CONFIG = "configs/demo/classifier.py:runlocal"
# A figure per program that jax traces, lowers or compiles in this process.
PROGRAMS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: event in (*LOWERING, COMPILING) and PROGRAMS.append(seconds)
)


@pytest.fixture
def compiled_meanwhile(monkeypatch):
    """How many programs were made in each turn."""
    found, turn = [], Bench.turn

    def counted(bench, steps):
        before = len(PROGRAMS)
        turn(bench, steps)
        found.append(len(PROGRAMS) - before)

    monkeypatch.setattr(Bench, "turn", counted)
    return found


def check_run(run, steps):
    parts = run["ms"]
    assert set(parts) == {*PARTS, "step"}
    assert sum(parts[name] for name in PARTS) == pytest.approx(parts["step"])
    assert parts["step"] > 0 and parts["forward"] > 0
    assert run["steps"] == steps
    assert run["steps_per_second"] == pytest.approx(1e3 / parts["step"])
    assert run["images_per_second"] == pytest.approx(run["batch_size"] * run["steps_per_second"])
    assert 0 < run["memory_gib"]["arguments"] < run["memory_gib"]["peak"]


@pytest.mark.slow
def test_two_configs_take_turns_on_a_mesh(cli, tmp_path, compiled_meanwhile):
    out = tmp_path / "bench.json"
    compare = [f"--compare={CONFIG}", "--compare.train.batch_size=16"]
    # Sections that are absent and left out work as those of --config.
    compare += ["--compare.train.ema.decay=0.9", "--compare.evaluators.classification=None"]
    status, printed, told = cli(
        "bench", "train", f"--config={CONFIG}", *compare, "--steps=3", f"--json={out}"
    )
    assert status == 0
    report = json.loads(out.read_text())
    assert report["devices"] == 8
    for name, batch_size, does in (
        ("config", 8, ["optimizer"]),
        ("compare", 16, ["optimizer", "average"]),
    ):
        run = report["train"][name]
        check_run(run, steps=3)
        assert run["batch_size"] == batch_size and run["file"] == CONFIG
        assert run["data"] == "random" and run["optimizer"] == does
    # Three turns of one step for each config.
    assert compiled_meanwhile == [0] * 6
    assert [line.split(":")[0] for line in told.splitlines() if "steps/s" in line] == [
        f"bench {turn}/3" for turn in (1, 2, 3)
    ]
    ratio = report["ratio"]
    assert [len(of["each"]) for of in ratio.values()] == [3, 3]
    images, steps = ratio["images_per_second"], ratio["steps_per_second"]
    assert images["median"] == pytest.approx(2 * steps["median"])
    assert report["matmul_flops_per_second"]["float32"] > 0
    assert report["peak_gib"]["process"] > 0
    assert "| | config | compare | compare / config |" in printed


def test_parts_are_differences_and_work_is_that_of_the_formula(runlocal):
    experiment = parse(runlocal("demo/tokenizer.py"))
    seconds = {stage: [3.0, 2.0, 4.0] for stage in ("forward", "gradients", "update")}
    seconds |= {"step": [4.0, 5.0, 4.0], "whole": [5.0, 6.0, 7.0]}
    # As it is after its turns; compiling it would tell nothing more.
    bench = SimpleNamespace(
        experiment=experiment,
        objective=whole_objective(experiment),
        batches=None,
        memory={},
        devices=1,
        parts=lambda: Bench.parts(SimpleNamespace(seconds=seconds)),
    )
    run = bench_train.figures(bench, 3, "float32", {"float32": 1e9})
    parts = {"forward": 2e3, "backward": 0, "optimizer": 0, "host": 2e3, "data": 1e3}
    assert run["ms"] == pytest.approx(parts | {"step": 5e3})
    operations = experiment.flops().per_example * experiment.train.batch_size
    assert run["model_flops_per_second"] == pytest.approx(operations / 5)
    assert run["share_of_matmul"] == pytest.approx(operations / 5e9)
    assert run["optimizer"] == ["optimizer", "restarts"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--config is missing"),
        (["--config=nowhere.py"], "--config cannot be read"),
        ([f"--config={CONFIG}", "--steps=0"], "--steps is 0; at least 1 is needed"),
        ([f"--config={CONFIG}", "--compare=nowhere.py"], "--compare cannot be read"),
        ([f"--config={CONFIG}", "--compare.train.seed=1"], "--compare, which is missing"),
        (
            [f"--config={CONFIG}", f"--compare={CONFIG}", "--compare.train.batch_size=0"],
            "--compare: config.train.batch_size is 0",
        ),
        (
            [f"--config={CONFIG}", f"--compare={CONFIG}", "--compare.train.sed=0"],
            "compare.train.sed is not a field",
        ),
        ([f"--config={CONFIG}", "--config.mesh.model=3"], "config.mesh.model is 3"),
        ([f"--config={CONFIG}", "--config.train.batch_size=9"], "choose a multiple of 8"),
    ],
)
def test_a_mistake_is_one_line(cli, words, line):
    status, printed, told = cli("bench", "train", *words)
    assert status == 2 and line in told.splitlines()[-1] and not printed


@pytest.mark.slow
def test_too_little_memory_is_said_before_the_run(cli, monkeypatch):
    monkeypatch.setattr(bench_train, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(Bench, "begin", lambda bench: pytest.fail("it began"))
    status, _, told = cli("bench", "train", f"--config={CONFIG}")
    assert status == 2
    assert "a step of --config needs " in told and "this machine has 0.0 MiB free; lower" in told


# The first to read data imports TensorFlow.
@pytest.mark.slow
@pytest.mark.budget(10)
def test_a_config_s_own_data_are_read(cli, tmp_path):
    pytest.importorskip("tensorflow")
    out = tmp_path / "bench.json"
    status, _, _ = cli(
        "bench", "train", f"--config={CONFIG}", "--data", "--steps=2", f"--json={out}"
    )
    assert status == 0
    run = json.loads(out.read_text())["train"]["config"]
    check_run(run, steps=2)
    assert run["data"] == "shape_pairs"
