"""Super-resolution appended to sampling: the same pictures, larger."""

import dataclasses
import json

import numpy as np
import pytest

from babeldraw.data.image import decode
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.stages import STAGES, SuperResolutionRun
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.train.loop import train

PROMPTS = ["a small red circle on a white background", "two green rings", ""]


@pytest.fixture(scope="module")
def large_run(runlocal, tokenizer_run, tmp_path_factory):
    """The folder of a finished run of configs/demo/super_resolution.py:runlocal."""
    config = runlocal("demo/super_resolution.py")
    config.tokenizer_run = str(tokenizer_run)
    folder = tmp_path_factory.mktemp("super_resolution") / "run"
    figures = train(config, str(folder))
    assert figures["upscaling/psnr_db"] > 0 and figures["upscaling/bicubic_psnr_db"] > 0
    return folder


def test_the_run_knows_its_tokenizer(large_run, tokenizer_run):
    run = SuperResolutionRun.open(str(large_run))
    assert run.tokenizer == TokenizerRun.open(str(tokenizer_run)).identity


@pytest.mark.slow
def test_larger_pictures_are_those_of_the_same_seeds(large_run, generator_run):
    plain = Sampler.from_run(str(generator_run))
    large = Sampler.from_run(str(generator_run), stages=[str(large_run)])
    upscale = SuperResolutionRun.open(str(large_run)).apply
    pairs = zip(plain.sample(PROMPTS, 2, 5), large.sample(PROMPTS, 2, 5), strict=True)
    for small, picture in pairs:
        assert (picture.prompt, picture.seed) == (small.prompt, small.seed)
        assert picture.image.shape == (64, 64, 3) and picture.image.dtype == np.uint8
        expected = 255 * np.asarray(upscale(small.image[None].astype(np.float32) / 255))[0]
        # The small picture was rounded to bytes in between.
        np.testing.assert_allclose(picture.image.astype(np.float32), expected, atol=2.5)


@pytest.mark.slow
def test_the_command_appends_it(cli, large_run, generator_run, tmp_path):
    words = [f"--workdir={generator_run}", f"--super_resolution={large_run}", "--prompt=a"]
    status, _, said = cli("sample", *words, f"--out={tmp_path / 'out'}")
    assert status == 0, said
    (line,) = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert decode(tmp_path / "out" / json.loads(line)["file"]).shape == (64, 64, 3)


def test_another_tokenizer_s_is_refused(large_run, generator_run, monkeypatch):
    other = dataclasses.replace(SuperResolutionRun.open(str(large_run)), tokenizer="0" * 16)
    monkeypatch.setitem(STAGES, "super_resolution", lambda workdir: other)
    with pytest.raises(UserError, match="of the tokenizer 0000000000000000 and .* draws with"):
        Sampler.from_run(str(generator_run), stages=[str(large_run)])


def test_a_run_of_another_kind_is_refused(tokenizer_run, generator_run):
    with pytest.raises(UserError, match="is a run of image_tokenizer; name one of super_resol"):
        Sampler.from_run(str(generator_run), stages=[str(tokenizer_run)])
