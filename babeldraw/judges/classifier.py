"""A small convolutional classifier: the independent judge of what a generator drew."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.data.shapes import PAIRS
from babeldraw.layers.convolution import Conv
from babeldraw.layers.linear import Einsum


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Attributes:
    num_classes: at least 2.
    image_size: (height, width) in pixels.
    channels: of the first convolution; each stage has twice as many as the one before.
    stages: each halves the picture's sides.
    """

    num_classes: int
    image_size: tuple[int, int]
    channels: int = 32
    stages: int = 3

    def __post_init__(self):
        for name, least in (("num_classes", 2), ("channels", 1), ("stages", 1)):
            value = getattr(self, name)
            require(value >= least, f"model.{name} is {value}; at least {least} is needed")
        require(
            min(self.image_size) >= 2**self.stages,
            f"model.image_size is {self.image_size}, which model.stages={self.stages} halve to "
            "nothing; fewer stages are needed",
        )

    def tiny(self) -> "ClassifierConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_classes=len(PAIRS), image_size=(32, 32), channels=4)


class ClassifierNetwork(nn.Module):
    """Two convolutions a stage, the second with stride 2; the mean over places; a linear layer."""

    config: ClassifierConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> logits, float32 [B, K]."""
        config, x_BhwC = self.config, 2 * images - 1
        for stage in range(config.stages):
            features = config.channels * 2**stage
            for stride in (1, 2):
                conv = Conv(features, stride=stride, scale=2**0.5, name=f"conv{stage}_{stride}")
                x_BhwC = jax.nn.relu(conv(x_BhwC))
        x_BD = jnp.mean(x_BhwC, axis=(1, 2))
        shape = (x_BD.shape[-1], config.num_classes)
        return Einsum("BD,DK->BK", shape, ("embed", None), bias=True, name="logits")(x_BD)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The network as pure functions of its parameters."""

    config: ClassifierConfig

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes."""
        images = jnp.zeros((1, *self.config.image_size, 3), jnp.float32)
        return ClassifierNetwork(self.config).init(key, images)["params"]

    def logits(self, params: Any, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> float32 [B, K]."""
        return ClassifierNetwork(self.config).apply({"params": params}, images)
