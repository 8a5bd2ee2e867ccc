"""Tokenizers whose one network turns pictures into a grid of codes, and back."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.tokenizers.base import Codes
from babeldraw.tokenizers.pixels import CHANNELS
from babeldraw.tokenizers.quantizers import QuantizingTokenizer


class GridTokenizer(QuantizingTokenizer):
    """A tokenizer by its Linen module; its config has `image_size` and `grid`.

    Attributes:
      network: a module called with pictures, float32 [B, height, width, 3] in [0, 1], that has the
        methods
        `encode(images)`: codes;
        `decode(codes)`: pictures in [0, 1];
        `raw_of_mean(weights)`: see `Tokenizer.draw_mean`.
    """

    @property
    def network(self) -> nn.Module:
        raise NotImplementedError

    @property
    def codes(self) -> Codes:
        return Codes(self.config.grid, self.config.quantizer.vocab, self.channels)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.image_size

    def init(self, key: jax.Array) -> Any:
        images = jnp.zeros((1, *self.image_size, CHANNELS), jnp.float32)
        return self.network.init(key, images)["params"]

    def encode(self, params: Any, images: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, images, method="encode")

    def decode(
        self, params: Any, codes: jax.Array, condition: jax.Array | None = None
    ) -> jax.Array:
        self.check_condition(condition)
        return self.network.apply({"params": params}, codes, method="decode")

    def draw_mean(self, params: Any, weights: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, weights, method="raw_of_mean")

    def mixes(self) -> bool:
        return self.config.quantizer.mixes
