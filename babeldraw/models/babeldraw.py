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

from babeldraw.config import require
from babeldraw.layers.block import (
    DTYPES,
    TransformerConfig,
    decoder_parts,
    empty_caches,
    make_stack,
    through,
)
from babeldraw.layers.dropout import fold
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import LayerNorm
from babeldraw.layers.masks import AttentionConfig, padding_mask
from babeldraw.layers.positions import GridPositions, at_slot
from babeldraw.layers.stack import read_type
from babeldraw.models.conditions import TextCondition
from babeldraw.models.head import CodeEmbedding, Head
from babeldraw.models.sequential import Sequential
from babeldraw.models.text_encoder import TextEncoder, mean_over_pieces
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True)
class BabeldrawConfig:
    """Attributes:
    encoder, decoder: the two stacks, of the same `dim`.
    attention: which image tokens an image token sees; it sees all of the text.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    attention: AttentionConfig = AttentionConfig()
    kind: str = "babeldraw"

    def __post_init__(self):
        require(
            self.encoder.dim == self.decoder.dim,
            f"model.encoder.dim is {self.encoder.dim} and model.decoder.dim {self.decoder.dim}; "
            "the decoder reads the encoder's output, so both must be equal",
        )

    def tiny(self) -> "BabeldrawConfig":
        """The same for a first run."""
        sides = {"encoder": self.encoder.tiny(), "decoder": self.decoder.tiny()}
        return dataclasses.replace(self, **sides)


@flax.struct.dataclass
class Text:
    """A text that was read: float32 [B, S, D], and which pieces are there, bool [B, 1, 1, S]."""

    states_BSD: jax.Array
    mask: jax.Array


@flax.struct.dataclass
class Cache:
    """What decoding keeps between steps: a cache per block and the text's mask."""

    blocks: tuple[Any, ...]
    text_mask: jax.Array


class ImageDecoder(nn.Module):
    """What predicts each code from those before it, whole sequences or one step at a time.

    Slot t holds code t - 1 (slot 0 a learned start) and predicts code t; positions belong to
    slots.
    """

    config: BabeldrawConfig
    codes: Codes

    def setup(self):
        config = self.config.decoder
        pattern = self.config.attention.make(self.codes.shape, config.blocks)
        # One more row than codes: the start of the sequence.
        self.embed = CodeEmbedding(self.codes, config.dim, more=1, axis=None)
        self.positions = GridPositions(self.codes.shape, config.dim)
        self.stack = make_stack(decoder_parts(config, pattern, "text"), config)
        self.norm = LayerNorm()
        self.logits = Head(self.codes, config.dim)

    def __call__(self, codes: jax.Array, text: Text, keys: jax.Array | None = None) -> jax.Array:
        """The output of each slot, float32 [B, T, D]."""
        x_BTD = self.embed.after(codes)
        x_BTD = x_BTD + self.positions()[None, : x_BTD.shape[1]]
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        # Read by every block: kept in the blocks' own type.
        text_BSD = text.states_BSD.astype(self.stack.dtype)
        context = {"text": PerExample(text_BSD), "text_mask": PerExample(text.mask)}
        return self.norm(self.stack(x_BTD, context, keys=fold(keys, 1)))

    def empty_cache(self, text: Text, samples: int) -> Cache:
        rows = text.states_BSD.shape[0] * samples
        context = {"text": text.states_BSD}
        blocks = empty_caches(self.stack, context, rows, self.codes.length)
        return Cache(blocks=blocks, text_mask=text.mask)

    def step(self, codes: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        x_B1D = self.embed.before(codes, index)[:, None] + at_slot(self.positions(), index)
        context = {"text_mask": cache.text_mask}
        x_B1D, blocks = through(self.stack, x_B1D, cache.blocks, index, context)
        return self.norm(x_B1D), cache.replace(blocks=blocks)


class Babeldraw(nn.Module):
    """The encoder-decoder."""

    config: BabeldrawConfig
    condition: TextCondition
    codes: Codes

    def setup(self):
        self.text_encoder = TextEncoder(self.config.encoder, self.condition)
        self.image_decoder = ImageDecoder(self.config, self.codes)

    def __call__(
        self,
        text_BS: jax.Array,
        codes: jax.Array,
        keys: jax.Array | None = None,
        read: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code given the text and the codes before it; see `Head.nll`.

        Args:
          text_BS: int32, zero is padding; all padding is the empty prompt.
          codes: of pictures, in raster order; place t does not see code t.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.
          read: the codes that are seen before each; None: the same.
        """
        seen = codes if read is None else read
        x_BTD = self.image_decoder(seen, self.read(text_BS, keys), keys)
        return self.image_decoder.logits.nll(x_BTD, codes)

    def first_logits(self, text_BS: jax.Array, codes: jax.Array) -> jax.Array:
        """Of the first factor of each code, float32 [B, T, V]."""
        return self.image_decoder.logits.logits(self.image_decoder(codes, self.read(text_BS)))

    def read(self, text_BS: jax.Array, keys: jax.Array | None = None) -> Text:
        return Text(self.text_encoder(text_BS, keys), padding_mask(text_BS))

    def start(self, text: Text, samples: int = 1) -> Cache:
        return self.image_decoder.empty_cache(text, samples)

    def step(self, codes: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        return self.image_decoder.step(codes, index, cache)

    def next_logits(self, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        return self.image_decoder.logits.logits(x_B1D, earlier)


@dataclasses.dataclass(frozen=True)
class BabeldrawGenerator(Sequential):
    """A Babeldraw as pure functions of its parameters; see `Generator` and `Sequential`."""

    config: BabeldrawConfig
    condition: TextCondition
    codes: Codes

    word_table = "text_encoder/embed/table"

    def check(self) -> None:
        super().check()
        require(
            self.condition.kind == "text",
            f"config.condition.kind is {self.condition.kind!r} and config.model.kind babeldraw, "
            "whose encoder reads texts; take text, or model.kind=vim",
        )

    @property
    def network(self) -> Babeldraw:
        return Babeldraw(self.config, self.condition, self.codes)

    def for_reading(self, params: Any) -> Any:
        stacks = {"text_encoder": self.config.encoder, "image_decoder": self.config.decoder}
        return {
            room: {
                **params[room],
                "stack": read_type(params[room]["stack"], DTYPES[config.compute.dtype]),
            }
            for room, config in stacks.items()
        }

    def text_features(self, params: Any, text_BS: jax.Array) -> jax.Array:
        """What the encoder makes of texts, the mean over their pieces: float32 [B, D]."""
        return mean_over_pieces(self.read(params, text_BS).states_BSD, text_BS)

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"encoder": self.config.encoder, "decoder": self.config.decoder}

    def flops(self) -> dict[str, tuple[int, str]]:
        text, tokens, decoder = self.condition.length, self.codes.length, self.config.decoder
        return {
            "text encoder": (
                blocks_forward(self.config.encoder, text),
                "blocks (8 S D^2 + 4 S^2 D + 4 S D F)",
            ),
            "image decoder": (
                blocks_forward(decoder, tokens, causal=True, context=text),
                "blocks (8 T D^2 + 2 T^2 D + 4 T D F + 4 (T + S) D^2 + 4 T S D)",
            ),
            "logits": (2 * tokens * decoder.dim * self.codes.entries, "(2 T D V)"),
        }
