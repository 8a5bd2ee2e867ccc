"""Configs of diffusion: what does not go together is said before anything is made.

Runs of it are in tests/commands/test_diffusion.py.
"""

import pytest

from babeldraw.errors import UserError
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config


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


def all_levels():
    return load_config("configs/emoji/cat_dit.py", "pyproject.toml", "all,runlocal")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"batch_size": 6}}, "config.train.batch_size is 6, which groups of the 4 pict"),
        ({"data": {"source": "tokens", "path": "x"}}, "prediction.sampled is True and .* 'tokens'"),
        ({"level": "64"}, "level is '64'; tokenizer.kind=nested_vae has 8, 16, 32"),
        ({"levels": {"counts": (1, 2)}}, "config.levels.counts is .* give a number for each"),
        ({"levels": {"counts": (1, -2, 1)}}, "at least 1 of each level is needed"),
        ({"model": {"patch_size": 2}}, "patch_size is 2, which does not divide .* 1 x 1 codes"),
    ],
)
def test_what_levels_cannot_have_is_said(sections, message):
    with pytest.raises(UserError, match=message):
        parse(changed(all_levels(), **sections))


def test_a_tokenizer_of_one_level_has_no_levels(runlocal):
    with pytest.raises(UserError, match="config.levels is set and tokenizer.kind=titok has one"):
        parse({**runlocal("demo/dit.py").to_dict(), "levels": {}})


def test_a_mesh_that_would_part_a_packed_row_is_told():
    layout = make_layout(MeshConfig(), make_mesh(MeshConfig()))
    with pytest.raises(UserError) as raised:
        parse(all_levels()).check_layout(layout)
    assert str(raised.value) == (
        "config.train.batch_size is 8, which 8 devices x the 4 pictures of config.levels.counts do "
        "not divide; choose a multiple of 32"
    )
