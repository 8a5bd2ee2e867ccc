"""Inception against a NumPy statement of its layers, block by block; both ways of resizing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.judges import inception as module
from babeldraw.judges.inception import (
    BLOCKS,
    SPATIAL_CHANNELS,
    STEM,
    Block,
    Inception,
    Unit,
    in_bytes,
    inception_shapes,
    prepared_as_adm,
    prepared_as_pytorch_fid,
)
from babeldraw.runs.weights import flatten

RNG = np.random.default_rng(0)
NARROWED = 16


def drawn(module, x):
    """Random parameters whose every array is felt."""
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x))["params"]

    def one(path, leaf):
        if path[-1].key == "weight":
            return RNG.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)
        return RNG.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


# ------------------------------------------------------------------ the layers, in NumPy


def windows(x, kernel, stride, around):
    """[B, h, w, C, rows, columns]; what `around` puts outside the map."""
    rows, columns = ((side // 2, side // 2) if stride == 1 else (0, 0) for side in kernel)
    x = np.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=around)
    return np.lib.stride_tricks.sliding_window_view(x, kernel, (1, 2))[:, ::stride, ::stride]


def unit(params, x, stride=1, valid=False):
    """Convolution, then the norm of what was counted in training, then ReLU."""
    weight = params["weight"].astype(np.float64)
    kernel = weight.shape[:2]
    seen = windows(x, kernel, stride, 0.0)
    if valid:
        seen = np.lib.stride_tricks.sliding_window_view(x, kernel, (1, 2))
    y = np.einsum("bhwcyx,yxco->bhwo", seen, weight)
    y = (y - params["mean"]) / np.sqrt(params["variance"].astype(np.float64) + 0.001)
    return np.maximum(y * params["scale"] + params["bias"], 0)


def mean_of_what_is_inside(x):
    return np.nanmean(windows(x, (3, 3), 1, np.nan), axis=(4, 5))


def largest(x):
    return windows(x, (3, 3), 1, -np.inf).max((4, 5))


def halved(x):
    return windows(x, (3, 3), 2, 0.0).max((4, 5))


def block_a(p, x):
    """Of mixed_5b, 5c and 5d."""
    five = unit(p["branch5x5_2"], unit(p["branch5x5_1"], x))
    three = unit(p["branch3x3dbl_2"], unit(p["branch3x3dbl_1"], x))
    pooled = unit(p["branch_pool"], mean_of_what_is_inside(x))
    return unit(p["branch1x1"], x), five, unit(p["branch3x3dbl_3"], three), pooled


def block_b(p, x):
    """Of mixed_6a, which halves the map."""
    three = unit(p["branch3x3dbl_2"], unit(p["branch3x3dbl_1"], x))
    return unit(p["branch3x3"], x, 2), unit(p["branch3x3dbl_3"], three, 2), halved(x)


def block_c(p, x):
    """Of mixed_6b to 6e."""
    seven = twice = x
    for i in (1, 2, 3):
        seven = unit(p[f"branch7x7_{i}"], seven)
    for i in (1, 2, 3, 4, 5):
        twice = unit(p[f"branch7x7dbl_{i}"], twice)
    pooled = unit(p["branch_pool"], mean_of_what_is_inside(x))
    return unit(p["branch1x1"], x), seven, twice, pooled


def block_d(p, x):
    """Of mixed_7a, which halves the map."""
    seven = x
    for i in (1, 2, 3):
        seven = unit(p[f"branch7x7x3_{i}"], seven)
    three = unit(p["branch3x3_2"], unit(p["branch3x3_1"], x), 2)
    return three, unit(p["branch7x7x3_4"], seven, 2), halved(x)


def block_e(p, x, pool):
    """Of mixed_7b and 7c."""
    three = unit(p["branch3x3_1"], x)
    twice = unit(p["branch3x3dbl_2"], unit(p["branch3x3dbl_1"], x))
    sides = [unit(p[f"branch3x3_2{side}"], three) for side in "ab"]
    double = [unit(p[f"branch3x3dbl_3{side}"], twice) for side in "ab"]
    return unit(p["branch1x1"], x), *sides, *double, unit(p["branch_pool"], pool(x))


STATED = {
    **dict.fromkeys(("mixed_5b", "mixed_5c", "mixed_5d"), block_a),
    "mixed_6a": block_b,
    **dict.fromkeys(("mixed_6b", "mixed_6c", "mixed_6d", "mixed_6e"), block_c),
    "mixed_7a": block_d,
    "mixed_7b": lambda p, x: block_e(p, x, mean_of_what_is_inside),
    "mixed_7c": lambda p, x: block_e(p, x, largest),
}


@pytest.mark.parametrize("name", ["mixed_5c", "mixed_6a", "mixed_6c", "mixed_7a", "mixed_7b"])
def test_a_block_is_what_its_layers_say(name):
    check(name)


def test_the_last_block_s_pool_is_the_largest():
    check("mixed_7c")


@pytest.mark.parametrize("name", ["mixed_6a", "mixed_7b"])
def test_forms_for_a_cpu_are_the_convolutions_of_other_devices(name, monkeypatch):
    monkeypatch.setattr(module, "on_one_cpu", lambda: False)
    check(name)


def check(name):
    x = RNG.normal(size=(1, 9, 8, 5)).astype(np.float32)
    block = Block(BLOCKS[name], NARROWED)
    params = drawn(block, x)
    found = np.concatenate(jax.jit(block.apply)({"params": params}, x), axis=-1)
    expected = np.concatenate(STATED[name](params, x.astype(np.float64)), axis=-1)
    assert found.shape == expected.shape and expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_the_network_is_its_stem_and_blocks_in_order():
    """Of a picture that is just large enough."""
    x = RNG.uniform(-1, 1, (1, 79, 75, 3)).astype(np.float32)
    network = Inception(narrowed=NARROWED)
    params = drawn(network, x)
    found = jax.jit(network.apply)({"params": params}, x)
    y = unit(params["conv2d_1a_3x3"], x.astype(np.float64), 2)
    y = unit(params["conv2d_2b_3x3"], unit(params["conv2d_2a_3x3"], y, valid=True))
    y = unit(params["conv2d_4a_3x3"], unit(params["conv2d_3b_1x1"], halved(y)), valid=True)
    y = halved(y)
    for name in BLOCKS:
        parts = STATED[name](params[name], y)
        if name == "mixed_6d":
            spatial = parts[0][..., :SPATIAL_CHANNELS].reshape(1, -1)
        y = np.concatenate(parts, axis=-1)
    np.testing.assert_allclose(found.pooled, y.mean((1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.spatial, spatial, rtol=1e-4, atol=1e-4)
    assert y.std() > 0.1 and spatial.std() > 0.1


def test_a_stride_and_a_valid_border_leave_the_picture_s_outside_alone():
    x = RNG.normal(size=(1, 10, 9, 3)).astype(np.float32)
    for name, size in (("conv2d_1a_3x3", (4, 4)), ("conv2d_2a_3x3", (8, 7))):
        own = Unit(STEM[name], NARROWED)
        assert own.apply({"params": drawn(own, x)}, x).shape[1:3] == size


def test_the_published_one_has_its_sizes():
    leaves = flatten(inception_shapes())
    assert len(leaves) == 94 * 5 + 1
    # torchvision's inception_v3 without its auxiliary classifier has 25,112,264 - 3,326,696 of
    # these and 1,000 classes with biases; 1,008 without and the norms' statistics are counted here.
    counted = {name: int(np.prod(leaf.shape)) for name, leaf in leaves.items()}
    assert counted["inception/logits/weight"] == 2048 * 1008
    trained = [n for n in counted if not n.endswith(("mean", "variance")) and "logits" not in n]
    assert sum(counted[n] for n in trained) == 27_161_264 - 3_326_696 - 2048 * 1000 - 1000


# ------------------------------------------------------------------ before the network


@pytest.mark.parametrize("size", [(32, 40), (310, 150)])
def test_adm_resizes_as_tensorflow_1_did(size):
    images = RNG.integers(0, 256, (2, *size, 3), np.uint8)

    def along(x, axis):
        """Pixel i lies at i * size / 299; float32, as TensorFlow has it."""
        at = np.arange(299, dtype=np.float32) * np.float32(x.shape[axis] / 299)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        part = np.expand_dims(at - low, tuple(range(1, 4 - axis)))
        return np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part

    expected = (along(along(images.astype(np.float64), 2), 1) - 128) / 128
    found = jax.jit(prepared_as_adm)(images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Floats of bytes are the same picture; another program may round its products another way.
    floats = images.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(jax.jit(in_bytes)(floats), images)
    np.testing.assert_allclose(jax.jit(prepared_as_adm)(floats), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 40), (310, 150)])
def test_pytorch_fid_resizes_about_the_middle_of_pixels(size):
    images = RNG.integers(0, 256, (2, *size, 3), np.uint8)

    def weights(size):
        """[299, size]: two neighbours each; torch keeps the scale as a float32."""
        scale = np.float64(np.float32(size / 299))
        at = np.clip((np.arange(299) + 0.5) * scale - 0.5, 0, size - 1)
        near = 1 - np.abs(at[:, None] - np.arange(size))
        return np.maximum(near, 0)

    rows, columns = weights(size[0]), weights(size[1])
    expected = 2 * np.einsum("rh,bhwc,sw->brsc", rows, images / 255, columns, optimize=True) - 1
    found = jax.jit(prepared_as_pytorch_fid)(images)
    # Positions are float32: at the far end of 310 pixels 1.5e-5 of one.
    np.testing.assert_allclose(found, expected, atol=4e-5)


def test_a_picture_of_the_network_s_size_is_left_as_it_is():
    images = RNG.integers(0, 256, (1, 299, 299, 3), np.uint8)
    exact = images.astype(np.float64)
    np.testing.assert_allclose(prepared_as_adm(images), (exact - 128) / 128, atol=1e-7)
    np.testing.assert_allclose(prepared_as_pytorch_fid(images), exact / 127.5 - 1, atol=1e-6)


def test_pictures_of_another_type_are_refused():
    with pytest.raises(UserError, match="pictures are int32; uint8, or floats in"):
        prepared_as_adm(jnp.zeros((1, 8, 8, 3), jnp.int32))
