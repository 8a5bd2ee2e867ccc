"""Continuous codes of every tokenizer that has them: shapes, means, draws, the way back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.gaussian import GaussianConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.titok import TiTokConfig
from babeldraw.tokenizers.vqgan import VQGANConfig
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config

STACK = TransformerConfig(1, 2, 16, 32, compute=ComputeConfig(scan=False))
NETWORK = ConvolutionalConfig(
    8, (1, 2, 2), 1, 1, 1, latent_channels=4, groups=4, shortcut="input", bias=True
)
QUANTIZER = GaussianConfig(4)
CONFIGS = {
    "vqgan": VQGANConfig(NETWORK, (16, 24), QUANTIZER, projected=True, centred=True),
    "titok": TiTokConfig(STACK, STACK, 5, (16, 24), 8, QUANTIZER),
}
SHAPES = {"vqgan": (4, 6), "titok": (5,)}
IMAGES = jnp.float32(np.random.default_rng(0).uniform(size=(3, 16, 24, 3)))


@pytest.fixture(scope="module", params=CONFIGS)
def made(request):
    tokenizer = make_tokenizer(CONFIGS[request.param])
    params = jax.jit(lambda key: nn.unbox(tokenizer.init(key)))(jax.random.key(0))
    return request.param, tokenizer, params


def test_codes_are_means_and_pictures_come_back_of_their_shape(made):
    kind, tokenizer, params = made
    assert (tokenizer.codes.shape, tokenizer.codes.channels) == (SHAPES[kind], 4)
    codes = jax.jit(tokenizer.encode)(params, IMAGES)
    assert codes.shape == (3, *tokenizer.codes.each) and codes.dtype == tokenizer.codes.dtype
    seen = jax.jit(tokenizer.decode)(params, codes)
    out, given = jax.jit(tokenizer.reconstruct)(params, IMAGES)
    assert seen.shape == IMAGES.shape
    np.testing.assert_allclose(given, codes, atol=1e-6)
    np.testing.assert_allclose(out, seen, atol=1e-5)


def test_codes_are_drawn_around_their_means(made):
    _, tokenizer, params = made
    sampled, keys = jax.jit(tokenizer.sampled), jax.random.split(jax.random.key(1), 200)
    draws = np.stack([sampled(params, IMAGES, key) for key in keys])
    np.testing.assert_array_equal(sampled(params, IMAGES, keys[0]), draws[0])
    spread = draws.std(0)
    assert spread.min() > 0
    means = jax.jit(tokenizer.encode)(params, IMAGES)
    away = np.abs(draws.mean(0) - means) / (spread / 200**0.5)
    assert away.mean() < 1 and away.max() < 6


def test_training_draws_and_adds_the_divergence(made):
    _, tokenizer, params = made
    forward = jax.jit(tokenizer.forward)
    plain, other = forward(params, IMAGES), forward(params, IMAGES, jax.random.key(2))
    assert plain.terms["kl"] == other.terms["kl"] > 0
    assert np.abs(np.asarray(plain.raw - other.raw)).max() > 1e-3
    np.testing.assert_array_equal(plain.codes, other.codes)
    assert plain.codes.shape == (3, *tokenizer.codes.each)


def test_the_autoencoder_of_latent_diffusion_has_its_size():
    tokenizer = make_tokenizer(parse(load_config("configs/autoencoder_kl.py", "README")).tokenizer)
    params = nn.unbox(jax.eval_shape(tokenizer.init, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 83_653_863
    assert tokenizer.codes.each == (32, 32, 4)
