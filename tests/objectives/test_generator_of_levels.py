"""Stage 2 over all levels of a nested VAE: packed or not, as a whole or in shares."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.dit import DiTConfig
from babeldraw.models.kinds import make_generator
from babeldraw.models.levels import LevelsConfig
from babeldraw.models.maskgit import MaskGITConfig
from babeldraw.objectives.base import TrainState
from babeldraw.objectives.generator import GeneratorObjective
from babeldraw.prediction.diffusion import DiffusionPrediction
from babeldraw.tokenizers.all_levels import CodesOfLevels
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.nested_vae import NestedVAEConfig
from babeldraw.tokenizers.pixels import to_float
from tests.networks import random_params

NETWORK = ConvolutionalConfig(
    channels=4,
    multipliers=(1, 1, 2),
    encoder_blocks=1,
    decoder_blocks=1,
    middle_blocks=1,
    latent_channels=2,
    shortcut="input",
    bias=True,
    groups=2,
)
TOKENIZER = make_tokenizer(NestedVAEConfig(NETWORK, (1, 2, 4), (8, 8)))
STACK = TransformerConfig(1, 2, 16, 32, bias=True, compute=ComputeConfig(scan=False))
# Rows of 16, 4, 4 and 1 slots.
COUNTS, BATCH = (1, 2, 1), 8
KEY = jax.random.key(5)


def objective(packed, accumulation=1, stored=False):
    levels = LevelsConfig(COUNTS, packed).of(TOKENIZER)
    condition = ClassCondition(5, 0.1)
    generator = make_generator(DiTConfig(STACK), condition, TOKENIZER.codes, levels)
    return GeneratorObjective(
        generator,
        DiffusionPrediction(),
        TOKENIZER,
        None,
        BATCH,
        stored_tokens=stored,
        accumulation=accumulation,
    )


@pytest.fixture(scope="module")
def given():
    """A state and a batch."""
    frozen = jax.eval_shape(lambda key: nn.unbox(TOKENIZER.init(key)), KEY)
    rng = np.random.default_rng(1)
    frozen = jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, 0.3, leaf.shape)), frozen)
    state = TrainState(
        jnp.int32(0), random_params(objective(True).generator), None, {"tokenizer": frozen}, {}
    )
    images = rng.integers(0, 256, (BATCH, 8, 8, 3))
    return state, {"image": jnp.uint8(images), "label": jnp.arange(BATCH) % 5}


@pytest.fixture(scope="module")
def packed(given):
    return jax.jit(objective(True).gradients)(*given, KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        objective(False),
        pytest.param(objective(True, accumulation=2), marks=pytest.mark.slow),
    ],
    ids=["not packed", "in shares"],
)
def test_packed_or_not_and_in_shares_a_step_is_the_same(given, packed, other):
    grads, metrics = jax.jit(other.gradients)(*given, KEY)
    assert metrics.keys() == packed[1].keys() >= {"loss", "loss_1", "loss_2", "loss_4"}
    for found, expected in zip(*map(jax.tree.leaves, ((grads, metrics), packed)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_stored_codes_of_all_levels_are_as_good_as_pictures(given, packed):
    state, batch = given
    levels = CodesOfLevels.of(TOKENIZER)

    @jax.jit
    def encode(params, images):
        at = [TOKENIZER.at(name) for name in levels.names]
        return levels.joined([each.encode(params, to_float(images)) for each in at])

    tokens = encode(state.frozen["tokenizer"], batch["image"])
    of_tokens = objective(True, stored=True)
    spec = of_tokens.batch_spec()["tokens"]
    assert (spec.shape, spec.dtype) == (tokens.shape, tokens.dtype)
    stored = {"tokens": tokens, "label": batch["label"]}
    found = jax.jit(of_tokens.gradients)(state, stored, KEY)
    for one, other in zip(*map(jax.tree.leaves, (found, packed)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)
    # Evaluation reads those of one level.
    own = of_tokens.at("2")._codes(state.frozen, stored)
    np.testing.assert_array_equal(own, levels.of_level(tokens, "2"))


def test_every_picture_weighs_alike(packed):
    metrics = packed[1]
    mean = (metrics["loss_1"] + 2 * metrics["loss_2"] + metrics["loss_4"]) / 4
    np.testing.assert_allclose(metrics["loss"], mean, rtol=1e-6)


@pytest.mark.slow
def test_a_group_s_pictures_become_codes_of_their_own_levels(given):
    state, batch = given
    codes = jax.jit(lambda *args: objective(True)._codes_of_levels(*args, None))(
        state.frozen, batch
    )
    which = {"1": [[0], [4]], "2": [[1, 2], [5, 6]], "4": [[3], [7]]}
    images = to_float(batch["image"])
    for found, (level, rows) in zip(codes, which.items(), strict=True):
        own = jax.jit(TOKENIZER.at(level).encode)(
            state.frozen["tokenizer"], images[jnp.int32(rows).reshape(-1)]
        )
        np.testing.assert_allclose(found.reshape(own.shape), own, atol=1e-5, rtol=1e-5)


def test_what_levels_cannot_be_is_told():
    with pytest.raises(UserError, match=r"config.levels.counts is \(1, 0, 2\); at least 1 of each"):
        LevelsConfig((1, 0, 2))
    with pytest.raises(UserError, match=r"counts is \(1, 2\) and .* has the levels 1, 2, 4; give"):
        LevelsConfig((1, 2)).of(TOKENIZER)
    one = make_tokenizer(NestedVAEConfig(NETWORK, (4,), (8, 8)))
    with pytest.raises(UserError, match="config.levels is set and .*nested_vae has one level"):
        LevelsConfig().of(one)
    levels = LevelsConfig().of(TOKENIZER)
    with pytest.raises(UserError, match="config.model.kind=maskgit draws into one level"):
        make_generator(MaskGITConfig(STACK), ClassCondition(5, 0.1), TOKENIZER.codes, levels)
