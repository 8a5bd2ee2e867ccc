"""Runs of a nested VAE: every level is judged, stored, given back, and drawn into."""

import json

import numpy as np
import pytest

from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun

# Of 32 px at 8, 16 and 32 pixels to a code.
SIDES = {"8": 4, "16": 2, "32": 1}


@pytest.fixture(scope="module")
def tokenizer_run(runlocal, trained_once):
    """The folder of a finished run of configs/emoji/cat.py:runlocal."""
    return trained_once("nested_vae", runlocal("emoji/cat.py"))


@pytest.mark.slow
@pytest.mark.budget(40)
def test_every_level_is_judged(tokenizer_run, cli):
    report = json.loads((tokenizer_run / "report.json").read_text())
    names = ("reconstruction", "reconstruction_16", "reconstruction_32")
    figures = [report[f"{name}/psnr_db"] for name in names]
    assert len({*figures}) == 3 and all(np.isfinite(figures))
    words = [f"--workdir={tokenizer_run}", "--evaluators=reconstruction"]
    status, out, said = cli("evaluate", *words)
    assert status == 0, said
    found = json.loads(out)
    assert [found[f"{name}/psnr_db"] for name in names] == pytest.approx(figures, rel=1e-4)
    kept = [path.name for path in (tokenizer_run / "evaluations").iterdir()]
    assert all(any(name.startswith(f"{each}_0") for name in kept) for each in names)


@pytest.mark.slow
@pytest.mark.budget(40)
@pytest.mark.parametrize("level", SIDES)
def test_a_level_is_stored_and_given_back(tokenizer_run, cli, tmp_path, level):
    words = [f"--workdir={tokenizer_run}", f"--level={level}"]
    status, _, said = cli("reconstruct", *words, "--num=2", f"--out={tmp_path / 'pictures'}")
    assert status == 0, said
    source = ["--source=shapes", "--split=train", "--num=8"]
    status, _, said = cli("tokenize", *words, *source, f"--out={tmp_path / 'codes'}")
    assert status == 0, said
    run = TokenizerRun.open(str(tokenizer_run), level=level)
    assert run.codes.shape == (SIDES[level],) * 2


@pytest.mark.slow
def test_a_level_that_is_not_there_is_told(tokenizer_run, cli, tmp_path):
    words = [f"--workdir={tokenizer_run}", "--level=4", f"--out={tmp_path}"]
    status, _, said = cli("reconstruct", *words)
    assert status == 2 and "level is '4'; tokenizer.kind=nested_vae has 8, 16, 32" in said


@pytest.mark.slow
@pytest.mark.budget(60)
def test_a_generator_draws_into_one_level(tokenizer_run, runlocal, trained_once):
    config = runlocal("emoji/cat_dit.py")
    assert config.level == "16"
    config.tokenizer_run = str(tokenizer_run)
    folder = trained_once("nested_vae_dit", config)
    (drawn,) = Sampler.from_run(str(folder)).sample(["a small red circle"])
    # 2 x 2 codes of 8 channels.
    assert drawn.tokens.size == 32
    assert drawn.image.shape == (32, 32, 3)
