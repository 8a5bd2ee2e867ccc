"""Pictures in and out: decode, crop, tile, and PNG files that carry text. No TensorFlow."""

import io
import os
import uuid
from collections.abc import Mapping

import numpy as np
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from babeldraw.data.sources import BadRecord
from babeldraw.errors import UserError

# Just under the size at which Pillow itself begins to warn of a decompression bomb.
MAX_PIXELS = 89_000_000


def decode(data: bytes | str | os.PathLike, where: str = "") -> np.ndarray:
    """Reads a picture (PNG, JPEG, WebP, BMP, GIF) as it is meant to be seen.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey keeps its upper byte,
    an animation gives its first frame.

    Args:
        data: the bytes of the file, or its path.
        where: what to call it in an error; the path by default.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        BadRecord: the file cannot be read, is cut short, or has more than 89 million pixels.
    """
    where = where or ("bytes" if isinstance(data, bytes) else os.fspath(data))
    try:
        raw = data if isinstance(data, bytes) else epath.Path(data).read_bytes()
        return np.asarray(_open_rgb(raw))
    except BadRecord:
        raise
    except Exception as error:  # Pillow's decoders raise nearly any type on a damaged file.
        raise BadRecord(where, why_unreadable(error)) from error


def why_unreadable(error: Exception) -> str:
    """One line of what Pillow raised, the same whenever the same file is read."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture, or of an unknown kind"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _open_rgb(raw: bytes) -> Image.Image:
    # `verify` checks what decoding overlooks (a PNG's checksums) but leaves the image unusable.
    with Image.open(io.BytesIO(raw)) as image:
        _refuse_bomb(image)
        image.verify()
    with Image.open(io.BytesIO(raw)) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


def _refuse_bomb(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} is more than {MAX_PIXELS:,} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def center_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts the largest centred crop of the target's aspect and resizes it, antialiased.

    Args:
        image: uint8 [H, W, 3].
        size: (h, w) of the result.

    Returns:
        uint8 [h, w, 3]; the image itself where it has that size already.
    """
    if image.shape[:2] == tuple(size):
        return image
    top, left, height, width = center_box(image.shape[:2], size)
    # Cut first: given a box, Pillow's filter would reach past its edges.
    part = Image.fromarray(image[top : top + height, left : left + width])
    resized = part.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def center_box(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest centred crop of `shape` with `size`'s aspect."""
    height = max(1, min(shape[0], shape[1] * size[0] // size[1]))
    width = max(1, min(shape[1], shape[0] * size[1] // size[0]))
    return (shape[0] - height) // 2, (shape[1] - width) // 2, height, width


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Floats in [0, 1], of any shape, to uint8 by rounding; what lies outside is clipped.

    Integers in uint8 pass as they are. NaN becomes 0.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    scaled = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(scaled.clip(0, 1) * 255).astype(np.uint8)


def to_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Tiles pictures row by row.

    Args:
        images: [N, H, W, 3], uint8 or float in [0, 1]; N at least 1.
        columns: how many stand side by side; fewer pictures make a narrower grid.

    Returns:
        uint8 [rows * H, columns * W, 3]; cells left over are white.
    """
    images = to_uint8(images)
    count, height, width, channels = images.shape
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = images
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def save_png(
    path: str | os.PathLike, image: np.ndarray, text: Mapping[str, str] | None = None
) -> None:
    """Writes a PNG file, whole or not at all, with `text` in its tEXt and iTXt chunks.

    Args:
        path: local or any path etils knows; its folder is made if need be.
        image: [H, W, 3], uint8 or float in [0, 1].
        text: keyword (1 to 79 Latin-1 characters) to value (any Unicode).
    """
    info = PngInfo()
    for keyword, value in (text or {}).items():
        info.add_text(keyword, value.encode("utf-8", "replace").decode("utf-8"))
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, "PNG", pnginfo=info)
    write_whole(path, buffer.getvalue())


def read_png_text(path: str | os.PathLike) -> dict[str, str]:
    """Reads back the text that `save_png` wrote.

    Raises:
        UserError: the file is missing or is not a PNG.
    """
    try:
        with Image.open(io.BytesIO(epath.Path(path).read_bytes()), formats=["PNG"]) as image:
            image.load()
            return {str(keyword): str(value) for keyword, value in image.text.items()}
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as a PNG file; give a PNG file") from error


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file beside its place and moves it there: a reader sees all of it or none."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
