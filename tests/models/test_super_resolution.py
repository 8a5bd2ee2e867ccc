"""Super-resolution: the published sizes, bicubic at the start, and what its parts are."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig
from babeldraw.layers.pictures import downsample
from babeldraw.models.super_resolution import (
    SuperResolutionConfig,
    Upscaler,
    WeightNormConv,
    depth_to_space,
)
from babeldraw.sharding.constraint import logical_axes

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(2, 12, 16, 3)).astype(np.float32)
SMALL = SuperResolutionConfig(blocks=2, channels=8, expansion=2)


@functools.cache
def initial(config):
    return nn.unbox(jax.jit(Upscaler(config).init)(jax.random.key(0)))


def apply(config, params, images=IMAGES):
    return jax.jit(Upscaler(config).network.apply)({"params": params}, images)


def shaken(params):
    """The parameters away from their start, where the tail is silent."""
    return jax.tree.map(lambda p: p + 0.1 * jnp.asarray(RNG.normal(size=p.shape), p.dtype), params)


@pytest.mark.parametrize(("factor", "millions"), [(2, 15), (4, 30)])
def test_the_published_sizes(factor, millions):
    config = SuperResolutionConfig(factor)
    assert (config.blocks, config.channels) == (12, 128)
    shapes = nn.unbox(jax.eval_shape(Upscaler(config).init, jax.random.key(0)))
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert total == pytest.approx(millions * 1e6, rel=0.06)
    # Two convolutions per block, their gains and biases; head, tail, skip.
    block = 2 * 9 * 128 * 512 + 2 * (512 + 128)
    ends = 9 * 3 * 128 + 2 * 128 + 9 * 128 * 12 + 2 * 12 + 25 * 3 * 12
    assert total == (factor // 2) * (12 * block + ends)


@pytest.mark.parametrize("factor", [2, 4])
def test_it_starts_as_bicubic_interpolation(factor):
    config = SuperResolutionConfig(factor, blocks=1, channels=4, expansion=2)
    found = np.asarray(apply(config, initial(config)))
    expected = IMAGES
    for _ in range(config.doublings):
        b, h, w, c = expected.shape
        expected = jax.image.resize(expected, (b, 2 * h, 2 * w, c), "cubic")
    assert found.shape == expected.shape == (2, 12 * factor, 16 * factor, 3)
    # At the edge the two repeat and renormalise; three old pixels in, they are the same.
    inside = slice(3 * factor, -3 * factor)
    expected = np.asarray(expected)[:, inside, inside]
    np.testing.assert_allclose(found[:, inside, inside], expected, atol=1e-5)


def test_a_flat_picture_stays_flat_to_its_edges():
    flat = np.full((1, 6, 6, 3), 0.7, np.float32)
    np.testing.assert_allclose(apply(SMALL, initial(SMALL), flat), 0.7, atol=1e-5)


def test_every_parameter_reaches_the_picture_once_the_tail_has_begun():
    params = shaken(initial(SMALL))
    grads = jax.jit(
        jax.grad(
            lambda p: jnp.sum(jnp.square(Upscaler(SMALL).network.apply({"params": p}, IMAGES)))
        )
    )(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.abs(grad).max() > 1e-6, jax.tree_util.keystr(path)


def test_the_tail_is_learned_from_the_start():
    grads = jax.grad(lambda p: jnp.sum(apply(SMALL, p)))(initial(SMALL))
    assert np.abs(grads["doubling_0"]["tail"]["gain"]).max() > 1e-3


def test_scanned_written_out_and_recomputed_are_the_same():
    params = shaken(initial(SMALL))
    expected = apply(SMALL, params)
    ways = ComputeConfig(scan=False), ComputeConfig(remat="full")
    for changes in ({"compute": way} for way in ways):
        config = SuperResolutionConfig(**{**SMALL.__dict__, **changes})
        np.testing.assert_allclose(apply(config, params), expected, atol=1e-4)


def test_bfloat16_is_close():
    params = shaken(initial(SMALL))
    config = SuperResolutionConfig(**{**SMALL.__dict__, "compute": ComputeConfig("bfloat16")})
    found, expected = apply(config, params), apply(SMALL, params)
    assert found.dtype == jnp.float32
    difference = np.abs(np.asarray(found - expected))
    # A bfloat16 has eight bits: it is not the same, and not far.
    assert 0 < difference.max() < 0.02 * np.abs(expected).max()


def test_one_by_one_is_the_same_as_all_at_once():
    upscaler, params = Upscaler(SMALL), shaken(initial(SMALL))
    expected = jax.jit(upscaler.upscale)(params, IMAGES)
    found = jax.jit(upscaler.upscale_one_by_one)(params, IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.min() >= 0 and expected.max() <= 1


def test_pictures_one_by_one_need_the_memory_of_one():
    config = SuperResolutionConfig(2, blocks=2, channels=32, expansion=4)
    params = jax.eval_shape(lambda key: nn.unbox(Upscaler(config).init(key)), jax.random.key(0))

    def temporary(count):
        images = jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.float32)
        program = jax.jit(Upscaler(config).upscale_one_by_one).lower(params, images).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(8) < 1.5 * temporary(1)


def test_a_filter_s_length_is_its_gain():
    module = WeightNormConv(5, gain=3.0)
    params = nn.unbox(module.init(jax.random.key(1), IMAGES))["params"]
    weight = np.asarray(params["direction"])
    longer = {**params, "direction": 7 * params["direction"]}
    np.testing.assert_allclose(
        module.apply({"params": longer}, IMAGES),
        module.apply({"params": params}, IMAGES),
        atol=1e-4,
    )
    # The response to an impulse is the filter, mirrored.
    impulse = np.zeros((1, 5, 5, 3), np.float32)
    impulse[0, 2, 2, 1] = 1
    found = np.asarray(module.apply({"params": params}, impulse))[0, 1:4, 1:4][::-1, ::-1]
    expected = 3 * weight / np.linalg.norm(weight.reshape(-1, 5), axis=0)
    np.testing.assert_allclose(found, expected[:, :, 1], atol=1e-5)


def test_depth_to_space_places_each_cell():
    x = jnp.arange(2 * 1 * 2 * 12).reshape(2, 1, 2, 12)
    y = depth_to_space(x, 2)
    assert y.shape == (2, 2, 4, 3)
    for row in range(2):
        for column in range(4):
            cell = 3 * (2 * (row % 2) + column % 2)
            np.testing.assert_array_equal(
                y[:, row, column], x[:, row // 2, column // 2, cell : cell + 3]
            )


def test_downsampling_is_the_mean_of_each_cell():
    found = downsample(jnp.asarray(IMAGES), 4)
    assert found.shape == (2, 3, 4, 3)
    np.testing.assert_allclose(found[1, 2, 3], IMAGES[1, 8:12, 12:16].mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(found.mean(), IMAGES.mean(), atol=1e-5)


def test_every_parameter_has_axes():
    boxed = jax.eval_shape(Upscaler(SMALL).init, jax.random.key(0))
    for leaf in jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)):
        assert isinstance(leaf, nn.LogicallyPartitioned)
    assert logical_axes(boxed)["doubling_0"]["body"]["blocks"]["expand"]["gain"] == (
        "layers",
        "embed",
    )


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ({"factor": 3}, "super_resolution.factor is 3; a power of two is needed: 2, 4, ..."),
        ({"factor": 1}, "super_resolution.factor is 1; a power of two"),
        ({"blocks": 0}, "super_resolution.blocks is 0; at least 1 is needed"),
        (
            {"compute": ComputeConfig(kernel="splash")},
            "super_resolution.compute.kernel is 'splash'; there is no attention here, so ",
        ),
    ],
)
def test_a_wrong_value_is_named(field, line):
    with pytest.raises(UserError, match=line):
        SuperResolutionConfig(**field)
