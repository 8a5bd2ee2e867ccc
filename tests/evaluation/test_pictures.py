"""Which perceptual distance evaluators take: the objective's, the config's, or none."""

import flax.linen as nn
import jax
import numpy as np
from safetensors.numpy import save_file

from babeldraw.evaluation.pictures import perceptual_distance, picture_measures
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.runs.weights import flatten

WIDTHS = (2, 2, 2, 2, 2)
RNG = np.random.default_rng(0)
IMAGES, ORIGINALS = RNG.uniform(size=(2, 3, 16, 24, 3)).astype(np.float32)


def test_none_without_a_network_and_the_objective_s_before_the_config_s():
    assert perceptual_distance({}, PerceptualConfig()) is None
    own = perceptual_distance({"distance": max}, PerceptualConfig("not looked at"))
    assert own.func is max and own.args == ()


def test_that_of_the_config_s_file_brings_its_weights_as_arguments(tmp_path):
    config = PerceptualConfig(str(tmp_path / "vgg.safetensors"), WIDTHS)
    network = PerceptualNetwork(config)
    params = jax.tree.map(np.asarray, nn.unbox(network.init(jax.random.key(0))))
    save_file(flatten(params), config.file)
    distance = perceptual_distance({}, config)
    # The weights are leaves of the argument, no constants of the program.
    leaves = jax.tree.leaves(distance)
    assert sum(leaf.size for leaf in leaves) == sum(leaf.size for leaf in jax.tree.leaves(params))
    measured = jax.jit(lambda distance, a, b: distance(None, a, b))(distance, IMAGES, ORIGINALS)
    expected = jax.jit(network.distance)(params, IMAGES, ORIGINALS)
    np.testing.assert_allclose(measured, expected, atol=1e-5)
    assert (np.asarray(measured) > 0).all()


def test_small_pictures_have_no_ssim():
    assert [*picture_measures((16, 24), None)] == ["l1", "l2", "ssim"]
    assert [*picture_measures((10, 24), None)] == ["l1", "l2"]
