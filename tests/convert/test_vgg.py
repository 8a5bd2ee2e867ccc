"""torchvision's and LPIPS's arrays to ours, through the command and back into the network."""

import dataclasses
import re
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from babeldraw.convert.files import read_arrays, sha256
from babeldraw.convert.kinds import KINDS
from babeldraw.convert.vgg import torchvision_keys
from babeldraw.errors import UserError
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.runs.weights import flatten

# torchvision.models.vgg16, the indices of its convolutions.
INDICES = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
WIDTHS = (2, 3, 4, 5, 6)
KIND = dataclasses.replace(
    KINDS["vgg_lpips"], abstract=PerceptualNetwork(PerceptualConfig(widths=WIDTHS)).shapes
)
NAMES = {"vgg": "--vgg=a.pth", "lpips": "--lpips=b.pth"}


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
    found = KIND.read({"vgg": vgg, "lpips": lpips}, NAMES)
    assert len(found) == 2 * 13 + 5
    weight = vgg["features.7.weight"]
    for index in np.ndindex(weight.shape):
        f, c, row, column = index
        assert found["vgg/conv2_2/weight"][row, column, c, f] == weight[index]
    np.testing.assert_array_equal(found["vgg/conv5_3/bias"], vgg["features.28.bias"])
    np.testing.assert_array_equal(found["linear4"], lpips["lin3.model.1.weight"].ravel())
    assert np.all(KIND.read({"vgg": vgg}, NAMES)["linear4"] == 1)
    assert KIND.left_out(vgg, "vgg") == {
        "the dense layers, which classify": ["classifier.0.weight"]
    }


@pytest.mark.parametrize(
    ("flag", "key", "value", "line"),
    [
        ("vgg", "features.7.weight", None, "--vgg=a.pth holds no features.7.weight: it is of"),
        (
            "vgg",
            "features.7.bias",
            np.zeros(9),
            r"--vgg=a.pth: features.7.bias has the shape \(9,\) and \(3,\) is needed",
        ),
        ("vgg", "features.7.bias", np.full(3, np.nan), "--vgg=a.pth: .*2_2/bias .* not finite"),
        ("vgg", "avgpool", np.zeros(3), "--vgg=a.pth holds avgpool, which no row of the table"),
        ("lpips", "lin0.model.1.weight", None, "--lpips=b.pth holds no lin0.model.1.weight"),
        (
            "lpips",
            "lin0.model.1.weight",
            np.full((1, 2, 1, 1), -1.0),
            "--lpips=b.pth: linear1 holds a negative weight",
        ),
    ],
)
def test_a_state_dict_of_another_network_is_refused(flag, key, value, line):
    tensors = {"vgg": state_dict(), "lpips": linear()}
    tensors[flag][key] = value
    tensors[flag] = {name: array for name, array in tensors[flag].items() if array is not None}
    with pytest.raises(UserError, match=line):
        KIND.read(tensors, NAMES)


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
        "a.pkl": "is of no known kind; use .safetensors, .npz, .pth or .msgpack",
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
    tensors = {"vgg": read_arrays(str(inputs / "vgg16.safetensors"), "")}
    tensors |= {"lpips": read_arrays(str(inputs / "lpips.npz"), "")} if weighted else {}
    expected = KINDS["vgg_lpips"].read(tensors, NAMES)
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)
    with safe_open(out, "numpy") as opened:
        metadata = opened.metadata()
    assert ("sha256_of_lpips" in metadata) == weighted
    assert ("--lpips not given: what it holds is 1 everywhere" in said) == (not weighted)
    assert "--vgg: 1 arrays left out: the dense layers, which classify" in said
    assert metadata["sha256_of_vgg"] == sha256(str(inputs / "vgg16.safetensors"))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_export_gives_back_what_import_read(cli, inputs, tmp_path):
    vgg, lpips = inputs / "vgg16.safetensors", inputs / "lpips.npz"
    ours, again = tmp_path / "ours.safetensors", tmp_path / "back"
    words = [f"--vgg={vgg}", f"--lpips={lpips}", f"--out={ours}"]
    assert cli("import", "--kind=vgg_lpips", *words)[0] == 0
    words = [f"--vgg={again / 'v.safetensors'}", f"--lpips={again / 'l.safetensors'}"]
    status, _, said = cli("export", "--kind=vgg_lpips", f"--weights={ours}", *words)
    assert status == 0 and "v.safetensors: 26 arrays" in said
    for file, theirs in (("v", vgg), ("l", lpips)):
        expected = read_arrays(str(theirs), "")
        expected.pop("classifier.0.weight", None)
        found = read_arrays(str(again / f"{file}.safetensors"), "")
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array)
    before = vgg.read_bytes()
    status, _, said = cli("export", "--kind=vgg_lpips", f"--weights={ours}", f"--vgg={vgg}")
    assert status == 2 and "vgg16.safetensors is there already; give another name" in said
    assert vgg.read_bytes() == before


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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--kind=vgg_lpips"], "--weights is missing; see --help for an example"),
        (
            ["--kind=vgg_lpips", "--weights=no.safetensors"],
            "no file to write is named; --kind=vgg_lpips takes --vgg, --lpips",
        ),
        (
            ["--kind=vgg_lpips", "--weights=no.safetensors", "--vgg=x.pth"],
            "--vgg=x.pth must end in .safetensors",
        ),
        (
            ["--kind=vgg_lpips", "--weights=no.safetensors", "--vgg=x.safetensors"],
            "--weights=no.safetensors is not there",
        ),
    ],
)
def test_a_mistake_in_an_export_is_one_line(cli, words, line):
    status, _, said = cli("export", *words)
    assert status == 2 and line in said and said.count("\n") == 1


def test_the_flags_are_those_of_the_kinds(cli):
    for command in ("import", "export"):
        status, said, _ = cli(command, "--help")
        assert status == 0
        assert "--lpips: vgg_lpips: LPIPS's linear weights for VGG16." in said
        assert f"babeldraw {command} --kind=vgg_lpips" in said
