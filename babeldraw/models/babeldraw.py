"""Babeldraw (published as Parti): a text encoder and an autoregressive decoder of image tokens.

Yu et al., "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation", 2022, and its
patent. What neither states (norm placement, positions, untied softmax) follows the published
parameter counts: see `docs/unconfirmed.md`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require
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
from babeldraw.layers.linear import Embedding, LayerNorm, Logits
from babeldraw.layers.masks import AttentionConfig, padding_mask
from babeldraw.layers.positions import GridPositions, LearnedPositions, at_slot
from babeldraw.layers.stack import read_type, unstack
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True)
class BabeldrawConfig:
    """Attributes:
    encoder, decoder: the two stacks, of the same `dim`.
    text_vocab_size: pieces of the text vocabulary; 16,000 in the paper.
    text_length: tokens of a prompt; longer prompts are cut. 128 in the paper.
    attention: which image tokens an image token sees; it sees all of the text.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    text_vocab_size: int = 16_000
    text_length: int = 128
    attention: AttentionConfig = AttentionConfig()

    def __post_init__(self):
        require(
            self.encoder.dim == self.decoder.dim,
            f"model.encoder.dim is {self.encoder.dim} and model.decoder.dim {self.decoder.dim}; "
            "the decoder reads the encoder's output, so both must be equal",
        )
        for name in ("text_vocab_size", "text_length"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} is {value}; at least 1 is needed")


@flax.struct.dataclass
class Cache:
    """What decoding keeps between steps: a cache per block and the text's mask."""

    blocks: tuple[Any, ...]
    text_mask: jax.Array


class TextEncoder(nn.Module):
    """int32 [B, S] -> float32 [B, S, D], with a LayerNorm after the stack."""

    config: BabeldrawConfig

    @nn.compact
    def __call__(self, text_BS: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        config = self.config.encoder
        x_BSD = Embedding(self.config.text_vocab_size, config.dim, name="embed")(text_BS)
        positions_SD = LearnedPositions(self.config.text_length, config.dim, name="positions")()
        x_BSD = x_BSD + positions_SD[None, : text_BS.shape[1]]
        x_BSD = constrain(x_BSD, ("batch", "length", "activation_embed"))
        stack = make_stack(encoder_parts(config), config, "stack")
        seen = {"mask": PerExample(padding_mask(text_BS))}
        x_BSD = stack(x_BSD, seen, keys=fold(keys, 0))
        return LayerNorm(name="norm")(x_BSD)


class ImageDecoder(nn.Module):
    """Next-token logits, whole sequences or one step at a time.

    Slot t holds token t - 1 (slot 0 a learned start) and predicts token t; positions belong to
    slots.
    """

    config: BabeldrawConfig
    codes: Codes

    def setup(self):
        config = self.config.decoder
        pattern = self.config.attention.make(self.codes.shape, config.blocks)
        # One more row than codes: the start of the sequence.
        self.embed = Embedding(self.codes.vocab_size + 1, config.dim, axis=None)
        self.positions = GridPositions(self.codes.shape, config.dim)
        self.stack = make_stack(decoder_parts(config, pattern, "text"), config)
        self.norm = LayerNorm()
        self.logits = Logits.make(config.dim, self.codes.vocab_size)

    def __call__(
        self,
        image_BT: jax.Array,
        text_BSD: jax.Array,
        text_mask: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        start_B1 = jnp.full((image_BT.shape[0], 1), self.codes.vocab_size, jnp.int32)
        slots_BT = jnp.concatenate([start_B1, image_BT[:, :-1]], axis=1)
        x_BTD = self.embed(slots_BT) + self.positions()[None, : image_BT.shape[1]]
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        # Read by every block: kept in the blocks' own type.
        text_BSD = text_BSD.astype(self.stack.dtype)
        context = {"text": PerExample(text_BSD), "text_mask": PerExample(text_mask)}
        x_BTD = self.stack(x_BTD, context, keys=fold(keys, 1))
        return self.logits(self.norm(x_BTD))

    def empty_cache(self, text_PSD: jax.Array, text_mask: jax.Array, samples: int) -> Cache:
        rows = text_PSD.shape[0] * samples
        blocks = empty_caches(self.stack, {"text": text_PSD}, rows, self.codes.length)
        return Cache(blocks=blocks, text_mask=text_mask)

    def step(self, token_B: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        token_B = jnp.where(index == 0, self.codes.vocab_size, token_B)
        x_B1D = self.embed(token_B)[:, None] + at_slot(self.positions(), index)
        context = {"text_mask": cache.text_mask}
        x_B1D, blocks = through(self.stack, x_B1D, cache.blocks, index, context)
        logits_BV = self.logits(self.norm(x_B1D))[:, 0]
        return logits_BV, cache.replace(blocks=blocks)


class Babeldraw(nn.Module):
    """The encoder-decoder; logits are float32."""

    config: BabeldrawConfig
    codes: Codes

    def setup(self):
        self.text_encoder = TextEncoder(self.config)
        self.image_decoder = ImageDecoder(self.config, self.codes)

    def __call__(
        self, text_BS: jax.Array, image_BT: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits of each image token given the text and the tokens before it.

        Args:
          text_BS: int32, zero is padding; all padding is the empty prompt.
          image_BT: int32 image tokens in raster order; position t does not see token t.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.

        Returns:
          float32 [B, T, V].
        """
        text_BSD = self.text_encoder(text_BS, keys)
        return self.image_decoder(image_BT, text_BSD, padding_mask(text_BS), keys)

    def start(self, text_PS: jax.Array, samples: int = 1) -> Cache:
        """Encodes P texts once and makes an empty cache for `samples` pictures of each.

        A batch has P * samples rows then, those of one text together.
        """
        text_PSD = self.text_encoder(text_PS)
        return self.image_decoder.empty_cache(text_PSD, padding_mask(text_PS), samples)

    def step(self, token_B: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Logits of token `index`, float32 [B, V], given token `index - 1` and the cache.

        `index` is int32 in [0, T), [] or [B]; at 0 the given token is ignored.
        """
        return self.image_decoder.step(token_B, index, cache)


@dataclasses.dataclass(frozen=True)
class Generator:
    """A Babeldraw as pure functions of its parameters: what training and sampling call.

    Attributes:
      config: sizes of the network.
      codes: what it predicts, from the tokenizer.
    """

    config: BabeldrawConfig
    codes: Codes

    @property
    def network(self) -> Babeldraw:
        return Babeldraw(self.config, self.codes)

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes."""
        text_BS = jnp.zeros((1, self.config.text_length), jnp.int32)
        image_BT = jnp.zeros((1, self.codes.length), jnp.int32)
        return self.network.init(key, text_BS, image_BT)["params"]

    def for_decoding(self, params: Any) -> Any:
        """`params` as decoding reads them best: cut by layers, matrices in their compute type."""
        return unstack(self.for_reading(params))

    def for_reading(self, params: Any) -> Any:
        """`params` with the stacks' matrices in their compute type."""
        stacks = {"text_encoder": self.config.encoder, "image_decoder": self.config.decoder}
        return {
            room: {**params[room], "stack": read_type(params[room]["stack"], DTYPES[config.dtype])}
            for room, config in stacks.items()
        }

    def logits(self, params: Any, text_BS: jax.Array, image_BT: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, text_BS, image_BT)

    def start(self, params: Any, text_PS: jax.Array, samples: int = 1) -> Cache:
        return self.network.apply({"params": params}, text_PS, samples, method="start")

    def unconditional(self, text_PS: jax.Array) -> jax.Array:
        """The prompts' place without prompts: nothing but padding."""
        return jnp.zeros_like(text_PS)

    def step(
        self, params: Any, token_B: jax.Array, index: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        return self.network.apply({"params": params}, token_B, index, cache, method="step")
