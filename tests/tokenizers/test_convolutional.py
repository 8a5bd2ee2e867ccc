"""The convolutional network: published sizes, any picture, the same numbers however computed."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig
from babeldraw.tokenizers.convolutional import (
    ConvolutionalConfig,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
)

MASKGIT = ConvolutionalConfig()
LLAMAGEN = ConvolutionalConfig(
    decoder_blocks=3,
    latent_kernel=3,
    attention=True,
    shortcut="input",
    bias=True,
    down="convolution",
)
IBQ = dataclasses.replace(LLAMAGEN, encoder_blocks=4, decoder_blocks=5)
MAGVIT2 = ConvolutionalConfig(
    encoder_blocks=4,
    decoder_blocks=4,
    middle_blocks=4,
    latent_channels=18,
    shortcut="input",
    down="centred",
    up="depth_to_space",
    adaptive=True,
)
SMALL = {"channels": 8, "groups": 4, "multipliers": (1, 2), "latent_channels": 6}
IMAGES = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)


def count(module, *shape):
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("config", "encoder", "decoder"),
    [
        (MASKGIT, 23_775_104, 30_478_339),
        (LLAMAGEN, 29_298_176, 42_449_795),
        (dataclasses.replace(LLAMAGEN, multipliers=(1, 2, 2, 4)), 28_559_232, 41_415_171),
        (IBQ, 46_752_256, 59_903_875),
        (MAGVIT2, 49_751_442, 65_376_387),
    ],
)
def test_published_sizes(config, encoder, decoder):
    side = config.stride
    assert count(ConvolutionalEncoder(config), side, side, 3) == encoder
    assert count(ConvolutionalDecoder(config), 1, 1, config.latent_channels) == decoder


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [MASKGIT, LLAMAGEN, pytest.param(MAGVIT2, marks=pytest.mark.slow)]
)
def test_any_picture_that_the_stride_divides_and_back(config):
    config = dataclasses.replace(config, **SMALL)
    encoder, decoder = ConvolutionalEncoder(config), ConvolutionalDecoder(config)
    params = nn.unbox(jax.jit(encoder.init)(jax.random.key(0), IMAGES))
    latents = jax.jit(encoder.apply)(params, IMAGES)
    assert latents.shape == (2, 4, 6, 6)
    params = nn.unbox(jax.jit(decoder.init)(jax.random.key(0), latents))
    assert jax.jit(decoder.apply)(params, latents).shape == IMAGES.shape


@pytest.mark.slow
def test_recomputed_it_gives_the_same_gradient():
    config = dataclasses.replace(LLAMAGEN, **SMALL)
    plain = ConvolutionalEncoder(config)
    full = ConvolutionalEncoder(dataclasses.replace(config, compute=ComputeConfig(remat="full")))
    params = nn.unbox(jax.jit(plain.init)(jax.random.key(0), IMAGES))
    first, second = (
        jax.jit(jax.grad(lambda p, m=module: jnp.sum(jnp.square(m.apply(p, IMAGES)))))(params)
        for module in (plain, full)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), first, second)


@pytest.mark.slow
def test_bfloat16_is_near_float32():
    config = dataclasses.replace(LLAMAGEN, **SMALL)
    params = nn.unbox(jax.jit(ConvolutionalEncoder(config).init)(jax.random.key(0), IMAGES))
    half = dataclasses.replace(config, compute=ComputeConfig(dtype="bfloat16"))
    whole = jax.jit(ConvolutionalEncoder(config).apply)(params, IMAGES)
    rough = jax.jit(ConvolutionalEncoder(half).apply)(params, IMAGES)
    assert rough.dtype == jnp.float32
    error = jnp.max(jnp.abs(whole - rough)) / jnp.std(whole)
    assert 0 < error < 0.1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"channels": 100}, "channels is 100, which groups=32 does not divide"),
        ({"multipliers": ()}, "multipliers is (); one of at least 1"),
        ({"decoder_blocks": -1}, "decoder_blocks is -1; at least 0"),
        ({"latent_kernel": 2}, "latent_kernel is 2; the choices are 1, 3"),
        ({"shortcut": "both"}, "shortcut is 'both'; the choices are input, output"),
        ({"down": "max"}, "down is 'max'; the choices are average, convolution"),
        ({"up": "linear"}, "up is 'linear'; the choices are nearest, depth_to_space"),
        ({"patch_size": 0}, "patch_size is 0; at least 1"),
        ({"epsilon": 0.0}, "epsilon is 0.0; more than 0"),
        ({"compute": ComputeConfig(kernel="splash")}, "kernel is 'splash'"),
        ({"compute": ComputeConfig(scan=False)}, "scan is False"),
    ],
)
def test_a_wrong_field_is_named(fields, told):
    with pytest.raises(UserError) as raised:
        ConvolutionalConfig(**fields)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
