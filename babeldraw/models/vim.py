"""VIM: one stack of causal blocks over image tokens, after a class, after nothing or after a text.

Yu et al., "Vector-quantized Image Modeling with Improved VQGAN", ICLR 2022, section 4. What comes
before the image, the prefix, is all in which the three differ: one vector per class (paper, Figure
2 and section 4.2), the same vector for every picture, or the tokens of a text. The last slot of the
prefix predicts the first image token.
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
    Residual,
    TransformerConfig,
    empty_caches,
    feed_forward,
    make_stack,
    self_attention,
    through,
)
from babeldraw.layers.linear import Embedding, LayerNorm, Logits
from babeldraw.layers.masks import Causal
from babeldraw.layers.positions import GridPositions, LearnedPositions, at_slot
from babeldraw.layers.stack import read_type, unstack
from babeldraw.sharding.constraint import constrain
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True)
class VIMConfig:
    """Attributes:
    decoder: the stack.
    num_classes: 1,000 for ImageNet; 0: unconditional. There is one more class than these, the
      no-class, `num_classes` by number: it draws without condition.
    """

    decoder: TransformerConfig
    num_classes: int = 0

    def __post_init__(self):
        require(
            self.num_classes >= 0,
            f"model.num_classes is {self.num_classes}; at least 0 is needed (0 is unconditional)",
        )


@dataclasses.dataclass(frozen=True)
class TextVIMConfig:
    """The same network after a text, to be compared with the encoder-decoder.

    Attributes:
      decoder: the stack.
      text_vocab_size: pieces of the text vocabulary.
      text_length: tokens of a prompt; longer prompts are cut, shorter ones padded. Padding is a
        token like others: nothing but padding is the empty prompt.
    """

    decoder: TransformerConfig
    text_vocab_size: int = 16_000
    text_length: int = 128

    def __post_init__(self):
        for name in ("text_vocab_size", "text_length"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} is {value}; at least 1 is needed")


@flax.struct.dataclass
class Cache:
    """What decoding keeps between steps: a cache per block, and the prefix's last slot [B, D]."""

    blocks: tuple[Any, ...]
    last_BD: jax.Array


class ClassPrefix(nn.Module):
    """int32 [B] in [0, num_classes] -> float32 [B, 1, D], from a table of its own."""

    num_classes: int
    dim: int

    @nn.compact
    def __call__(self, class_B: jax.Array) -> jax.Array:
        return Embedding(self.num_classes + 1, self.dim, axis=None, name="embed")(class_B)[:, None]


class TextPrefix(nn.Module):
    """int32 [B, S] -> float32 [B, S, D]: tokens plus positions."""

    config: TextVIMConfig

    @nn.compact
    def __call__(self, text_BS: jax.Array) -> jax.Array:
        config, dim = self.config, self.config.decoder.dim
        positions_SD = LearnedPositions(config.text_length, dim, name="positions")()
        return Embedding(config.text_vocab_size, dim, name="embed")(text_BS) + positions_SD[None]


def causal_parts(config: TransformerConfig) -> tuple[Residual, ...]:
    """A decoder-only block's: causal self-attention and feed-forward, pre-norm.

    Dropout as in the paper: on the output of attention, on the feed-forward's activation and its
    output.
    """
    return (
        Residual("attention", self_attention(config, Causal()), "attention_norm"),
        Residual("ffn", feed_forward(config), "ffn_norm", hidden_dropout=True),
    )


class VIM(nn.Module):
    """Next-token logits, whole sequences or one step at a time; features of every block.

    After the P slots of the prefix, slot P + t holds image token t with its row and column, and
    predicts token t + 1. A condition is int32 [B], a class, or int32 [B, S], a text.
    """

    config: VIMConfig | TextVIMConfig
    codes: Codes

    def setup(self):
        config, decoder = self.config, self.config.decoder
        if isinstance(config, VIMConfig):
            self.prefix = ClassPrefix(config.num_classes, decoder.dim)
        else:
            self.prefix = TextPrefix(config)
        self.embed = Embedding(self.codes.vocab_size, decoder.dim)
        self.positions = GridPositions(self.codes.shape, decoder.dim)
        self.stack = make_stack(causal_parts(decoder), decoder)
        self.norm = LayerNorm()
        self.logits = Logits.make(decoder.dim, self.codes.vocab_size)

    def __call__(
        self, condition: jax.Array, image_BT: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits of each image token given the condition and the tokens before it.

        Args:
          condition: int32 [B] or [B, S].
          image_BT: int32 image tokens in raster order; position t does not see token t.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.

        Returns:
          float32 [B, T, V].
        """
        x_BTD = self.stack(self._slots(condition, image_BT[:, :-1]), keys=keys)
        # Slots before the prefix's last predict nothing.
        return self.logits(self.norm(x_BTD[:, -image_BT.shape[1] :]))

    def features(self, condition: jax.Array, image_BT: jax.Array) -> jax.Array:
        """What each block makes of a picture: its output, the mean over the image tokens.

        Section 5.3 of the paper. Number 0 is what the first block reads, tokens plus positions.

        Returns:
          float32 [B, L + 1, D].
        """
        x_BTD = self._slots(condition, image_BT).astype(self.stack.dtype)
        block, length = self.stack.block, image_BT.shape[1]

        def mean(x_BTD: jax.Array) -> jax.Array:
            return jnp.mean(x_BTD[:, -length:].astype(jnp.float32), axis=1)

        means = [mean(x_BTD)]
        for params in self.stack.layers():
            x_BTD = block.apply({"params": params}, x_BTD)
            means.append(mean(x_BTD))
        return jnp.stack(means, axis=1)

    def start(self, condition: jax.Array, samples: int = 1) -> Cache:
        """A cache for `samples` pictures of each condition, in which the prefix is but its end."""
        prefix_BPD = jnp.repeat(self.prefix(condition), samples, axis=0).astype(self.stack.dtype)
        batch, length = prefix_BPD.shape[0], prefix_BPD.shape[1] - 1
        blocks = empty_caches(self.stack, {}, batch, length + self.codes.length)

        def step(blocks, slot):
            index, x_BD = slot
            return through(self.stack, x_BD[:, None], blocks, index, {})[1], None

        slots = jnp.arange(length), prefix_BPD[:, :-1].swapaxes(0, 1)
        blocks, _ = jax.lax.scan(step, blocks, slots)
        return Cache(blocks=blocks, last_BD=prefix_BPD[:, -1])

    def step(self, token_B: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Logits of token `index`, float32 [B, V], given token `index - 1` and the cache.

        `index` is int32 in [0, T), [] or [B]; at 0 the given token is ignored.
        """
        position_B1D = at_slot(self.positions(), jnp.maximum(index - 1, 0))
        x_B1D = (self.embed(token_B)[:, None] + position_B1D).astype(self.stack.dtype)
        first = index[:, None, None] if index.ndim else index[None, None, None]
        x_B1D = jnp.where(jnp.broadcast_to(first == 0, x_B1D.shape), cache.last_BD[:, None], x_B1D)
        prefix = self.config.text_length if isinstance(self.config, TextVIMConfig) else 1
        x_B1D, blocks = through(self.stack, x_B1D, cache.blocks, prefix - 1 + index, {})
        return self.logits(self.norm(x_B1D))[:, 0], cache.replace(blocks=blocks)

    def _slots(self, condition: jax.Array, image_BT: jax.Array) -> jax.Array:
        """float32 [B, P + T, D]: the prefix, then the given image tokens."""
        image_BTD = self.embed(image_BT) + self.positions()[None, : image_BT.shape[1]]
        x_BTD = jnp.concatenate([self.prefix(condition), image_BTD], axis=1)
        return constrain(x_BTD, ("batch", "length", "activation_embed"))


@dataclasses.dataclass(frozen=True)
class Generator:
    """A VIM as pure functions of its parameters: what training and sampling call.

    Attributes:
      config: sizes of the network, and what it is conditioned on.
      codes: what it predicts, from the tokenizer.
    """

    config: VIMConfig | TextVIMConfig
    codes: Codes

    @property
    def network(self) -> VIM:
        return VIM(self.config, self.codes)

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes."""
        text = isinstance(self.config, TextVIMConfig)
        condition = jnp.zeros((1, self.config.text_length) if text else (1,), jnp.int32)
        image_BT = jnp.zeros((1, self.codes.length), jnp.int32)
        return self.network.init(key, condition, image_BT)["params"]

    def for_decoding(self, params: Any) -> Any:
        """`params` as decoding reads them best: cut by layers, matrices in their compute type."""
        return unstack(self.for_reading(params))

    def for_reading(self, params: Any) -> Any:
        """`params` with the stack's matrices in their compute type."""
        stack = read_type(params["stack"], DTYPES[self.config.decoder.dtype])
        return {**params, "stack": stack}

    def unconditional(self, condition: jax.Array) -> jax.Array:
        """As many conditions that say nothing: the no-class, or nothing but padding."""
        text = isinstance(self.config, TextVIMConfig)
        return jnp.full_like(condition, 0 if text else self.config.num_classes)

    def logits(self, params: Any, condition: jax.Array, image_BT: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, condition, image_BT)

    def features(self, params: Any, condition: jax.Array, image_BT: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, condition, image_BT, method="features")

    def start(self, params: Any, condition: jax.Array, samples: int = 1) -> Cache:
        return self.network.apply({"params": params}, condition, samples, method="start")

    def step(
        self, params: Any, token_B: jax.Array, index: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        return self.network.apply({"params": params}, token_B, index, cache, method="step")
