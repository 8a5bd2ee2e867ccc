"""The Inception network of 2015, by which FID, sFID and the Inception Score are measured.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, as the graph
`classify_image_graph_def.pb` has it, which Heusel et al. (FID, 2017) and ADM's evaluator use:
another one than torchvision's. Means over a window leave what lies outside the picture out, and the
last block's pool is the largest value (pytorch-fid says both). The layers are data, so that the
tables of `convert.inception` are made of the same lines.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.layers.convolution import convolve
from babeldraw.layers.linear import Einsum
from babeldraw.sharding.layout import on_one_cpu

# Sides of the pictures that the network sees.
SIDE = 299
# Of the norms after each convolution.
EPSILON = 1e-3
# The 1,000 of ImageNet of 2012 and eight that mean nothing; the Inception Score takes all.
CLASSES = 1008
# ADM's evaluator takes so many channels of the first branch of `mixed_6`, at 17 x 17 places: 2,023.
SPATIAL_OF, SPATIAL_CHANNELS = "mixed_6d", 7


@dataclasses.dataclass(frozen=True)
class Filter:
    """A convolution, its norm and ReLU. With stride 2, or `valid`, the border is not padded."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False

    @property
    def padding(self) -> str:
        return "VALID" if self.valid or self.stride > 1 else "SAME"


@dataclasses.dataclass(frozen=True)
class Branch:
    """One way through a block.

    Attributes:
      name: as torchvision has it behind `branch`.
      filters: one after the other.
      pool: what comes before them: a mean or the largest of 3 x 3, or `halved`, the largest of
        3 x 3 at every second place; empty: nothing.
      forked: the last two filters see the same, and their outputs lie side by side.
    """

    name: str
    filters: tuple[Filter, ...] = ()
    pool: str = ""
    forked: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of its filters: `branch1x1`, or `branch3x3_1`, `branch3x3_2a` and `branch3x3_2b`."""
        count = len(self.filters)
        if count == 1:
            return (f"branch{self.name}",)
        single = count - 2 if self.forked else count
        numbers = [f"{i + 1}" for i in range(single)]
        numbers += [f"{single + 1}a", f"{single + 1}b"] if self.forked else []
        return tuple(f"branch{self.name}_{number}" for number in numbers)


# ------------------------------------------------------------------ the layers as data


def _block_a(pooled: int) -> tuple[Branch, ...]:
    double = (Filter(64), Filter(96, (3, 3)), Filter(96, (3, 3)))
    return (
        Branch("1x1", (Filter(64),)),
        Branch("5x5", (Filter(48), Filter(64, (5, 5)))),
        Branch("3x3dbl", double),
        Branch("_pool", (Filter(pooled),), "mean"),
    )


def _block_c(inner: int) -> tuple[Branch, ...]:
    row, column = (1, 7), (7, 1)
    twice = (Filter(inner, column), Filter(inner, row), Filter(inner, column), Filter(192, row))
    return (
        Branch("1x1", (Filter(192),)),
        Branch("7x7", (Filter(inner), Filter(inner, row), Filter(192, column))),
        Branch("7x7dbl", (Filter(inner), *twice)),
        Branch("_pool", (Filter(192),), "mean"),
    )


def _block_e(pool: str) -> tuple[Branch, ...]:
    fork = (Filter(384, (1, 3)), Filter(384, (3, 1)))
    return (
        Branch("1x1", (Filter(320),)),
        Branch("3x3", (Filter(384), *fork), forked=True),
        Branch("3x3dbl", (Filter(448), Filter(384, (3, 3)), *fork), forked=True),
        Branch("_pool", (Filter(192),), pool),
    )


_HALF = Branch("_pool", pool="halved")
# Before the blocks: filters by name; after the third and the fifth the map is halved.
STEM = {
    "conv2d_1a_3x3": Filter(32, (3, 3), 2),
    "conv2d_2a_3x3": Filter(32, (3, 3), valid=True),
    "conv2d_2b_3x3": Filter(64, (3, 3)),
    "conv2d_3b_1x1": Filter(80),
    "conv2d_4a_3x3": Filter(192, (3, 3), valid=True),
}
HALVED_AFTER = ("conv2d_2b_3x3", "conv2d_4a_3x3")
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "mixed_5b": _block_a(32),
    "mixed_5c": _block_a(64),
    "mixed_5d": _block_a(64),
    "mixed_6a": (
        Branch("3x3", (Filter(384, (3, 3), 2),)),
        Branch("3x3dbl", (Filter(64), Filter(96, (3, 3)), Filter(96, (3, 3), 2))),
        _HALF,
    ),
    "mixed_6b": _block_c(128),
    "mixed_6c": _block_c(160),
    "mixed_6d": _block_c(160),
    "mixed_6e": _block_c(192),
    "mixed_7a": (
        Branch("3x3", (Filter(192), Filter(320, (3, 3), 2))),
        Branch(
            "7x7x3",
            (Filter(192), Filter(192, (1, 7)), Filter(192, (7, 1)), Filter(192, (3, 3), 2)),
        ),
        _HALF,
    ),
    "mixed_7b": _block_e("mean"),
    "mixed_7c": _block_e("largest"),
}


# ------------------------------------------------------------------ the network


class Seen(NamedTuple):
    """What is taken of pictures.

    Attributes:
      pooled: float32 [B, 2048], `pool_3`: the mean of the last map over its places.
      spatial: float32 [B, 2023], of `mixed_6/conv`; for pictures of 299 px.
    """

    pooled: jax.Array
    spatial: jax.Array


class Unit(nn.Module):
    """A filter, its norm by what was counted in training, its ReLU."""

    filter: Filter
    narrowed: int

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        own, features = self.filter, max(1, self.filter.features // self.narrowed)
        shape = (*own.kernel, x_BhwC.shape[-1], features)
        # He et al., 2015: the deviation that keeps the variance through a ReLU.
        drawn = nn.initializers.normal(math.sqrt(2 / math.prod(shape[:3])))
        init = nn.with_logical_partitioning(drawn, (None, None, None, "embed"))
        y_BhwF = _convolved(x_BhwC, self.param("weight", init, shape), own)
        scale, offset, mean, variance = (self._of_norm(name, features) for name in NORM)
        factor = scale / jnp.sqrt(variance + EPSILON)
        shifted = y_BhwF * jnp.broadcast_to(factor, y_BhwF.shape)
        return jax.nn.relu(shifted + jnp.broadcast_to(offset - mean * factor, y_BhwF.shape))

    def _of_norm(self, name: str, features: int) -> jax.Array:
        init = nn.with_logical_partitioning(NORM[name], ("embed",))
        return self.param(name, init, (features,))


NORM: dict[str, Callable] = {
    "scale": nn.initializers.ones,
    "bias": nn.initializers.zeros,
    "mean": nn.initializers.zeros,
    "variance": nn.initializers.ones,
}


def _convolved(x_BhwC: jax.Array, weight: jax.Array, own: Filter) -> jax.Array:
    """`convolve`, in the forms that XLA's CPU compiler does two to three times as fast.

    A filter of one place is a product of matrices; with a stride the places that it sees are laid
    side by side; one that leaves the border out is cut from one that does not.
    """
    if not on_one_cpu():
        return convolve(x_BhwC, weight, own.stride, own.padding)
    if own.kernel == (1, 1) or own.stride > 1:
        seen_BhwK = _side_by_side(x_BhwC, own)
        flat = seen_BhwK.reshape(-1, seen_BhwK.shape[-1]) @ weight.reshape(-1, weight.shape[-1])
        return flat.reshape(*seen_BhwK.shape[:3], -1)
    y_BhwF = convolve(x_BhwC, weight)
    rows, columns = (side // 2 if own.valid else 0 for side in own.kernel)
    h, w = y_BhwF.shape[1:3]
    return y_BhwF[:, rows : h - rows, columns : w - columns]


def _side_by_side(x_BhwC: jax.Array, own: Filter) -> jax.Array:
    """What a filter sees at each of its places: [B, h', w', rows * columns * C]."""
    rows, columns = own.kernel
    h, w = (
        (size - side) // own.stride * own.stride + 1
        for size, side in zip(x_BhwC.shape[1:3], own.kernel, strict=True)
    )
    parts = [
        x_BhwC[:, i : i + h : own.stride, j : j + w : own.stride]
        for i in range(rows)
        for j in range(columns)
    ]
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


class Block(nn.Module):
    """Branches beside each other; the channels of their outputs one behind the other."""

    branches: tuple[Branch, ...]
    narrowed: int

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> tuple[jax.Array, ...]:
        """-> what each branch gives."""
        return tuple(self._through(branch, x_BhwC) for branch in self.branches)

    def _through(self, branch: Branch, x_BhwC: jax.Array) -> jax.Array:
        x_BhwC = POOLS[branch.pool](x_BhwC)
        units = [
            Unit(own, self.narrowed, name=name)
            for own, name in zip(branch.filters, branch.names, strict=True)
        ]
        last = len(units) - 2 if branch.forked else len(units)
        for unit in units[:last]:
            x_BhwC = unit(x_BhwC)
        if not branch.forked:
            return x_BhwC
        return jnp.concatenate([unit(x_BhwC) for unit in units[last:]], axis=-1)


class Inception(nn.Module):
    """Pictures as the network takes them to what is measured of them.

    Attributes:
      narrowed: every filter has so many times fewer features; for tests.
    """

    narrowed: int = 1

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> Seen:
        """float32 [B, 299, 299, 3] in [-1, 1], see `PREPARED`."""
        for name, own in STEM.items():
            x_BhwC = Unit(own, self.narrowed, name=name)(x_BhwC)
            x_BhwC = halved(x_BhwC) if name in HALVED_AFTER else x_BhwC
        spatial = x_BhwC
        for name, branches in BLOCKS.items():
            parts = Block(branches, self.narrowed, name=name)(x_BhwC)
            spatial = parts[0][..., :SPATIAL_CHANNELS] if name == SPATIAL_OF else spatial
            x_BhwC = jnp.concatenate(parts, axis=-1)
        pooled_BD = jnp.mean(x_BhwC, axis=(1, 2))
        # The matrix of the classes is read with the network, and used by the Inception Score alone.
        shape = (pooled_BD.shape[-1], CLASSES)
        logits = Einsum("BD,DV->BV", shape, ("embed", None), name="logits")
        if self.is_initializing():
            logits(pooled_BD)
        return Seen(pooled_BD, spatial.reshape(spatial.shape[0], -1))


def inception_shapes() -> dict[str, Any]:
    """The parameters without their numbers, under `inception`."""
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return {
        "inception": nn.unbox(jax.eval_shape(Inception().init, jax.random.key(0), images))["params"]
    }


# ------------------------------------------------------------------ pools


def halved(x_BhwC: jax.Array) -> jax.Array:
    """The largest of each 3 x 3 that lies inside, at every second place."""
    return _over_three(jnp.maximum, x_BhwC, 2)


def _largest(x_BhwC: jax.Array) -> jax.Array:
    return _over_three(jnp.maximum, _padded(x_BhwC, -jnp.inf))


def _mean(x_BhwC: jax.Array) -> jax.Array:
    """Of each 3 x 3 what lies inside the map."""
    sum_BhwC = _over_three(jnp.add, _padded(x_BhwC, 0.0))
    rows, columns = (np.convolve(np.ones(size), np.ones(3))[1:-1] for size in x_BhwC.shape[1:3])
    count = np.outer(rows, columns).astype(np.float32)[None, :, :, None]
    return sum_BhwC / jnp.broadcast_to(count, sum_BhwC.shape)


def _padded(x_BhwC: jax.Array, value: float) -> jax.Array:
    return jnp.pad(x_BhwC, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)


def _over_three(combine: Callable, x_BhwC: jax.Array, stride: int = 1) -> jax.Array:
    """Rows, then columns: of each three neighbours what `combine` makes of them.

    Of shifted maps, which a CPU does many times as fast as XLA's windows.
    """
    for axis in (1, 2):
        last = (x_BhwC.shape[axis] - 3) // stride * stride + 1
        parts = [
            jax.lax.slice_in_dim(x_BhwC, first, first + last, stride, axis) for first in range(3)
        ]
        x_BhwC = functools.reduce(combine, parts)
    return x_BhwC


POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "": lambda x_BhwC: x_BhwC,
    "mean": _mean,
    "largest": _largest,
    "halved": halved,
}


# ------------------------------------------------------------------ pictures before the network


def prepared_as_adm(images: jax.Array) -> jax.Array:
    """As the graph itself does it: bytes as floats, 299 px, then (x - 128) / 128.

    TensorFlow 1's bilinear resize: pixel i of the result lies at i * size / 299 of the picture, as
    if pixels were points at their upper left corner; nothing is averaged where a picture shrinks.

    Args:
      images: [B, height, width, 3], uint8 or float32 in [0, 1].
    """
    return (_resized(in_bytes(images), _at_corners) - 128) / 128


def prepared_as_pytorch_fid(images: jax.Array) -> jax.Array:
    """As pytorch-fid does it: [0, 1], 299 px with half-pixel centres, then 2 x - 1.

    torch's `interpolate` without `align_corners` and without antialias.
    """
    return 2 * _resized(in_bytes(images) / 255, _at_centres) - 1


def in_bytes(images: jax.Array) -> jax.Array:
    """float32 of 0 to 255, whole numbers where the picture has them.

    Args:
      images: [B, height, width, 3], uint8 or float32 in [0, 1].

    Raises:
      UserError: they are of another type.
    """
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32)
    require(
        bool(jnp.issubdtype(images.dtype, jnp.floating)),
        f"pictures are {images.dtype}; uint8, or floats in [0, 1], are needed",
    )
    # n / 255 * 255 is n but for the last bit, by which a whole number is no longer one.
    scaled = images.astype(jnp.float32) * 255
    near = jnp.round(scaled)
    return jnp.where(jnp.abs(scaled - near) < 1e-3, near, scaled)


def _at_corners(size: int) -> np.ndarray:
    return np.arange(SIDE, dtype=np.float32) * np.float32(size / SIDE)


def _at_centres(size: int) -> np.ndarray:
    """Rounded once, as torch's fused multiply-add does; its scale is a float32."""
    centres = (np.arange(SIDE) + 0.5) * np.float64(np.float32(size / SIDE)) - 0.5
    return np.maximum(centres, 0).astype(np.float32)


def _resized(x_BhwC: jax.Array, positions: Callable[[int], np.ndarray]) -> jax.Array:
    """Columns, then rows, each between its two neighbours, as TensorFlow and torch have it."""
    for axis in (2, 1):
        size = x_BhwC.shape[axis]
        at = positions(size)
        low = at.astype(np.int32)
        high = np.minimum(low + 1, size - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = SIDE
        first, second = (jnp.take(x_BhwC, index, axis=axis) for index in (low, high))
        part = jnp.broadcast_to(jnp.asarray((at - low).reshape(shape)), first.shape)
        x_BhwC = first + (second - first) * part
    return x_BhwC
