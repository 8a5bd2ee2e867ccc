"""Pictures in and out: decode, crop, tile, and PNG files that carry text. No TensorFlow."""

import functools
import io
import os
import uuid
import warnings
from collections.abc import Callable, Mapping

import numpy as np
from etils import epath
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError

# Just under the size at which Pillow itself begins to warn of a decompression bomb.
MAX_PIXELS = 89_000_000
# Of metadata that are damaged, a line for each such file. Set once: to do it around each call would
# race where threads read.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


# Not still pictures, or read by starting another program (Ghostscript), or by none that is there.
NOT_READ = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF")


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(name for name in Image.OPEN if name not in NOT_READ))


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Endings of the files that `decode` reads, such as '.jpg', in small letters."""
    suffixes = Image.registered_extensions()
    # What browsers and cameras write and Pillow does not list.
    found = {".jif", ".jfi"} | {s for s, name in suffixes.items() if name in _formats()}
    return tuple(sorted(found))


def decode(data: bytes | str | os.PathLike, where: str = "") -> np.ndarray:
    """Reads a picture, of any format that Pillow reads, as it is meant to be seen.

    EXIF orientation is applied, an embedded colour profile is brought to sRGB, transparency is laid
    over white, 16-bit grey keeps its upper byte, an animation gives its first frame. Metadata that
    are damaged are left aside: they never cost the picture.

    Args:
        data: the bytes of the file, or its path.
        where: what to call it in an error; the path by default.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        BadRecord: the pixels cannot be read, are cut short, or are more than 89 million.
    """
    where = where or ("bytes" if isinstance(data, bytes) else os.fspath(data))
    try:
        raw = data if isinstance(data, bytes) else epath.Path(data).read_bytes()
    except OSError as error:
        raise BadRecord(where, why_unreadable(error)) from error
    failure: Exception | None = None
    for read in (without_text, without_metadata):
        try:
            return np.asarray(_open_rgb(read(raw)))
        except BadRecord:
            raise
        except Exception as error:  # Pillow's decoders raise nearly any type on a damaged file.
            failure = failure or error
    raise BadRecord(where, why_unreadable(failure)) from failure


def why_unreadable(error: Exception) -> str:
    """One line of what Pillow raised, the same whenever the same file is read."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture, or of an unknown kind"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def open_image(raw: bytes) -> Image.Image:
    """Of the formats that are read; no other is even tried."""
    return Image.open(io.BytesIO(raw), formats=_formats())


def _open_rgb(raw: bytes) -> Image.Image:
    # `verify` checks what decoding overlooks (a PNG's checksums) but leaves the image unusable.
    with open_image(raw) as image:
        _refuse_bomb(image)
        image.verify()
    with open_image(raw) as image:
        image.load()
        turn = _turn(image)
        image = _to_rgb(_to_srgb(image))
        return image if turn is None else image.transpose(turn)


# By EXIF's tag 274, Orientation; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How the picture is to be turned; other tags, damaged or not, are not looked at."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # As `decode` says.
        found = None
    if found is None and isinstance(image.info.get("exif"), bytes):
        found = _orientation(image.info["exif"])
    return TURNS.get(found) if isinstance(found, int) else None


def _orientation(exif: bytes) -> int | None:
    """From the first directory of EXIF's bytes, where Pillow gives it up for another tag."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    start = number(4, 4)
    # Entries of twelve bytes: tag, type, count, value; a short (3) stands in the value itself.
    for at in range(start + 2, min(start + 2 + 12 * number(start, 2), len(tiff) - 11), 12):
        if number(at, 2) == ExifTags.Base.Orientation and number(at + 2, 2) == 3:
            return number(at + 8, 2)
    return None


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB by the embedded profile; the picture itself where there is none that can be used."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        transform = _transform(profile, image.mode)
        return image if transform is None else ImageCms.applyTransform(image, transform)
    except Exception:  # As `decode` says.
        return image


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where it is sRGB already."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    target = ImageCms.createProfile("sRGB")
    # Without a cache of its own a transform may be used by several threads.
    return ImageCms.buildTransform(source, target, mode, "RGB", flags=ImageCms.Flags.NOCACHE)


PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")


def without_text(raw: bytes) -> bytes:
    """A PNG without its text, which nobody here reads and Pillow refuses where there is much."""
    return _png(raw, lambda kind: kind not in PNG_TEXT) if raw.startswith(PNG_HEAD) else raw


def without_metadata(raw: bytes) -> bytes:
    """A PNG or JPEG of its pixels alone; other files as they are."""
    if raw.startswith(PNG_HEAD):
        # Capital letters first are the critical chunks (PNG, section 5.4).
        return _png(raw, lambda kind: kind[:1].isupper() or kind == b"tRNS")
    return _jpeg(raw) if raw.startswith(b"\xff\xd8") else raw


def _png(raw: bytes, wanted: Callable[[bytes], bool]) -> bytes:
    parts, at = [PNG_HEAD], len(PNG_HEAD)
    while at + 12 <= len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        if wanted(raw[at + 4 : at + 8]):
            parts.append(raw[at : at + 12 + size])
        at += 12 + size
    # What is cut off stays, to be found.
    return b"".join([*parts, raw[at:]])


def _jpeg(raw: bytes) -> bytes:
    """Without the segments of applications but JFIF's and Adobe's, and without comments."""
    parts, at = [raw[:2]], 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xDA:  # The pixels begin.
            break
        stop = at + 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
        if not (marker in range(0xE1, 0xEE) or marker in (0xEF, 0xFE)):
            parts.append(raw[at:stop])
        at = stop
    return b"".join([*parts, raw[at:]])


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
    return resize(image[top : top + height, left : left + width], size)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] -> [h, w, 3], bilinear and antialiased; of that size already as it is."""
    if image.shape[:2] == tuple(size):
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
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
