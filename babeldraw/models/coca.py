"""CoCa: one network that says how well a picture and a text agree, and that captions pictures.

Yu et al., "CoCa: Contrastive Captioners are Image-Text Foundation Models", 2022 (arXiv 2205.01917).
The text decoder is cut in two: its first half reads text alone and ends in a class token, whose
output is the text's embedding; the second half also attends to the picture and predicts the text.
What the paper leaves open is in `docs/unconfirmed.md`.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.attention import Attention
from babeldraw.layers.block import (
    DTYPES,
    TransformerConfig,
    decoder_parts,
    empty_caches,
    encoder_parts,
    make_stack,
    through,
)
from babeldraw.layers.dropout import fold
from babeldraw.layers.linear import Einsum, Embedding, LayerNorm, Logits
from babeldraw.layers.masks import Causal, dense_mask
from babeldraw.layers.positions import LearnedPositions, at_slot
from babeldraw.models.conditions import ImageCondition
from babeldraw.models.head import token_nll
from babeldraw.models.image_encoder import ImageEncoder, unit
from babeldraw.models.sequential import Sequential
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample
from babeldraw.tokenizers.base import Codes
from babeldraw.tokenizers.pixels import CHANNELS

# Rows of the table of marks.
START, CLASS = 0, 1
STACKS = ("image_encoder", "unimodal", "multimodal")


@dataclasses.dataclass(frozen=True)
class CoCaConfig:
    """Attributes:
    image_encoder, unimodal, multimodal: the three stacks, of the same `dim`.
    image_size: (height, width) in pixels; 288 x 288 in the paper.
    patch_size: side of the square patches, 18 in the paper.
    text_vocab_size: pieces of the text vocabulary; 64,000 in the paper.
    text_length: tokens of a text; longer ones are cut.
    queries: vectors that the picture is pooled to for the multimodal decoder; 256 in the paper.
    embedding_dim: of the two embeddings.
    temperature: the initial one of the contrastive loss; 0.07 in the paper.
    """

    image_encoder: TransformerConfig
    unimodal: TransformerConfig
    multimodal: TransformerConfig
    image_size: tuple[int, int] = (288, 288)
    patch_size: int = 18
    text_vocab_size: int = 64_000
    text_length: int = 128
    queries: int = 256
    embedding_dim: int = 768
    temperature: float = 0.07

    def __post_init__(self):
        dims = {name: getattr(self, name).dim for name in STACKS}
        shown = ", ".join(f"model.{name}.dim={dim}" for name, dim in dims.items())
        require(
            len(set(dims.values())) == 1,
            f"{shown}: each stack reads what another gives, so all three must be equal",
        )
        for name in ("patch_size", "text_vocab_size", "text_length", "queries", "embedding_dim"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} is {value}; at least 1 is needed")
        require(
            min(self.image_size) > 0 and not any(s % self.patch_size for s in self.image_size),
            f"model.image_size is {self.image_size}, which patch_size={self.patch_size} does not "
            f"divide; choose multiples of {self.patch_size}",
        )
        require(
            self.temperature > 0,
            f"model.temperature is {self.temperature}; a positive number is needed",
        )

    def tiny(self) -> "CoCaConfig":
        """The same for a first run."""
        stacks = {name: getattr(self, name).tiny() for name in STACKS}
        small = {"image_size": (32, 32), "patch_size": 8, "queries": 4, "embedding_dim": 16}
        text = {"text_vocab_size": 100, "text_length": 32}
        return dataclasses.replace(self, **stacks, **small, **text)

    @property
    def dim(self) -> int:
        return self.image_encoder.dim

    @property
    def grid(self) -> tuple[int, int]:
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


@flax.struct.dataclass
class Agreement:
    """What the network says of B pictures and B texts.

    Attributes:
      image_BQ, text_BQ: embeddings of length one, float32.
      logits_BSV: of each token of the text, given the picture and the tokens before it, float32.
      temperature: of the contrastive loss, float32 scalar.
    """

    image_BQ: jax.Array
    text_BQ: jax.Array
    logits_BSV: jax.Array
    temperature: jax.Array


class AttentionalPooler(nn.Module):
    """Learned queries that look at a source once: [B, S, D] -> float32 [B, T, D].

    Attributes:
      config: heads, width and type of the attention.
      queries: T.
    """

    config: TransformerConfig
    queries: int

    @nn.compact
    def __call__(self, source_BSD: jax.Array) -> jax.Array:
        config, dtype = self.config, DTYPES[self.config.compute.dtype]
        # As long as a normalised vector, so that the queries differ from the start.
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("position", "embed"))
        query_TD = self.param("queries", init, (self.queries, config.dim))
        query_BTD = jnp.broadcast_to(query_TD[None], (source_BSD.shape[0], *query_TD.shape))
        attention = Attention(config.heads, config.head_dim, config.dim, dtype, name="attention")
        return LayerNorm(name="norm")(attention(query_BTD, source_BSD, None))


class UnimodalDecoder(nn.Module):
    """int32 [B, S] -> the residual stream of S + 2 slots, [B, S + 2, D].

    Slot 0 is a learned start, slot t holds token t - 1, the last one is the class token. A slot
    sees those before it and no padding; so slot t < S may predict token t.
    """

    config: CoCaConfig

    def setup(self):
        config = self.config
        self.embed = Embedding(config.text_vocab_size, config.dim)
        self.marks = Embedding(2, config.dim, axis=None)
        self.positions = LearnedPositions(config.text_length + 2, config.dim)
        self.stack = make_stack(encoder_parts(config.unimodal, Causal()), config.unimodal)

    def __call__(self, text_BS: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        x_BSD = self.embed(text_BS)
        start_B1D, class_B1D = (self._mark(mark, text_BS.shape[0]) for mark in (START, CLASS))
        x_BTD = jnp.concatenate([start_B1D, x_BSD, class_B1D], axis=1) + self.positions()[None]
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        return self.stack(x_BTD, {"mask": PerExample(slot_mask(text_BS))}, keys=keys)

    def step(
        self, token_B: jax.Array, index: jax.Array, caches: tuple[Any, ...]
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """Slot `index` < S, given token `index - 1`: no padding comes before a text's end."""
        x_B1D, first = self.embed(token_B)[:, None], index[..., None, None] == 0
        start_B1D = self._mark(START, token_B.shape[0])
        x_B1D = jnp.where(jnp.broadcast_to(first, x_B1D.shape), start_B1D, x_B1D)
        x_B1D = x_B1D + at_slot(self.positions(), index)
        return through(self.stack, x_B1D, caches, index, {})

    def _mark(self, mark: int, rows: int) -> jax.Array:
        return self.marks(jnp.full((rows, 1), mark, jnp.int32))


def slot_mask(text_BS: jax.Array) -> jax.Array:
    """bool [B, 1, T, T] for the slots of `UnimodalDecoder`: causal, and nobody sees padding."""
    real_BT = jnp.pad(text_BS != 0, ((0, 0), (1, 1)), constant_values=True)
    causal_TT = dense_mask(Causal(), real_BT.shape[1])
    return causal_TT[None, None] & real_BT[:, None, None, :]


class MultimodalDecoder(nn.Module):
    """Slots of text [B, S, D] and a pooled picture [B, T, D] -> logits, float32 [B, S, V].

    Its blocks are those of an image decoder with the sides exchanged.
    """

    config: CoCaConfig

    def setup(self):
        config = self.config.multimodal
        self.stack = make_stack(decoder_parts(config, Causal(), "picture"), config)
        self.norm = LayerNorm()
        self.logits = Logits.make(config.dim, self.config.text_vocab_size)

    def __call__(
        self, x_BSD: jax.Array, picture_BTD: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        # No slot before the end of a text sees the padding after it.
        picture = PerExample(picture_BTD.astype(self.stack.dtype))
        return self.logits(self.norm(self.stack(x_BSD, {"picture": picture}, keys=keys)))

    def step(
        self, x_B1D: jax.Array, index: jax.Array, caches: tuple[Any, ...]
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """The output of slot `index`, float32 [B, 1, D]."""
        x_B1D, caches = through(self.stack, x_B1D, caches, index, {})
        return self.norm(x_B1D), caches


class CoCa(nn.Module):
    """The contrastive captioner."""

    config: CoCaConfig

    def setup(self):
        config = self.config
        self.image_encoder = ImageEncoder(
            config.image_encoder, config.image_size, config.patch_size
        )
        self.unimodal = UnimodalDecoder(config)
        self.multimodal = MultimodalDecoder(config)
        # The paper's cascade: the contrastive query looks at what was pooled for captions.
        self.caption_pooler = AttentionalPooler(config.image_encoder, config.queries)
        self.contrastive_pooler = AttentionalPooler(config.image_encoder, 1)
        self.class_norm = LayerNorm()
        shape, axes = (config.dim, config.embedding_dim), ("embed", "code_dim")
        self.to_image_embedding = Einsum("BD,DQ->BQ", shape, axes)
        self.to_text_embedding = Einsum("BD,DQ->BQ", shape, axes)
        initial = nn.initializers.constant(math.log(config.temperature))
        self.log_temperature = self.param(
            "log_temperature", nn.with_logical_partitioning(initial, ()), ()
        )

    def __call__(
        self, images: jax.Array, text_BS: jax.Array, keys: jax.Array | None = None
    ) -> Agreement:
        """Both embeddings of each pair, and the captions' logits.

        Args:
          images: float32 [B, height, width, 3] in [0, 1].
          text_BS: int32, zero is padding.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.
        """
        picture_BTD = self._pool(images, fold(keys, 0))
        slots_BTD = self.unimodal(text_BS, fold(keys, 1))
        return Agreement(
            image_BQ=self._image_embedding(picture_BTD),
            text_BQ=self._text_embedding(slots_BTD),
            logits_BSV=self.multimodal(slots_BTD[:, :-2], picture_BTD, fold(keys, 2)),
            temperature=jnp.exp(self.log_temperature),
        )

    def caption_nll(
        self,
        images: jax.Array,
        text_BS: jax.Array,
        keys: jax.Array | None = None,
        read: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each token and of the padding after them; see `Sequential.nll`."""
        seen_BS = text_BS if read is None else read
        logits_BSV = self(images, seen_BS, keys).logits_BSV
        return token_nll(logits_BSV, text_BS), jnp.argmax(logits_BSV, axis=-1) == text_BS

    def caption_logits(self, images: jax.Array, text_BS: jax.Array) -> jax.Array:
        return self(images, text_BS).logits_BSV

    def read(self, images: jax.Array) -> jax.Array:
        """What the captions see of pictures, [B, T, D]."""
        return self._pool(images).astype(self.multimodal.stack.dtype)

    def start(self, picture_PTD: jax.Array, samples: int = 1) -> tuple[Any, Any]:
        rows, length = picture_PTD.shape[0] * samples, self.config.text_length
        context = {"picture": picture_PTD}
        text = empty_caches(self.unimodal.stack, {}, rows, length)
        return text, empty_caches(self.multimodal.stack, context, rows, length)

    def step(
        self, token_B: jax.Array, index: jax.Array, caches: tuple[Any, Any]
    ) -> tuple[jax.Array, tuple[Any, Any]]:
        x_B1D, text = self.unimodal.step(token_B, index, caches[0])
        x_B1D, both = self.multimodal.step(x_B1D, index, caches[1])
        return x_B1D, (text, both)

    def next_logits(self, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        del earlier
        return self.multimodal.logits(x_B1D)

    def embed_images(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> float32 [B, Q] of length one."""
        return self._image_embedding(self._pool(images))

    def embed_text(self, text_BS: jax.Array) -> jax.Array:
        """int32 [B, S] -> float32 [B, Q] of length one."""
        return self._text_embedding(self.unimodal(text_BS))

    def _pool(self, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.caption_pooler(self.image_encoder(images, keys))

    def _image_embedding(self, picture_BTD: jax.Array) -> jax.Array:
        pooled_BD = self.contrastive_pooler(picture_BTD)[:, 0]
        return unit(self.to_image_embedding(pooled_BD))

    def _text_embedding(self, slots_BTD: jax.Array) -> jax.Array:
        return unit(self.to_text_embedding(self.class_norm(slots_BTD[:, -1])))


@dataclasses.dataclass(frozen=True)
class ContrastiveCaptioner:
    """A CoCa as pure functions of its parameters: what training and reranking call."""

    config: CoCaConfig

    @property
    def network(self) -> CoCa:
        return CoCa(self.config)

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes."""
        images = jnp.zeros((1, *self.config.image_size, CHANNELS), jnp.float32)
        text_BS = jnp.zeros((1, self.config.text_length), jnp.int32)
        return self.network.init(key, images, text_BS)["params"]

    def __call__(
        self, params: Any, images: jax.Array, text_BS: jax.Array, keys: jax.Array | None = None
    ) -> Agreement:
        return self.network.apply({"params": params}, images, text_BS, keys)

    def embed_images(self, params: Any, images: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, images, method="embed_images")

    def embed_text(self, params: Any, text_BS: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, text_BS, method="embed_text")


@dataclasses.dataclass(frozen=True)
class Captioner(Sequential):
    """The same network as one that draws texts from pictures: captioning is drawing a text.

    The padding behind a text is its end.
    """

    config: CoCaConfig

    @property
    def condition(self) -> ImageCondition:
        return ImageCondition(self.config.image_size)

    @property
    def codes(self) -> Codes:
        return Codes((self.config.text_length,), (self.config.text_vocab_size,), end=0)

    @property
    def network(self) -> CoCa:
        return CoCa(self.config)

    def nll(
        self,
        params: Any,
        condition: jax.Array,
        codes: jax.Array,
        keys: jax.Array | None = None,
        read: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        return self._call("caption_nll", params, condition, codes, keys, read)

    def logits(self, params: Any, condition: jax.Array, codes: jax.Array) -> jax.Array:
        return self._call("caption_logits", params, condition, codes)
