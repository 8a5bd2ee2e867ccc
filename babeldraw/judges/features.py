"""Features of a named network: a vector for each picture, for whoever compares sets of pictures.

    features = network("vgg16", "vgg_lpips.safetensors")
    vectors = jax.jit(lambda f, images: f(images))(features, images)

The function is a tree of its weights, so that they are an argument of a program and no constant.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.judges.backbones import BACKBONES, DEVIATION, MEAN
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.layers.linear import l2_normalize
from babeldraw.layers.pictures import to_float

# Pictures [B, height, width, 3], uint8 or float32 in [0, 1], to features float32 [B, D].
Features = jax.tree_util.Partial


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What becomes of a picture before the first layer.

    Attributes:
      size: (height, width) to which it is resized; None: it is taken as it is. Figures of pictures
        of different sizes are then not to be compared.
      span: the values of a float picture; uint8 ones are divided by 255.
      mean, deviation: what is taken from each colour, and what the rest is divided by.
    """

    size: tuple[int, int] | None
    span: tuple[float, float]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """Attributes:
    title: the features in words, for tables and messages.
    dim: D, how many there are.
    smallest: side of the smallest picture, in pixels.
    preprocessing: what becomes of a picture first; in the function.
    pooled: from the backbone's maps to float32 [B, D].
    """

    title: str
    dim: int
    smallest: int
    preprocessing: Preprocessing
    pooled: Callable[[list[jax.Array]], jax.Array]


def network(name: str, file: str) -> Features:
    """The function from pictures to features of the network `name` with the weights in `file`.

    Args:
      name: of `NETWORKS`.
      file: what `babeldraw import` wrote, of the kind vgg_lpips for vgg16, alexnet_lpips for
        alexnet.

    Raises:
      UserError: there is no such network, or the file cannot be read or is of another one; when
        called, the pictures are too small.
    """
    require(name in NETWORKS, f"network={name!r} is not known; the networks are {_names()}")
    found = PerceptualNetwork(PerceptualConfig(file, network=name))
    params = found.load("file")

    def features(params: dict, images: jax.Array) -> jax.Array:
        return NETWORKS[name].pooled(found.maps(params, to_float(jnp.asarray(images))))

    return Features(features, params)


def last_mean(maps: list[jax.Array]) -> jax.Array:
    """The mean of the last map over its places, as the 2048 features of FID are Inception's."""
    return jnp.mean(maps[-1], axis=(1, 2))


def directions_mean(maps: list[jax.Array]) -> jax.Array:
    """Of each map the mean of its normalised vectors, which LPIPS compares; one behind another."""
    return jnp.concatenate([jnp.mean(l2_normalize(x, 1e-10), axis=(1, 2)) for x in maps], axis=-1)


def _names() -> str:
    return ", ".join(NETWORKS)


_IMAGENET = Preprocessing(size=None, span=(0.0, 1.0), mean=MEAN, deviation=DEVIATION)
# Kynkäänniemi et al., "Improved Precision and Recall", 2019, take VGG16's second dense layer at 224
# px, which the files that we read have not. A new one is a line here, and one in `BACKBONES` where
# the network is not there yet.
NETWORKS: dict[str, FeatureNetwork] = {
    "vgg16": FeatureNetwork(
        "VGG16, relu5_3, mean over places",
        BACKBONES["vgg16"].widths[-1],
        BACKBONES["vgg16"].smallest,
        _IMAGENET,
        last_mean,
    ),
    "alexnet": FeatureNetwork(
        "AlexNet, five normalised maps, mean over places",
        sum(BACKBONES["alexnet"].widths),
        BACKBONES["alexnet"].smallest,
        _IMAGENET,
        directions_mean,
    ),
}
