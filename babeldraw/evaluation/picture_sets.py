"""Sets of pictures in files: the .npz that ADM's evaluator takes, and folders as pytorch-fid does.

The .npz holds `arr_0`, uint8 [N, height, width, 3]. It may be larger than the memory: it is read
and written a batch at a time.
"""

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from babeldraw.config import require
from babeldraw.data.image import decode, image_suffixes, open_image
from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError

PICTURES = "arr_0"


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Attributes:
    path: an .npz or a folder.
    num: how many pictures.
    size: (height, width) of each.
    files: of a folder, in order; empty of an .npz.
    """

    path: Path
    num: int
    size: tuple[int, int]
    files: tuple[Path, ...] = ()

    @classmethod
    def open(cls, path: str | os.PathLike) -> "PictureSet":
        """Raises `UserError`: nothing is there, or it is neither, or holds no pictures.

        Also where a picture of a folder says that it is of another size than the first.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            files = tuple(f for f in sorted(path.rglob("*")) if is_picture(f))
            require(bool(files), f"{path} holds no pictures")
            size = _decoded(files[0]).shape[:2]
            for file in files:
                _check_told_size(file, files[0], size)
            return cls(path, len(files), size, files)
        require(path.is_file(), f"{path} is not there; name an .npz of pictures or a folder")
        with _opened(path) as (_, shape):
            return cls(path, shape[0], shape[1:3])

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """uint8 [b, height, width, 3] in order; the last one may be smaller.

        Raises:
          UserError: a picture is of another size than the first, or cannot be read.
        """
        yield from self._of_folder(batch_size) if self.files else self._of_npz(batch_size)

    def _of_npz(self, batch_size: int) -> Iterator[np.ndarray]:
        with _opened(self.path) as (content, shape):
            for start in range(0, self.num, batch_size):
                here = (min(batch_size, self.num - start), *shape[1:])
                data = content.read(int(np.prod(here)))
                require(len(data) == np.prod(here), f"{self.path}: {PICTURES} is cut short")
                yield np.frombuffer(data, np.uint8).reshape(here)

    def _of_folder(self, batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.num, batch_size):
            images = [_decoded(file) for file in self.files[start : start + batch_size]]
            for file, image in zip(self.files[start:], images, strict=False):
                _check_size(file, image.shape[:2], self.files[0], self.size)
            yield np.stack(images)


def arrays_in(path: str | os.PathLike) -> tuple[str, ...]:
    """The names of an .npz file's arrays; none of a folder or of another file."""
    try:
        with zipfile.ZipFile(Path(path).expanduser()) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return ()


def is_picture(file: Path) -> bool:
    """Whether it is a file with the ending of one."""
    return file.is_file() and file.suffix.lower() in image_suffixes()


def _decoded(file: Path) -> np.ndarray:
    try:
        return decode(file, str(file))
    except BadRecord as error:
        raise UserError(f"{error}; every picture of a set counts: take it out, or mend it") from (
            error
        )


def _check_told_size(file: Path, first: Path, size: tuple[int, int]) -> None:
    """Raises `UserError` where a file's header tells of another size, before any work.

    Which side is the height an orientation may change: that is seen as pictures are decoded, as is
    a header that is not understood.
    """
    try:
        with open_image(file.read_bytes()) as image:
            told = image.height, image.width
    except Exception:  # Pillow raises nearly any type.
        return
    if sorted(told) != sorted(size):
        _check_size(file, told, first, size)


def _check_size(file: Path, found: tuple[int, int], first: Path, size: tuple[int, int]) -> None:
    require(
        found == size,
        f"{file} is of {found} and {first.name} of {size}; bring all to one size: how they are "
        "resized moves every figure",
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """The bytes of the pictures, and their shape.

    Raises:
      UserError: it is no .npz, or holds no pictures, or objects or floats in their place.
    """
    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(f"{PICTURES}.npy") as content,
        ):
            yield content, _shape(content, path)
    except KeyError as error:
        raise UserError(f"{path} holds no {PICTURES}, which must be pictures") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole .npz file of pictures: {error}") from error


def _shape(content: IO[bytes], path: Path) -> tuple[int, ...]:
    version = np.lib.format.read_magic(content)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"version {version} of .npy")
    shape, by_columns, dtype = read[version](content)
    name = f"{path}: {PICTURES}"
    require(
        not dtype.hasobject,
        f"{name} is an array of objects, such as pictures of mixed sizes; it is not read, for it "
        "would run code of whoever wrote it: write uint8 [N, height, width, 3]",
    )
    require(
        dtype == np.uint8,
        f"{name} is {dtype} and uint8 of 0 to 255 is needed: floats leave open how they are "
        "rounded, and may hold NaN",
    )
    require(
        len(shape) == 4 and shape[3] == 3 and min(shape) > 0 and not by_columns,
        f"{name} has the shape {shape} and [N, height, width, 3] is needed",
    )
    return shape


# ------------------------------------------------------------------ writing


class PicturesWriter:
    """Writes pictures as they are drawn, beside the file that they become.

    What was written stays when the drawing is killed; the same writer goes on.

    Args:
      file: an .npz, local.
      num: of all pictures.
      size: (height, width).

    Attributes:
      begun: whether there were pictures of an earlier start.
    """

    def __init__(self, file: str | os.PathLike, num: int, size: tuple[int, int]):
        self._file = Path(file).expanduser()
        self._partial = self._file.with_name(f".{self._file.name}.partial.npy")
        shape = (num, *size, 3)
        self.begun = self._partial.exists() and _is_of(self._partial, shape)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+" if self.begun else "w+"
        self._array = np.lib.format.open_memmap(self._partial, mode, np.uint8, shape)

    def put(self, start: int, images: np.ndarray) -> None:
        """uint8 [b, height, width, 3], which are pictures `start` and so on."""
        self._array[start : start + len(images)] = images
        self._array.flush()

    def finish(self) -> None:
        """Makes the .npz, which a batch at a time is copied into a zip."""
        whole = self._file.with_name(f".{self._file.name}")
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            archive.write(self._partial, f"{PICTURES}.npy")
        whole.replace(self._file)
        self._partial.unlink()


def _is_of(file: Path, shape: tuple[int, ...]) -> bool:
    try:
        held = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return False
    return held.shape == shape and held.dtype == np.uint8
