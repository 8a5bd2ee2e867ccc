"""The perceptual distance against NumPy and SciPy; its file of weights, whole and broken."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import signal

from babeldraw.errors import UserError
from babeldraw.judges.perceptual import CONVOLUTIONS, PerceptualConfig, PerceptualNetwork
from babeldraw.runs.weights import flatten

WIDTHS = (2, 3, 3, 4, 4)
NETWORK = PerceptualNetwork(PerceptualConfig(widths=WIDTHS))
RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.random((2, 2, 32, 20, 3), np.float32)


@functools.cache
def arrays():
    """Random weights by their names in the file."""
    shapes = flatten(nn.unbox(jax.eval_shape(NETWORK.init, jax.random.key(0))))
    rng = np.random.default_rng(1)
    return {
        key: np.abs(rng.normal(0, 1, leaf.shape)).astype(np.float32)
        if key.startswith("linear")
        else rng.normal(0, 0.4, leaf.shape).astype(np.float32)
        for key, leaf in shapes.items()
    }


@pytest.fixture
def load(tmp_path):
    """`load(changed)`: the parameters of a file with some arrays changed, None to leave one out."""

    def run(changed=None):
        file = tmp_path / "vgg.safetensors"
        found = {**arrays(), **(changed or {})}
        save_file({key: array for key, array in found.items() if array is not None}, file)
        return PerceptualNetwork(PerceptualConfig(str(file), WIDTHS)).load()

    return run


def features(image):
    """Five maps of one picture, as Simonyan and Zisserman draw VGG16, in float64."""
    x = (image - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    for stage, count in enumerate(CONVOLUTIONS, 1):
        if stage > 1:
            h, w = x.shape[0] // 2, x.shape[1] // 2
            x = np.array(
                [
                    [x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1)) for j in range(w)]
                    for i in range(h)
                ]
            )
        for i in range(1, count + 1):
            weight = arrays()[f"vgg/conv{stage}_{i}/weight"].astype(np.float64)
            bias = arrays()[f"vgg/conv{stage}_{i}/bias"]
            channels = range(x.shape[-1])
            x = np.stack(
                [
                    sum(signal.correlate2d(x[..., c], weight[..., c, f], "same") for c in channels)
                    + bias[f]
                    for f in range(weight.shape[-1])
                ],
                axis=-1,
            ).clip(0)
        yield x


def by_numpy(first, second):
    total = 0.0
    for stage, (x, y) in enumerate(zip(features(first), features(second), strict=True), 1):
        x, y = (v / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-10) for v in (x, y))
        total += np.mean(np.sum(arrays()[f"linear{stage}"] * (x - y) ** 2, axis=-1))
    return total


def test_the_distance_is_that_of_lpips(load):
    found = jax.jit(NETWORK.distance)(load(), FIRST, SECOND)
    expected = [by_numpy(a, b) for a, b in zip(FIRST, SECOND, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert min(expected) > 0.01


def test_equal_pictures_are_at_no_distance_and_the_order_does_not_matter(load):
    params, distance = load(), jax.jit(NETWORK.distance)
    np.testing.assert_allclose(distance(params, FIRST, FIRST), 0, atol=1e-6)
    forth, back = distance(params, FIRST, SECOND), distance(params, SECOND, FIRST)
    np.testing.assert_allclose(forth, back, atol=1e-5)


# Of the whole VGG16.
@pytest.mark.budget(10)
def test_the_gradient_is_finite_where_all_features_are_zero(load):
    # Every unit of the first stage is off everywhere.
    params = load({"vgg/conv1_2/bias": np.full(2, -1e3, np.float32)})
    gradient = jax.grad(lambda x: NETWORK.distance(params, x, SECOND).sum())(FIRST)
    assert np.all(np.isfinite(gradient))


def test_vgg16_has_its_published_size():
    shapes = nn.unbox(jax.eval_shape(PerceptualNetwork(PerceptualConfig()).init, jax.random.key(0)))
    vgg = sum(leaf.size for leaf in jax.tree.leaves(shapes["vgg"]))
    # All of torchvision's 138,357,544 but the three dense layers.
    assert vgg == 138_357_544 - (25088 * 4096 + 4096) - (4096**2 + 4096) - (4096 * 1000 + 1000)
    assert sum(shapes[f"linear{i}"].size for i in range(1, 6)) == 1472


def test_a_file_gives_its_arrays_in_their_places(load):
    found = flatten(load())
    for key, array in arrays().items():
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"vgg/conv2_1/weight": None}, r"holds no vgg/conv2_1/weight of shape \(3, 3, 2, 3\)"),
        (
            {"vgg/conv2_1/weight": np.zeros((3, 3, 2, 5), np.float32)},
            r"conv2_1/weight has the shape \(3, 3, 2, 5\) and \(3, 3, 2, 3\) is needed",
        ),
        ({"linear3": np.full(3, np.nan, np.float32)}, "linear3 holds a value that is not finite"),
        ({"linear3": np.full(3, -1, np.float32)}, "linear3 holds a negative weight"),
        ({"classifier": np.zeros(3, np.float32)}, "holds classifier: of another network"),
    ],
)
def test_a_file_of_another_network_is_refused(load, changed, line):
    with pytest.raises(UserError, match=f"^config.perceptual.file=.*vgg.safetensors.*{line}"):
        load(changed)


def test_a_file_that_is_none(tmp_path):
    missing = dataclasses.replace(NETWORK.config, file=str(tmp_path / "no.safetensors"))
    with pytest.raises(UserError, match="no.safetensors is not there"):
        PerceptualNetwork(missing).load()
    (tmp_path / "no.safetensors").write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match="is no safetensors file"):
        PerceptualNetwork(missing).load()
    with pytest.raises(UserError, match="config.perceptual.file is empty .* config.loss.percep"):
        NETWORK.load()


def test_pictures_that_are_too_small_are_named():
    small = np.zeros((1, 15, 32, 3), np.float32)
    with pytest.raises(UserError, match="at least 16 px .*: set config.loss.perc"):
        NETWORK.distance({}, small, small)
