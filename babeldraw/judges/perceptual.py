"""Perceptual distance: how far apart two pictures are in the features of VGG16.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (LPIPS),
2018, over the VGG16 of Simonyan and Zisserman, 2015. `babeldraw import` makes the file of weights.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.errors import UserError
from babeldraw.layers.convolution import Conv
from babeldraw.layers.linear import l2_normalize
from babeldraw.runs.weights import read_params

# Convolutions in each of VGG16's five stages; LPIPS compares the last feature map of each.
CONVOLUTIONS = (2, 2, 3, 3, 3)
WIDTHS = (64, 128, 256, 512, 512)
# Each stage but the first halves the picture.
SMALLEST = 2 ** (len(WIDTHS) - 1)
# Of the ImageNet pictures that VGG16 was trained on, in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class PerceptualConfig:
    """Attributes:
    file: safetensors file that `babeldraw import --kind=vgg_lpips` wrote.
    widths: channels of the five stages, VGG16's own; others are for tests.
    """

    file: str = ""
    widths: tuple[int, int, int, int, int] = WIDTHS

    def __post_init__(self):
        require(
            min(self.widths) >= 1,
            f"config.perceptual.widths is {self.widths}; at least 1 each is needed",
        )


class VGGFeatures(nn.Module):
    """The last feature map of each stage of VGG16, after its ReLU."""

    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """float32 [B, height, width, 3] in [0, 1] -> five maps, each half the size of the last."""
        mean, deviation = (
            jnp.broadcast_to(jnp.asarray(value, jnp.float32), images.shape)
            for value in (MEAN, DEVIATION)
        )
        x_BhwC, features = (images - mean) / deviation, []
        for stage, (width, count) in enumerate(zip(self.widths, CONVOLUTIONS, strict=True)):
            if stage:
                x_BhwC = _halve(x_BhwC)
            for i in range(count):
                conv = Conv(width, scale=2**0.5, name=f"conv{stage + 1}_{i + 1}")
                x_BhwC = jax.nn.relu(conv(x_BhwC))
            features.append(x_BhwC)
        return features


class VGGDistance(nn.Module):
    """LPIPS: squared differences of channel-normalised features, weighted per channel.

    The weights are LPIPS's learned non-negative ones, or ones where none were imported, which is
    the plain distance of normalised VGG features.
    """

    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Two pictures [B, height, width, 3] in [0, 1] -> float32 [B], at least 0."""
        vgg = VGGFeatures(self.widths, name="vgg")
        pairs = zip(vgg(first), vgg(second), strict=True)
        distance_B = jnp.zeros(first.shape[0], jnp.float32)
        for stage, (x_BhwC, y_BhwC) in enumerate(pairs):
            ones = nn.with_logical_partitioning(nn.initializers.ones, (None,))
            weight_C = self.param(f"linear{stage + 1}", ones, (self.widths[stage],))
            # LPIPS adds 1e-10 to the norm, which has no gradient where all features are zero. Here
            # the square of the norm has that floor, the norm 1e-5: equal for all other features.
            difference_BhwC = l2_normalize(x_BhwC, 1e-10) - l2_normalize(y_BhwC, 1e-10)
            weight_BhwC = jnp.broadcast_to(weight_C, difference_BhwC.shape)
            weighted_Bhw = jnp.sum(weight_BhwC * jnp.square(difference_BhwC), axis=-1)
            distance_B = distance_B + jnp.mean(weighted_Bhw, axis=(1, 2))
        return distance_B


@dataclasses.dataclass(frozen=True)
class PerceptualNetwork:
    """The distance as pure functions of its frozen parameters."""

    config: PerceptualConfig

    def init(self, key: jax.Array) -> Any:
        """Random parameters, boxed with their logical axes."""
        images = jnp.zeros((1, SMALLEST, SMALLEST, 3), jnp.float32)
        return self._network.init(key, images, images)["params"]

    def shapes(self) -> Any:
        """The parameters without their numbers: what `load` must find."""
        return nn.unbox(jax.eval_shape(self.init, jax.random.key(0)))

    def distance(self, params: Any, images: jax.Array, targets: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1], twice -> float32 [B]; 0 for equal ones.

        Raises:
          UserError: the pictures are smaller than 16 px.
        """
        require(
            min(images.shape[1:3]) >= SMALLEST,
            f"the perceptual distance needs pictures of at least {SMALLEST} px on each side; they "
            f"are {images.shape[1:3]}: set config.loss.perceptual=0",
        )
        with jax.named_scope("perceptual"):
            return self._network.apply({"params": params}, images, targets)

    def load(self) -> Any:
        """The parameters of `config.file`, as NumPy arrays.

        Raises:
          UserError: no file is named, it cannot be read, or a weight is missing, has another shape
            or is not finite.
        """
        file = os.path.expanduser(self.config.file)
        if not file:
            raise UserError(
                "config.perceptual.file is empty and config.loss.perceptual is above 0; name a "
                "file that `babeldraw import --kind=vgg_lpips` wrote, or set "
                "config.loss.perceptual=0"
            )
        params = read_params(file, "config.perceptual.file", self.shapes())
        check_linear(params, f"config.perceptual.file={file}")
        return params

    @functools.cached_property
    def _network(self) -> VGGDistance:
        return VGGDistance(self.config.widths)


def check_linear(params: Mapping[str, Any], name: str) -> None:
    """Raises `UserError` where a weight of a channel is negative."""
    for key, array in params.items():
        require(
            not key.startswith("linear") or bool(np.all(array >= 0)),
            f"{name}: {key} holds a negative weight; a distance needs none",
        )


def _halve(x_BhwC: jax.Array) -> jax.Array:
    """Largest of each 2 x 2; a last odd row or column is left out."""
    b, h, w, c = x_BhwC.shape
    even_BhwC = x_BhwC[:, : h // 2 * 2, : w // 2 * 2]
    return jnp.max(even_BhwC.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
