"""Perceptual distance: how far apart two pictures are to a network that was trained to classify.

In the features of VGG16 or AlexNet: Zhang et al., "The Unreasonable Effectiveness of Deep Features
as a Perceptual Metric" (LPIPS), 2018. In the logits of ConvNeXt-S, or in both: TiTok and TA-TiTok.
`babeldraw import` makes the file of weights.
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
from babeldraw.judges.backbones import BACKBONES, Backbone
from babeldraw.judges.convnext import ConvNeXt, resized
from babeldraw.layers.linear import l2_normalize
from babeldraw.runs.weights import read_params


@dataclasses.dataclass(frozen=True)
class Judge:
    """What a distance is made of.

    Attributes:
      kind: of weights, for `babeldraw import`.
      backbone: of BACKBONES, whose features LPIPS compares; empty: none.
      logits: whether ConvNeXt-S's logits are compared.
    """

    kind: str
    backbone: str = ""
    logits: bool = False


# By the field `network` of the section `perceptual`: a new one is a line here.
JUDGES: dict[str, Judge] = {
    **{name: Judge(f"{found.name}_lpips", name) for name, found in BACKBONES.items()},
    "convnext_s": Judge("convnext_s", logits=True),
    "vgg16_convnext_s": Judge("vgg_convnext_s", "vgg16", logits=True),
}


@dataclasses.dataclass(frozen=True)
class PerceptualConfig:
    """Attributes:
    file: safetensors file that `babeldraw import --kind=vgg_lpips` wrote, or that of the kind of
      another `network` (`JUDGES`).
    widths: channels of the five maps; empty: the network's own. Others are for tests.
    network: who judges, of `JUDGES`. Losses take vgg16, TiTok's convnext_s, TA-TiTok's
      vgg16_convnext_s; the figures of papers are often alexnet's, which then no loss has seen.
    mix: a and b of vgg16_convnext_s, (a LPIPS + b logits) / (a + b); 1 and 0.1 in TA-TiTok.
    every: the loss looks at one picture in so many of the batch. Its mean is an unbiased one of the
      whole batch's, for a batch has no order, and the term costs so much less.
    judge: file of the kind alexnet_lpips; evaluators then have the figure lpips_alexnet too, of a
      network that a loss on VGG16 has not seen.
    """

    file: str = ""
    widths: tuple[int, ...] = ()
    network: str = "vgg16"
    every: int = 1
    judge: str = ""
    mix: tuple[float, float] = (1.0, 0.1)

    def __post_init__(self):
        path = "config.perceptual"
        require(
            self.network in JUDGES,
            f"{path}.network is {self.network!r}; the choices are {', '.join(JUDGES)}",
        )
        require(
            len(self.mix) == 2 and min(self.mix) > 0,
            f"{path}.mix is {self.mix}; two weights above 0 are needed",
        )
        require(
            not self.widths or (len(self.widths) == 5 and min(self.widths) >= 1),
            f"{path}.widths is {self.widths}; five of at least 1 each are needed, or none",
        )
        require(self.every >= 1, f"{path}.every is {self.every}; at least 1 is needed")

    @property
    def of(self) -> Judge:
        return JUDGES[self.network]

    @property
    def figure(self) -> str:
        """What evaluators call the distance; LPIPS is one of features alone."""
        return self.network if self.of.logits else "lpips"

    @property
    def backbone(self) -> Backbone | None:
        """The network of the features, with the widths asked for; None: only logits count."""
        if not self.of.backbone:
            return None
        found = BACKBONES[self.of.backbone]
        return dataclasses.replace(found, widths=self.widths) if self.widths else found

    @property
    def smallest(self) -> int:
        """Side of the smallest picture that can be judged."""
        return 1 if self.backbone is None else self.backbone.smallest


class LPIPS(nn.Module):
    """The distance of a section `perceptual`.

    Of features the squared differences, normalised and weighted per channel. The weights are
    LPIPS's learned non-negative ones, or ones where none were imported, which is the plain distance
    of normalised features. Of logits the mean squared difference.
    """

    config: PerceptualConfig

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Two pictures [B, height, width, 3] in [0, 1] -> float32 [B], at least 0."""
        config = self.config
        if config.backbone is None:
            return self._of_logits(first, second)
        features_B = self._of_features(config.backbone, first, second)
        if not config.of.logits:
            return features_B
        a, b = config.mix
        return (a * features_B + b * self._of_logits(first, second)) / (a + b)

    def _of_logits(self, first: jax.Array, second: jax.Array) -> jax.Array:
        network = ConvNeXt(name="convnext")
        logits_BV, others_BV = network(resized(first)), network(resized(second))
        return jnp.mean(jnp.square(logits_BV - others_BV), axis=-1)

    def _of_features(self, backbone: Backbone, first: jax.Array, second: jax.Array) -> jax.Array:
        widths = backbone.widths
        maps = backbone.module(widths, name=backbone.name)
        pairs = zip(maps(first), maps(second), strict=True)
        distance_B = jnp.zeros(first.shape[0], jnp.float32)
        for stage, (x_BhwC, y_BhwC) in enumerate(pairs):
            ones = nn.with_logical_partitioning(nn.initializers.ones, (None,))
            weight_C = self.param(f"linear{stage + 1}", ones, (widths[stage],))
            # LPIPS adds 1e-10 to the norm, which has no gradient where all features are zero. Here
            # the square of the norm has that floor, the norm 1e-5: equal for all other features.
            difference_BhwC = l2_normalize(x_BhwC, 1e-10) - l2_normalize(y_BhwC, 1e-10)
            weight_BhwC = jnp.broadcast_to(weight_C, difference_BhwC.shape)
            weighted_Bhw = jnp.sum(weight_BhwC * jnp.square(difference_BhwC), axis=-1)
            distance_B = distance_B + jnp.mean(weighted_Bhw, axis=(1, 2))
        return distance_B


@dataclasses.dataclass(frozen=True)
class PerceptualNetwork:
    """The distance, and the maps under it, as pure functions of frozen parameters."""

    config: PerceptualConfig

    def init(self, key: jax.Array) -> Any:
        """Random parameters, boxed with their logical axes."""
        side = self.config.smallest
        images = jnp.zeros((1, side, side, 3), jnp.float32)
        return self._network.init(key, images, images)["params"]

    def shapes(self) -> Any:
        """The parameters without their numbers: what `load` must find."""
        return nn.unbox(jax.eval_shape(self.init, jax.random.key(0)))

    def distance(self, params: Any, images: jax.Array, targets: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1], twice -> float32 [B]; 0 for equal ones.

        Raises:
          UserError: the pictures are too small, under 16 px for VGG16, 31 px for AlexNet.
        """
        self._check(
            images.shape[1:3],
            ": set config.loss.perceptual=0 and name no file in config.perceptual",
        )
        with jax.named_scope("perceptual"):
            return self._network.apply({"params": params}, images, targets)

    def loss(self, params: Any, images: jax.Array, targets: jax.Array) -> jax.Array:
        """The mean distance over the pictures that `config.every` chooses; as `distance` else.

        Raises:
          UserError: as `distance`; or `config.every` does not divide B.
        """
        b, every = images.shape[0], self.config.every
        require(
            b % every == 0,
            f"config.perceptual.every is {every}, which does not divide the {b} pictures of a "
            "batch; choose one that does",
        )
        # By a reshape, so that each device keeps its share of a batch that is split.
        part, targets_part = (
            x.reshape(b // every, every, *x.shape[1:])[:, 0] for x in (images, targets)
        )
        return jnp.mean(self.distance(params, part, targets_part))

    def maps(self, params: Any, images: jax.Array) -> list[jax.Array]:
        """float32 [B, height, width, 3] in [0, 1] -> the five maps, float32 [B, h, w, C].

        Raises:
          UserError: as `distance`; or the network has none.
        """
        self._check(images.shape[1:3])
        backbone = self.config.backbone
        require(
            backbone is not None,
            f"config.perceptual.network is {self.config.network!r}, of which only logits are "
            f"taken; for maps choose one of {', '.join(BACKBONES)}",
        )
        with jax.named_scope("perceptual"):
            own = {"params": params[backbone.name]}
            # Also called inside other networks, which it is no part of.
            return backbone.module(backbone.widths, parent=None).apply(own, images)

    def load(self, name: str = "config.perceptual.file") -> Any:
        """The parameters of `config.file`, as NumPy arrays; `name` is what the user calls it.

        Raises:
          UserError: no file is named, it cannot be read, or a weight is missing, has another shape
            or is not finite.
        """
        file = os.path.expanduser(self.config.file)
        if not file:
            raise UserError(
                f"{name} is empty and a loss looks at that network; name a file that `babeldraw "
                f"import --kind={self.config.of.kind}` wrote, or set "
                "config.loss.perceptual=0, and another config.discriminator.kind than projected"
            )
        params = read_params(file, name, self.shapes())
        check_linear(params, f"{name}={file}")
        return params

    def _check(self, size: tuple[int, ...], remedy: str = "") -> None:
        network, smallest = self.config.network, self.config.smallest
        require(
            min(size) >= smallest,
            f"{network} needs pictures of at least {smallest} px on each side; they are "
            f"{size}{remedy}",
        )

    @functools.cached_property
    def _network(self) -> LPIPS:
        return LPIPS(self.config)


def check_linear(params: Mapping[str, Any], name: str) -> None:
    """Raises `UserError` where a weight of a channel is negative."""
    for key, array in params.items():
        require(
            not key.startswith("linear") or bool(np.all(array >= 0)),
            f"{name}: {key} holds a negative weight; a distance needs none",
        )
