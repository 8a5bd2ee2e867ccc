"""The step for chips that are not here: it fits or it does not, and what it sends."""

import importlib.util
import json
import re

import pytest

from babeldraw.commands.compile_report import describe
from babeldraw.commands.compile_train import Report

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'babeldraw[tpu]'",
)

# libtpu compiles at the level that users get.
pytestmark = pytest.mark.budget(15)
CONFIG = "--config=configs/demo/text_to_image.py:runlocal"


def test_a_step_that_fits_is_reported(cli, tmp_path):
    out, kept = tmp_path / "report.json", tmp_path / "step.hlo.gz"
    flags = ["--topology=v4:2x2x1", "--config.mesh.zero1=True"]
    status, printed, _ = cli("compile", CONFIG, *flags, f"--json={out}", f"--keep={kept}")
    assert status == 0 and "fits" in printed and "NOT" not in printed
    report = json.loads(out.read_text())
    assert report["chips"] == 4 and report["fits"]
    memory = report["hbm_gib"]
    assert 0 < memory["arguments"] <= memory["peak"] < memory["limit"] == 30.75
    # Weights are gathered from all four chips.
    gather = report["collectives"]["all-gather"]
    assert gather["count"] > 0 and gather["bytes"] > 0
    assert gather["exposed"] >= 0 and 0 <= gather["overlapped"] <= 1
    # Capping only shortens; what is executed holds what the model needs.
    step, mfu, flops = report["step_seconds"], report["mfu"], report["flops"]
    assert 0 < step["capped"] <= step["raw"] and 0 < mfu["raw"] <= mfu["capped"] < 1
    assert flops["executed"] > flops["model"] > 0
    assert report["examples_per_second"] == pytest.approx(report["batch_size"] / step["capped"])
    assert report["compile_seconds"] > 0 and report["pipeline"] == {}
    assert "estimate" in printed and "MFU" in printed and "image decoder" in printed
    # Kept, it is estimated again without compiling: by the estimator of that day.
    again = tmp_path / "again.json"
    status, _, _ = cli("compile", f"--from={kept}", f"--json={again}")
    assert status == 0 and json.loads(again.read_text()) == report
    (tmp_path / "half.gz").write_bytes(kept.read_bytes()[:-1000])
    for flags, line in (
        ([f"--from={kept}", "--slices=2"], "leave out --slices"),
        ([f"--from={tmp_path}/half.gz"], "not a program that --keep wrote, or not all of it"),
        ([f"--from={out}"], "not a program that --keep wrote"),
        (["--from=/nowhere"], "--from=/nowhere cannot be read: No such file"),
    ):
        status, _, err = cli("compile", *flags)
        assert status == 2 and line in err.splitlines()[-1]
    # The compiler has once taken a step with more set aside than a chip has.
    crowded = Report(**(report | {"hbm_gib": memory | {"peak": 31.0}}))
    assert "not to be relied on" in describe(crowded)
    status, printed, _ = cli("compile", "--compare", out, out)
    assert status == 0 and "hbm_gib.peak" in printed and "1.000" in printed


@pytest.mark.slow
def test_a_step_that_is_too_large_is_a_finding(cli):
    # An activation of the feed-forward alone is 64 GiB.
    too_large = ["--config.train.batch_size=131072", "--config.model.decoder.hidden=65536"]
    too_large += ["--config.model.decoder.blocks=1", "--config.model.encoder.blocks=1"]
    status, printed, _ = cli("compile", CONFIG, "--topology=v4:2x2x1", *too_large)
    assert status == 0 and "does NOT fit" in printed and "--config.mesh.zero1=true" in printed
    # The feed-forward's hidden values, of the whole batch of 16 tokens each.
    assert "GiB over all chips: f32[131072, 16, 65536]" in printed and "nan" not in printed


@pytest.mark.slow
def test_one_chip_is_a_topology_too(cli):
    status, printed, _ = cli("compile", CONFIG, "--topology=v5e:1x1")
    assert status == 0 and printed.startswith("v5e:1x1, 1 chip: data 1 x stage 1 x model 1")
    # A small step in units that show it.
    assert "GFLOP" in printed and re.search(r"as they are\): [\d.]*[1-9][\d.]* ms", printed)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--topology=v4:3x5x7"], "libtpu knows no topology v4:3x5x7; near are v4:"),
        (["--topology=v4:2x2x1", "--config.mesh.data=64"], "64 chips: v4:4x4x4"),
        (["--compare=a.json"], "--compare has 1 file(s), a.json; two are needed"),
        (["--topology=v4"], "the topology is 'v4'; a generation"),
        (["--topology=v4:2x2x1", "--config.mesh.data=3"], "config.mesh needs data 3 x stage 1"),
        ([], "--topology is missing"),
    ],
)
def test_a_mistake_is_one_line(cli, flags, line):
    status, _, err = cli("compile", CONFIG, *flags)
    assert status == 2 and line in err.splitlines()[-1]


def test_what_draws_nothing_and_what_does_not_divide_is_told_in_a_line(cli):
    for config, line in (
        ("tokenizer", "is one of image_tokenizer, which draws nothing; name one of generator"),
        ("decoder_only", "has 4 chips, which do not divide config.model.decoder.heads=2; name"),
    ):
        words = [f"--config=configs/demo/{config}.py:runlocal", "--topology=v4:2x2x1"]
        status, _, err = cli("compile", *words, "--mode=decode")
        assert status == 2 and line in err.splitlines()[-1]


def test_what_is_refused_of_runs_that_begin_is_drawn_with(cli):
    words = ["--config=configs/demo/coglm.py:runlocal", "--config.condition.stddev=0.5"]
    for mode, line in (
        ("train", "condition.stddev is 0.5"),
        ("decode", "knows no topology v4:3x5"),
    ):
        status, _, err = cli("compile", *words, "--topology=v4:3x5x7", f"--mode={mode}")
        assert status == 2 and line in err.splitlines()[-1]
