"""A run by masked prediction through the commands: drawn, filled, compiled; what it cannot do."""

import json

import numpy as np
import pytest

from babeldraw.commands.compile_decode import compile_decode
from babeldraw.data.image import save_png
from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.train.experiment import parse

WORDS = "a small red circle"


@pytest.fixture(scope="module")
def run(runlocal, tokenizer_run, trained_once):
    """The folder of a finished run of configs/demo/maskgit.py:runlocal, 16 tokens a picture."""
    config = runlocal("demo/maskgit.py")
    config.tokenizer_run = str(tokenizer_run)
    return trained_once("maskgit", config)


@pytest.mark.slow
@pytest.mark.budget(12)
def test_a_hole_is_filled_and_what_a_mask_leaves_stays(run, cli, tmp_path):
    sampler = Sampler.from_run(str(run))
    (old,) = sampler.sample([WORDS])
    side, _, _ = old.image.shape
    mask = np.zeros((side, side), bool)
    mask[side // 4 : side // 2, side // 4 :] = True
    canvas = sampler.canvas(old.image, mask=mask)
    assert canvas.kept.sum() == 13
    for picture in sampler.sample([WORDS], num=2, canvas=canvas):
        np.testing.assert_array_equal(picture.tokens[canvas.kept], canvas.tokens[canvas.kept])

    save_png(tmp_path / "old.png", old.image)
    save_png(tmp_path / "mask.png", np.repeat(mask[..., None], 3, axis=-1).astype(np.uint8) * 255)
    words = [f"--workdir={run}", f"--prompt={WORDS}", f"--image={tmp_path / 'old.png'}"]
    words += [f"--mask={tmp_path / 'mask.png'}", "--steps=3", "--order=halton"]
    status, _, said = cli("sample", *words, f"--out={tmp_path / 'drawn'}")
    assert status == 0, said
    (line,) = (tmp_path / "drawn" / "manifest.jsonl").read_text().splitlines()
    assert (json.loads(line)["steps"], json.loads(line)["order"]) == (3, "halton")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--steps=17", "steps is 17 and a picture has 16 tokens, of which each step draws one or"),
        ("--order=raster", "order is 'raster'; the choices are logit, probability, halton"),
        ("--schedule=sine", "schedule is 'sine'; the choices are arccos, cosine, linear"),
        ("--top_k=3", "--top_k is no setting of masked, by which the run draws"),
        ("--class=1", "a class is given and the run draws from a text; leave it out"),
    ],
)
def test_what_it_cannot_draw_is_told(run, cli, tmp_path, word, line):
    prompt = [] if "class" in word else [f"--prompt={WORDS}"]
    status, _, said = cli("sample", f"--workdir={run}", *prompt, word, f"--out={tmp_path}")
    assert status == 2 and line in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("section", "fields", "line"),
    [
        ("condition", {"dropout": 0.0}, "config.sampling.guidance is 2.0 and config.condition"),
        ("sampling", {"steps": 17}, "config.sampling.steps is 17 and a picture has 16 tokens"),
        ("sampling", {"order": "raster"}, "config.sampling: order is 'raster'; the choices are"),
        ("prediction", {"schedule": "sine"}, "config.prediction: schedule is 'sine'; the choices"),
    ],
)
def test_a_config_that_makes_no_sense_is_told(runlocal, section, fields, line):
    config = runlocal("demo/maskgit.py").to_dict()
    config[section] |= fields
    with pytest.raises(UserError, match=line):
        parse(config)


@pytest.mark.slow
def test_drawing_compiles_for_a_tpu(runlocal):
    report, _ = compile_decode(parse(runlocal("demo/maskgit.py")), "v5e:1x1", 2)
    # Two steps, each a pass over all places.
    assert report.tokens == 2 and 0 < report.floor_seconds < 1
