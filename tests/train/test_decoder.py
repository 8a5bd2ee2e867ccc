"""A new decoder on a trained encoder and codebook, and a generator that draws with it."""

import copy

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.runs.checkpoints import on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.weights import flatten
from babeldraw.tokenizers.base import PARTS
from babeldraw.train.evaluation import evaluate_run
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars

# Whole runs of two stages.
pytestmark = pytest.mark.budget(15)

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def decoder_config(runlocal, tokenizer_run):
    """Of a larger decoder for the session's tokenizer."""
    config = runlocal("demo/tokenizer.py")
    config.train_groups, config.tokenizer_run = ("decoder",), str(tokenizer_run)
    config.tokenizer.decoder.update(blocks=2, heads=2, dim=48, hidden=64)
    config.loss.restart_below = 0.0
    return config


@pytest.fixture(scope="module")
def decoder_run(decoder_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder") / "run"
    train(decoder_config, str(folder))
    return folder


@pytest.fixture(scope="module")
def other_run(runlocal, tmp_path_factory):
    """A tokenizer of the same sizes, trained by itself."""
    config = runlocal("demo/tokenizer.py")
    config.train.seed = 1
    folder = tmp_path_factory.mktemp("other") / "run"
    train(config, str(folder))
    return folder


@pytest.mark.slow
def test_the_folder_is_a_tokenizers_with_the_same_tokens(tokenizer_run, decoder_run):
    before, after = (TokenizerRun.open(str(f)) for f in (tokenizer_run, decoder_run))
    groups = before.tokenizer.groups
    for name in (*groups["encoder"], *groups["quantizer"]):
        jax.tree.map(np.testing.assert_array_equal, before.params[name], after.params[name])
    assert {*groups["decoder"]} <= {*after.params}
    assert after.params["to_pixels"]["weight"].shape[0] == 48
    assert after.identity == before.identity
    np.testing.assert_array_equal(before.encode(IMAGES), after.encode(IMAGES))
    assert evaluate_run(str(decoder_run))["reconstruction/psnr_db"] > 0


@pytest.mark.slow
def test_a_decoder_may_go_on_where_it_was(runlocal, tokenizer_run, tmp_path):
    config = runlocal("demo/tokenizer.py")
    config.train_groups = config.start_groups = ("decoder",)
    config.tokenizer_run = str(tokenizer_run)
    config.loss.restart_below = 0.0
    config.optimizer.schedule.peak = 1e-6
    train(config, str(tmp_path / "run"))
    before, after = (TokenizerRun.open(str(f)) for f in (tokenizer_run, tmp_path / "run"))
    for old, new in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-4)
    weight = before.params["to_pixels"]["weight"]
    assert np.any(after.params["to_pixels"]["weight"] != weight)


@pytest.mark.slow
def test_a_generator_draws_with_it(generator_run, tokenizer_run, decoder_run, cli, tmp_path):
    def draw(tokenizer_run=""):
        sampler = Sampler.from_run(str(generator_run), tokenizer_run=str(tokenizer_run))
        return next(iter(sampler.sample(["a small red circle"]))).image

    own = draw()
    np.testing.assert_array_equal(draw(tokenizer_run), own)
    swapped = draw(decoder_run)
    assert swapped.shape == own.shape and np.any(swapped != own)
    words = [f"--workdir={generator_run}", "--prompt=a small red circle", f"--out={tmp_path}"]
    assert cli("sample", *words, f"--tokenizer_run={decoder_run}")[0] == 0
    assert (tmp_path / "grid.png").exists()


@pytest.mark.slow
def test_a_decoder_of_other_codes_is_refused(generator_run, other_run, cli):
    words = ["--prompt=a", f"--workdir={generator_run}", f"--tokenizer_run={other_run}"]
    status, _, said = cli("sample", *words)
    assert status == 2 and said.count("\n") == 1
    assert f"the tokenizer {other_run} has the encoder and codebook" in said


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"tokenizer.quantizer.codebook_size": 32},
            "quantizer.codebook_size is 32 but .* with 64",
        ),
        ({"tokenizer.encoder.hidden": 32}, "config.tokenizer.encoder.hidden is 32 but .* with 64"),
        ({"tokenizer_run": ""}, "config.tokenizer_run is empty; name the run folder of a trained"),
        ({"tokenizer_run": "/nowhere"}, "/nowhere"),
        ({"train_groups": PARTS}, "and nothing begins from it; name parts in config.start_groups"),
        (
            {"start_groups": ("decoder",)},
            r"config.tokenizer.decoder.\w+ is .* but .* was trained with",
        ),
        ({"start_groups": ("encoder",)}, "start_groups holds encoder, which config.train_groups"),
        ({"train_groups": ("decodr",)}, "of encoder, quantizer, decoder may stand there once"),
        ({"train_groups": ()}, "nothing is trained; name some"),
        ({"loss.restart_below": 0.1}, "config.loss.restart_below is 0.1, which moves codes"),
    ],
)
def test_what_does_not_fit_is_named(decoder_config, tmp_path, change, line):
    config = copy.deepcopy(decoder_config)
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=line):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_generator_is_no_tokenizer(decoder_config, generator_run, tmp_path):
    config = copy.deepcopy(decoder_config)
    config.tokenizer_run = str(generator_run)
    with pytest.raises(UserError, match="a run of generator; name one that trained a tokeni"):
        train(config, str(tmp_path / "run"))


# ------------------------------------------------------------------ the perceptual term


@pytest.mark.slow
def test_the_perceptual_network_is_the_files(runlocal, tmp_path):
    config = runlocal("vit_vqgan/small.py")
    config.loss.perceptual = 0.1
    config.perceptual.widths = (2, 2, 2, 2, 2)
    network = PerceptualNetwork(PerceptualConfig(widths=(2, 2, 2, 2, 2)))
    with pytest.raises(UserError, match="config.perceptual.file is empty .* wrote, or set config."):
        train(config, str(tmp_path / "run"))
    file = tmp_path / "vgg.safetensors"
    shapes = nn.unbox(jax.eval_shape(network.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    arrays = {
        key: np.abs(rng.normal(0, 0.3, leaf.shape)).astype(np.float32)
        for key, leaf in flatten(shapes).items()
    }
    save_file(arrays, file)
    config.perceptual.file = str(file)
    figures = train(config, str(tmp_path / "run"))
    assert figures["reconstruction/psnr_db"] > 0
    folder = RunFolder.of(str(tmp_path / "run"))
    abstract = {"frozen": {"perceptual": on_first_device(shapes)}}
    _, state = restore_subset(folder.checkpoints, abstract)
    for key, array in flatten(state["frozen"]["perceptual"]).items():
        np.testing.assert_array_equal(array, arrays[key])
    assert any(line.get("train/perceptual", 0) > 0 for line in read_scalars(folder))
