"""Which part of a picture a batch holds, and at what size: crops for training, in tf.data.

A crop is a pure function of the picture's shape and a seed; only the box that it needs of a JPEG
file is decoded. The two named after DALL-E are those of its published listings (arXiv:2102.12092,
A.2 for the tokenizer, B.2 for the generator), which Parti uses (arXiv:2206.10789, 4.1). A window is
the largest crop anywhere: what others make by resizing the shorter edge first.
"""

import functools
import os
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from babeldraw.errors import UserError

# How training cuts its pictures.
CROPS = (
    "random",
    "random_mirrored",
    "center",
    "center_mirrored",
    "window",
    "window_mirrored",
    "dalle_tokenizer",
    "dalle_generator",
)
# Side of a random crop, as a share of the largest crop's.
MIN_CROP_SCALE = 0.8
# A picture is resized to between these multiples of the wanted side before the last crop.
TOKENIZER_SCALES = (9 / 8, 12 / 8)
GENERATOR_SCALES = (1, 9 / 8)
# The square's offset lies in this band of the room there is.
GENERATOR_BAND = (3, 5)
BAND_PARTS = 8
# Pillow, which evaluation decodes with, computes the cosine transform exactly too.
EXACT = "INTEGER_ACCURATE"


@functools.cache
def tensorflow() -> ModuleType:
    """TensorFlow, imported on the first call, quiet and kept off the accelerators."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # It announces oneDNN whatever the log level; nothing here is faster by it.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
    return tf


@dataclass(frozen=True)
class Plan:
    """What becomes of one picture; every number an int64 scalar tensor.

    Attributes:
        box: (top, left, height, width) cut out of it.
        resized: (height, width) that the box is brought to.
        offset: (top, left) of the final window there.
        mirrored: whether left and right change places (bool tensor), None for never.
        area: whether pixels are averaged over their areas, else by a triangle filter.
    """

    box: tuple[Any, Any, Any, Any]
    resized: tuple[Any, Any]
    offset: tuple[Any, Any]
    mirrored: Any = None
    area: bool = False


def check_crop(crop: str, size: tuple[int, int]) -> None:
    """Raises UserError when there is no such crop, or it cannot give pictures of that size."""
    if crop not in CROPS:
        raise UserError(f"data.crop={crop!r} is unknown; use {', '.join(map(repr, CROPS))}")
    if crop.startswith("dalle") and size[0] != size[1]:
        raise UserError(
            f"data.crop={crop!r} gives squares and the image size is {size}; use 'random'"
        )


def crop_image(image: Any, size: tuple[int, int], crop: str, seed: Any = None) -> Any:
    """A training crop of a decoded picture.

    Args:
        image: uint8 tensor [H, W, 3].
        size: (h, w) of the result.
        crop: one of CROPS.
        seed: int64 tensor [2]; 'center' needs none.

    Returns:
        uint8 tensor [h, w, 3].
    """
    tf = tensorflow()
    plan = make_plan(tf.cast(tf.shape(image)[:2], tf.int64), size, crop, seed)
    top, left, height, width = plan.box
    return _finish(image[top : top + height, left : left + width], plan, size)


def crop_jpeg(data: Any, size: tuple[int, int], crop: str, seed: Any = None) -> Any:
    """The same crop of the bytes of a JPEG file (string tensor []), decoding what it needs."""
    tf = tensorflow()
    plan = make_plan(tf.io.extract_jpeg_shape(data, tf.int64)[:2], size, crop, seed)
    window = tf.cast(tf.stack(plan.box), tf.int32)
    part = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method=EXACT)
    return _finish(part, plan, size)


def make_plan(shape: Any, size: tuple[int, int], crop: str, seed: Any = None) -> Plan:
    """The crop of a picture of `shape`, int64 tensor [2]."""
    if crop == "dalle_tokenizer":
        return _tokenizer_plan(shape, size[0], seed)
    if crop == "dalle_generator":
        return _generator_plan(shape, size[0], seed)
    tf = tensorflow()
    zero = tf.constant(0, tf.int64)
    window, _, mirrored = crop.partition("_")
    box = _box(shape, size, seed if window != "center" else None, window == "window")
    whole = tf.reduce_all(tf.equal(shape, tf.constant(size, tf.int64)))
    # A picture that has the size already is taken as it is.
    box = tuple(
        tf.where(whole, tf.constant(same, tf.int64), cut)
        for same, cut in zip((0, 0, *size), box, strict=True)
    )
    # Drawn after those of the box.
    mirror = _uniforms(seed, 4)[3] < 0.5 if mirrored else None
    return Plan(box, tuple(tf.constant(side, tf.int64) for side in size), (zero, zero), mirror)


def _box(shape: Any, size: tuple[int, int], seed: Any, largest: bool) -> tuple[Any, Any, Any, Any]:
    """(top, left, height, width) in int64 tensors; the centre box is `image.center_box`.

    With a seed it lies anywhere, and has a random size unless it is to be the largest.
    """
    tf = tensorflow()
    one = tf.constant(1, tf.int64)
    height = tf.maximum(one, tf.minimum(shape[0], shape[1] * size[0] // size[1]))
    width = tf.maximum(one, tf.minimum(shape[1], shape[0] * size[1] // size[0]))
    if seed is None:
        return (shape[0] - height) // 2, (shape[1] - width) // 2, height, width
    scale, down, right = _uniforms(seed, 3)
    if not largest:
        scale = MIN_CROP_SCALE + (1 - MIN_CROP_SCALE) * scale
        height, width = (tf.maximum(one, _scaled(side, scale)) for side in (height, width))
    # The uniform draws lie below 1, so an offset lies in [0, room].
    return _scaled(shape[0] - height + 1, down), _scaled(shape[1] - width + 1, right), height, width


def _tokenizer_plan(shape: Any, side: int, seed: Any) -> Plan:
    """Any full square, resized to between 9/8 and 12/8 of the side, any window, perhaps mirrored.

    Never enlarged before the last crop, save where the picture is smaller than the side.
    """
    tf = tensorflow()
    down, right, scale, top, left, mirror = _uniforms(seed, 6)
    square = tf.reduce_min(shape)
    offset = tuple(
        _draw(0, room + 1, u) for room, u in zip(_room(shape, square), (down, right), strict=True)
    )
    target = _target(square, side, TOKENIZER_SCALES, scale)
    window = tuple(_draw(0, target - side + 1, u) for u in (top, left))
    return Plan((*offset, square, square), (target, target), window, mirror < 0.5, area=True)


def _generator_plan(shape: Any, side: int, seed: Any) -> Plan:
    """A full square near the middle, resized to 1 to 9/8 of the side, any window, not mirrored."""
    tf = tensorflow()
    down, right, scale, top, left = _uniforms(seed, 5)
    square = tf.reduce_min(shape)
    first, last = GENERATOR_BAND
    offset = []
    for room, u in zip(_room(shape, square), (down, right), strict=True):
        low, high = first * room // BAND_PARTS, last * room // BAND_PARTS
        offset.append(_draw(low, tf.maximum(low + 1, high), u))
    target = _target(square, side, GENERATOR_SCALES, scale)
    window = tuple(_draw(0, target - side + 1, u) for u in (top, left))
    return Plan((*offset, square, square), (target, target), window, area=True)


def _room(shape: Any, square: Any) -> tuple[Any, Any]:
    return shape[0] - square, shape[1] - square


def _target(square: Any, side: int, scales: tuple[float, float], uniform: Any) -> Any:
    """A side drawn between two multiples of the wanted one, no larger than the square."""
    tf = tensorflow()
    low, high = (tf.minimum(square, round(scale * side)) for scale in scales)
    return tf.maximum(_draw(low, high + 1, uniform), side)


def _draw(low: Any, high: Any, uniform: Any) -> Any:
    """A whole number in [low, high), from a float64 in [0, 1)."""
    return low + _scaled(high - low, uniform)


def _uniforms(seed: Any, count: int) -> list[Any]:
    tf = tensorflow()
    return tf.unstack(tf.random.stateless_uniform([count], seed, dtype=tf.float64, alg="philox"))


def _scaled(length: Any, share: Any) -> Any:
    tf = tensorflow()
    return tf.cast(tf.cast(length, tf.float64) * share, tf.int64)


def _finish(part: Any, plan: Plan, size: tuple[int, int]) -> Any:
    tf = tensorflow()
    resized = tf.cast(tf.stack(plan.resized), tf.int32)

    def resize() -> Any:
        if plan.area:
            pixels = tf.image.resize(part, resized, method="area")
        else:
            pixels = tf.image.resize(part, resized, method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)

    same = tf.reduce_all(tf.equal(tf.shape(part)[:2], resized))
    result = tf.cond(same, lambda: part, resize)
    top, left = plan.offset
    result = result[top : top + size[0], left : left + size[1]]
    if plan.mirrored is not None:
        result = tf.cond(plan.mirrored, lambda: result[:, ::-1], lambda: result)
    result.set_shape([*size, 3])
    return result
