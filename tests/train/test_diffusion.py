"""Runs of diffusion: what does not go together is said, and a run goes on as if never stopped."""

import jax
import numpy as np
import pytest

from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import restore_parts
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train


def changed(config, **sections):
    config = config.to_dict()
    for name, values in sections.items():
        path = name.split("__")
        section = config
        for part in path[:-1]:
            section = section[part]
        if isinstance(values, dict) and "kind" not in values and path[-1] in section:
            section[path[-1]] |= values
        else:
            section[path[-1]] = values
    return config


def discrete(runlocal):
    return runlocal("demo/titok.py").tokenizer.to_dict()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"prediction": {"kind": "next_token"}, "sampling": None}, "config.model.kind=dit has no "),
        ({"prediction": {"kind": "masked"}, "sampling": None}, "config.model.kind=dit has no "),
        ({"data": {"source": "tokens", "path": "x"}}, "prediction.sampled is True and"),
        ({"sampling": {"sampler": "ddim"}}, "config.sampling.sampler is 'ddim', which"),
        ({"sampling": {"steps": 0}}, "config.sampling: steps is 0; at least 1"),
        ({"condition": {"dropout": 0.0}}, "config.sampling.guidance is 2.0 and .*dropout 0"),
        ({"model": {"patch_size": 2}}, "config.model.patch_size is 2 and the tokenizer's codes"),
        ({"model": {"learned_sigma": True}}, "config.model.learned_sigma is True"),
        (
            {"prediction": {"shift": (0.0, 1.0, 2.0), "scale": (1.0,)}},
            "config.prediction.shift has 3 numbers and the tokenizer's codes 4 channels",
        ),
    ],
)
def test_what_does_not_go_together_is_said(runlocal, sections, message):
    with pytest.raises(UserError, match=message):
        parse(changed(runlocal("demo/dit.py"), **sections))


def test_codes_of_the_other_sort_are_refused(runlocal):
    config = changed(runlocal("demo/dit.py"), tokenizer=discrete(runlocal))
    with pytest.raises(UserError, match="codes are discrete and config.model.kind=dit denoises"):
        parse(config)
    continuous = runlocal("demo/dit.py").tokenizer.to_dict()
    for name in ("text_to_image", "maskgit"):
        config = changed(runlocal(f"demo/{name}.py"), tokenizer=continuous)
        with pytest.raises(UserError, match="codes are continuous and config.model.kind="):
            parse(config)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(runlocal, tmp_path):
    tokenizer = runlocal("demo/titok.py").to_dict()
    config = runlocal("demo/dit.py")
    tokenizer["tokenizer"] = config.tokenizer.to_dict()
    tokenizer["loss"] |= {"restart_below": 0.0}
    train(tokenizer, str(tmp_path / "tokenizer"))
    config.tokenizer_run = str(tmp_path / "tokenizer")
    whole = train(config, str(tmp_path / "whole"))
    config.train.steps = 2
    train(config, str(tmp_path / "parts"))
    config.train.steps = 4
    parts = train(config, str(tmp_path / "parts"))
    assert parts["validation/loss"] == whole["validation/loss"]
    states = [
        restore_parts(RunFolder.of(str(tmp_path / name)).checkpoints, ("params", "ema"))[1]
        for name in ("whole", "parts")
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
    sampler = Sampler.from_run(str(tmp_path / "parts"))
    assert len(sampler.drawer.prediction.scale) == 4
    drawn = [*sampler.sample(["a red circle", ""], num=2, batch_size=2)]
    assert [picture.image.shape for picture in drawn] == [(32, 32, 3)] * 4
    assert drawn[0].tokens.shape == (16, 4) and drawn[0].tokens.dtype == np.float32
    # From a picture: kept codes come back as they are.
    canvas = sampler.canvas(drawn[0].image, count=3)
    (again,) = sampler.sample(["a red circle"], canvas=canvas)
    np.testing.assert_array_equal(again.tokens[:3], canvas.tokens[:3])
