"""What a text encoder is trained in before a generator begins from it.

Parti (arXiv 2206.10789, section 2.3) trains its text encoder by BERT's objective on C4 and by an
image-text contrastive one. The encoder here is the generator's own, under the same names; whatever
stands around it, the tower of pictures among it, is left behind. Sizes and pooling are not
published: see `docs/unconfirmed.md`.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, require_choice
from babeldraw.layers.block import TransformerConfig
from babeldraw.layers.dropout import fold
from babeldraw.layers.feed_forward import ACTIVATIONS
from babeldraw.layers.linear import Einsum, LayerNorm, Logits
from babeldraw.models.conditions import TextCondition
from babeldraw.models.image_encoder import ImageEncoder, unit
from babeldraw.models.text_encoder import TextEncoder, mean_over_pieces
from babeldraw.tokenizers.pixels import CHANNELS

POOLINGS = ("mean", "first")


@dataclasses.dataclass(frozen=True)
class TextPretrainingConfig:
    """Attributes:
    encoder: the stack of the text encoder, as a generator's `model.encoder`.
    image_encoder: the stack of the tower that reads pictures; None: there are none.
    image_size: (height, width) in pixels.
    patch_size: side of the square patches.
    embedding_dim: of the embeddings of texts and pictures.
    pooling: a text's embedding is of the mean over its pieces (mean), or of the first (first).
    temperature: the initial one of the contrastive loss; 0.07 in CLIP.
    """

    encoder: TransformerConfig
    image_encoder: TransformerConfig | None = None
    image_size: tuple[int, int] = (256, 256)
    patch_size: int = 16
    embedding_dim: int = 512
    pooling: str = "mean"
    temperature: float = 0.07

    def __post_init__(self):
        for name in ("patch_size", "embedding_dim"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} is {value}; at least 1 is needed")
        require(
            min(self.image_size) > 0 and not any(s % self.patch_size for s in self.image_size),
            f"model.image_size is {self.image_size}, which patch_size={self.patch_size} does not "
            f"divide; choose multiples of {self.patch_size}",
        )
        require_choice(self, "pooling", POOLINGS)
        require(
            self.temperature > 0,
            f"model.temperature is {self.temperature}; a positive number is needed",
        )

    def tiny(self) -> "TextPretrainingConfig":
        """The same for a first run."""
        tower = None if self.image_encoder is None else self.image_encoder.tiny()
        small = {"image_size": (32, 32), "patch_size": 8, "embedding_dim": 16}
        return dataclasses.replace(self, encoder=self.encoder.tiny(), image_encoder=tower, **small)


class PieceHead(nn.Module):
    """States [B, K, D] -> logits of the pieces that stood there, float32 [B, K, V].

    A product, GELU and LayerNorm before the softmax, as in BERT's code. Its weights are its own and
    not the pieces' vectors: of a deviation of 0.5 or 1, as a condition may ask for, tied logits
    would begin at many times what a softmax learns from.
    """

    dim: int
    vocab_size: int

    @nn.compact
    def __call__(self, x_BKD: jax.Array) -> jax.Array:
        shape, axes = (self.dim, self.dim), ("embed", None)
        x_BKD = Einsum("BTD,DE->BTE", shape, axes, bias=True, name="product")(x_BKD)
        x_BKD = LayerNorm(name="norm")(ACTIVATIONS["gelu"](x_BKD))
        return Logits.make(self.dim, self.vocab_size, bias=True, name="logits")(x_BKD)


class TextPretraining(nn.Module):
    """The text encoder with what trains it.

    Attributes:
      config: the section `model`.
      condition: the texts that it reads.
      masked: there is a head for pieces that were masked.
      contrastive: there is a tower that reads pictures.
    """

    config: TextPretrainingConfig
    condition: TextCondition
    masked: bool
    contrastive: bool

    def setup(self):
        config, dim = self.config, self.config.encoder.dim
        self.text_encoder = TextEncoder(config.encoder, self.condition)
        if self.masked:
            # Beside the pieces' vectors, not one of them: a generator never reads it.
            init = nn.initializers.normal(self.condition.stddev)
            self.mask = self.param("mask", nn.with_logical_partitioning(init, ("embed",)), (dim,))
            self.piece_head = PieceHead(dim, self.condition.vocab_size)
        if self.contrastive:
            tower = config.image_encoder
            self.image_encoder = ImageEncoder(tower, config.image_size, config.patch_size)
            out, axes = config.embedding_dim, ("embed", "code_dim")
            self.to_image_embedding = Einsum("BD,DQ->BQ", (tower.dim, out), axes)
            self.to_text_embedding = Einsum("BD,DQ->BQ", (dim, out), axes)
            initial = nn.initializers.constant(math.log(config.temperature))
            self.log_temperature = self.param(
                "log_temperature", nn.with_logical_partitioning(initial, ()), ()
            )

    def __call__(self, text_BS: jax.Array, images: jax.Array) -> None:
        """Whatever there is, so that parameters are made."""
        if self.masked:
            self.piece_logits(text_BS, text_BS > 0, jnp.zeros_like(text_BS[:, :1]))
        if self.contrastive:
            self.embed_images(images), self.embed_text(text_BS)

    def piece_logits(
        self,
        text_BS: jax.Array,
        hidden_BS: jax.Array,
        places_BK: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the pieces at K places of each text, float32 [B, K, V].

        Args:
          text_BS: int32, what is read; zero is padding.
          hidden_BS: bool, where the mask is read.
          places_BK: int32 in [0, S).
          keys: of dropout, one per example; None: no dropout.
        """
        x_BSD = self.text_encoder(text_BS, keys, hidden_BS, self.mask)
        x_BKD = jnp.take_along_axis(x_BSD, places_BK[..., None], axis=1)
        return self.piece_head(x_BKD)

    def text_features(self, text_BS: jax.Array) -> jax.Array:
        """The encoder's output, the mean over pieces: int32 [B, S] -> float32 [B, D]."""
        return mean_over_pieces(self.text_encoder(text_BS), text_BS)

    def embed_text(self, text_BS: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """int32 [B, S] -> float32 [B, Q] of length one."""
        x_BSD = self.text_encoder(text_BS, keys)
        if self.config.pooling == "first":
            pooled_BD = x_BSD[:, 0]
        else:
            pooled_BD = mean_over_pieces(x_BSD, text_BS)
        return unit(self.to_text_embedding(pooled_BD))

    def embed_images(self, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> float32 [B, Q] of length one."""
        pooled_BD = jnp.mean(self.image_encoder(images, keys), axis=1)
        return unit(self.to_image_embedding(pooled_BD))

    def pair(
        self, images: jax.Array, text_BS: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Embeddings of pictures and of texts, each [B, Q], and the learned temperature, []."""
        image_BQ = self.embed_images(images, fold(keys, 0))
        text_BQ = self.embed_text(text_BS, fold(keys, 1))
        return image_BQ, text_BQ, jnp.exp(self.log_temperature)


@dataclasses.dataclass(frozen=True)
class TextPretrainer:
    """The same as pure functions of its parameters."""

    config: TextPretrainingConfig
    condition: TextCondition
    masked: bool
    contrastive: bool

    @property
    def network(self) -> TextPretraining:
        return TextPretraining(self.config, self.condition, self.masked, self.contrastive)

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes."""
        text_BS = jnp.zeros((1, self.condition.length), jnp.int32)
        images = jnp.zeros((1, *self.config.image_size, CHANNELS), jnp.float32)
        return self.network.init(key, text_BS, images)["params"]

    def piece_logits(self, params: Any, *inputs: Any) -> jax.Array:
        """See `TextPretraining.piece_logits`."""
        return self._apply(params, "piece_logits", *inputs)

    def pair(self, params: Any, *inputs: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `TextPretraining.pair`."""
        return self._apply(params, "pair", *inputs)

    def text_features(self, params: Any, text_BS: jax.Array) -> jax.Array:
        """See `TextPretraining.text_features`."""
        return self._apply(params, "text_features", text_BS)

    def _apply(self, params: Any, method: str, *inputs: Any) -> Any:
        return self.network.apply({"params": params}, *inputs, method=method)
