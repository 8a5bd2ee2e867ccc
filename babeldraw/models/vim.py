"""VIM: one stack of causal blocks over image tokens, after a class, a text, both or nothing.

Yu et al., "Vector-quantized Image Modeling with Improved VQGAN", ICLR 2022, section 4. What comes
before the image, the prefix, is the condition's: one vector per class (paper, Figure 2 and section
4.2), the same vector for every picture, or the tokens of a text. The last slot of the prefix
predicts the first image token.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.layers.block import (
    DTYPES,
    Residual,
    TransformerConfig,
    empty_caches,
    feed_forward,
    filled,
    make_stack,
    self_attention,
    through,
)
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import LayerNorm
from babeldraw.layers.masks import Causal
from babeldraw.layers.positions import GridPositions, at_slot
from babeldraw.layers.stack import read_type
from babeldraw.models.base import example
from babeldraw.models.condition import Condition
from babeldraw.models.head import CodeEmbedding, Head
from babeldraw.models.sequential import Sequential
from babeldraw.sharding.constraint import constrain
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True)
class VIMConfig:
    """Attributes:
    decoder: the stack.
    """

    decoder: TransformerConfig
    kind: str = "vim"

    def tiny(self) -> "VIMConfig":
        """The same for a first run."""
        return dataclasses.replace(self, decoder=self.decoder.tiny())


@flax.struct.dataclass
class Cache:
    """What decoding keeps between steps: a cache per block, and the prefix's last slot [B, D]."""

    blocks: tuple[Any, ...]
    last_BD: jax.Array


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
    """What predicts each code from those before it; features of every block.

    After the P slots of the prefix, slot P + t holds code t with its row and column, and predicts
    code t + 1.
    """

    config: VIMConfig
    condition: Condition
    codes: Codes

    def setup(self):
        decoder = self.config.decoder
        self.prefix = self.condition.prefix(decoder.dim)
        self.embed = CodeEmbedding(self.codes, decoder.dim)
        self.positions = GridPositions(self.codes.shape, decoder.dim)
        self.stack = make_stack(causal_parts(decoder), decoder)
        self.norm = LayerNorm()
        self.logits = Head(self.codes, decoder.dim)

    def __call__(
        self,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array | None = None,
        read: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code given the condition and the codes before it; see `Head.nll`.

        Args:
          condition: a row for each example.
          codes: of pictures, in raster order; place t does not see code t.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.
          read: the codes that are seen before each; None: the same.
        """
        seen = codes if read is None else read
        return self.logits.nll(self._outputs(condition, seen, keys), codes)

    def first_logits(self, condition: Any, codes: jax.Array) -> jax.Array:
        """Of the first factor of each code, float32 [B, T, V]."""
        return self.logits.logits(self._outputs(condition, codes, None))

    def _outputs(self, condition: Any, codes: jax.Array, keys: jax.Array | None) -> jax.Array:
        x_BTD = self.stack(self._slots(condition, codes[:, :-1]), keys=keys)
        # Slots before the prefix's last predict nothing.
        return self.norm(x_BTD[:, -codes.shape[1] :])

    def features(self, condition: Any, codes: jax.Array) -> jax.Array:
        """What each block makes of a picture: its output, the mean over the image tokens.

        Section 5.3 of the paper. Number 0 is what the first block reads, tokens plus positions.

        Returns:
          float32 [B, L + 1, D].
        """
        x_BTD = self._slots(condition, codes).astype(self.stack.dtype)
        block, length = self.stack.block, codes.shape[1]

        def mean(x_BTD: jax.Array) -> jax.Array:
            return jnp.mean(x_BTD[:, -length:].astype(jnp.float32), axis=1)

        means = [mean(x_BTD)]
        for params in self.stack.layers():
            x_BTD = block.apply({"params": params}, x_BTD)
            means.append(mean(x_BTD))
        return jnp.stack(means, axis=1)

    def read(self, condition: Any) -> jax.Array:
        """The prefix, [P, prefix length, D]."""
        return self.prefix(condition).astype(self.stack.dtype)

    def start(self, prefix_PSD: jax.Array, samples: int = 1) -> Cache:
        """A cache in which the prefix is but its end."""
        prefix_BSD = jnp.repeat(prefix_PSD, samples, axis=0)
        batch, length = prefix_BSD.shape[0], prefix_BSD.shape[1] - 1
        blocks = empty_caches(self.stack, {}, batch, length + self.codes.length)
        if length:
            _, blocks = filled(self.stack, prefix_BSD[:, :-1], blocks, {})
        return Cache(blocks=blocks, last_BD=prefix_BSD[:, -1])

    def step(self, codes: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        position_B1D = at_slot(self.positions(), jnp.maximum(index - 1, 0))
        x_B1D = (self.embed(codes)[:, None] + position_B1D).astype(self.stack.dtype)
        first = index[:, None, None] if index.ndim else index[None, None, None]
        x_B1D = jnp.where(jnp.broadcast_to(first == 0, x_B1D.shape), cache.last_BD[:, None], x_B1D)
        slot = self.condition.prefix_length - 1 + index
        x_B1D, blocks = through(self.stack, x_B1D, cache.blocks, slot, {})
        return self.norm(x_B1D), cache.replace(blocks=blocks)

    def next_logits(self, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        return self.logits.logits(x_B1D, earlier)

    def _slots(self, condition: Any, codes: jax.Array) -> jax.Array:
        """float32 [B, P + T, D]: the prefix, then the given codes."""
        image_BTD = self.embed(codes) + self.positions()[None, : codes.shape[1]]
        x_BTD = jnp.concatenate([self.prefix(condition), image_BTD], axis=1)
        return constrain(x_BTD, ("batch", "length", "activation_embed"))


@dataclasses.dataclass(frozen=True)
class VIMGenerator(Sequential):
    """A VIM as pure functions of its parameters; see `Generator` and `Sequential`."""

    config: VIMConfig
    condition: Condition
    codes: Codes

    @property
    def network(self) -> VIM:
        return VIM(self.config, self.condition, self.codes)

    def for_reading(self, params: Any) -> Any:
        stack = read_type(params["stack"], DTYPES[self.config.decoder.compute.dtype])
        return {**params, "stack": stack}

    def features(self, params: Any, codes: jax.Array) -> jax.Array:
        """What each block makes of pictures of which nothing is said; see `VIM.features`."""
        like = example(self.condition, codes.shape[0])
        return self._call("features", params, self.condition.nothing(like), codes)

    @property
    def feature_blocks(self) -> int:
        return self.config.decoder.blocks

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"decoder": self.config.decoder}

    def flops(self) -> dict[str, tuple[int, str]]:
        tokens, decoder = self.codes.length, self.config.decoder
        # The last token is read by none; in its place stands the condition.
        slots = tokens + self.condition.prefix_length - 1
        return {
            "decoder": (
                blocks_forward(decoder, slots, causal=True),
                "blocks (8 T D^2 + 2 T^2 D + 4 T D F)",
            ),
            "logits": (2 * tokens * decoder.dim * self.codes.entries, "(2 T D V)"),
        }
