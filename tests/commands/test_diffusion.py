"""Runs by diffusion: stopped and gone on with, on stored codes, drawn, compiled."""

import json

import jax
import numpy as np
import pytest

from babeldraw.commands.compile_decode import compile_decode
from babeldraw.drawing.sampler import Sampler
from babeldraw.runs.checkpoints import restore_parts
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train

WORDS = "a small red circle"


@pytest.fixture(scope="module")
def tokenizer_run(runlocal, trained_once):
    """A finished run of a tokenizer with the continuous codes of configs/demo/dit.py:runlocal."""
    config = runlocal("demo/titok.py").to_dict()
    config["tokenizer"] = runlocal("demo/dit.py").tokenizer.to_dict()
    config["loss"] |= {"restart_below": 0.0}
    return trained_once("titok_vae", config)


@pytest.fixture(scope="module")
def run(runlocal, tokenizer_run, trained_once):
    """The folder of a finished run of configs/demo/dit.py:runlocal, 16 codes a picture."""
    config = runlocal("demo/dit.py")
    config.tokenizer_run = str(tokenizer_run)
    return trained_once("dit", config)


@pytest.mark.slow
@pytest.mark.budget(40)
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(run, runlocal, tokenizer_run, tmp_path):
    config = runlocal("demo/dit.py")
    config.tokenizer_run = str(tokenizer_run)
    for steps in (2, 4):
        config.train.steps = steps
        figures = train(config, str(tmp_path / "parts"))
    whole = json.loads((run / "report.json").read_text())
    assert figures["validation/loss"] == whole["validation/loss"]
    states = [
        restore_parts(RunFolder.of(str(folder)).checkpoints, ("params", "ema"))[1]
        for folder in (run, tmp_path / "parts")
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
@pytest.mark.budget(15)
def test_pictures_are_drawn_and_gone_on_with(run):
    sampler = Sampler.from_run(str(run))
    assert len(sampler.drawer.prediction.scale) == 4
    drawn = [*sampler.sample([WORDS, ""], num=2, batch_size=2)]
    assert [picture.image.shape for picture in drawn] == [(32, 32, 3)] * 4
    assert drawn[0].tokens.shape == (16, 4) and drawn[0].tokens.dtype == np.float32
    # Kept codes come back as they are.
    canvas = sampler.canvas(drawn[0].image, count=3)
    (again,) = sampler.sample([WORDS], canvas=canvas)
    np.testing.assert_array_equal(again.tokens[:3], canvas.tokens[:3])


@pytest.mark.slow
def test_pictures_are_drawn_as_flags_say(run, cli, tmp_path):
    words = [f"--workdir={run}", f"--prompt={WORDS}", "--sampler=euler", "--guidance_low=0.25"]
    for name in ("first", "again"):
        status, _, said = cli("sample", *words, "--steps=3", f"--out={tmp_path / name}")
        assert status == 0, said
    (line,) = (tmp_path / "first" / "manifest.jsonl").read_text().splitlines()
    line = json.loads(line)
    assert (line["steps"], line["sampler"], line["guidance_low"]) == (3, "euler", 0.25)
    pictures = [(tmp_path / name / line["file"]).read_bytes() for name in ("first", "again")]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--steps=0", "steps is 0; at least 1 is needed"),
        ("--sampler=ddim", "sampler is 'ddim', which config.prediction.objective=flow does not"),
        ("--temperature=1", "--temperature is no setting of diffusion, by which the run draws"),
    ],
)
def test_what_it_cannot_draw_is_told(run, cli, tmp_path, word, line):
    words = [f"--workdir={run}", f"--prompt={WORDS}", f"--out={tmp_path}"]
    status, _, said = cli("sample", *words, word)
    assert status == 2 and line in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.budget(15)
def test_a_run_on_stored_codes(run, runlocal, tokenizer_run, cli, tmp_path):
    words = [f"--workdir={tokenizer_run}", "--source=shapes", "--split=train", "--num=64"]
    status, _, said = cli("tokenize", *words, f"--out={tmp_path / 'tokens'}")
    assert status == 0, said
    config = ["--config=configs/demo/dit.py:runlocal", f"--config.tokenizer_run={tokenizer_run}"]
    config += ["--config.data.source=tokens", f"--config.data.path={tmp_path / 'tokens'}"]
    config += ["--config.evaluators.prompts=None", f"--workdir={tmp_path / 'run'}"]
    status, _, said = cli("train", *config)
    assert status == 2 and "config.prediction.sampled is True" in said
    status, _, said = cli("train", *config, "--config.prediction.sampled=False")
    assert status == 0, said
    kept = json.loads((tmp_path / "run" / "codes.json").read_text())
    whole = json.loads((run / "codes.json").read_text())
    # Of other pictures of the same world; and means alone vary less.
    assert np.all(np.array(kept["scale"]) > whole["scale"])


@pytest.mark.slow
def test_drawing_compiles_for_a_tpu(runlocal):
    report, _ = compile_decode(parse(runlocal("demo/dit.py")), "v5e:1x1", 2)
    # Two steps of Heun's, each two passes over all places.
    assert report.tokens == 4 and 0 < report.floor_seconds < 1
