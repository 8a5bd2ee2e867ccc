"""The perceptual distance against NumPy and SciPy; its file of weights, whole and broken."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file
from scipy import signal

from babeldraw.errors import UserError
from babeldraw.judges.backbones import CONVOLUTIONS
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.runs.weights import flatten

WIDTHS = (2, 3, 3, 4, 4)
NETWORK = PerceptualNetwork(PerceptualConfig(widths=WIDTHS))
RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.random((2, 2, 32, 20, 3), np.float32)


@functools.cache
def arrays():
    """Random weights of both networks by their names in their files."""
    other = PerceptualNetwork(PerceptualConfig(widths=WIDTHS, network="alexnet"))
    shapes = {**flatten(NETWORK.shapes()), **flatten(other.shapes())}
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
        own = {key: array for key, array in arrays().items() if not key.startswith("alexnet")}
        found = {**own, **(changed or {})}
        save_file({key: array for key, array in found.items() if array is not None}, file)
        return PerceptualNetwork(PerceptualConfig(str(file), WIDTHS)).load()

    return run


def convolved(x, name, zeros):
    """Of one picture [h, w, C], with its zeros around it and stride 1, after the ReLU."""
    weight, bias = (arrays()[f"{name}/{part}"].astype(np.float64) for part in ("weight", "bias"))
    x = np.pad(x, ((zeros, zeros), (zeros, zeros), (0, 0)))
    channels = range(x.shape[-1])
    maps = [
        sum(signal.correlate2d(x[..., c], weight[..., c, f], "valid") for c in channels) + bias[f]
        for f in range(weight.shape[-1])
    ]
    return np.stack(maps, axis=-1).clip(0)


def pooled(x, side):
    """The largest of each square of so many places, every second of them."""
    h, w = ((size - side) // 2 + 1 for size in x.shape[:2])
    places = [
        [x[2 * i : 2 * i + side, 2 * j : 2 * j + side].max((0, 1)) for j in range(w)]
        for i in range(h)
    ]
    return np.array(places)


def vgg16(x):
    """Five maps, as Simonyan and Zisserman draw VGG16, in float64."""
    for stage, count in enumerate(CONVOLUTIONS, 1):
        x = pooled(x, 2) if stage > 1 else x
        for i in range(1, count + 1):
            x = convolved(x, f"vgg/conv{stage}_{i}", 1)
        yield x


def alexnet(x):
    """torchvision's: 11 x 11 at every fourth place, 5 x 5, thrice 3 x 3; pooled after two."""
    x = convolved(x, "alexnet/conv1", 2)[::4, ::4]
    yield x
    for i, zeros in ((2, 2), (3, 1), (4, 1), (5, 1)):
        x = convolved(pooled(x, 3) if i < 4 else x, f"alexnet/conv{i}", zeros)
        yield x


def by_numpy(network, first, second):
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    maps = [network((image - mean) / deviation) for image in (first, second)]
    total = 0.0
    for stage, (x, y) in enumerate(zip(*maps, strict=True), 1):
        x, y = (v / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-10) for v in (x, y))
        total += np.mean(np.sum(arrays()[f"linear{stage}"] * (x - y) ** 2, axis=-1))
    return total


@pytest.mark.parametrize("network", [vgg16, alexnet])
def test_the_distance_is_that_of_lpips(network):
    ours = PerceptualNetwork(PerceptualConfig(widths=WIDTHS, network=network.__name__))
    shapes = ours.shapes()
    params = jax.tree.unflatten(
        jax.tree.structure(shapes), [arrays()[key] for key in flatten(shapes)]
    )
    # Odd sizes, whose last rows the poolings leave out.
    first, second = RNG.random((2, 2, 47, 35, 3), np.float32)
    found = jax.jit(ours.distance)(params, first, second)
    expected = [by_numpy(network, a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert min(expected) > 0.01


@pytest.mark.slow
def test_the_loss_is_the_mean_over_every_so_many_pictures(load):
    params, first, second = load(), *RNG.random((2, 6, 16, 16, 3), np.float32)
    each = jax.jit(NETWORK.distance)(params, first, second)
    for every in (1, 2, 3):
        part = PerceptualNetwork(dataclasses.replace(NETWORK.config, every=every))
        found, gradient = jax.jit(jax.value_and_grad(part.loss, argnums=1))(params, first, second)
        np.testing.assert_allclose(found, np.mean(each[::every]), rtol=1e-5)
        felt = np.abs(np.asarray(gradient)).max((1, 2, 3)) > 0
        np.testing.assert_array_equal(felt, np.arange(6) % every == 0)
    part = PerceptualNetwork(dataclasses.replace(NETWORK.config, every=4))
    with pytest.raises(UserError, match="every is 4, which does not divide the 6 pictures of a b"):
        part.loss(params, first, second)


def test_equal_pictures_are_at_no_distance_and_the_order_does_not_matter(load):
    params, distance = load(), jax.jit(NETWORK.distance)
    np.testing.assert_allclose(distance(params, FIRST, FIRST), 0, atol=1e-6)
    forth, back = distance(params, FIRST, SECOND), distance(params, SECOND, FIRST)
    np.testing.assert_allclose(forth, back, atol=1e-5)


def test_a_share_of_a_split_batch_stays_where_it_is(load):
    part, params = PerceptualNetwork(dataclasses.replace(NETWORK.config, every=2)), load()
    pictures = RNG.random((2, 16, 16, 16, 3), np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put((*pictures,), NamedSharding(mesh, PartitionSpec("data")))
    program = jax.jit(part.loss).lower(params, *split).compile()
    # No picture is sent: devices exchange sums alone.
    moves = ("all-gather(", "all-to-all(", "collective-permute(")
    assert not any(move in program.as_text() for move in moves)
    whole = jax.jit(part.loss)(params, *pictures)
    np.testing.assert_allclose(program(params, *split), whole, rtol=1e-5)


# Of the whole VGG16.
@pytest.mark.budget(10)
def test_the_gradient_is_finite_where_all_features_are_zero(load):
    # Every unit of the first stage is off everywhere.
    params = load({"vgg/conv1_2/bias": np.full(2, -1e3, np.float32)})
    gradient = jax.jit(jax.grad(lambda x: NETWORK.distance(params, x, SECOND).sum()))
    assert np.all(np.isfinite(gradient(FIRST)))


def test_alexnet_has_its_published_size():
    shapes = PerceptualNetwork(PerceptualConfig(network="alexnet")).shapes()
    convolutions = sum(leaf.size for leaf in jax.tree.leaves(shapes["alexnet"]))
    # All of torchvision's 61,100,840 but the three dense layers.
    dense = (9216 * 4096 + 4096) + (4096**2 + 4096) + (4096 * 1000 + 1000)
    assert convolutions == 61_100_840 - dense
    assert sum(shapes[f"linear{i}"].size for i in range(1, 6)) == 1152


def test_vgg16_has_its_published_size():
    shapes = PerceptualNetwork(PerceptualConfig()).shapes()
    vgg = sum(leaf.size for leaf in jax.tree.leaves(shapes["vgg"]))
    # All of torchvision's 138,357,544 but the three dense layers.
    assert vgg == 138_357_544 - (25088 * 4096 + 4096) - (4096**2 + 4096) - (4096 * 1000 + 1000)
    assert sum(shapes[f"linear{i}"].size for i in range(1, 6)) == 1472


def test_a_file_gives_its_arrays_in_their_places(load):
    found = flatten(load())
    assert found.keys() == flatten(NETWORK.shapes()).keys()
    for key, array in found.items():
        np.testing.assert_array_equal(array, arrays()[key])


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
    network = PerceptualNetwork(PerceptualConfig(network="alexnet"))
    with pytest.raises(UserError, match="at least 31 px .* they are \\(30, 40\\): set config"):
        network.distance({}, *np.zeros((2, 1, 30, 40, 3), np.float32))
    # And no smaller one than can be.
    image = jax.ShapeDtypeStruct((1, 31, 31, 3), np.float32)
    assert jax.eval_shape(network.maps, network.shapes(), image)[-1].shape == (1, 1, 1, 256)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"network": "vgg"}, "config.perceptual.network is 'vgg'; the choices are vgg16, alexnet"),
        ({"widths": (1, 2)}, r"config.perceptual.widths is \(1, 2\); five of at least 1 each"),
        ({"every": 0}, "config.perceptual.every is 0; at least 1 is needed"),
    ],
)
def test_a_bad_section_is_named(fields, line):
    with pytest.raises(UserError, match=line):
        PerceptualConfig(**fields)
