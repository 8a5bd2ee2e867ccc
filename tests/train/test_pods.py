"""Every generator's step compiles for its pod and stays within its memory there."""

import importlib.util
from pathlib import Path

import pytest

from babeldraw.train.compile import compile_step
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config

ROOT = Path(__file__).parents[2]
# GiB per chip, a little above what was found; a layout of the config's own, or another.
BUDGETS = {
    "350m": ("babeldraw/350m.py", "v4:4x4x8", {}, 26.0),
    "750m": ("babeldraw/750m.py", "v4:4x4x8", {}, 26.0),
    "3b": ("babeldraw/3b.py", "v4:4x8x16", {}, 20.0),
    "3b, fsdp": ("babeldraw/3b.py", "v4:4x8x16", {"rules": "fsdp", "model": 1}, 16.0),
    "20b": ("babeldraw/20b.py", "v4:8x8x16", {}, 26.0),
}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'babeldraw[tpu]'",
)
@pytest.mark.parametrize("name", BUDGETS)
def test_the_step_fits_its_pod(name):
    file, topology, mesh, budget = BUDGETS[name]
    config = load_config(f"configs/{file}", ROOT / "pyproject.toml", "")
    config.mesh.update(mesh)
    report = compile_step(parse(config), topology)
    assert report.fits
    assert report.hbm_gib["peak"] <= 1.03 * budget
    assert 0 < report.mfu["raw"] <= report.mfu["capped"] < 1
    # No kernel and no loop of the step is unknown to the estimate.
    assert not report.notes
