"""Super-resolution of a tokenizer's pictures: a WDSR network per doubling of the size.

Parti (arXiv 2206.10789), section 2.1: on top of the frozen tokenizer, stacked convolutions with
residual connections, 12 blocks of 128 channels after WDSR, about 15M parameters for 256 to 512
pixels and about 30M for 1024. WDSR: Yu et al., "Wide Activation for Efficient and Accurate Image
Super-Resolution", arXiv 1808.08718. What Parti leaves open is chosen here: the expansion of 4 gives
its 15M, and two networks one after the other its 30M.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.layers.block import DTYPES, ComputeConfig
from babeldraw.layers.convolution import convolve
from babeldraw.layers.pictures import depth_to_space
from babeldraw.layers.stack import Stack

CHANNELS = 3
# Each network doubles height and width.
DOUBLE = 2


@dataclasses.dataclass(frozen=True)
class SuperResolutionConfig:
    """Attributes:
    factor: how many times larger height and width become: 2, 4, 8, ...
    blocks: residual blocks of each doubling, 12 in Parti.
    channels: D, of the sum that the blocks add to, 128 in Parti.
    expansion: how many times wider a block is before its activation; 2 to 4 in WDSR-A.
    compute: how it is computed; of the convolutions in the blocks, the sum is float32 always.
    """

    factor: int = 2
    blocks: int = 12
    channels: int = 128
    expansion: int = 4
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self):
        path = "super_resolution"
        require(
            self.factor >= 2 and self.factor & (self.factor - 1) == 0,
            f"{path}.factor is {self.factor}; a power of two is needed: 2, 4, ...",
        )
        for name in ("blocks", "channels", "expansion"):
            value = getattr(self, name)
            require(value >= 1, f"{path}.{name} is {value}; at least 1 is needed")
        require(
            self.compute.kernel == "auto",
            f"{path}.compute.kernel is {self.compute.kernel!r}; there is no attention here, so "
            "auto is needed",
        )

    @property
    def doublings(self) -> int:
        return self.factor.bit_length() - 1

    def tiny(self) -> "SuperResolutionConfig":
        """The same for a first run."""
        return dataclasses.replace(self, blocks=1, channels=8, expansion=2)


class WeightNormConv(nn.Module):
    """A 3 x 3 convolution whose filters are directions, each with a learned length.

    weight = gain * direction / |direction| per feature (Salimans and Kingma, arXiv 1602.07868,
    equation 2), which WDSR trains better with than with batch normalisation.

    Attributes:
      features: channels of the output.
      gain: initial length of each filter; 1 keeps the variance, sqrt(2) does so before a ReLU's
        half is lost, 0 gives nothing until it is learned.
      dtype: the product's type.
    """

    features: int
    gain: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, features] of `dtype`."""
        shape = (3, 3, x_BhwC.shape[-1], self.features)
        drawn = nn.initializers.normal(1 / math.sqrt(math.prod(shape[:3])))
        axes = (None, None, None, "embed")
        direction = self.param("direction", nn.with_logical_partitioning(drawn, axes), shape)
        gain, bias = (
            self.param(name, nn.with_logical_partitioning(init, ("embed",)), (self.features,))
            for name, init in (
                ("gain", nn.initializers.constant(self.gain)),
                ("bias", nn.initializers.zeros),
            )
        )
        squares = jnp.sum(jnp.square(direction), axis=(0, 1, 2))
        scale = gain * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
        weight = direction * jnp.broadcast_to(scale, shape)
        y_BhwF = convolve(x_BhwC.astype(self.dtype), weight.astype(self.dtype))
        return y_BhwF + jnp.broadcast_to(bias.astype(self.dtype), y_BhwF.shape)


class WideBlock(nn.Module):
    """x + conv(relu(conv(x))), wide where the ReLU is: the block of WDSR-A. No dropout."""

    config: SuperResolutionConfig

    @nn.compact
    def __call__(self, x_BhwD: jax.Array, context: None, keys: None = None) -> jax.Array:
        config, dtype = self.config, DTYPES[self.config.compute.dtype]
        wide = config.channels * config.expansion
        y_BhwF = nn.relu(WeightNormConv(wide, math.sqrt(2), dtype, name="expand")(x_BhwD))
        # The sum of all blocks has the variance of one.
        gain = 1 / math.sqrt(config.blocks)
        y_BhwD = WeightNormConv(config.channels, gain, dtype, name="project")(y_BhwF)
        return x_BhwD + y_BhwD.astype(x_BhwD.dtype)


class Doubling(nn.Module):
    """One WDSR network: pictures of twice the height and width.

    As made, it is bicubic interpolation: the 5 x 5 convolution past the blocks starts as that
    filter and the blocks' tail as zero. Training departs from there.
    """

    config: SuperResolutionConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, h, w, 3] in [0, 1] -> float32 [B, 2h, 2w, 3], raw values."""
        config = self.config
        make_block = functools.partial(WideBlock, config)
        # Networks see values centred on zero; images stay in [0, 1] outside.
        x_BhwD = WeightNormConv(config.channels, name="head")(2 * images - 1)
        stack = Stack(
            make_block, config.blocks, config.compute.scan, config.compute.remat, name="body"
        )
        x_BhwD = stack(x_BhwD)
        # Of each small pixel the four large ones, three colours each.
        cells_BhwC = WeightNormConv(DOUBLE**2 * CHANNELS, 0.0, name="tail")(x_BhwD)
        return depth_to_space(cells_BhwC + self._skip(images), DOUBLE)

    def _skip(self, images: jax.Array) -> jax.Array:
        axes = (None, None, None, None)
        init = nn.with_logical_partitioning(lambda key: jnp.asarray(bicubic_filter()), axes)
        weight = self.param("skip", init)
        # Edges are repeated: with zeros, as the blocks pad, a picture would darken towards them.
        around = weight.shape[0] // 2
        padded = jnp.pad(images, ((0, 0), (around, around), (around, around), (0, 0)), "edge")
        return convolve(padded, weight, padding="VALID")


class SuperResolution(nn.Module):
    """Doublings one after the other, each with weights of its own."""

    config: SuperResolutionConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, h, w, 3] in [0, 1] -> float32 [B, factor h, factor w, 3], raw values."""
        for index in range(self.config.doublings):
            images = Doubling(self.config, name=f"doubling_{index}")(images)
        return images


@dataclasses.dataclass(frozen=True)
class Upscaler:
    """The network as pure functions of its parameters."""

    config: SuperResolutionConfig

    @property
    def network(self) -> SuperResolution:
        return SuperResolution(self.config)

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes; they fit pictures of any size."""
        return self.network.init(key, jnp.zeros((1, 8, 8, CHANNELS), jnp.float32))["params"]

    def upscale(self, params: Any, images: jax.Array) -> jax.Array:
        """float32 [B, h, w, 3] in [0, 1] -> float32 [B, factor h, factor w, 3] in [0, 1]."""
        return jnp.clip(self.network.apply({"params": params}, images), 0.0, 1.0)

    def upscale_one_by_one(self, params: Any, images: jax.Array) -> jax.Array:
        """As `upscale`, with the memory of a single picture; for drawing, where many come."""
        return jax.lax.map(lambda image: self.upscale(params, image[None])[0], images)


def bicubic_filter() -> np.ndarray:
    """float32 [5, 5, 3, 12]: the convolution that, before `depth_to_space`, doubles bicubically.

    Keys' kernel with a = -1/2 at pixel centres, as `jax.image.resize(method="cubic")`.
    """
    offsets = np.arange(-2, 3)
    # The two new pixels in an old one lie a quarter before and after its centre.
    taps = np.stack([_keys(offsets - shift) for shift in (-0.25, 0.25)])
    same = np.eye(CHANNELS)
    weight = np.einsum("ri,cj,xy->ijxrcy", taps, taps, same)
    return weight.reshape(5, 5, CHANNELS, -1).astype(np.float32)


def _keys(x: np.ndarray) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 15."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
