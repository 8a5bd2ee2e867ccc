"""The demo, small: killed once it goes on, and comes to a page with its figures."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(folder):
    command = [sys.executable, "-m", "babeldraw.cli", "demo", "--variant=runlocal"]
    return subprocess.Popen(
        [*command, f"--workdir={folder}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return printed, said


@pytest.mark.slow
def test_killed_once_the_demo_comes_to_its_end(tmp_path):
    process = start(tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / "tokenizer" / "report.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()

    printed, said = finish(start(tmp_path))
    assert "tokenizer is finished, 4 steps" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(printed) == report
    assert {"psnr_db", "codebook_usage"} <= report["tokenizer"].keys()
    assert {"exact_seen", "exact_unseen", "guidance"} <= report["prompts"].keys()
    assert report["seconds"]["total"] >= report["seconds"]["text_to_image"] > 0
    assert len([*(tmp_path / "samples").glob("[0-9]*.png")]) == 16
    page = tmp_path / "report.html"
    assert str(page) in said and page.stat().st_size > 10_000

    began, before = time.monotonic(), page.stat().st_mtime_ns
    _, said = finish(start(tmp_path))
    assert f"the demo in {tmp_path} is finished; look at {page}" in said
    assert time.monotonic() - began < 30 and page.stat().st_mtime_ns == before
