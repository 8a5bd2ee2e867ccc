"""KL autoencoders of latent diffusion: every tensor has its place, and the numbers are theirs.

The statement of diffusers' AutoencoderKL is NumPy's, by its layer order and its names.
"""

import dataclasses

import jax
import numpy as np
import pytest

from babeldraw.convert.autoencoder_kl import compvis, diffusers, diffusers_first
from babeldraw.convert.table import left_out, write
from babeldraw.errors import UserError
from babeldraw.runs.weights import flatten
from babeldraw.tokenizers.vqgan import VQGANTokenizer
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from tests.convert.test_vqgan import abstract, ours, shapes_by
from tests.tokenizers import convolutions as layers

KL_F8 = parse(load_config("configs/autoencoder_kl.py", "pyproject.toml")).tokenizer
GROUPS = 4
SMALL = dataclasses.replace(
    KL_F8,
    network=dataclasses.replace(KL_F8.network, channels=8, groups=GROUPS, multipliers=(1, 2, 2)),
    image_size=(8, 12),
)
IMAGES = np.random.default_rng(1).random((2, 8, 12, 3), np.float32)


# ------------------------------------------------------------------ diffusers' layer order


def resnet(x, state, name):
    y = layers.branch(x, state, name, GROUPS)
    if f"{name}.conv_shortcut.weight" in state:
        x = layers.conv(x, state, f"{name}.conv_shortcut")
    return x + y


def attention(x, state, name):
    y = layers.norm(x, state, f"{name}.group_norm", GROUPS).reshape(len(x), -1, x.shape[-1])
    q, k, v, out = (
        (np.asarray(state[f"{name}.{part}.weight"], np.float64), state[f"{name}.{part}.bias"])
        for part in ("to_q", "to_k", "to_v", "to_out.0")
    )
    q, k, v = (y @ weight.T + bias for weight, bias in (q, k, v))
    logits = np.einsum("btc,bsc->bts", q, k) / np.sqrt(x.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    found = np.einsum("bts,bsc->btc", weights / weights.sum(-1, keepdims=True), v)
    return x + (found @ out[0].T + out[1]).reshape(x.shape)


def middle(x, state, side):
    x = resnet(x, state, f"{side}.mid_block.resnets.0")
    x = attention(x, state, f"{side}.mid_block.attentions.0")
    return resnet(x, state, f"{side}.mid_block.resnets.1")


def last(x, state, side):
    x = layers.silu(layers.norm(x, state, f"{side}.conv_norm_out", GROUPS))
    return layers.conv(x, state, f"{side}.conv_out")


def encoded(images, state):
    """Means and log-variances, channels last."""
    x = layers.conv(2 * images.astype(np.float64) - 1, state, "encoder.conv_in")
    for level in layers.indices(state, "encoder.down_blocks.{}."):
        name = f"encoder.down_blocks.{level}"
        for i in layers.indices(state, f"{name}.resnets.{{}}."):
            x = resnet(x, state, f"{name}.resnets.{i}")
        if f"{name}.downsamplers.0.conv.weight" in state:
            x = layers.conv(x, state, f"{name}.downsamplers.0.conv", stride=2, zeros=(0, 1))
    return layers.conv(last(middle(x, state, "encoder"), state, "encoder"), state, "quant_conv")


def decoded(codes, state):
    """Pictures near [-1, 1]."""
    x = layers.conv(codes.astype(np.float64), state, "post_quant_conv")
    x = middle(layers.conv(x, state, "decoder.conv_in"), state, "decoder")
    for level in layers.indices(state, "decoder.up_blocks.{}."):
        name = f"decoder.up_blocks.{level}"
        for i in layers.indices(state, f"{name}.resnets.{{}}."):
            x = resnet(x, state, f"{name}.resnets.{i}")
        if f"{name}.upsamplers.0.conv.weight" in state:
            x = layers.conv(layers.twice(x), state, f"{name}.upsamplers.0.conv")
    return last(x, state, "decoder")


# ------------------------------------------------------------------ names, shapes, values


@pytest.mark.slow
def test_diffusers_tensors_are_the_published_ones():
    shapes = shapes_by(diffusers, KL_F8)
    assert len(shapes) == 248 and sum(map(np.prod, shapes.values())) == 83_653_863
    assert shapes["encoder.mid_block.attentions.0.to_out.0.weight"] == (512, 512)
    assert shapes["encoder.down_blocks.2.resnets.0.conv_shortcut.weight"] == (512, 256, 1, 1)
    assert "encoder.down_blocks.3.downsamplers.0.conv.weight" not in shapes
    # The decoder's first level is the smallest; its widths fall behind the second.
    assert shapes["decoder.up_blocks.2.resnets.0.conv_shortcut.weight"] == (256, 512, 1, 1)
    assert shapes["decoder.up_blocks.3.resnets.0.conv1.weight"] == (128, 256, 3, 3)
    assert shapes["decoder.up_blocks.2.upsamplers.0.conv.weight"] == (256, 256, 3, 3)
    assert "decoder.up_blocks.3.upsamplers.0.conv.weight" not in shapes
    assert shapes["encoder.conv_out.weight"] == (8, 512, 3, 3)
    assert shapes["quant_conv.weight"] == (8, 8, 1, 1)
    assert shapes["post_quant_conv.bias"] == (4,)


@pytest.mark.slow
def test_its_codes_and_pictures_are_those_of_its_layer_order_and_of_its_bytes():
    state = layers.drawn(shapes_by(diffusers, SMALL))
    params, tokenizer = ours(diffusers, SMALL, state), VQGANTokenizer(SMALL)
    means = np.split(encoded(IMAGES, state), 2, axis=-1)[0]
    out = jax.jit(tokenizer.forward)(params, IMAGES)
    np.testing.assert_allclose(out.codes, means, atol=1e-4)
    np.testing.assert_allclose(out.raw, decoded(means, state), atol=1e-4)
    back = write(diffusers(SMALL), params)
    assert back.keys() == state.keys()
    assert all(back[key].tobytes() == array.tobytes() for key, array in state.items())


@pytest.mark.slow
def test_the_other_layouts_hold_the_same_parameters():
    params = ours(diffusers, SMALL, layers.drawn(shapes_by(diffusers, SMALL)))
    for table, name in (
        (diffusers_first, "encoder.mid_block.attentions.0.proj_attn.weight"),
        (compvis, "decoder.up.0.block.0.nin_shortcut.weight"),
    ):
        tensors = write(table(SMALL), params)
        assert name in tensors
        again = flatten(ours(table, SMALL, tensors))
        for key, leaf in flatten(params).items():
            np.testing.assert_array_equal(again[key], leaf)
    judge = {"loss.logvar": np.zeros(()), "loss.discriminator.main.0.weight": np.zeros(1)}
    (left,) = left_out(compvis(SMALL), tensors | judge, abstract(SMALL)).values()
    assert sorted(left) == sorted(judge)


def test_the_first_versions_names_are_no_others():
    state = layers.drawn(shapes_by(diffusers_first, SMALL))
    with pytest.raises(UserError, match="encoder.mid_block.attentions.0.to_q"):
        ours(diffusers, SMALL, state)
