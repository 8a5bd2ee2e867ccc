"""Reads arrays from the files that others publish, none of it unpickled by us."""

import hashlib
import importlib
import importlib.util
import re
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import numpy as np

from babeldraw.convert.graph_file import read_graph
from babeldraw.convert.pickled import read_pickled
from babeldraw.convert.torch_file import inner, is_torch_file, read_torch_file
from babeldraw.errors import UserError
from babeldraw.runs.weights import read_weights

# What torch's files end in.
TORCH = (".bin", ".pth", ".pt")
# Of a .tar.gz file, in bytes.
LARGEST_MEMBER = 2**30


def read_arrays(file: str, flag: str, inside: str = "") -> dict[str, np.ndarray]:
    """All arrays of a file, by name; its ending says of which kind it is.

    .safetensors, .npz, .bin, .pth, .pt, .msgpack, .ckpt, .pb and .tar.gz are known.

    A .bin, .pth or .pt file is torch's, which `torch_file` reads without torch, unpickling nothing;
    one from before torch 1.6 is a pickle, which `torch.load(weights_only=True)`, running nothing
    from it, reads where torch is installed. A .msgpack file is Flax's; names at each depth are
    joined by "/". A .ckpt file is torch's, or a pickle of dicts of NumPy arrays, which
    `read_pickled` reads without unpickling; a .tar.gz file holds one, read from there without
    unpacking. A .pb file is a graph of TensorFlow, of which the constants are read without it.

    Args:
      file: its path.
      flag: what the user calls it, for messages.
      inside: the key under which torch's file or a .msgpack file may keep its state dict, such as
        "model"; empty: it is one. Of a .tar.gz file the end of its member's name.

    Raises:
      UserError: it is not there or cannot be read, is of another kind, or torch is missing.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{flag}={file} is not there")
    if path.suffix == ".safetensors":
        return read_weights(file, flag)
    if path.suffix == ".npz":
        return _read_npz(file, flag)
    if path.suffix in TORCH:
        return _read_torch(file, flag, inside)
    if path.suffix == ".msgpack":
        return _read_flax(file, flag, inside)
    if path.suffix == ".ckpt" and is_torch_file(path):
        return _read_torch(file, flag, inside)
    if path.suffix == ".ckpt":
        return _read_pickled(path.read_bytes(), f"{flag}={file}")
    if path.suffix == ".pb":
        return _read_graph(file, flag)
    if path.name.endswith((".tar.gz", ".tgz")):
        return _read_packed(file, flag, inside)
    known = ".safetensors, .npz, .bin, .pth, .pt, .msgpack, .ckpt, .pb or .tar.gz"
    raise UserError(f"{flag}={file} is of no known kind; use {known}")


def write_flax(file: Path, arrays: Mapping[str, np.ndarray], inside: str = "") -> None:
    """Writes a .msgpack file of Flax that `read_arrays` reads; names are sorted at each depth."""
    ordered = {name: arrays[name] for name in sorted(arrays, key=lambda name: name.split("/"))}
    tree = flax.traverse_util.unflatten_dict(ordered, sep="/")
    tree = {inside: tree} if inside else tree
    partial = file.with_name(f".{file.name}")
    try:
        partial.write_bytes(flax.serialization.msgpack_serialize(tree))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def sha256(file: str) -> str:
    """64 hexadecimal digits of a file's content."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_digest(file: str, flag: str, digest: str) -> None:
    """Raises `UserError` where a file is not what its name says.

    torch's hub ends names with the first eight digits of the SHA-256: `vgg16-397923af.pth`.
    """
    said = re.search(r"-([0-9a-f]{8})$", Path(file).stem)
    if said and not digest.startswith(said[1]):
        raise UserError(
            f"{flag}={file} has the SHA-256 {digest}, which does not begin with {said[1]} as its "
            "name says: it is damaged, or another file; download it again, or rename it"
        )


def _read_npz(file: str, flag: str) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{flag}={file} is no .npz file of plain arrays: {error}") from error


def _read_torch(file: str, flag: str, inside: str) -> dict[str, np.ndarray]:
    if not is_torch_file(Path(file)):
        return _read_old_torch(file, flag, inside)
    try:
        tensors = read_torch_file(Path(file), inside)
    except ValueError as error:
        raise UserError(f"{flag}={file} is no file of tensors alone: {error}") from error
    return {name: _in_numpy(tensor) for name, tensor in tensors.items()}


def _read_old_torch(file: str, flag: str, inside: str) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{flag}={file} is no zip, as torch's files are since 1.6; an older one is read by "
            "torch alone, which is not installed: install it for this once, or give the same "
            "arrays as .safetensors or .npz"
        )
    torch = importlib.import_module("torch")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        tensors = inner(found, inside) if inside else found
        # NumPy has no bfloat16, which float32 holds exactly.
        wide = {
            name: tensor.float() if tensor.dtype is torch.bfloat16 else tensor
            for name, tensor in tensors.items()
        }
        return {name: np.asarray(tensor.detach().numpy()) for name, tensor in wide.items()}
    except Exception as error:  # torch raises many kinds, UnpicklingError among them.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{flag}={file} is no plain state dict of torch: {reason}") from error


def _read_flax(file: str, flag: str, inside: str) -> dict[str, np.ndarray]:
    try:
        found = flax.serialization.msgpack_restore(Path(file).read_bytes())
        found = found[inside] if inside and inside in found else found
        arrays = flax.traverse_util.flatten_dict(found, sep="/")
    except Exception as error:  # What a damaged file raises depends on where the damage is.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{flag}={file} is no .msgpack file of Flax: {reason}") from error
    wrong = [name for name, leaf in arrays.items() if not hasattr(leaf, "dtype")]
    if wrong:
        raise UserError(f"{flag}={file} holds {wrong[0]}, which is no array")
    return {name: _in_numpy(leaf) for name, leaf in arrays.items()}


def _read_graph(file: str, flag: str) -> dict[str, np.ndarray]:
    try:
        return read_graph(Path(file))
    except ValueError as error:
        raise UserError(f"{flag}={file} is no graph of TensorFlow: {error}") from error


def _read_pickled(data: bytes, name: str) -> dict[str, np.ndarray]:
    try:
        return read_pickled(data)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} is no pickle of arrays alone: {reason}") from error


def _read_packed(file: str, flag: str, inside: str) -> dict[str, np.ndarray]:
    try:
        with tarfile.open(file, "r:gz") as archive:
            for member in archive:
                if member.isfile() and f"/{member.name}".endswith(f"/{inside}"):
                    _check_size(member, file, flag)
                    data = archive.extractfile(member).read()
                    return _read_pickled(data, f"{flag}={file}, {member.name},")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{flag}={file} is no whole .tar.gz file: {error}") from error
    raise UserError(f"{flag}={file} holds no {inside}")


def _check_size(member: tarfile.TarInfo, file: str, flag: str) -> None:
    """Refuses a member that would fill the memory; what is packed says nothing of its size."""
    if member.size > LARGEST_MEMBER:
        raise UserError(
            f"{flag}={file}: {member.name} has {member.size} bytes, over {LARGEST_MEMBER}"
        )


def _in_numpy(leaf: Any) -> np.ndarray:
    """NumPy has no bfloat16, which float32 holds exactly."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
