"""Networks trained to classify ImageNet, whose feature maps judges look at: VGG16 and AlexNet.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015;
Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, which is
torchvision's AlexNet. Without their dense layers. Both see pictures of any size from `SMALLEST` on,
as they are: nothing is resized.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.convolution import Conv

# Of the ImageNet pictures that both were trained on, in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Convolutions in each of VGG16's five stages.
CONVOLUTIONS = (2, 2, 3, 3, 3)
# Of AlexNet's five convolutions: side of the filter, stride, zeros on each side.
FILTERS = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
# Those that the largest of each 3 x 3 follows.
POOLED = (0, 1)


class VGG16(nn.Module):
    """The last feature map of each of the five stages, after its ReLU."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """float32 [B, height, width, 3] in [0, 1] -> five maps, each half the size of the last."""
        x_BhwC, maps = standardized(images), []
        for stage, (width, count) in enumerate(zip(self.widths, CONVOLUTIONS, strict=True)):
            if stage:
                x_BhwC = _halve(x_BhwC)
            for i in range(count):
                conv = Conv(width, scale=2**0.5, name=f"conv{stage + 1}_{i + 1}")
                x_BhwC = jax.nn.relu(conv(x_BhwC))
            maps.append(x_BhwC)
        return maps


class AlexNet(nn.Module):
    """The feature map of each of the five convolutions, after its ReLU."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """float32 [B, height, width, 3] in [0, 1] -> maps of about 1/4, 1/8 and thrice 1/16."""
        x_BhwC, maps = standardized(images), []
        for i, (width, (side, stride, zeros)) in enumerate(zip(self.widths, FILTERS, strict=True)):
            padding = ((zeros, zeros), (zeros, zeros))
            conv = Conv(width, (side, side), stride, padding, scale=2**0.5, name=f"conv{i + 1}")
            x_BhwC = jax.nn.relu(conv(x_BhwC))
            maps.append(x_BhwC)
            if i in POOLED:
                x_BhwC = nn.max_pool(x_BhwC, (3, 3), (2, 2))
        return maps


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Attributes:
    module: from pictures, float32 [B, height, width, 3] in [0, 1], to five maps [B, h, w, C].
    name: of its parameters beside others, and of its kind of weights: `NAME_lpips`.
    widths: channels of the five maps.
    smallest: side of the smallest picture that leaves each map a place.
    """

    module: type[nn.Module]
    name: str
    widths: tuple[int, ...]
    smallest: int


# By the field `network` of the section `perceptual`: a new one is a class and a line here.
BACKBONES: dict[str, Backbone] = {
    "vgg16": Backbone(VGG16, "vgg", (64, 128, 256, 512, 512), 16),
    "alexnet": Backbone(AlexNet, "alexnet", (64, 192, 384, 256, 256), 31),
}


def standardized(
    images: jax.Array,
    mean: tuple[float, ...] = MEAN,
    deviation: tuple[float, ...] = DEVIATION,
) -> jax.Array:
    """[0, 1] to mean 0 and variance 1 over the pictures that have this mean and deviation.

    Those of ImageNet by default, which is LPIPS's scaling of [-1, 1] too.
    """
    mean_C, deviation_C = (
        jnp.broadcast_to(jnp.asarray(value, jnp.float32), images.shape)
        for value in (mean, deviation)
    )
    return (images - mean_C) / deviation_C


def _halve(x_BhwC: jax.Array) -> jax.Array:
    """Largest of each 2 x 2; a last odd row or column is left out."""
    b, h, w, c = x_BhwC.shape
    even_BhwC = x_BhwC[:, : h // 2 * 2, : w // 2 * 2]
    return jnp.max(even_BhwC.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
