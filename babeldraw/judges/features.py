"""Features of a named network: a vector for each picture, for whoever compares sets of pictures.

    features = network("vgg16", "vgg_lpips.safetensors")
    vectors = jax.jit(lambda f, images: f(images))(features, images)

The function is a tree of its weights, so that they are an argument of a program and no constant.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.judges import clip, dinov2
from babeldraw.judges.backbones import BACKBONES, DEVIATION, MEAN
from babeldraw.judges.inception import (
    SIDE,
    Inception,
    inception_shapes,
    prepared_as_adm,
    prepared_as_pytorch_fid,
)
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.judges.pillow import SIDE as SEEN
from babeldraw.judges.vit import ViT
from babeldraw.layers.linear import l2_normalize
from babeldraw.layers.pictures import to_float
from babeldraw.runs.weights import read_params

# Pictures [B, height, width, 3], uint8 or float32 in [0, 1], to features float32 [B, D + S].
Features = jax.tree_util.Partial


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What becomes of a picture before the first layer.

    Attributes:
      size: (height, width) to which it is resized; None: it is taken as it is. Figures of pictures
        of different sizes are then not to be compared.
      span: the values of a float picture; uint8 ones are divided by 255.
      mean, deviation: what is taken from each colour, and what the rest is divided by.
      resize: how, in words; empty where nothing is resized.
    """

    size: tuple[int, int] | None
    span: tuple[float, float]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    resize: str = ""


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """Attributes:
    title: the features in words, for tables and messages.
    dim: D, how many there are.
    smallest: side of the smallest picture, in pixels.
    preprocessing: what becomes of a picture first; in the function.
    load: from the name of a file to the function.
    kind: of the weights, for `babeldraw import`.
    spatial: S, how many features of places stand behind the others in a vector; sFID is of them.
    classes: from the function to float32 [D, classes], by which the Inception Score tells classes
      apart; None: the network has none.
    is_fid: whether a Fréchet distance in these features is what others print as FID.
    """

    title: str
    dim: int
    smallest: int
    preprocessing: Preprocessing
    load: Callable[[str], Features]
    kind: str
    spatial: int = 0
    classes: Callable[[Features], np.ndarray] | None = None
    is_fid: bool = False


def network(name: str, file: str) -> Features:
    """The function from pictures to features of the network `name` with the weights in `file`.

    Args:
      name: of `NETWORKS`.
      file: what `babeldraw import` wrote, of the network's kind: vgg_lpips for vgg16,
        alexnet_lpips for alexnet, inception for inception and inception_half_pixel, for others
        that of their name.

    Raises:
      UserError: there is no such network, or the file cannot be read or is of another one; when
        called, the pictures are too small.
    """
    require(name in NETWORKS, f"network={name!r} is not known; the networks are {_names()}")
    return NETWORKS[name].load(file)


# ------------------------------------------------------------------ what is taken of the maps


def last_mean(maps: list[jax.Array]) -> jax.Array:
    """The mean of the last map over its places, as the 2048 features of FID are Inception's."""
    return jnp.mean(maps[-1], axis=(1, 2))


def directions_mean(maps: list[jax.Array]) -> jax.Array:
    """Of each map the mean of its normalised vectors, which LPIPS compares; one behind another."""
    return jnp.concatenate([jnp.mean(l2_normalize(x, 1e-10), axis=(1, 2)) for x in maps], axis=-1)


def _of_maps(name: str, pooled: Callable[[list[jax.Array]], jax.Array], file: str) -> Features:
    """Of a network of `BACKBONES`."""
    found = PerceptualNetwork(PerceptualConfig(file, network=name))

    def features(params: dict, images: jax.Array) -> jax.Array:
        return pooled(found.maps(params, to_float(jnp.asarray(images))))

    return Features(features, found.load("file"))


def _of_inception(prepared: Callable[[jax.Array], jax.Array], file: str) -> Features:
    """`pool_3`, and behind it the features of places where ADM's evaluator takes some."""
    params = read_params(file, "file", inception_shapes())["inception"]
    spatial = prepared is prepared_as_adm

    def features(params: dict, images: jax.Array) -> jax.Array:
        # A TPU would round each product to bfloat16, and a GPU to ten bits: figures would differ.
        with jax.default_matmul_precision("highest"), jax.named_scope("inception"):
            seen = Inception().apply({"params": params}, prepared(jnp.asarray(images)))
        return jnp.concatenate(seen, axis=-1) if spatial else seen.pooled

    return Features(features, params)


def _inception_classes(features: Features) -> np.ndarray:
    return np.asarray(features.args[0]["logits"]["weight"])


def _of_clip(name: str, file: str) -> Features:
    """The embedding of a picture, as long as the network gives it."""
    config = clip.CLIPS[name]
    tower = clip.ImageTower(config)
    params = read_params(file, "file", clip.clip_shapes(config))["clip"]["image"]
    return _exact(tower, clip.prepared, params)


def _of_dinov2(name: str, file: str) -> Features:
    """The class row behind the last norm."""
    config = dinov2.DINOS[name]
    params = read_params(file, "file", dinov2.dinov2_shapes(config))["dinov2"]
    return _exact(ViT(config), dinov2.prepared, params)


def _exact(network: nn.Module, prepared: Callable[[jax.Array], jax.Array], params: Any) -> Features:
    """As in `_of_inception`, with products in full float32."""

    def features(params: Any, images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"), jax.named_scope("features"):
            return network.apply({"params": params}, prepared(jnp.asarray(images)))

    return Features(features, params)


# ------------------------------------------------------------------ the table


def _names() -> str:
    return ", ".join(NETWORKS)


def _inception(prepared: Callable[[jax.Array], jax.Array], resize: str, **more: Any):
    levels = (127.5 / 255,) * 3 if prepared is prepared_as_pytorch_fid else (128 / 255,) * 3
    preprocessing = Preprocessing((SIDE, SIDE), (0.0, 1.0), levels, levels, resize)
    load = functools.partial(_of_inception, prepared)
    return FeatureNetwork(
        "Inception of 2015, pool_3", 2048, 1, preprocessing, load, "inception", is_fid=True, **more
    )


def _clip(name: str) -> FeatureNetwork:
    resize = (
        "Pillow's bicubic of 8 bits, the shorter side to 224 px and the middle of the longer one, "
        "as OpenAI's"
    )
    preprocessing = Preprocessing((SEEN, SEEN), (0.0, 1.0), clip.MEAN, clip.DEVIATION, resize)
    load, dim = functools.partial(_of_clip, name), clip.CLIPS[name].dim
    return FeatureNetwork("CLIP, image embedding", dim, 1, preprocessing, load, name)


def _dinov2(name: str) -> FeatureNetwork:
    resize = "Pillow's bicubic of 8 bits, the whole picture to 224 x 224 px, as dgm-eval"
    preprocessing = Preprocessing((SEEN, SEEN), (0.0, 1.0), MEAN, DEVIATION, resize)
    load, dim = functools.partial(_of_dinov2, name), dinov2.DINOS[name].stack.dim
    return FeatureNetwork("DINOv2, class row", dim, 1, preprocessing, load, name)


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
        functools.partial(_of_maps, "vgg16", last_mean),
        "vgg_lpips",
    ),
    "alexnet": FeatureNetwork(
        "AlexNet, five normalised maps, mean over places",
        sum(BACKBONES["alexnet"].widths),
        BACKBONES["alexnet"].smallest,
        _IMAGENET,
        functools.partial(_of_maps, "alexnet", directions_mean),
        "alexnet_lpips",
    ),
    "inception": _inception(
        prepared_as_adm,
        "TensorFlow 1's bilinear, without half-pixel centres, of bytes as floats",
        spatial=2023,
        classes=_inception_classes,
    ),
    "inception_half_pixel": _inception(
        prepared_as_pytorch_fid, "bilinear with half-pixel centres, no antialias, as pytorch-fid"
    ),
    **{name: _clip(name) for name in clip.CLIPS},
    **{name: _dinov2(name) for name in dinov2.DINOS},
}
