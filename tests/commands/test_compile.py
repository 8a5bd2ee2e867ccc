"""The step for chips that are not here: it fits or it does not, and what it sends."""

import importlib.util
import json

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'babeldraw[tpu]'",
)
CONFIG = "--config=configs/demo/text_to_image.py:runlocal"


def test_a_step_that_fits_is_reported(cli, tmp_path):
    out = tmp_path / "report.json"
    status, printed, _ = cli(
        "compile", CONFIG, "--topology=v4:2x2x1", "--config.mesh.zero1=True", f"--json={out}"
    )
    assert status == 0 and "fits" in printed and "NOT" not in printed
    report = json.loads(out.read_text())
    assert report["chips"] == 4 and report["fits"]
    memory = report["hbm_gib"]
    assert 0 < memory["arguments"] <= memory["peak"] < memory["limit"] == 30.75
    # Weights are gathered from all four chips.
    assert report["collectives"]["all-gather"]["outside"] > 0


def test_a_step_that_is_too_large_is_a_finding(cli):
    # An activation of the feed-forward alone is 64 GiB.
    too_large = ["--config.train.batch_size=131072", "--config.model.decoder.hidden=65536"]
    too_large += ["--config.model.decoder.blocks=1", "--config.model.encoder.blocks=1"]
    status, printed, _ = cli("compile", CONFIG, "--topology=v4:2x2x1", *too_large)
    assert status == 0 and "does NOT fit" in printed and "what helps" in printed


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--topology=v4:3x5x7"], "libtpu knows no topology v4:3x5x7"),
        (["--topology=v4"], "the topology is 'v4'; a generation"),
        (["--topology=v4:2x2x1", "--config.mesh.data=3"], "config.mesh needs data 3 x stage 1"),
        ([], "--topology is missing"),
    ],
)
def test_a_mistake_is_one_line(cli, flags, line):
    status, _, err = cli("compile", CONFIG, *flags)
    assert status == 2 and line in err.splitlines()[-1]
