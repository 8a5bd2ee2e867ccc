"""Files of torch, read without it: what they hold, and all that is refused.

The writer here has torch's layout (`torch.serialization`, 2.14), by modules of torch's names.
"""

import collections
import contextlib
import io
import pickle
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.files import read_arrays
from babeldraw.errors import UserError

RNG = np.random.default_rng(0)
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
STORAGES |= {"bfloat16": "BFloat16Storage", "bool": "BoolStorage"}
HELD = {
    "a.weight": RNG.standard_normal((4, 3, 2), np.float32),
    "a.half": RNG.standard_normal(5).astype(np.float16),
    "a.rough": RNG.standard_normal((2, 3)).astype(jnp.bfloat16),
    "a.count": np.asarray(7),
    "a.mask": np.array([True, False]),
    "a.none": np.zeros((0, 3), np.float32),
}


def _rebuild_tensor_v2(*given):
    """Named, never called."""


@contextlib.contextmanager
def modules_of_torch():
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    _rebuild_tensor_v2.__module__ = "torch._utils"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


class Stored(tuple):
    """A storage: (type, key, size)."""


class Writer(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", value[0], value[1], "cpu", value[2]) if type(value) is Stored else None

    def reducer_override(self, value):
        return value.reduced() if isinstance(value, Tensor) else NotImplemented


class Tensor:
    """Numbers of a storage, as torch pickles them; `storage` is shared by those of one key."""

    def __init__(self, array, key, torch, offset=0, shape=None, strides=None):
        self.array, self.key, self.torch = array, key, torch
        self.shape = array.shape if shape is None else shape
        self.strides = tuple(s // array.itemsize for s in array.strides)
        self.strides = self.strides if strides is None else strides
        self.offset = offset

    def reduced(self):
        kind = getattr(self.torch, STORAGES[self.array.dtype.name])
        storage = Stored((kind, self.key, self.array.size))
        hooks = collections.OrderedDict()
        given = (storage, self.offset, self.shape, self.strides, False, hooks)
        return _rebuild_tensor_v2, given


class Versions(collections.OrderedDict):
    """As a module's state dict, which has attributes."""

    def __reduce__(self):
        versions = collections.OrderedDict({"": {"version": 1}})
        items = iter(self.items())
        return collections.OrderedDict, (), {"_metadata": versions}, None, items


def write(path, make, arrays, root="archive", packed=zipfile.ZIP_STORED):
    """`make` gives what is pickled, of torch's modules; `arrays` are its storages by key."""
    data = io.BytesIO()
    with modules_of_torch() as torch:
        Writer(data, 2).dump(make(torch))
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr(f"{root}/data.pkl", data.getvalue())
        archive.writestr(f"{root}/byteorder", "little")
        for key, array in arrays.items():
            archive.writestr(f"{root}/data/{key}", array.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return str(path)


def state(torch, arrays=HELD):
    held = {name: Tensor(array, str(i), torch) for i, (name, array) in enumerate(arrays.items())}
    return Versions(held)


KEYED = {str(i): array for i, array in enumerate(HELD.values())}


@pytest.mark.parametrize("name", ["a.bin", "a.pth", "a.pt", "a.ckpt"])
def test_a_state_dict_is_read_without_torch(tmp_path, name):
    file = write(tmp_path / name, state, KEYED)
    found = read_arrays(file, "--x", "model")
    assert found.keys() == HELD.keys()
    for key, array in found.items():
        expected = HELD[key]
        # NumPy has no bfloat16.
        wide = expected.astype(np.float32) if expected.dtype == jnp.bfloat16 else expected
        np.testing.assert_array_equal(array, wide)
        assert (array.dtype, array.shape) == (wide.dtype, expected.shape)


def test_one_in_a_container_is_read_and_what_is_beside_it_is_not(tmp_path):
    beside = {"epoch": 3, "rates": [0.1, 1e-4], "optimizer": {0: {"step": 5}}, "none": None}
    file = write(tmp_path / "a.pt", lambda torch: {"model": state(torch), **beside}, KEYED)
    assert read_arrays(file, "--x", "model").keys() == HELD.keys()
    with pytest.raises(UserError, match="--x=.*a.pt is no file of tensors alone: it holds epoch, "):
        read_arrays(file, "--x")
    with pytest.raises(UserError, match="tensors alone: it keeps model, optimizer and no ema$"):
        read_arrays(file, "--x", "ema")


class Callback:
    """What Lightning keeps beside weights: objects and classes of names that no tensor has."""

    def __init__(self):
        self.best = 0.5


def test_beside_a_state_dict_other_names_may_stand_and_nothing_comes_of_them(tmp_path):
    beside = {"callbacks": {Callback: Callback()}, "call": Calls(), "seen": [Callback()]}

    def held(torch):
        return {"state_dict": state(torch), **beside}

    file = write(tmp_path / "a.ckpt", held, KEYED)
    assert read_arrays(file, "--x", "state_dict").keys() == HELD.keys()
    # Within one they may not.
    for inside in ({"a": Calls()}, {"a": Callback()}):
        evil = write(tmp_path / "b.ckpt", lambda torch, own=inside: {"state_dict": own}, {})
        with pytest.raises(UserError, match="it holds a, which is neither an array nor a dict"):
            read_arrays(evil, "--x", "state_dict")


def test_views_of_one_storage_are_parts_of_it(tmp_path):
    whole = np.arange(12, dtype=np.float32)

    def make(torch):
        turned = Tensor(whole, "0", torch, shape=(4, 3), strides=(1, 4))
        return {"turned": turned, "part": Tensor(whole, "0", torch, 5, (2,), (2,))}

    found = read_arrays(write(tmp_path / "a.bin", make, {"0": whole}), "--x")
    np.testing.assert_array_equal(found["turned"], whole.reshape(3, 4).T)
    np.testing.assert_array_equal(found["part"], [5, 7])


class Calls:
    ran = False

    def __reduce__(self):
        return run, ()


def run():
    Calls.ran = True


def tensor(offset=0, shape=(2,), strides=(1,), key="0"):
    array = np.arange(2, dtype=np.float32)
    return lambda torch: {"a": Tensor(array, key, torch, offset, shape, strides)}


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda torch: {"a": Calls()}, "it holds the name .*.run, which is none of an array's"),
        (lambda torch: {"a": types.SimpleNamespace()}, "it holds the name types.SimpleNamespace"),
        (lambda torch: {"a": torch.FloatStorage}, "it holds a, which is neither an array nor"),
        (lambda torch: {"a": Stored((torch.FloatStorage, "0", 2))}, "it holds a, which is neither"),
        (lambda torch: {"a": Stored((run, "0", 2))}, "it holds the name .*.run"),
        (lambda torch: [1.0], "it holds the whole, which is neither an array nor a dict"),
        (tensor(offset=1), r"it holds a tensor of \(2,\) in 2 numbers"),
        (tensor(shape=(10**9,), strides=(0,)), r"it holds a tensor of \(1000000000,\) in 2"),
        (tensor(strides=(-1,)), r"it holds a tensor of shape \(2,\), strides \(-1,\)"),
        (tensor(strides=(1, 1)), "it holds a tensor without numbers"),
        (tensor(key="../data.pkl"), "it holds no archive/data/../data.pkl"),
    ],
)
def test_whatever_is_no_tensor_is_refused_and_nothing_runs(tmp_path, make, line):
    file = write(tmp_path / "a.bin", make, {"0": np.arange(2, dtype=np.float32)})
    with pytest.raises(UserError, match=f"^--x=.*a.bin is no file of tensors alone: {line}"):
        read_arrays(file, "--x")
    assert not Calls.ran


def test_a_storage_of_another_size_and_a_packed_one_are_refused(tmp_path):
    file = write(tmp_path / "a.bin", tensor(), {"0": np.arange(3, dtype=np.float32)})
    with pytest.raises(UserError, match="it holds 12 bytes for 2 numbers float32"):
        read_arrays(file, "--x")
    arrays = {"0": np.arange(2, dtype=np.float32)}
    file = write(tmp_path / "a.bin", tensor(), arrays, packed=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="is packed, which torch never does"):
        read_arrays(file, "--x")


def test_a_file_cut_or_damaged_anywhere_is_one_line(tmp_path):
    path = tmp_path / "a.bin"
    write(path, state, KEYED)
    whole = path.read_bytes()
    ends = range(4, len(whole) - 1, 97)
    damaged = [whole[:end] for end in ends]
    # In the numbers of the first tensor: the zip's checksum sees it.
    at = whole.index(HELD["a.weight"].tobytes()) + 5
    damaged.append(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(UserError, match="^--x=.*a.bin is no file of tensors alone: ") as error:
            read_arrays(str(path), "--x")
        assert "\n" not in str(error.value)
