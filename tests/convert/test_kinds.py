"""A new kind of weights is a line of the table: the commands know it, both ways."""

import importlib.machinery
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file, save_file

from babeldraw.convert.files import read_arrays
from babeldraw.convert.kinds import KINDS, File, Kind
from babeldraw.convert.table import Ignored, Row, left_out
from babeldraw.errors import UserError
from babeldraw.runs.weights import flatten

LAYERS, DIM = 3, 4
PARAMS = {"blocks": {"weight": np.zeros((LAYERS, DIM, 2), np.float32)}, "scale": np.zeros(DIM)}
TOY = Kind(
    {
        "toy": File(
            "a toy's state dict",
            (
                Row("blocks/weight", "layers.{layer}.weight", "f d -> d f"),
                Ignored("step", "no weight"),
            ),
            fills="blocks/.*",
            inside="model",
        ),
        "toy_scale": File("its scale", (Row("scale", "scale"),), fills="scale", without=2.0),
    },
    lambda: jax.eval_shape(lambda: jax.tree.map(np.float32, PARAMS)),
)


@pytest.fixture(autouse=True)
def toy_kind(monkeypatch):
    monkeypatch.setitem(KINDS, "toy", TOY)


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {f"layers.{i}.weight": rng.normal(size=(2, DIM)).astype(dtype) for i in range(LAYERS)}


@pytest.mark.parametrize("name", [*KINDS, "toy"])
def test_each_parameter_of_a_kind_comes_from_one_file(name):
    kind, filled = KINDS[name], []
    shapes = flatten(kind.abstract())
    for file in kind.files.values():
        part = {key: leaf for key, leaf in shapes.items() if re.fullmatch(file.fills, key)}
        # The table fits it, else this raises.
        assert left_out(file.table, [], part) == {}
        filled += part
    assert sorted(filled) == sorted(shapes)
    for file in kind.whole.values():
        assert left_out(file.table, [], shapes) == {}


def test_a_kind_goes_through_both_commands(cli, tmp_path):
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    save_file(tensors() | {"step": np.ones(1)}, tmp_path / "toy.safetensors")
    status, _, said = cli(
        "import", "--kind=toy", f"--toy={tmp_path / 'toy.safetensors'}", f"--out={ours}"
    )
    assert status == 0
    assert "--toy: 1 arrays left out: no weight" in said
    assert "--toy_scale not given: what it holds is 2 everywhere" in said
    found = load_file(ours)
    np.testing.assert_array_equal(found["scale"], np.full(DIM, 2, np.float32))
    np.testing.assert_array_equal(found["blocks/weight"][1], tensors()["layers.1.weight"].T)
    assert cli("export", "--kind=toy", f"--weights={ours}", f"--toy={back}")[0] == 0
    found = load_file(back)
    assert found.keys() == tensors().keys()
    for key, array in tensors().items():
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize("command", ["import", "export"])
def test_a_flag_of_another_kind_is_refused(cli, command):
    status, _, said = cli(command, "--kind=toy", "--toy=a.npz", "--vgg=b.npz")
    assert status == 2 and said.count("\n") == 1
    assert "--vgg does not go with --kind=toy, which takes --toy, --toy_scale" in said


def test_the_tensors_of_another_network_are_one_line(cli, tmp_path):
    file = tmp_path / "toy.npz"
    np.savez(file, **{key: array for key, array in tensors().items() if "2" not in key})
    out = tmp_path / "ours.safetensors"
    status, _, said = cli("import", "--kind=toy", f"--toy={file}", f"--out={out}")
    assert status == 2 and said.count("\n") == 1
    assert f"--toy={file} holds no layers.2.weight: it is of another network" in said
    assert not out.exists()


class Tensor:
    """What is asked of one of torch's."""

    def __init__(self, array, dtype):
        self.array, self.dtype = array, dtype

    def float(self):
        return Tensor(self.array.astype(np.float32), "float32")

    def detach(self):
        return self

    def numpy(self):
        if self.dtype == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.mark.parametrize("nested", [True, False])
def test_a_file_of_torch_of_any_depth_and_half_precision(tmp_path, monkeypatch, nested):
    state = {"a": Tensor(np.ones(2), "bfloat16"), "b": Tensor(np.zeros(3, np.float16), "float16")}
    torch = types.ModuleType("torch")
    torch.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    torch.bfloat16 = "bfloat16"
    torch.load = lambda file, map_location, weights_only: {"model": state} if nested else state
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "a.pth").touch()
    found = read_arrays(str(tmp_path / "a.pth"), "--toy", "model")
    assert {key: array.dtype for key, array in found.items()} == {"a": np.float32, "b": np.float16}
    np.testing.assert_array_equal(found["a"], np.ones(2))


def test_a_file_of_flax_is_read_by_names_joined(tmp_path):
    held = {"blocks": {"weight": jnp.ones((2, 3), jnp.bfloat16)}, "scale": np.arange(4.0)}
    file = tmp_path / "a.msgpack"
    file.write_bytes(msgpack_serialize({"target": jax.tree.map(np.asarray, held), "step": 3}))
    found = read_arrays(str(file), "--toy", "target")
    assert {name: a.dtype.name for name, a in found.items()} == {
        "blocks/weight": "float32",
        "scale": "float64",
    }
    np.testing.assert_array_equal(found["blocks/weight"], 1.0)
    with pytest.raises(UserError, match="holds step, which is no array"):
        read_arrays(str(file), "--toy")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="--toy=.* is no .msgpack file of Flax: "):
        read_arrays(str(file), "--toy")
