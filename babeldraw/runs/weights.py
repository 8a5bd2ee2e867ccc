"""Parameters in a safetensors file, each array under its place in the tree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from babeldraw.config import require
from babeldraw.errors import UserError


def flatten(params: Any) -> dict[str, Any]:
    """{"vgg/conv1_1/weight": array, ...}: the keys of our safetensors files."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def read_weights(file: str, name: str) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file; `name` is what the user calls it.

    Raises:
      UserError: it cannot be read.
    """
    if not Path(file).is_file():
        raise UserError(f"{name}={file} is not there")
    try:
        return load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{name}={file} is no safetensors file: {error}") from error


def read_metadata(file: str, name: str) -> dict[str, str]:
    """What `write_weights` was told beside the arrays; `name` is what the user calls the file.

    Raises:
      UserError: it cannot be read.
    """
    if not Path(file).is_file():
        raise UserError(f"{name}={file} is not there")
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            return opened.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{name}={file} is no safetensors file: {error}") from error


def read_params(file: str, name: str, abstract: Any) -> Any:
    """The parameters that `write_weights` wrote, as NumPy arrays.

    Args:
      file: a safetensors file.
      name: what the user calls it.
      abstract: shapes and types of all that it must hold, a tree of dicts.

    Returns:
      A tree like `abstract`.

    Raises:
      UserError: the file cannot be read, holds other arrays or other shapes, or a value in it is
        not finite.
    """
    found, wanted, told = read_weights(file, name), flatten(abstract), f"{name}={file}"
    extra = sorted(set(found) - set(wanted))
    require(
        not extra,
        f"{told} holds {few(extra)}: of another network than the one here, whose are "
        f"{few(sorted(wanted))}",
    )
    for key, leaf in wanted.items():
        require(key in found, f"{told} holds no {key} of shape {leaf.shape}")
        check_shape(found[key], leaf.shape, f"{told}: {key}")
    check_finite(found, told)
    leaves = [found[key].astype(leaf.dtype) for key, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def write_weights(
    file: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """A safetensors file, whole or not at all; what stood there is replaced."""
    partial = file.with_name(f".{file.name}")
    try:
        # safetensors writes the memory as it lies, whatever the strides say.
        whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        save_file(whole, partial, dict(metadata))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def check_shape(array: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    """Raises `UserError` where an array has another shape."""
    require(array.shape == shape, f"{name} has the shape {array.shape} and {shape} is needed")


def check_finite(arrays: Mapping[str, np.ndarray], name: str) -> None:
    """Raises `UserError` with the first array that holds NaN or an infinity."""
    for key, array in arrays.items():
        finite = bool(np.all(np.isfinite(array)))
        require(finite, f"{name}: {key} holds a value that is not finite")


def few(names: list[str], shown: int = 3) -> str:
    """`a, b, c and 9 more`, for a message of one line."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
