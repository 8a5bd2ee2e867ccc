"""A VQGAN: any picture through its codes and back, training, and what makes its codes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig
from babeldraw.runs.weights import flatten
from babeldraw.tokenizers.base import identity
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.quantizers import ResidualVQConfig, VQConfig
from babeldraw.tokenizers.vqgan import VQGANConfig, VQGANTokenizer

NETWORK = ConvolutionalConfig(
    channels=8, groups=4, multipliers=(1, 2), encoder_blocks=1, latent_channels=6
)
# A picture wider than high; codes drawn wide, so that several are used.
CONFIG = VQGANConfig(NETWORK, (4, 8), VQConfig(32, 6, l2_normalized=False))
TOKENIZER = VQGANTokenizer(CONFIG)
IMAGES = np.random.default_rng(0).random((3, 4, 8, 3), np.float32)
encode, decode, forward = map(jax.jit, (TOKENIZER.encode, TOKENIZER.decode, TOKENIZER.forward))


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(TOKENIZER.init)(jax.random.key(0)))


def changed(**fields):
    return VQGANTokenizer(dataclasses.replace(CONFIG, **fields))


def test_through_the_codes_and_back_is_one_reconstruction(params):
    ids, out = encode(params, IMAGES), forward(params, IMAGES)
    assert ids.shape == (3, 2 * 4) and ids.dtype == jnp.int32 and len(np.unique(ids)) > 3
    np.testing.assert_array_equal(out.codes, ids)
    np.testing.assert_allclose(decode(params, ids), jnp.clip(out.images, 0, 1), atol=1e-5)
    assert out.raw.shape == IMAGES.shape


def test_the_same_weights_code_pictures_of_any_size(params):
    wide = changed(image_size=(6, 10))
    assert wide.codes.shape == (3, 5)
    images = np.random.default_rng(1).random((2, 6, 10, 3), np.float32)
    out = jax.jit(wide.forward)(params, images)
    assert out.codes.shape == (2, 15) and out.images.shape == images.shape


def test_pixels_may_be_centred_within(params):
    centred = changed(centred=True)
    out = jax.jit(centred.forward)(params, (IMAGES + 1) / 2)
    plain = forward(params, IMAGES)
    # The network sees the same values, of pictures that differ.
    np.testing.assert_allclose(out.raw, plain.raw, atol=1e-5)
    np.testing.assert_allclose(out.images, (plain.raw + 1) / 2, atol=1e-5)


def test_a_mean_of_codes_that_is_one_of_them_draws_as_that_one(params):
    ids = encode(params, IMAGES)
    raw = jax.jit(TOKENIZER.draw_mean)(params, jax.nn.one_hot(ids, 32))
    np.testing.assert_allclose(raw, forward(params, IMAGES).raw, atol=1e-5)


@pytest.mark.parametrize("projected", [False, True])
def test_parts_are_all_of_the_parameters(projected):
    tokenizer = changed(projected=projected)
    tree = jax.eval_shape(lambda key: nn.unbox(tokenizer.init(key)), jax.random.key(0))
    named = [name for names in tokenizer.groups.values() for name in names]
    assert sorted(named) == sorted(tree)
    leaf = tree
    for name in tokenizer.last:
        leaf = leaf[name]
    assert leaf.shape == (3, 3, 8, 3)
    assert ("to_code/weight" in flatten(tree)) == projected


@pytest.mark.slow
def test_gradients_reach_the_encoder_and_the_codes_by_their_own_term(params):
    def loss(params):
        out = TOKENIZER.forward(params, IMAGES, terms=("entropy",))
        return jnp.mean(jnp.square(out.images - IMAGES)), out.terms

    grads, terms = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert np.any(grads["encoder"]["first"]["weight"])
    np.testing.assert_array_equal(grads["codebook"]["table"], np.zeros((32, 6)))
    assert set(terms) == {"codebook", "commitment", "entropy"}


def test_codes_are_those_of_whatever_quantizer():
    tokenizer = changed(quantizer=ResidualVQConfig(16, 6, levels=2))
    tree = jax.eval_shape(lambda key: nn.unbox(tokenizer.init(key)), jax.random.key(0))
    ids = jax.eval_shape(tokenizer.encode, tree, IMAGES)
    assert ids.shape == (3, 8, 2) and tokenizer.codes.vocab == (16, 16)


def test_idle_codes_can_be_moved(params):
    out = forward(params, IMAGES)
    share = jnp.zeros(32)
    moved, share = TOKENIZER.restart(params, share, out, 0.5, jax.random.key(0))
    assert TOKENIZER.restarts() and np.any(
        moved["codebook"]["table"] != params["codebook"]["table"]
    )
    assert share.shape == (32,)


@pytest.mark.parametrize(
    ("fields", "makes_codes"),
    [
        ({"network": dataclasses.replace(NETWORK, shortcut="input")}, True),
        ({"network": dataclasses.replace(NETWORK, epsilon=1e-5)}, True),
        ({"network": dataclasses.replace(NETWORK, decoder_blocks=3)}, False),
        ({"network": dataclasses.replace(NETWORK, compute=ComputeConfig("bfloat16"))}, False),
        ({"quantizer": VQConfig(32, 6)}, True),
        ({"quantizer": dataclasses.replace(CONFIG.quantizer, code_init="uniform")}, False),
        ({"centred": True}, True),
        ({"image_size": (8, 8)}, True),
    ],
)
def test_what_makes_codes_is_in_their_identity(params, fields, makes_codes):
    other = identity(changed(**fields), params)
    assert (other != identity(TOKENIZER, params)) == makes_codes


def test_a_section_makes_it_and_a_tiny_one():
    tokenizer = make_tokenizer(VQGANConfig(image_size=(512, 512)))
    assert tokenizer.codes.shape == (32, 32) and tokenizer.codes.vocab_size == 1024
    tiny = make_tokenizer(tokenizer.config.tiny())
    assert (tiny.image_size, tiny.codes.shape) == ((32, 32), (8, 8))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"image_size": (4, 7)}, "tokenizer.image_size is (4, 7), which the network's stride of 2"),
        ({"image_size": (0, 8)}, "tokenizer.image_size is (0, 8)"),
        (
            {"quantizer": VQConfig(32, 5)},
            "codes of tokenizer.quantizer.kind=vq have 5 values and tokenizer.network",
        ),
    ],
)
def test_a_wrong_field_is_named(fields, told):
    with pytest.raises(UserError) as raised:
        changed(**fields)
    assert str(raised.value).startswith(told) and "\n" not in str(raised.value)
