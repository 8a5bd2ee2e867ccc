"""The experiment with kills, small: nothing is lost but the steps since the last checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_twice_once_while_writing_a_run_is_the_undisturbed_one(tmp_path):
    command = [sys.executable, "docs/examples/survival.py", "kills", str(tmp_path), "--kills=2"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout[run.stdout.index("{\n") :])
    assert figures["kills"] == 2 and figures["went_on_from_the_newest_whole_checkpoint"]
    # Every ten steps one is begun, which the next one waits for.
    assert figures["most_steps_lost"] <= 20
    assert figures["arrays_bit_identical"] == figures["arrays"] > 20
    assert figures["losses_identical"]
