"""torchvision's and LPIPS's arrays to ours, through the command and back into the network."""

import re
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from babeldraw.convert.files import read_arrays, sha256
from babeldraw.convert.vgg import to_perceptual, torchvision_keys
from babeldraw.errors import UserError
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.runs.weights import flatten

# torchvision.models.vgg16, the indices of its convolutions.
INDICES = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
WIDTHS = (2, 3, 4, 5, 6)


def state_dict(widths=WIDTHS):
    rng, channels, found = np.random.default_rng(0), 3, {}
    per_layer = [w for w, count in zip(widths, (2, 2, 3, 3, 3), strict=True) for _ in range(count)]
    for index, width in zip(INDICES, per_layer, strict=True):
        shape = (width, channels, 3, 3)
        found[f"features.{index}.weight"] = rng.standard_normal(shape, np.float32)
        found[f"features.{index}.bias"] = rng.standard_normal(width, np.float32)
        channels = width
    found["classifier.0.weight"] = np.zeros((2, 2), np.float32)
    return found


def linear(widths=WIDTHS):
    rng = np.random.default_rng(1)
    return {
        f"lin{i}.model.1.weight": rng.random((1, width, 1, 1), np.float32)
        for i, width in enumerate(widths)
    }


def test_the_convolutions_are_where_torchvision_has_them():
    assert [*torchvision_keys().values()] == [f"features.{i}" for i in INDICES]


def test_a_weight_goes_from_features_first_to_features_last():
    vgg, lpips = state_dict(), linear()
    found = to_perceptual(vgg, lpips, WIDTHS)
    assert len(found) == 2 * 13 + 5
    weight = vgg["features.7.weight"]
    for index in np.ndindex(weight.shape):
        f, c, row, column = index
        assert found["vgg/conv2_2/weight"][row, column, c, f] == weight[index]
    np.testing.assert_array_equal(found["vgg/conv5_3/bias"], vgg["features.28.bias"])
    np.testing.assert_array_equal(found["linear4"], lpips["lin3.model.1.weight"].ravel())
    assert np.all(to_perceptual(vgg, None, WIDTHS)["linear4"] == 1)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("features.7.weight", None, "file of --vgg holds no features.7.weight"),
        ("features.7.bias", np.zeros(9), r"features.7.bias in .* shape \(9,\) and \(3,\) is"),
        ("lin0.model.1.weight", None, "file of --lpips holds no lin0.model.1.weight"),
    ],
)
def test_a_state_dict_of_another_network_is_refused(key, value, line):
    arrays = {**state_dict(), **linear(), key: value}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(UserError, match=line):
        to_perceptual(arrays, arrays, WIDTHS)


# ------------------------------------------------------------------ files and the command


def test_one_content_whatever_the_kind_of_file(tmp_path):
    arrays = linear()
    save_file(arrays, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **arrays)
    for name in ("a.safetensors", "a.npz"):
        found = read_arrays(str(tmp_path / name), "--lpips")
        assert found.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array)


def test_what_would_be_unpickled_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, line in {
        "a.pth": "--vgg=.*a.pth is a file of torch, which is not installed",
        "a.pkl": "is of no known kind; use .safetensors, .npz or .pth",
        "a.npz": "is no .npz file of plain arrays",
        "b.npz": "b.npz is not there",
    }.items():
        file = tmp_path / name
        if name.startswith("a"):
            np.savez(file.with_suffix(".tmp.npz"), x=np.array([object()], dtype=object))
            file.with_suffix(".tmp.npz").rename(file)
        with pytest.raises(UserError, match=line):
            read_arrays(str(file), "--vgg")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Files of VGG16's true sizes, of random numbers."""
    folder, widths = tmp_path_factory.mktemp("inputs"), PerceptualConfig().widths
    save_file(state_dict(widths), folder / "vgg16.safetensors")
    np.savez(folder / "lpips.npz", **linear(widths))
    return folder


@pytest.mark.parametrize("weighted", [True, False])
def test_the_command_makes_a_file_that_loads(cli, inputs, tmp_path, weighted):
    out = tmp_path / "made" / "vgg_lpips.safetensors"
    words = [f"--vgg={inputs / 'vgg16.safetensors'}", f"--out={out}"]
    words += [f"--lpips={inputs / 'lpips.npz'}"] if weighted else []
    status, _, said = cli("import", "--kind=vgg_lpips", *words)
    assert status == 0
    for file in (inputs / "vgg16.safetensors", out):
        assert re.search(f"sha256 {sha256(str(file))} .*{file.name}", said)
    found = flatten(PerceptualNetwork(PerceptualConfig(str(out))).load())
    expected = to_perceptual(
        read_arrays(str(inputs / "vgg16.safetensors"), ""),
        read_arrays(str(inputs / "lpips.npz"), "") if weighted else None,
    )
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)
    with safe_open(out, "numpy") as opened:
        metadata = opened.metadata()
    assert metadata["linear"] == ("lpips" if weighted else "uniform")
    assert metadata["sha256_of_vgg"] == sha256(str(inputs / "vgg16.safetensors"))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--kind is missing; see --help for an example"),
        (["--kind=alexnet"], "--kind=alexnet is not known; the kinds are vgg_lpips"),
        (["--kind=vgg_lpips"], "--vgg is missing; see --help for an example"),
        (["--kind=vgg_lpips", "--vgg=no.npz", "--out=x.npz"], "must end in .safetensors"),
        (["--kind=vgg_lpips", "--vgg=no.npz", "--out=x.safetensors"], "--vgg=no.npz is not there"),
    ],
)
def test_a_mistake_is_one_line(cli, words, line):
    status, _, said = cli("import", *words)
    assert status == 2 and line in said and said.count("\n") == 1
