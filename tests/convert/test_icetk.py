"""icetk's image tokenizer: every tensor has its place, and codes and pictures are theirs."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from babeldraw.convert.icetk import icetk_image
from babeldraw.convert.table import left_out, read, shapes, write
from babeldraw.errors import UserError
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.running_mean import RunningMeanConfig
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from tests.tokenizers import convolutions as theirs

PUBLISHED = parse(load_config("configs/cogview2/tokenizer.py", "pyproject.toml")).tokenizer
GROUPS = 4
SMALL = dataclasses.replace(
    PUBLISHED,
    network=dataclasses.replace(PUBLISHED.network, channels=8, groups=GROUPS, latent_channels=6),
    quantizer=RunningMeanConfig(16, 6),
    image_size=(16, 32),
    levels=((4, 1), (8, 1), (16, 1)),
)
IMAGES = np.random.default_rng(1).random((2, 16, 32, 3), np.float32)
SUMS = {"quantize.embed_avg": np.zeros((16, 6), np.float32)}


def abstract(config):
    init = make_tokenizer(config).init
    return jax.eval_shape(lambda key: nn.unbox(init(key)), jax.random.key(0))


@pytest.fixture(scope="module")
def state():
    return theirs.drawn(shapes(icetk_image(SMALL), abstract(SMALL)))


@pytest.fixture(scope="module")
def params(state):
    return read(icetk_image(SMALL), state, abstract(SMALL))


def test_tensors_are_the_published_ones():
    names = json.loads((Path(__file__).parent / "icetk_image.json").read_text())
    table, found = icetk_image(PUBLISHED), abstract(PUBLISHED)
    ours = shapes(table, found)
    assert sum(leaf.size for leaf in jax.tree.leaves(found)) == 97_439_497 + 20_000
    assert {key: [*shape] for key, shape in ours.items()} == {
        key: shape for key, shape in names.items() if key != "quantize.embed_avg"
    }
    beside = ["perceptual.lin0.weight", "optimizer/step"]
    sums, trained = left_out(table, [*names, *beside], found).values()
    assert (sums, trained) == (["quantize.embed_avg"], sorted(beside))


def test_there_and_back_are_the_same_bytes(state, params):
    again = read(icetk_image(SMALL), state | SUMS, abstract(SMALL))
    jax.tree.map(np.testing.assert_array_equal, again, params)
    back = write(icetk_image(SMALL), params)
    assert back.keys() == state.keys()
    assert all(back[key].tobytes() == array.tobytes() for key, array in state.items())


@pytest.mark.slow
@pytest.mark.parametrize(("level", "halvings"), [("4", 0), ("8", 1), ("16", 2)])
def test_codes_and_pictures_are_those_of_its_layer_order(state, params, level, halvings):
    tokenizer = make_tokenizer(SMALL).at(level)
    mean, deviation = np.array(SMALL.mean), np.array(SMALL.deviation)
    latents = theirs.icetk_latents((IMAGES - mean) / deviation, state, halvings, GROUPS)
    book = state["quantize.embed.weight"].astype(np.float64)
    codes = np.argmin(np.square(latents[..., None, :] - book).sum(-1), axis=-1)
    pictures = theirs.icetk_decoder(book[codes], state, halvings, GROUPS) * deviation + mean

    @jax.jit
    def run(params):
        codes = tokenizer.encode(params, IMAGES)
        return tokenizer.forward(params, IMAGES), codes, tokenizer.decode(params, codes)

    forward, encoded, decoded = run(params)
    found = forward.quantized.latents.reshape(latents.shape)
    np.testing.assert_allclose(found, latents, atol=1e-4, rtol=1e-4)
    assert len(np.unique(codes)) > 1
    np.testing.assert_array_equal(encoded, codes.reshape(2, -1))
    np.testing.assert_allclose(forward.images, pictures, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(decoded, np.clip(pictures, 0, 1), atol=1e-4)


def test_levels_of_an_encoder_that_goes_on_have_no_place_in_theirs():
    network = dataclasses.replace(SMALL.network, multipliers=(1, 2, 4, 4, 4))
    other = dataclasses.replace(SMALL, coarser="levels", network=network)
    with pytest.raises(UserError, match="tokenizer.coarser is 'levels' and icetk halves the fines"):
        icetk_image(other)
