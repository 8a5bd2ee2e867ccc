"""ViT-VQGAN: pixels in their places, tokens and back, raw values in training."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.layers.positions import GridPositions
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import (
    ViTVQGANConfig,
    ViTVQGANTokenizer,
    from_patches,
    to_patches,
)

STACK = TransformerConfig(blocks=2, heads=2, dim=16, hidden=32, activation="gelu", bias=True)
# Encoder and decoder of different sizes, a picture wider than high.
CONFIG = ViTVQGANConfig(
    encoder=STACK,
    decoder=dataclasses.replace(STACK, blocks=1, dim=24),
    image_size=(8, 12),
    patch_size=4,
    quantizer=VQConfig(32, 4),
)
TOKENIZER = ViTVQGANTokenizer(CONFIG)
encode, decode, reconstruct = map(
    jax.jit, (TOKENIZER.encode, TOKENIZER.decode, TOKENIZER.reconstruct)
)
IMAGES = np.random.default_rng(0).random((3, 8, 12, 3), np.float32)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(TOKENIZER.init)(jax.random.key(0)))


def test_a_patch_holds_its_own_pixels():
    # Each value tells its picture, row, column and channel.
    b, r, c, k = np.indices(IMAGES.shape)
    images = (1000 * b + 100 * r + 4 * c + k).astype(np.float32)
    patches = to_patches(images, 4)
    assert patches.shape == (3, 2 * 3, 4 * 4 * 3)
    for (row, column), t in zip(np.ndindex(2, 3), range(6), strict=True):
        cut = images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_array_equal(patches[:, t], cut.reshape(3, -1))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_go_back_to_the_picture(patch):
    grid = (8 // patch, 12 // patch)
    np.testing.assert_array_equal(from_patches(to_patches(IMAGES, patch), grid, patch), IMAGES)
    patches = np.arange(2 * 6 * 48, dtype=np.float32).reshape(2, 6, 48)
    np.testing.assert_array_equal(to_patches(from_patches(patches, (2, 3), 4), 4), patches)


@pytest.mark.parametrize(("grid", "shape"), [((2, 3), (2, 3)), ((5,), (1, 5))])
def test_positions_are_row_plus_column_in_the_order_of_patches(grid, shape):
    module = GridPositions(grid, 4)
    tables = nn.unbox(module.init(jax.random.key(0)))["params"]
    positions = np.asarray(module.apply({"params": tables}))
    assert tables["row"].shape == (shape[0], 4) and tables["column"].shape == (shape[1], 4)
    for t, (row, column) in enumerate(np.ndindex(*shape)):
        expected = tables["row"][row] + tables["column"][column]
        np.testing.assert_allclose(positions[t], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (16, 4)])
def test_pictures_become_tokens_and_pictures_of_any_shape(size):
    tokenizer = ViTVQGANTokenizer(dataclasses.replace(CONFIG, image_size=size))
    h, w = size[0] // 4, size[1] // 4
    assert tokenizer.codes.shape == (h, w) and tokenizer.codes.length == h * w
    assert tokenizer.codes.vocab_size == 32 and tokenizer.image_size == size
    abstract = jax.eval_shape(lambda key: nn.unbox(tokenizer.init(key)), jax.random.key(0))
    ids = jax.eval_shape(tokenizer.encode, abstract, jnp.zeros((3, *size, 3)))
    images = jax.eval_shape(tokenizer.decode, abstract, jnp.zeros((3, h * w), jnp.int32))
    assert ids.shape == (3, h * w) and ids.dtype == jnp.int32
    assert images.shape == (3, *size, 3) and images.dtype == jnp.float32


def test_through_the_tokens_and_back_is_one_reconstruction(params):
    ids = encode(params, IMAGES)
    images, same_ids = reconstruct(params, IMAGES)
    assert len(np.unique(ids)) > 3 and ids.min() >= 0 and ids.max() < 32
    np.testing.assert_array_equal(same_ids, ids)
    np.testing.assert_allclose(decode(params, ids), images, atol=1e-5)


def test_a_text_for_a_decoder_that_reads_none_is_refused(params):
    with pytest.raises(UserError, match="decoder of tokenizer.kind=vit_vqgan draws from codes al"):
        TOKENIZER.decode(params, jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 2, 3)))


def test_each_picture_is_coded_alone(params):
    together = encode(params, IMAGES)
    for index in range(3):
        alone = encode(params, IMAGES[index : index + 1])
        np.testing.assert_array_equal(alone[0], together[index])


def test_training_sees_raw_values_and_pictures_are_clipped(params):
    loud = {**params, "to_pixels": {**params["to_pixels"]}}
    loud["to_pixels"]["weight"] = 20 * params["to_pixels"]["weight"]

    @jax.jit
    def raw(params):
        return TOKENIZER.network.apply({"params": params}, IMAGES).images

    pixels = raw(loud)
    outside = (pixels < 0) | (pixels > 1)
    assert outside.mean() > 0.5
    shown = decode(loud, encode(loud, IMAGES))
    np.testing.assert_allclose(shown, np.clip(pixels, 0, 1), atol=1e-4)
    np.testing.assert_allclose(reconstruct(loud, IMAGES)[0], shown, atol=1e-4)
    # A pixel far outside still learns: the gradient of its value is not cut.
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.where(outside, raw(p), 0.0))))(loud)
    bias = np.asarray(grads["to_pixels"]["bias"])
    expected = 0.5 * to_patches(outside.astype(np.float32), 4).sum(axis=(0, 1))
    np.testing.assert_allclose(bias, expected, atol=1e-4)


def test_gradients_reach_the_encoder_through_the_codes(params):
    def loss(params):
        out = TOKENIZER.network.apply({"params": params}, IMAGES)
        return jnp.mean(jnp.square(out.images - IMAGES))

    grads = jax.jit(jax.grad(loss))(params)
    assert np.any(grads["embed"]["weight"]) and np.any(grads["decoder"]["head"]["up"]["weight"])
    # The table learns from the codebook loss alone.
    np.testing.assert_array_equal(grads["codebook"]["table"], np.zeros((32, 4)))


@pytest.mark.parametrize(
    "bad",
    [
        {"image_size": (8, 10)},
        {"image_size": (0, 8)},
        {"patch_size": 0},
    ],
)
def test_sizes_that_cannot_be_are_named(bad):
    ((field, value),) = bad.items()
    with pytest.raises(UserError) as caught:
        dataclasses.replace(CONFIG, **bad)
    assert str(caught.value).startswith(f"tokenizer.{field} is {value}")


@pytest.mark.parametrize(
    ("field", "value"), [("codebook_size", 0), ("codebook_size", 2**31), ("code_dim", 0)]
)
def test_sizes_of_a_codebook_that_cannot_be_are_named(field, value):
    with pytest.raises(UserError) as caught:
        dataclasses.replace(VQConfig(), **{field: value})
    assert str(caught.value).startswith(f"tokenizer.quantizer.{field} is {value}")


HEADS = {"encoder_head": "relu", "decoder_head": "none", "latent_norm": "layer"}


def test_a_section_without_the_papers_head():
    tokenizer = ViTVQGANTokenizer(dataclasses.replace(CONFIG, **HEADS))
    boxed = jax.eval_shape(tokenizer.init, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: rng.normal(0.5, 1, leaf.shape).astype(np.float32), nn.unbox(boxed)
    )
    assert boxed["latent_norm"]["bias"].names == ("code_dim",)
    assert set(params["latent_norm"]) == {"bias"}
    assert set(params["encoder"]) == set(params["decoder"]) == {"positions", "stack", "norm"}
    assert set(tokenizer.part(params, tokenizer.groups)) == set(params)
    seen = tokenizer.network.apply({"params": params}, IMAGES, method="latents")
    seen = np.asarray(seen) - params["latent_norm"]["bias"]
    np.testing.assert_allclose(seen.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(-1), 1, atol=1e-3)


@pytest.mark.parametrize(("field", "makes_codes"), [*zip(HEADS, (True, False, True), strict=True)])
def test_what_makes_codes_is_in_their_identity(field, makes_codes):
    changed = ViTVQGANTokenizer(dataclasses.replace(CONFIG, **{field: HEADS[field]}))
    assert (changed.code_fields != TOKENIZER.code_fields) == makes_codes
    assert field not in TOKENIZER.code_fields


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("encoder_head", "gelu", "tanh, relu, none"),
        ("decoder_head", "", "tanh, relu, none"),
        ("latent_norm", "rms", "none, layer"),
        ("output", "bgr", "rgb, logit_laplace"),
    ],
)
def test_a_choice_that_there_is_not_is_named(field, value, choices):
    with pytest.raises(UserError) as caught:
        dataclasses.replace(CONFIG, **{field: value})
    assert str(caught.value) == f"tokenizer.{field} is {value!r}; the choices are {choices}"
