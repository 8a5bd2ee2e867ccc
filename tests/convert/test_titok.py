"""TiTok's published checkpoints: every tensor has its place, and the numbers are theirs."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from babeldraw.convert.table import left_out, read, read_buffers, shapes, write
from babeldraw.convert.titok import titok
from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.gaussian import GaussianConfig
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.titok import PIXELS, GuidanceConfig, TiTokConfig, TiTokTokenizer
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig
from babeldraw.tokenizers.vqgan import VQGANConfig
from tests.tokenizers import convolutions
from tests.tokenizers import one_dimension as theirs
from tests.tokenizers.convolutions import maskgit_shapes


def stack(width, layers, heads):
    return TransformerConfig(layers, heads, width, 4 * width, activation="gelu_exact", bias=True)


def proxy(side, patch, codes):
    """Any tokenizer with so many codes on the grid."""
    small = TransformerConfig(1, 1, 8, 8)
    return ViTVQGANConfig(small, small, side, patch, VQConfig(codes, 4))


S, B, L = stack(512, 8, 8), stack(768, 12, 12), stack(1024, 24, 16)
FEW, MANY, CONTINUOUS = VQConfig(4096, 12), VQConfig(8192, 64, False), GaussianConfig(16)
LEGACY = {"quantizer": FEW, "scrambled": True, "proxy": proxy((256, 256), 16, 1024)}
TWO_STAGES = LEGACY | {"proxy": VQGANConfig(), "through_proxy": True}
TEXT = {"text": GuidanceConfig()}
PUBLISHED = {
    # Sides, latent tokens, the rest of the section; parameters as counted from the built modules.
    "stage 1 of l32": (L, L, 32, LEGACY, 610_314_252),
    "stage 1 of b64": (B, B, 64, LEGACY, 174_073_612),
    "stage 1 of s128": (S, S, 128, LEGACY, 52_934_156),
    "stage 2 of l32": (L, L, 32, TWO_STAGES, 641_054_735),
    "stage 2 of b64": (B, B, 64, TWO_STAGES, 204_814_095),
    "stage 2 of s128": (S, S, 128, TWO_STAGES, 83_674_639),
    "bl64 vq8k": (B, L, 64, {"quantizer": MANY}, 390_016_148),
    "bl128 vq8k": (B, L, 128, {"quantizer": MANY}, 390_179_988),
    "sl256 vq8k": (S, L, 256, {"quantizer": MANY}, 330_260_884),
    "ll32 vae": (L, L, 32, {"quantizer": CONTINUOUS}, 606_879_604),
    "bl64 vae": (B, L, 64, {"quantizer": CONTINUOUS}, 389_418_100),
    "bl128 vae": (B, L, 128, {"quantizer": CONTINUOUS}, 389_581_940),
    "ta bl32": (B, L, 32, {"quantizer": MANY, **TEXT}, 390_800_532),
    "ta bl128": (B, L, 128, {"quantizer": MANY, **TEXT}, 391_046_292),
    "ta bl32 vae": (B, L, 32, {"quantizer": CONTINUOUS, **TEXT}, 390_202_484),
}
# A picture wider than high, sides of different widths.
SMALL = TiTokConfig(stack(8, 2, 2), stack(12, 1, 3), 5, (8, 12), 4, VQConfig(16, 6))
MASKGIT = VQGANConfig(
    ConvolutionalConfig(8, (1, 2, 2), latent_channels=6, groups=4),
    (8, 12),
    VQConfig(11, 6, l2_normalized=False),
)
SMALLER = {
    "corrected": SMALL,
    "legacy": dataclasses.replace(SMALL, scrambled=True, proxy=proxy((8, 12), 4, 11)),
    "two stages": dataclasses.replace(
        SMALL, scrambled=True, proxy=MASKGIT, through_proxy=True, quantizer=VQConfig(16, 6)
    ),
    "without l2": dataclasses.replace(SMALL, quantizer=VQConfig(16, 6, l2_normalized=False)),
    "continuous": dataclasses.replace(SMALL, quantizer=GaussianConfig(6)),
    "beside a text": dataclasses.replace(SMALL, text=GuidanceConfig(3, 7)),
}
RNG = np.random.default_rng(0)
IMAGES = np.random.default_rng(1).random((2, 8, 12, 3), np.float32)
TEXTS = np.random.default_rng(2).normal(size=(2, 3, 7)).astype(np.float32)


def shapes_of(config):
    sides = ((side.dim, side.blocks) for side in (config.encoder, config.decoder))
    text, quantizer, proxy = config.text, config.quantizer, config.proxy
    shapes = theirs.titok_shapes(
        *sides,
        config.tokens,
        sum(quantizer.vocab),
        quantizer.code_dim,
        proxy=0 if proxy is None else proxy.quantizer.codebook_size,
        text=() if text is None else (text.words, text.dim),
        patch=config.patch_size,
        cells=config.grid[0] * config.grid[1],
    )
    return shapes | (pixel_shapes(proxy) if config.through_proxy else {})


def pixel_shapes(proxy):
    """Of MaskGIT's tokenizer, by the names that it has in the second stage."""
    network, codes = proxy.network, proxy.quantizer.codebook_size
    shapes = maskgit_shapes(network.channels, network.multipliers, network.latent_channels, codes)
    renamed = {"decoder.": "pixel_decoder.", "quantize.": "pixel_quantize."}
    return {
        name.replace(old, new, 1): shape
        for name, shape in shapes.items()
        for old, new in renamed.items()
        if name.startswith(old)
    }


def abstract(config):
    init = TiTokTokenizer(config).init
    return jax.eval_shape(lambda key: nn.unbox(init(key)), jax.random.key(0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_tensors_are_the_published_ones(name):
    encoder, decoder, tokens, section, count = PUBLISHED[name]
    config = TiTokConfig(encoder, decoder, tokens, **section)
    params = abstract(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert shapes(titok(config), params) == shapes_of(config)


def test_how_much_codes_were_used_is_left_out_where_none_is_moved_by_it():
    (names,) = left_out(titok(SMALL), ["quantize.embed_prob"], abstract(SMALL)).values()
    assert names == ["quantize.embed_prob"]


def test_how_much_codes_were_used_is_given_back_where_idle_ones_are_moved_by_it():
    quantizer = VQConfig(16, 6, l2_normalized=False, restart_how="clustered")
    config = dataclasses.replace(SMALL, quantizer=quantizer)
    table, params = titok(config), theirs.drawn(shapes_of(config))
    used = {"quantize.embed_prob": RNG.dirichlet(np.ones(16)).astype(np.float32)}
    ours, buffers = read(table, params | used, abstract(config)), read_buffers(table, used)
    # In units of an equal share.
    np.testing.assert_allclose(buffers["code_share"], 16 * used["quantize.embed_prob"], rtol=1e-6)
    back = write(table, ours, buffers=buffers)
    assert back.keys() == (params | used).keys()
    assert all(back[key].tobytes() == array.tobytes() for key, array in (params | used).items())
    # Of a run that was never moved, and of a file from before.
    assert not write(table, ours)["quantize.embed_prob"].any()
    assert not read_buffers(table, params)
    with pytest.raises(UserError, match=r"quantize.embed_prob has the shape \(3,\) and \(16,\)"):
        read_buffers(table, {"quantize.embed_prob": np.zeros(3)})


@pytest.mark.parametrize("name", SMALLER)
def test_there_and_back_are_the_same_bytes(name):
    config = SMALLER[name]
    state = theirs.drawn(shapes_of(config))
    back = write(titok(config), read(titok(config), state, abstract(config)))
    assert back.keys() == state.keys()
    assert all(back[key].tobytes() == array.tobytes() for key, array in state.items())


@pytest.mark.parametrize("name", SMALLER)
def test_codes_and_pictures_are_those_of_the_published_layer_order(name):
    config = SMALLER[name]
    state, legacy = theirs.drawn(shapes_of(config)), config.proxy is not None
    params, tokenizer = read(titok(config), state, abstract(config)), TiTokTokenizer(config)
    own, network = {n: tree for n, tree in params.items() if n != PIXELS}, tokenizer.network
    text = None if config.text is None else TEXTS

    @jax.jit
    def run(own, pixels):
        encoded = network.apply({"params": own}, IMAGES, method="encoded")
        found, drawn = network.apply({"params": own}, IMAGES, text)
        images = tokenizer.to_images(tokenizer.raw(pixels, drawn)) if tokenizer.draws else None
        return encoded, found, drawn, images

    encoded, found, drawn, images = run(own, params)
    z = theirs.encoder(IMAGES.astype(np.float64), state, config.encoder.heads, legacy)
    np.testing.assert_allclose(encoded, z, atol=1e-4)
    if config.quantizer.vocab:
        codes, chosen, compared = theirs.quantized(z, state, config.quantizer.l2_normalized)
        assert len(np.unique(codes)) > 3
        np.testing.assert_array_equal(found.ids, codes)
        np.testing.assert_allclose(found.latents, compared, atol=1e-4)
    else:
        chosen = z[..., :6]
        np.testing.assert_allclose(found.codes, chosen, atol=1e-4)
    expected = theirs.decoder(chosen, state, config.decoder.heads, legacy, config.grid, text)
    np.testing.assert_allclose(drawn, expected, atol=1e-4)
    if config.through_proxy:
        pictures = through_maskgit(expected, state, config.grid)
        np.testing.assert_allclose(images, pictures, atol=1e-4)


def through_maskgit(logits, state, grid):
    """The second stage's way to pixels: the mean of MaskGIT's codes by the softmax, its decoder."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    mean = weights / weights.sum(-1, keepdims=True) @ state["pixel_quantize.embedding.weight"]
    renamed = {name.removeprefix("pixel_"): array for name, array in state.items()}
    pixels = {n: renamed[n] for n in renamed if f"pixel_{n}" in state}
    return convolutions.maskgit_decoder(mean.reshape(len(mean), *grid, -1), pixels, 4)


def test_latents_are_scrambled_only_where_it_is_said():
    """The slip of the paper's checkpoints changes codes; a correct encoder is no other reading."""
    scrambled = dataclasses.replace(SMALL, scrambled=True)
    params = read(titok(SMALL), theirs.drawn(shapes_of(SMALL)), abstract(SMALL))
    one, other = (
        TiTokTokenizer(config).network.apply({"params": params}, IMAGES, method="encoded")
        for config in (SMALL, scrambled)
    )
    assert np.abs(one - other).max() > 0.1


def test_weights_of_another_layout_are_refused():
    state = theirs.drawn(shapes_of(SMALLER["legacy"]))
    with pytest.raises(UserError, match="holds no decoder.conv_out.*: it is of another network"):
        read(titok(SMALL), state, abstract(SMALL))
