"""Others' convolutional tokenizers: every tensor has its place, and the numbers are theirs."""

import dataclasses
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import left_out, read, write
from babeldraw.convert.vqgan import (
    llamagen,
    maskgit_flax,
    maskgit_torch,
    open_magvit2,
    open_magvit2_average,
    taming,
    taming_average,
)
from babeldraw.errors import UserError
from babeldraw.runs.weights import flatten, write_weights
from babeldraw.tokenizers.quantizers import IBQConfig, LFQConfig, VQConfig
from babeldraw.tokenizers.vqgan import VQGANConfig, VQGANTokenizer
from tests.tokenizers import convolutions as theirs
from tests.tokenizers.test_convolutional import IBQ, LLAMAGEN, MAGVIT2, MASKGIT

GROUPS = 4
SMALL = {"channels": 8, "groups": GROUPS, "multipliers": (1, 2, 2), "latent_channels": 6}
SIZE = {"image_size": (8, 12)}
MASKGIT_SMALL = VQGANConfig(
    dataclasses.replace(MASKGIT, **SMALL), quantizer=VQConfig(16, 6, l2_normalized=False), **SIZE
)
LLAMAGEN_WAY = {"projected": True, "centred": True}
LLAMAGEN_SMALL = VQGANConfig(
    dataclasses.replace(LLAMAGEN, **SMALL), quantizer=VQConfig(16, 5), **LLAMAGEN_WAY, **SIZE
)
IBQ_SMALL = dataclasses.replace(LLAMAGEN_SMALL, quantizer=IBQConfig(16, 5))
MAGVIT2_SMALL = VQGANConfig(
    dataclasses.replace(MAGVIT2, **SMALL), quantizer=LFQConfig(6), centred=True, **SIZE
)
SHAPES = {
    "maskgit": theirs.maskgit_shapes(8, (1, 2, 2), 6, 16),
    "llamagen": theirs.llamagen_shapes(8, (1, 2, 2), 6, 16, 5),
}
IMAGES = np.random.default_rng(1).random((2, 8, 12, 3), np.float32)


def abstract(config):
    init = VQGANTokenizer(config).init
    return jax.eval_shape(lambda key: nn.unbox(init(key)), jax.random.key(0))


def shapes_by(table, config):
    params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract(config))
    return {name: tensor.shape for name, tensor in write(table(config), params).items()}


def ours(table, config, state):
    return read(table(config), state, abstract(config))


# ------------------------------------------------------------------ names and shapes


def test_maskgit_s_tensors_are_those_of_the_port():
    shapes = shapes_by(maskgit_torch, VQGANConfig())
    assert shapes == theirs.maskgit_shapes(128, (1, 1, 2, 2, 4), 256, 1024)
    assert len(shapes) == 168 and sum(map(np.prod, shapes.values())) == 54_515_587
    parts = {"encoder": 23_775_104, "decoder": 30_478_339, "quantize": 262_144}
    for part, count in parts.items():
        assert sum(np.prod(s) for n, s in shapes.items() if n.startswith(part)) == count


def test_maskgit_s_tensors_in_flax_are_counted_in_the_order_of_calls():
    shapes = shapes_by(maskgit_flax, VQGANConfig())
    assert len(shapes) == 168 and sum(map(np.prod, shapes.values())) == 54_515_587
    assert shapes["quantizer/codebook"] == (1024, 256)
    for side, up in (("encoder", {4: 256, 8: 512}), ("decoder", {4: 256, 8: 128})):
        blocks = {int(n) for n in re.findall(rf"{side}/ResBlock_(\d+)/", " ".join(shapes))}
        assert blocks == set(range(12))
        shortcuts = {name: s for name, s in shapes.items() if "/Conv_2/kernel" in name}
        for block, width in up.items():
            assert shortcuts[f"{side}/ResBlock_{block}/Conv_2/kernel"] == (1, 1, width, width)
    # The decoder's own: from the latents, four after the nearest neighbour, to pixels.
    widths = [shapes[f"decoder/Conv_{i}/kernel"][2:] for i in range(6)]
    same = [(width, width) for width in (512, 256, 256, 128)]
    assert widths == [(256, 512), *same, (128, 3)]
    assert "encoder/Conv_0/bias" not in shapes and shapes["encoder/Conv_1/bias"] == (256,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("multipliers", "count"), [((1, 1, 2, 2, 4), 71_883_403), ((1, 2, 2, 4), 70_109_835)]
)
def test_llamagen_s_tensors_are_the_published_ones(multipliers, count):
    network = dataclasses.replace(LLAMAGEN, multipliers=multipliers)
    config = VQGANConfig(network, quantizer=VQConfig(16384, 8), **LLAMAGEN_WAY)
    shapes = shapes_by(llamagen, config)
    assert shapes == theirs.llamagen_shapes(128, multipliers, 256, 16384, 8)
    assert sum(map(np.prod, shapes.values())) == count
    buffer = {"quantize.codebook_used": np.zeros(65536)}
    (left,) = left_out(llamagen(config), shapes | buffer, abstract(config)).values()
    assert left == [*buffer]


def published(name):
    """{name: shape} of their module, built from its public code."""
    names = json.loads((Path(__file__).parent / f"{name}.json").read_text())
    return {key: tuple(shape) for key, shape in names.items()}


@pytest.mark.slow
@pytest.mark.budget(15)  # Tables of hundreds of tensors, several times.
@pytest.mark.parametrize(
    ("name", "table", "average", "config", "count"),
    [
        pytest.param(
            "taming_vqgan",
            taming,
            taming_average,
            VQGANConfig(LLAMAGEN, quantizer=VQConfig(1024, 256), **LLAMAGEN_WAY),
            72_141_699,
            marks=pytest.mark.slow,
        ),
        (
            "ibq",
            taming,
            taming_average,
            VQGANConfig(IBQ, quantizer=IBQConfig(16384, 256), **LLAMAGEN_WAY),
            110_982_019,
        ),
        pytest.param(
            "open_magvit2",
            open_magvit2,
            open_magvit2_average,
            VQGANConfig(MAGVIT2, quantizer=LFQConfig(18), centred=True),
            115_127_829,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_tensors_in_a_checkpoint_of_lightning(name, table, average, config, count):
    shapes = shapes_by(table, config)
    assert shapes == published(name) and sum(map(np.prod, shapes.values())) == count
    averages = {f"model_ema.{key.replace('.', '')}": shape for key, shape in shapes.items()}
    assert shapes_by(average, config) == averages
    judges = dict.fromkeys(("loss.discriminator.main.0.weight", "model_ema.lossmain0weight"))
    whole = {**shapes, **averages, **judges, "model_ema.decay": ()}
    for made, read_here in ((table, shapes), (average, averages)):
        left = left_out(made(config), whole, abstract(config))
        assert {key for keys in left.values() for key in keys} == set(whole) - set(read_here)


# ------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("table", "config", "name"),
    [(maskgit_torch, MASKGIT_SMALL, "maskgit"), (llamagen, LLAMAGEN_SMALL, "llamagen")],
)
def test_there_and_back_are_the_same_bytes(table, config, name):
    state = theirs.drawn(SHAPES[name])
    back = write(table(config), ours(table, config, state))
    assert back.keys() == state.keys()
    assert all(back[key].tobytes() == array.tobytes() for key, array in state.items())


def test_flax_and_the_port_are_two_ways_to_the_same_parameters():
    params = ours(maskgit_torch, MASKGIT_SMALL, theirs.drawn(SHAPES["maskgit"]))
    tree = write(maskgit_flax(MASKGIT_SMALL), params)
    again = flatten(ours(maskgit_flax, MASKGIT_SMALL, tree))
    for name, leaf in flatten(params).items():
        np.testing.assert_array_equal(again[name], leaf)


def test_maskgit_s_codes_and_pictures_are_those_of_its_layer_order():
    state = theirs.drawn(SHAPES["maskgit"])
    params, tokenizer = ours(maskgit_torch, MASKGIT_SMALL, state), VQGANTokenizer(MASKGIT_SMALL)
    latents = theirs.maskgit_encoder(IMAGES.astype(np.float64), state, GROUPS)
    codes = theirs.maskgit_codes(latents, state)
    book = state["quantize.embedding.weight"]
    pictures = theirs.maskgit_decoder(book[codes].astype(np.float64), state, GROUPS)
    out = jax.jit(lambda p: (tokenizer.forward(p, IMAGES), tokenizer.encode(p, IMAGES)))(params)
    np.testing.assert_allclose(out[0].quantized.latents.reshape(latents.shape), latents, atol=1e-4)
    assert len(np.unique(codes)) > 3
    np.testing.assert_array_equal(out[1], codes.reshape(2, -1))
    np.testing.assert_allclose(out[0].raw, pictures, atol=1e-4)
    # Pictures are in [0, 1] on both sides of the network.
    np.testing.assert_array_equal(out[0].images, out[0].raw)


@pytest.mark.slow
def test_llamagen_s_codes_and_pictures_are_those_of_its_layer_order():
    state = theirs.drawn(SHAPES["llamagen"])
    params, tokenizer = ours(llamagen, LLAMAGEN_SMALL, state), VQGANTokenizer(LLAMAGEN_SMALL)
    latents = theirs.llamagen_encoder(2 * IMAGES.astype(np.float64) - 1, state, GROUPS)
    latents = theirs.conv(latents, state, "quant_conv")
    latents = latents / np.linalg.norm(latents, axis=-1, keepdims=True)
    book = state["quantize.embedding.weight"].astype(np.float64)
    book = book / np.linalg.norm(book, axis=-1, keepdims=True)
    codes = np.argmax(latents @ book.T, axis=-1)
    z = theirs.conv(book[codes], state, "post_quant_conv")
    pictures = theirs.llamagen_decoder(z, state, GROUPS)
    out = jax.jit(tokenizer.forward)(params, IMAGES)
    found = out.quantized.latents.reshape(latents.shape)
    np.testing.assert_allclose(found, latents, atol=1e-4)
    assert len(np.unique(codes)) > 3
    np.testing.assert_array_equal(out.codes, codes.reshape(2, -1))
    np.testing.assert_allclose(out.raw, pictures, atol=1e-4)
    np.testing.assert_allclose(out.images, (pictures + 1) / 2, atol=1e-4)


@pytest.mark.slow
def test_taming_s_names_and_their_average_are_two_ways_to_the_same_parameters():
    params = ours(llamagen, LLAMAGEN_SMALL, theirs.drawn(SHAPES["llamagen"]))
    for table in (taming, taming_average):
        again = flatten(ours(table, IBQ_SMALL, write(table(IBQ_SMALL), params)))
        for name, leaf in flatten(params).items():
            np.testing.assert_array_equal(again[name], leaf)


@pytest.mark.parametrize(
    ("kind", "config"),
    [("ibq", IBQ_SMALL), ("taming_vqgan", LLAMAGEN_SMALL), ("open_magvit2", MAGVIT2_SMALL)],
)
def test_weights_and_their_average_are_read_in_whatever_they_were_wrapped(kind, config, tmp_path):
    layouts, wanted = NETWORKS[kind].layouts, abstract(config)
    weights = theirs.drawn(shapes_by(layouts["torch"].table, config))
    means = {f"model_ema.{name.replace('.', '')}": leaf / 2 for name, leaf in weights.items()}
    expected = read(layouts["torch"].table(config), weights, wanted)
    half = jax.tree.map(lambda leaf: leaf / 2, expected)
    for before in ("module.", "_forward_module._orig_mod."):
        held = {f"{before}{name}": tensor for name, tensor in (weights | means).items()}
        file = tmp_path / "theirs.safetensors"
        write_weights(file, held, {})
        for flag, params in (("torch", expected), ("ema", half)):
            found = NETWORKS[kind].read(flag, str(file), config, wanted).params
            jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.slow
def test_open_magvit2_s_codes_and_pictures_are_those_of_its_layer_order():
    state = theirs.drawn(shapes_by(open_magvit2, MAGVIT2_SMALL))
    params, tokenizer = ours(open_magvit2, MAGVIT2_SMALL, state), VQGANTokenizer(MAGVIT2_SMALL)
    latents = theirs.magvit2_encoder(2 * IMAGES.astype(np.float64) - 1, state, GROUPS)
    codes = np.where(latents > 0, 1.0, -1.0)
    pictures = theirs.magvit2_decoder(codes, state, GROUPS)
    out = jax.jit(tokenizer.forward)(params, IMAGES)
    np.testing.assert_allclose(out.quantized.latents.reshape(latents.shape), latents, atol=1e-4)
    ids = np.sum((latents > 0) * 2 ** np.arange(6), axis=-1)
    assert len(np.unique(ids)) > 3
    np.testing.assert_array_equal(out.codes, ids.reshape(2, -1))
    np.testing.assert_allclose(out.raw, pictures, atol=1e-4)


def test_a_checkpoint_of_another_number_of_codes_is_named():
    state = theirs.drawn(shapes_by(taming, IBQ_SMALL))
    more = dataclasses.replace(IBQ_SMALL, quantizer=IBQConfig(32, 5))
    with pytest.raises(UserError, match=r"quantize.embedding.weight has the shape \(16, 5\) and"):
        ours(taming, more, state)


def test_a_kernel_of_the_shortcut_that_reads_the_input_is_of_another_network():
    state = theirs.drawn(SHAPES["maskgit"])
    name = "encoder.down.1.block.0.nin_shortcut.weight"
    state[name] = np.zeros((16, 8, 1, 1), np.float32)
    with pytest.raises(UserError, match=rf"{name} has the shape \(16, 8, 1, 1\) and \(16, 16, 1"):
        ours(maskgit_torch, MASKGIT_SMALL, state)
