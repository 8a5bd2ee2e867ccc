"""Arrays by name in an .npz file; never objects, which would have to be unpickled."""

import io
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from babeldraw.data.image import write_whole
from babeldraw.errors import UserError


def write_arrays(file: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz, local or on any path etils knows, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(file, buffer.getvalue())


def read_arrays(
    file: str | os.PathLike, needed: Sequence[str], more: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays of these names; what else the file holds is not read.

    Args:
      file: an .npz.
      needed: names that must be there.
      more: names that may be.

    Raises:
      UserError: the file is not there, is no .npz, lacks a name or holds objects there.
    """
    path = epath.Path(file).expanduser()
    if not path.exists():
        raise UserError(f"{file} is not there; name an .npz file")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            held = list(arrays.files)
            lacking = [name for name in needed if name not in held]
            if lacking:
                raise UserError(f"{file} holds {held} and {', '.join(lacking)} is needed")
            return {name: _read(arrays, name, file) for name in (*needed, *more) if name in held}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is no .npz file of arrays: {error}") from error


def _read(arrays: np.lib.npyio.NpzFile, name: str, file: str | os.PathLike) -> np.ndarray:
    try:
        return arrays[name]
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error) or "pickle" in str(error):
            raise UserError(
                f"{file}: {name} is an array of objects, which is not read: it would run code of "
                "whoever wrote it; write numbers"
            ) from error
        raise UserError(f"{file}: {name} cannot be read: {error}") from error
