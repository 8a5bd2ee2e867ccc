"""DiT on continuous codes trains under every layout as on one device, packed rows too."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from babeldraw.models.dit import DiTConfig
from babeldraw.models.kinds import make_generator
from babeldraw.models.levels import LevelsConfig
from babeldraw.prediction.diffusion import DiffusionPrediction
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.gaussian import GaussianConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.nested_vae import NestedVAEConfig
from babeldraw.tokenizers.titok import TiTokConfig
from tests.train.parallel_case import OBJECTIVE, STACK, STEPS, TOKENIZER, WORDS, Run
from tests.train.test_parallel import LAYOUTS

pytestmark = [pytest.mark.slow, pytest.mark.budget(25)]

LATENTS = make_tokenizer(TiTokConfig(TOKENIZER, TOKENIZER, 6, (16, 16), 4, GaussianConfig(4)))
DENOISING = dataclasses.replace(
    OBJECTIVE,
    generator=make_generator(DiTConfig(STACK, 1, encoder=STACK), WORDS, LATENTS.codes),
    prediction=DiffusionPrediction(sampled=True),
    tokenizer=LATENTS,
)
NETWORK = ConvolutionalConfig(
    4, (1, 1, 2), encoder_blocks=1, decoder_blocks=1, latent_channels=3, groups=2
)
NESTED = make_tokenizer(NestedVAEConfig(NETWORK, (2, 4), (16, 16)))
# At the others' rate, 1e-2, their loss halves in five steps: roundings of 4e-6 in the third are of
# 6e-5 in the fifth.
SLOWER = dataclasses.replace(
    OBJECTIVE.optimizer, schedule=dataclasses.replace(OBJECTIVE.optimizer.schedule, peak=1e-3)
)
# Rows of a picture of 16 slots and one of 4, with a text each.
OF_LEVELS = dataclasses.replace(
    DENOISING,
    optimizer=SLOWER,
    generator=make_generator(
        DiTConfig(STACK, encoder=STACK),
        WORDS,
        NESTED.codes,
        LevelsConfig(packed=True).of(NESTED),
    ),
    tokenizer=NESTED,
)
OBJECTIVES = {"one level": DENOISING, "packed": OF_LEVELS}


@functools.cache
def losses_on_one_device(of):
    return Run(MeshConfig(), OBJECTIVES[of], jax.devices()[:1]).losses()


@pytest.mark.parametrize(
    ("of", "name"),
    [
        ("one level", "zero1"),
        ("one level", "in_layer_fsdp"),
        ("one level", "pipeline_in_layer_zero1"),
        ("packed", "zero1"),
        ("packed", "pipeline_in_layer_zero1"),
    ],
)
def test_five_steps_have_the_losses_of_one_device(of, name):
    expected = losses_on_one_device(of)
    assert len({*expected}) == STEPS
    found = Run(LAYOUTS[name], OBJECTIVES[of]).losses()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
