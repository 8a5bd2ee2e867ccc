"""DiT on continuous codes trains under every layout as on one device."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from babeldraw.models.dit import DiTConfig
from babeldraw.models.kinds import make_generator
from babeldraw.prediction.diffusion import DiffusionPrediction
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.tokenizers.gaussian import GaussianConfig
from babeldraw.tokenizers.kinds import make_tokenizer
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


@functools.cache
def losses_on_one_device():
    return Run(MeshConfig(), DENOISING, jax.devices()[:1]).losses()


@pytest.mark.parametrize("name", ["zero1", "in_layer_fsdp", "pipeline_in_layer_zero1"])
def test_five_steps_have_the_losses_of_one_device(name):
    expected = losses_on_one_device()
    assert len({*expected}) == STEPS
    np.testing.assert_allclose(Run(LAYOUTS[name], DENOISING).losses(), expected, rtol=1e-5)
