"""ConvNeXt against a NumPy statement of torchvision's layer order; distances of its logits."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.perceptual import CONVNEXT_S, convnext
from babeldraw.convert.table import read, shapes, write
from babeldraw.errors import UserError
from babeldraw.evaluation.pictures import perceptual_distances
from babeldraw.judges.backbones import DEVIATION, MEAN
from babeldraw.judges.convnext import SIDE, ConvNeXt, resized
from babeldraw.judges.perceptual import LPIPS, PerceptualConfig, PerceptualNetwork

SMALL = ConvNeXt(depths=(1, 2), widths=(4, 6), classes=5)
TABLE = convnext(2)
RNG = np.random.default_rng(0)
IMAGES = RNG.random((2, 16, 24, 3), np.float32)
erf = np.vectorize(math.erf)


def abstract(network):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    boxed = jax.eval_shape(network.init, jax.random.key(0), images)
    return {"convnext": nn.unbox(boxed)["params"]}


def drawn():
    def one(name, shape):
        scale = 0.4 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        return RNG.normal(0.5 if "layer_scale" in name else 0.0, scale, shape).astype(np.float32)

    return {name: one(name, shape) for name, shape in shapes(TABLE, abstract(SMALL)).items()}


# ------------------------------------------------------------------ torchvision's, in NumPy


def conv(x, state, name, stride=1, zeros=0):
    """[B, h, w, C]; a kernel of one input channel filters each channel by itself."""
    kernel = state[f"{name}.weight"].astype(np.float64)
    x = np.pad(x, ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (1, 2))
    windows = windows[:, ::stride, ::stride]
    if zeros:
        return np.einsum("bhwcyx,cyx->bhwc", windows, kernel[:, 0]) + state[f"{name}.bias"]
    return np.einsum("bhwcyx,ocyx->bhwo", windows, kernel) + state[f"{name}.bias"]


def norm(x, state, name):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].astype(np.float64).T + state[f"{name}.bias"]


def block(x, state, name):
    y = norm(conv(x, state, f"{name}.block.0", zeros=3), state, f"{name}.block.2")
    y = linear(y, state, f"{name}.block.3")
    y = linear(y * (1 + erf(y / math.sqrt(2))) / 2, state, f"{name}.block.5")
    return x + state[f"{name}.layer_scale"][:, 0, 0] * y


def logits(images, state, depths):
    x = (images.astype(np.float64) - MEAN) / DEVIATION
    x = norm(conv(x, state, "features.0.0", stride=4), state, "features.0.1")
    for stage, depth in enumerate(depths):
        if stage:
            x = norm(x, state, f"features.{2 * stage}.0")
            x = conv(x, state, f"features.{2 * stage}.1", stride=2)
        for i in range(depth):
            x = block(x, state, f"features.{2 * stage + 1}.{i}")
    return linear(norm(x.mean((1, 2)), state, "classifier.0"), state, "classifier.2")


# ------------------------------------------------------------------ the network


def test_logits_are_those_of_torchvision_s_layer_order():
    state = drawn()
    params = read(TABLE, state, abstract(SMALL))["convnext"]
    found = jax.jit(SMALL.apply)({"params": params}, IMAGES)
    expected = logits(IMAGES, state, SMALL.depths)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    back = write(TABLE, {"convnext": params})
    assert back.keys() == state.keys()
    assert all(back[key].tobytes() == array.tobytes() for key, array in state.items())


def test_the_published_one_has_torchvision_s_tensors():
    found = shapes(CONVNEXT_S, abstract(ConvNeXt()))
    assert len(found) == 344 and sum(map(np.prod, found.values())) == 50_223_688
    assert found["features.5.26.block.0.weight"] == (384, 1, 7, 7)
    assert found["features.6.1.weight"] == (768, 384, 2, 2)
    assert found["features.7.2.layer_scale"] == (768, 1, 1)
    assert found["classifier.2.weight"] == (1000, 768)


def test_pictures_are_resized_as_torch_does_with_antialias():
    """Bilinear weights, wider where the picture shrinks; at edges they still sum to one."""
    images = RNG.random((1, 2 * SIDE, SIDE // 2, 3), np.float32)
    found = np.asarray(resized(images), np.float64)
    rows = np.arange(2 * SIDE) + 0.5
    centres = 2 * (np.arange(SIDE) + 0.5)
    weights = np.maximum(0, 1 - np.abs(rows - centres[:, None]) / 2)
    weights /= weights.sum(1, keepdims=True)
    columns = np.clip((np.arange(SIDE) + 0.5) / 2 - 0.5, 0, SIDE // 2 - 1)
    low = np.floor(columns).astype(int)
    high = np.minimum(low + 1, SIDE // 2 - 1)
    part = (columns - low)[:, None]
    small = np.einsum("rh,bhwc->brwc", weights, images.astype(np.float64))
    expected = small[:, :, low] * (1 - part) + small[:, :, high] * part
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ------------------------------------------------------------------ as a distance


@pytest.mark.slow
def test_the_distance_is_the_mean_squared_difference_of_logits(monkeypatch):
    def half(module, images):
        del module
        return jnp.mean(images, axis=(1, 2))[:, :2]

    monkeypatch.setattr(ConvNeXt, "__call__", half)
    network = LPIPS(PerceptualConfig(network="convnext_s"))
    first, second = IMAGES[..., [0, 1, 2]], IMAGES[..., [2, 1, 0]]
    found = network.apply({}, first, second)
    means = (np.asarray(half(None, resized(x))) for x in (first, second))
    np.testing.assert_allclose(found, np.mean(np.subtract(*means) ** 2, axis=-1), atol=1e-6)
    # Beside features, as a weighted mean of both.
    both = PerceptualConfig(network="vgg16_convnext_s", widths=(2, 2, 2, 2, 2), mix=(3.0, 1.0))
    features = LPIPS(dataclasses.replace(both, network="vgg16"))
    params = jax.jit(features.init)(jax.random.key(0), first, second)
    alone = jax.jit(features.apply)(params, first, second)
    mixed = jax.jit(LPIPS(both).apply)(params, first, second)
    np.testing.assert_allclose(mixed, (3 * alone + found) / 4, rtol=1e-5)


def test_a_figure_of_logits_is_not_called_lpips():
    def figures(network):
        return [
            *perceptual_distances({"distance": jnp.subtract}, PerceptualConfig(network=network))
        ]

    assert figures("vgg16") == figures("alexnet") == ["lpips"]
    assert figures("convnext_s") == ["convnext_s"]
    assert figures("vgg16_convnext_s") == ["vgg16_convnext_s"]


def test_a_mix_has_the_parameters_of_both():
    both = PerceptualNetwork(PerceptualConfig(network="vgg16_convnext_s")).shapes()
    assert set(both) == {"vgg", "convnext", *(f"linear{i}" for i in range(1, 6))}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"network": "convnext"}, "network is 'convnext'; the choices are vgg16, alexnet, convne"),
        ({"mix": (1.0, 0.0)}, r"mix is \(1.0, 0.0\); two weights above 0"),
        ({"mix": (1.0,)}, r"mix is \(1.0,\); two weights"),
    ],
)
def test_a_wrong_field_is_named(fields, told):
    with pytest.raises(UserError, match=rf"^config.perceptual.{told}"):
        PerceptualConfig(**fields)


def test_without_a_file_the_option_is_named_and_logits_have_no_maps():
    network = PerceptualNetwork(PerceptualConfig(network="convnext_s"))
    with pytest.raises(UserError, match="config.perceptual.file is empty.*--kind=convnext_s` wr"):
        network.load()
    with pytest.raises(UserError, match="network is 'convnext_s', of which only logits are"):
        network.maps({}, IMAGES)
