"""Configs of diffusion: what does not go together is said before anything is made.

Runs of it are in tests/commands/test_diffusion.py.
"""

import pytest

from babeldraw.errors import UserError
from babeldraw.train.experiment import parse


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
