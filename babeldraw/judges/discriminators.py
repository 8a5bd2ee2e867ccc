"""Networks that tell pictures from drawn ones: StyleGAN2's, PatchGAN, TiTok's, Projected GAN's.

How they are trained, and against what, is in `babeldraw.objectives.adversarial`.
"""

import dataclasses
import math
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import OfKind, require
from babeldraw.judges.blurred_patches import BlurredPatches
from babeldraw.judges.projected import MIXINGS, ProjectedHeads
from babeldraw.layers.convolution import Conv, blur
from babeldraw.layers.norms import BatchNorm, GroupNorm

# Sides of the last feature map of the StyleGAN2 type, in StyleGAN2 itself 4 x 4.
SMALLEST, LARGEST = 4, 16
# What PatchGAN normalises by. `group`: 16 channels a group where Isola's code has `batch`; a logit
# then does not depend on the other pictures of its batch.
NORMS = ("group", "batch", "none")


def leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.2, times sqrt(2), which makes up for the variance lost (StyleGAN2)."""
    return jax.nn.leaky_relu(x, 0.2) * math.sqrt(2)


def minibatch_deviation(x_BhwC: jax.Array, group: int) -> jax.Array:
    """Appends one channel: how much the pictures of a group differ, the same at every place.

    Karras et al., "Progressive Growing of GANs", section 3: the standard deviation over a group,
    averaged over channels and places. It shows the discriminator a generator that makes everything
    alike.

    Args:
      x_BhwC: groups are of consecutive pictures, so that they lie on one device each.
      group: pictures per group; where it does not divide B, the greatest number that divides both.
    """
    b, h, w, c = x_BhwC.shape
    size = math.gcd(b, group)
    x_MGhwC = x_BhwC.reshape(b // size, size, h, w, c)
    centred_MGhwC = x_MGhwC - jnp.mean(x_MGhwC, axis=1, keepdims=True)
    variance_MhwC = jnp.mean(jnp.square(centred_MGhwC), axis=1)
    # The square root of a plain zero has no gradient.
    mean_M = jnp.mean(jnp.sqrt(variance_MhwC + 1e-8), axis=(1, 2, 3))
    mean_B = jnp.repeat(mean_M, size, total_repeat_length=b)
    channel_Bhw1 = jnp.broadcast_to(mean_B[:, None, None, None], (b, h, w, 1))
    return jnp.concatenate([x_BhwC, channel_Bhw1], axis=-1)


class ResidualBlock(nn.Module):
    """Two convolutions beside a linear one; half the size, blurred before each stride."""

    features: int

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        channels = x_BhwC.shape[-1]
        y_BhwC = leaky_relu(Conv(channels, equalized=True, name="first")(x_BhwC))
        second = Conv(self.features, stride=2, padding="VALID", equalized=True, name="second")
        y_BhwC = leaky_relu(second(blur(y_BhwC, padding=(2, 2))))
        skip = Conv(self.features, (1, 1), bias=False, equalized=True, name="skip")
        # Both have unit variance; so has their sum over sqrt(2).
        return (y_BhwC + skip(blur(x_BhwC, stride=2, padding=(1, 1)))) / math.sqrt(2)


class StyleGANDiscriminator(nn.Module):
    """The discriminator of StyleGAN2 (Karras et al., 2020): residual, one logit per picture.

    From RGB, blocks that halve the picture, the minibatch deviation, a convolution, two dense
    layers. Equalized learning rate throughout.

    Attributes:
      channels: at full size; each halving doubles them, up to `max_channels`. StyleGAN2 has 128
        and 512 at 256 px, 64 at 512 px, 32 at 1024 px.
      max_channels: see `channels`.
      group: pictures that share a minibatch deviation; 4 in StyleGAN2.
    """

    channels: int = 128
    max_channels: int = 512
    group: int = 4

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> float32 [B]; large means real."""
        blocks = self.halvings(images.shape[1:3])
        x_BhwC = Conv(self.channels, (1, 1), equalized=True, name="from_rgb")(2 * images - 1)
        x_BhwC = leaky_relu(x_BhwC)
        for i in range(blocks):
            features = min(self.channels * 2 ** (i + 1), self.max_channels)
            x_BhwC = ResidualBlock(features, name=f"block_{i}")(x_BhwC)
        channels, size = x_BhwC.shape[-1], x_BhwC.shape[1:3]
        x_BhwC = minibatch_deviation(x_BhwC, self.group)
        x_BhwC = leaky_relu(Conv(channels, equalized=True, name="last")(x_BhwC))
        # A dense layer is a convolution as large as the map.
        dense = Conv(channels, size, padding="VALID", equalized=True, name="dense")
        x_B11C = leaky_relu(dense(x_BhwC))
        return Conv(1, (1, 1), equalized=True, name="logit")(x_B11C)[:, 0, 0, 0]

    @staticmethod
    def halvings(size: tuple[int, int]) -> int:
        """How often a picture of (height, width) is halved.

        Raises:
          UserError: it does not come down to 4 to 16 on each side.
        """
        count, (h, w) = 0, size
        while h % 2 == 0 and w % 2 == 0 and min(h, w) >= 2 * SMALLEST:
            count, h, w = count + 1, h // 2, w // 2
        require(
            SMALLEST <= min(h, w) and max(h, w) <= LARGEST,
            f"config.discriminator.kind is 'stylegan', which halves pictures of {size} down to "
            f"{(h, w)}; {SMALLEST} to {LARGEST} on each side are needed: choose an image size of "
            "more factors of 2, or kind=patchgan",
        )
        return count


class PatchGAN(nn.Module):
    """Isola et al., "Image-to-Image Translation", 2017: a logit for each overlapping patch.

    Convolutions of 4 x 4, the first `layers` of them with stride 2. With 3 layers a logit sees 70 x
    70 pixels.

    Attributes:
      channels, max_channels: of the first layer, doubled by each next one up to the second.
      layers: of stride 2.
      norm: of `NORMS`, between the first layer and the last.
    """

    channels: int = 64
    max_channels: int = 512
    layers: int = 3
    norm: str = "group"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> float32 [B, h, w]; large means real."""
        self.check(images.shape[1:3], self.layers)
        one = ((1, 1), (1, 1))
        x_BhwC = Conv(self.channels, (4, 4), 2, one, name="first")(2 * images - 1)
        x_BhwC = jax.nn.leaky_relu(x_BhwC, 0.2)
        for i in range(1, self.layers + 1):
            features = min(self.channels * 2**i, self.max_channels)
            stride = 2 if i < self.layers else 1
            # A norm has the bias, where there is one.
            bias = self.norm == "none"
            x_BhwC = Conv(features, (4, 4), stride, one, bias=bias, name=f"conv_{i}")(x_BhwC)
            x_BhwC = jax.nn.leaky_relu(self._normalize(x_BhwC, f"norm_{i}"), 0.2)
        return Conv(1, (4, 4), 1, one, name="logit")(x_BhwC)[..., 0]

    def _normalize(self, x_BhwC: jax.Array, name: str) -> jax.Array:
        if self.norm == "none":
            return x_BhwC
        if self.norm == "batch":
            return BatchNorm(name=name)(x_BhwC)
        features = x_BhwC.shape[-1]
        return GroupNorm(features // math.gcd(16, features), name=name)(x_BhwC)

    @staticmethod
    def check(size: tuple[int, int], layers: int) -> None:
        """Raises `UserError` when pictures of `size` (height, width) leave no logit."""
        # The two layers of stride 1 take a row and a column each.
        least = 3 * 2**layers
        require(
            min(size) >= least,
            f"config.discriminator.kind is 'patchgan', whose {layers} strides need pictures of "
            f"at least {least} px on each side; they are {size}",
        )


class Discriminator:
    """What is true of a section `discriminator` that says no other.

    Attributes:
      needs: names of the frozen networks whose features it looks at, in place of the pictures.
    """

    needs: ClassVar[tuple[str, ...]] = ()


@dataclasses.dataclass(frozen=True)
class NoDiscriminatorConfig(Discriminator):
    """There is no adversarial term."""

    kind: str = "none"


@dataclasses.dataclass(frozen=True)
class StyleGANConfig(Discriminator):
    """See `StyleGANDiscriminator`, ViT-VQGAN's."""

    channels: int = 128
    max_channels: int = 512
    group: int = 4
    kind: str = "stylegan"

    def __post_init__(self):
        _check_sizes(self, "channels", "max_channels", "group")

    def tiny(self) -> "StyleGANConfig":
        """The same for a first run."""
        return dataclasses.replace(self, channels=8, max_channels=16)

    def check(self, image_size: tuple[int, int]) -> None:
        """Raises `UserError` when pictures of (height, width) are none for it."""
        StyleGANDiscriminator.halvings(image_size)

    def make(self) -> nn.Module:
        """The network: float32 [B, height, width, 3] in [0, 1] -> logits, large means real."""
        return StyleGANDiscriminator(self.channels, self.max_channels, self.group)


@dataclasses.dataclass(frozen=True)
class PatchGANConfig(Discriminator):
    """See `PatchGAN`, which ViT-VQGAN compares with. Isola's has 64 channels."""

    channels: int = 128
    max_channels: int = 512
    layers: int = 3
    norm: str = "group"
    kind: str = "patchgan"

    def __post_init__(self):
        _check_sizes(self, "channels", "max_channels", "layers")
        require(
            self.norm in NORMS,
            f"config.discriminator.norm is {self.norm!r}; the choices are {', '.join(NORMS)}",
        )

    def tiny(self) -> "PatchGANConfig":
        """The same for a first run."""
        # Of small pictures more layers would leave no logit.
        return dataclasses.replace(self, channels=8, max_channels=16, layers=min(self.layers, 3))

    def check(self, image_size: tuple[int, int]) -> None:
        """Raises `UserError` when pictures of (height, width) are none for it."""
        PatchGAN.check(image_size, self.layers)

    def make(self) -> nn.Module:
        """The network: float32 [B, height, width, 3] in [0, 1] -> logits, large means real."""
        return PatchGAN(self.channels, self.max_channels, self.layers, self.norm)


@dataclasses.dataclass(frozen=True)
class BlurredPatchesConfig(Discriminator):
    """See `BlurredPatches`, TiTok's; 1.9M parameters."""

    channels: int = 128
    stages: int = 3
    places: int = 16
    kind: str = "titok"

    def __post_init__(self):
        _check_at_least_1(self, "channels", "stages", "places")

    def tiny(self) -> "BlurredPatchesConfig":
        """The same for a first run."""
        return dataclasses.replace(self, channels=8, stages=2, places=4)

    def check(self, image_size: tuple[int, int]) -> None:
        """Raises `UserError` when pictures of (height, width) are none for it."""
        BlurredPatches.check(image_size, self.stages)

    def make(self) -> nn.Module:
        """The network: float32 [B, height, width, 3] in [0, 1] -> logits, large means real."""
        return BlurredPatches(self.channels, self.stages, self.places)


@dataclasses.dataclass(frozen=True)
class ProjectedConfig(Discriminator):
    """See `ProjectedHeads`, Projected GAN's, on the network of `config.perceptual`."""

    channels: int = 64
    max_channels: int = 512
    stages: tuple[int, ...] = (2, 3, 4, 5)
    mixing: str = "ccm_csm"
    kind: str = "projected"
    needs: ClassVar[tuple[str, ...]] = ("perceptual",)

    def __post_init__(self):
        _check_sizes(self, "channels", "max_channels")
        path = "config.discriminator"
        require(
            bool(self.stages)
            and list(self.stages) == sorted(set(self.stages))
            and set(self.stages) <= {1, 2, 3, 4, 5},
            f"{path}.stages is {self.stages}; some of 1 to 5, in order and once each, are needed",
        )
        require(
            self.mixing in MIXINGS,
            f"{path}.mixing is {self.mixing!r}; the choices are {', '.join(MIXINGS)}",
        )

    def tiny(self) -> "PatchGANConfig":
        """Another one for a first run: this one would need a file of weights."""
        return PatchGANConfig(channels=8, max_channels=16, layers=2)

    def check(self, image_size: tuple[int, int]) -> None:
        """The network whose features it looks at says itself which pictures are too small."""

    def make(self) -> nn.Module:
        """The network: five maps [B, h, w, C] -> logits, float32 [B, n], large means real."""
        return ProjectedHeads(self.channels, self.max_channels, self.stages, self.mixing)


def _check_at_least_1(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"config.discriminator.{name} is {value}; at least 1 is needed")


def _check_sizes(config: Any, *names: str) -> None:
    _check_at_least_1(config, *names)
    require(
        config.max_channels >= config.channels,
        f"config.discriminator.max_channels is {config.max_channels}, less than "
        f"channels={config.channels}",
    )


# By the field `kind` of the section `discriminator`: a new one is a class and a line here.
DISCRIMINATORS: dict[str, tuple[type]] = {
    "none": (NoDiscriminatorConfig,),
    "stylegan": (StyleGANConfig,),
    "patchgan": (PatchGANConfig,),
    "titok": (BlurredPatchesConfig,),
    "projected": (ProjectedConfig,),
}
DiscriminatorConfig = Annotated[Any, OfKind(DISCRIMINATORS)]
