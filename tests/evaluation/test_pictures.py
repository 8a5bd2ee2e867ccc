"""Which perceptual distance evaluators take: the objective's, the config's, or none."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from babeldraw.errors import UserError
from babeldraw.evaluation.pictures import perceptual_distances, picture_measures
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.runs.weights import flatten

WIDTHS = (2, 2, 2, 2, 2)
RNG = np.random.default_rng(0)
IMAGES, ORIGINALS = RNG.uniform(size=(2, 3, 16, 24, 3)).astype(np.float32)


def test_none_without_a_network_and_the_objective_s_before_the_config_s():
    assert perceptual_distances({}, PerceptualConfig()) == {}
    (own,) = perceptual_distances({"distance": max}, PerceptualConfig("not looked at")).values()
    assert own.func is max and own.args == ()


@pytest.mark.slow
def test_that_of_the_config_s_file_brings_its_weights_as_arguments(tmp_path):
    config = PerceptualConfig(str(tmp_path / "vgg.safetensors"), WIDTHS)
    network = PerceptualNetwork(config)
    params = jax.tree.map(np.asarray, nn.unbox(network.init(jax.random.key(0))))
    save_file(flatten(params), config.file)
    distance = perceptual_distances({}, config)["lpips"]
    # The weights are leaves of the argument, no constants of the program.
    leaves = jax.tree.leaves(distance)
    assert sum(leaf.size for leaf in leaves) == sum(leaf.size for leaf in jax.tree.leaves(params))
    measured = jax.jit(lambda distance, a, b: distance(None, a, b))(distance, IMAGES, ORIGINALS)
    expected = jax.jit(network.distance)(params, IMAGES, ORIGINALS)
    np.testing.assert_allclose(measured, expected, atol=1e-5)
    assert (np.asarray(measured) > 0).all()


@pytest.mark.slow
def test_a_judge_measures_beside_the_network_of_the_loss(tmp_path):
    file, network = (
        tmp_path / "a.safetensors",
        PerceptualNetwork(PerceptualConfig(network="alexnet")),
    )
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.random(x.shape, np.float32) / 9, network.shapes())
    save_file(flatten(params), file)
    found = perceptual_distances({"distance": max}, PerceptualConfig(judge=str(file)))
    assert [*found] == ["lpips", "lpips_alexnet"]
    assert [*picture_measures((10, 24), found)] == ["l1", "l2", "lpips", "lpips_alexnet"]
    x, y = rng.random((2, 1, 32, 32, 3), np.float32)
    expected = jax.jit(network.distance)(params, x, y)
    np.testing.assert_allclose(jax.jit(found["lpips_alexnet"])(None, x, y), expected, rtol=1e-5)
    with pytest.raises(UserError, match="^config.perceptual.judge=.*no.safetensors is not there"):
        perceptual_distances({}, PerceptualConfig(judge=str(tmp_path / "no.safetensors")))


def test_small_pictures_have_no_ssim():
    assert [*picture_measures((16, 24), {})] == ["l1", "l2", "ssim"]
    assert [*picture_measures((10, 24), {})] == ["l1", "l2"]
