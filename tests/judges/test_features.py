"""Vectors of pictures: what they are of the maps, whatever the pictures' type; refused files."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from babeldraw.errors import UserError
from babeldraw.judges import features as module
from babeldraw.judges import inception
from babeldraw.judges.features import NETWORKS, network
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.runs.weights import flatten

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 40, 34, 3), np.uint8)


@functools.cache
def arrays(name):
    shapes = flatten(PerceptualNetwork(PerceptualConfig(network=name)).shapes())
    rng = np.random.default_rng(1)
    return {
        key: (0.5 * rng.random(leaf.shape, np.float32) - 0.22) / np.sqrt(leaf.shape[-1])
        if not key.startswith("linear")
        else np.ones(leaf.shape, np.float32)
        for key, leaf in shapes.items()
    }


@pytest.fixture
def file(request, tmp_path):
    save_file(arrays(request.param), tmp_path / "weights.safetensors")
    return request.param, str(tmp_path / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["vgg16", "alexnet"], indirect=True)
def test_a_vector_is_the_mean_over_places_of_the_maps(file):
    name, path = file
    features, run = network(name, path), jax.jit(lambda f, x: f(x))
    found = run(features, PICTURES)
    assert found.shape == (2, NETWORKS[name].dim) and found.dtype == np.float32
    as_float = run(features, PICTURES.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(found, as_float, rtol=1e-5, atol=1e-7)
    # Of the arrays in the file: the weights are an argument of the program.
    assert len(jax.tree.leaves(features)) == len(arrays(name))
    judge = PerceptualNetwork(PerceptualConfig(path, network=name))
    maps = [
        np.asarray(x, np.float64)
        for x in jax.jit(judge.maps)(judge.load(), PICTURES.astype(np.float32) / np.float32(255))
    ]
    if name == "alexnet":
        expected = [(x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)) for x in maps]
    else:
        expected = maps[-1:]
    expected = np.concatenate([x.mean((1, 2)) for x in expected], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected[0] - expected[1]).max() > 1e-6


@pytest.mark.parametrize("file", ["alexnet"], indirect=True)
def test_what_cannot_be_is_one_line(file, tmp_path):
    _, path = file
    with pytest.raises(UserError, match="^network='vgg' is not known; .* are vgg16, alexnet, inc"):
        network("vgg", path)
    with pytest.raises(UserError, match="^file=.*weights.safetensors holds alexnet/.*of another"):
        network("vgg16", path)
    with pytest.raises(UserError, match="^file=.*no.safetensors is not there$"):
        network("vgg16", str(tmp_path / "no.safetensors"))
    with pytest.raises(UserError, match=r"alexnet needs .* 31 px on each side; .*\(30, 34\)$"):
        network("alexnet", path)(PICTURES[:, :30])


def test_inception_s_vectors_hold_places_where_adm_takes_some(monkeypatch, tmp_path):
    """Of a network without its depth: what comes in, and what is put behind what."""

    class Seen(nn.Module):
        def __call__(self, x):
            return inception.Seen(jnp.mean(x, axis=(1, 2)), x[:, 0, :2, 0])

    monkeypatch.setattr(module, "Inception", Seen)
    shapes = {"inception": {"logits": {"weight": jax.ShapeDtypeStruct((3, 5), jnp.float32)}}}
    monkeypatch.setattr(module, "inception_shapes", lambda: shapes)
    weight = np.random.default_rng(2).random((3, 5), np.float32)
    save_file({"inception/logits/weight": weight}, tmp_path / "i.safetensors")
    found = network("inception", str(tmp_path / "i.safetensors"))
    assert NETWORKS["inception"].spatial == 17 * 17 * inception.SPATIAL_CHANNELS
    np.testing.assert_array_equal(NETWORKS["inception"].classes(found), weight)
    x = np.asarray(inception.prepared_as_adm(PICTURES))
    expected = np.concatenate([x.mean((1, 2)), x[:, 0, :2, 0]], axis=1)
    np.testing.assert_allclose(found(PICTURES), expected, atol=1e-5)
    half = network("inception_half_pixel", str(tmp_path / "i.safetensors"))
    x = np.asarray(inception.prepared_as_pytorch_fid(PICTURES))
    np.testing.assert_allclose(half(PICTURES), x.mean((1, 2)), atol=1e-5)
    assert NETWORKS["inception_half_pixel"].classes is None
