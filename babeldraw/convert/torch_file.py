"""Reads the tensors of a file that `torch.save` wrote, without torch and without unpickling.

Such a file is a zip, not packed: `NAME/data.pkl`, a pickle of dicts whose tensors name a storage
each, and `NAME/data/KEY`, the numbers of a storage. Of the pickle only what dicts and tensors are
made of is followed (`pickled.follow`); any other name in it is refused. Files from before torch 1.6
are no zip.
"""

import dataclasses
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from babeldraw.convert import pickled
from babeldraw.convert.pickled import Machine, Name

# How a zip begins.
MAGIC = b"PK\x03\x04"
# Of numbers by torch's name of their storage, little-endian.
TYPES: dict[str, Any] = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": jnp.bfloat16,
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as those of torch do."""
    with path.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def read_torch_file(path: Path, inside: str = "") -> dict[str, np.ndarray]:
    """All tensors, by name; names of nested dicts are joined by "/".

    Args:
      path: of the file.
      inside: the key under which it may keep its state dict, such as "model"; empty: it is one.
        What lies beside it, such as an optimizer's state, is not read, and may be of names that
        no tensor has.

    Returns:
      Views of the file's bytes, read-only.

    Raises:
      ValueError: in one line, what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive)
            storages = _Storages(archive, root)
            whole = pickled.follow(
                _read(archive, f"{root}/data.pkl"), NAMES, VALUES, _steps(storages), bool(inside)
            )
            return pickled.flat(inner(whole, inside) if inside else whole)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"it is not whole ({error})") from error


def inner(whole: Any, inside: str) -> Any:
    """What a container keeps under the key `inside`; all of it where it is a bare state dict.

    Raises:
      ValueError: it keeps state dicts, and none of that name.
    """
    if not isinstance(whole, dict):
        return whole
    held = [name for name, value in whole.items() if isinstance(value, dict)]
    if inside not in whole and held:
        raise ValueError(f"it keeps {', '.join(map(str, held))} and no {inside}")
    return whole[inside] if inside in whole else whole


@dataclasses.dataclass
class _Storages:
    """The numbers of a file, each storage read once."""

    archive: zipfile.ZipFile
    root: str
    found: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __getitem__(self, key: str) -> np.ndarray:
        """uint8 [bytes] of a storage."""
        if key not in self.found:
            data = _read(self.archive, f"{self.root}/data/{key}")
            self.found[key] = np.frombuffer(data, np.uint8)
        return self.found[key]


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Which numbers a tensor looks at: those of `key`, so many of a type."""

    storages: _Storages
    dtype: np.dtype
    key: str
    size: int

    @property
    def numbers(self) -> np.ndarray:
        held = self.storages[self.key]
        if held.size != self.size * self.dtype.itemsize:
            raise ValueError(f"it holds {held.size} bytes for {self.size} numbers {self.dtype}")
        return held.view(self.dtype)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        sizes = (self.offset, *self.shape, *self.strides)
        if not isinstance(self.storage, _Storage) or len(self.shape) != len(self.strides):
            raise ValueError("it holds a tensor without numbers")
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError(f"it holds a tensor of shape {self.shape}, strides {self.strides}")
        reached = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in reached)
        count = math.prod(self.shape)
        # The second: repeated by a stride of 0, a few numbers could fill any memory.
        if count and (last >= self.storage.size or count > self.storage.size):
            raise ValueError(f"it holds a tensor of {self.shape} in {self.storage.size} numbers")

    @property
    def array(self) -> np.ndarray:
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        numbers = self.storage.numbers[self.offset :]
        strides = tuple(numbers.itemsize * stride for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers, self.shape, strides, writeable=False)


def _root(archive: zipfile.ZipFile) -> str:
    """The folder in which all lies."""
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("it holds no data.pkl")
    root = names[0].removesuffix("/data.pkl")
    if f"{root}/byteorder" in archive.namelist():
        order = _read(archive, f"{root}/byteorder").strip()
        if order != b"little":
            raise ValueError(f"its numbers are {order.decode(errors='replace')}-endian")
    return root


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise ValueError(f"it holds no {name}") from error
    # What is packed says nothing of its size; torch packs nothing.
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its {name} is packed, which torch never does")
    return archive.read(info)


# ------------------------------------------------------------------ what its pickle may say


def _tensor(given: tuple[Any, ...]) -> _Tensor:
    storage, offset, shape, strides = given[:4]
    return _Tensor(storage, offset, shape, strides)


def _parameter(given: tuple[Any, ...]) -> _Tensor:
    if not isinstance(given[0], _Tensor):
        raise ValueError("it holds a parameter that is no tensor")
    return given[0]


def _dict(given: tuple[Any, ...]) -> dict[str, Any]:
    if given:
        raise ValueError("it holds a call that makes no array")
    return {}


NAMES = (
    Name("collections OrderedDict", _dict),
    Name("torch._utils _rebuild_tensor_v2", _tensor),
    Name("torch._utils _rebuild_parameter", _parameter),
    *map(Name, TYPES),
)
# What stands beside a state dict: counters, rates, lists of them.
VALUES = {
    **pickled.VALUES,
    "BINFLOAT": lambda value: value,
    "EMPTY_LIST": lambda value: [],
}


def _attributes(machine: Machine, argument: Any) -> None:
    """Those of a state dict, such as the versions of its layers, are left out."""
    state = machine.stack.pop()
    if isinstance(machine.stack[-1], pickled.Stranger):
        return
    if not isinstance(machine.stack[-1], dict) or not isinstance(state, dict):
        raise ValueError("it holds an object that is no tensor")


def _new(machine: Machine, argument: Any) -> None:
    """An object of a class: of a tensor's names none makes one."""
    machine.stack.pop()
    if not isinstance(machine.stack[-1], pickled.Stranger):
        raise ValueError("it holds an object that is no tensor")


def _append(machine: Machine, argument: Any) -> None:
    _extend(machine, [machine.stack.pop()])


def _appends(machine: Machine, argument: Any) -> None:
    _extend(machine, machine.taken())


def _extend(machine: Machine, found: list[Any]) -> None:
    if isinstance(machine.stack[-1], pickled.Stranger):
        return
    if not isinstance(machine.stack[-1], list):
        raise ValueError("it holds an object that is no tensor")
    machine.stack[-1].extend(found)


def _steps(storages: _Storages) -> dict[str, Callable[[Machine, Any], None]]:
    def storage(machine: Machine, argument: Any) -> None:
        told, kind, key, _, size = machine.stack.pop()
        if told != "storage" or not isinstance(kind, Name) or kind.name not in TYPES:
            raise ValueError("it holds numbers of a kind that is none of torch's")
        if not isinstance(key, str) or type(size) is not int:
            raise ValueError("it holds numbers without a name or a size")
        machine.stack.append(_Storage(storages, np.dtype(TYPES[kind.name]), key, size))

    return {
        **pickled.STEPS,
        "BINPERSID": storage,
        "BUILD": _attributes,
        "NEWOBJ": _new,
        "APPEND": _append,
        "APPENDS": _appends,
    }
