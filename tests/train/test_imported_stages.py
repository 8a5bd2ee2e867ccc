"""TiTok's second stage goes on from published weights: of its first stage, and of itself."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import shapes
from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import restore_parts
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.weights import flatten
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import make_mesh
from babeldraw.tokenizers.titok import PIXELS, PROXY
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config
from babeldraw.train.start import initial_state
from babeldraw.train.step import state_shardings
from tests.tokenizers.convolutions import drawn

# Imports, and the beginning of runs.
pytestmark = pytest.mark.budget(15)

CONFIGS = {
    "proxy": "maskgit_vqgan.py:runlocal",
    "stage1": "titok.py:s128,stage1,runlocal",
    "stage2": "titok.py:s128,stage2,runlocal",
}
KINDS = {"proxy": "maskgit_vqgan", "stage1": "titok", "stage2": "titok"}


def config_of(name):
    file, _, argument = CONFIGS[name].partition(":")
    return load_config(f"configs/{file}", "pyproject.toml", argument)


def tuning(run, **fields):
    """The config of the second stage, on a run; fields of its tokenizer."""
    config = config_of("stage2")
    config.tokenizer_run, config.loss.perceptual = str(run), 0.0
    config.tokenizer.update(fields)
    return config


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights of the configs' sizes, by what they are of, named as published."""
    folder, found = tmp_path_factory.mktemp("theirs"), {}
    for name, kind in KINDS.items():
        experiment = parse(config_of(name))
        params = jax.eval_shape(experiment.make_objective().init, jax.random.key(0)).params
        table = NETWORKS[kind].layouts["torch"].table(experiment.tokenizer)
        found[name] = folder / f"{name}.safetensors"
        save_file(drawn(shapes(table, params)), found[name])
    return found


@pytest.fixture
def imported(cli, files, tmp_path):
    """`imported("stage1", ...)`: the folder of a run of that file, with further flags."""

    def make(name, *more):
        words = [f"--kind={KINDS[name]}", f"--torch={files[name]}"]
        words += [f"--config=configs/{CONFIGS[name]}", "--config.loss.perceptual=0", *more]
        status, _, said = cli("import", *words, f"--workdir={tmp_path / name}")
        assert status == 0, said
        return tmp_path / name

    return make


@pytest.fixture
def first(imported):
    return imported("stage1", f"--config.proxy_run={imported('proxy')}")


def held(folder):
    _, state = restore_parts(RunFolder.of(str(folder)).checkpoints, ("params", "frozen"))
    return state


def begun(config):
    """The parameters that a run begins with."""
    experiment = parse(config)
    objective = experiment.make_objective()
    places = state_shardings(objective, make_layout(experiment.mesh, make_mesh(experiment.mesh)))
    return flatten(initial_state(experiment, objective, jax.random.key(0), places).params)


@pytest.mark.slow
def test_a_published_first_stage_is_gone_on_from(first):
    """Its own weights, and the decoder of the proxy that it was imported with."""
    state = held(first)
    expected = flatten(state["params"])
    proxy = flatten(state["frozen"][PROXY])
    found = begun(tuning(first))
    expected |= {n: proxy[n.removeprefix(f"{PIXELS}/")] for n in found if n.startswith(PIXELS)}
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.slow
def test_a_published_second_stage_is_gone_on_from(imported):
    run = imported("stage2")
    expected, found = flatten(held(run)["params"]), begun(tuning(run))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.slow
def test_a_published_first_stage_s_decoder_is_tuned(first, tmp_path):
    train(tuning(first), str(tmp_path / "tuned"))
    before, after = (flatten(held(folder)["params"]) for folder in (first, tmp_path / "tuned"))
    moved = {name.split("/")[0] for name in before if np.any(before[name] != after[name])}
    assert moved == {"from_code", "mask", "decoder", "head"}


@pytest.mark.slow
def test_layouts_that_differ_are_one_line(cli, files, first, tmp_path):
    to = f"--workdir={tmp_path / 'other'}"
    for file, config, line in (
        ("stage1", "stage2", "holds no pixel_quantize.embedding.weight, pixel_decoder."),
        ("stage2", "stage1", "holds pixel_decoder."),
        ("proxy", "stage2", "holds no "),
    ):
        words = [f"--torch={files[file]}", f"--config=configs/{CONFIGS[config]}"]
        status, _, said = cli("import", "--kind=titok", *words, "--config.loss.perceptual=0", to)
        assert status == 2 and line in said and said.count("\n") == 1, said
    for fields, line in (
        ({"scrambled": False}, "config.tokenizer.scrambled is False but .* with True; set True"),
        ({"tokens": 5}, "config.tokenizer.tokens is 5 but .* was trained with 16; set 16"),
    ):
        with pytest.raises(UserError, match=line):
            begun(tuning(first, **fields))


@pytest.mark.slow
def test_the_network_of_a_loss_needs_no_first_stage(cli, files, tmp_path):
    """A whole second stage comes with the perceptual network that it will be tuned by."""
    words = [f"--torch={files['stage2']}", f"--config=configs/{CONFIGS['stage2']}"]
    words += ["--config.loss.perceptual=0.1"]
    words += [f"--config.perceptual.file={tmp_path / 'none.safetensors'}"]
    status, _, said = cli("import", "--kind=titok", *words, f"--workdir={tmp_path / 'run'}")
    assert status == 2 and "none.safetensors" in said and "tokenizer_run" not in said
