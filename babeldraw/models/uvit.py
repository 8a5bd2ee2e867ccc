"""A masked generator with long skips: every slot sees every other, and the halves are joined.

The U-ViT type of TiTok's generators (Yu et al., "An Image is Worth 32 Tokens for Reconstruction and
Generation", 2024, after Bao et al., "All are Worth Words", 2023): its S-128 is drawn by one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.block import (
    Residual,
    TransformerConfig,
    feed_forward,
    self_attention,
)
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import LayerNorm
from babeldraw.layers.positions import LearnedPositions
from babeldraw.layers.skips import SkippingStack
from babeldraw.models.condition import Condition
from babeldraw.models.head import CodeEmbedding, Head
from babeldraw.models.masked import Masked, MaskedNetwork
from babeldraw.sharding.constraint import constrain
from babeldraw.tokenizers.base import Codes

# PyTorch's default, by which the published one was trained.
NORM = functools.partial(LayerNorm, epsilon=1e-5)


@dataclasses.dataclass(frozen=True)
class UViTConfig:
    """Attributes:
    stack: its blocks, an odd number: as many before the middle one as after it.
    """

    stack: TransformerConfig
    kind: str = "uvit"

    def __post_init__(self):
        require(
            self.stack.blocks % 2 == 1,
            f"config.model.stack.blocks is {self.stack.blocks}; long skips need an odd number, as "
            "many blocks before the middle one as after it",
        )

    def tiny(self) -> "UViTConfig":
        """The same for a first run."""
        return dataclasses.replace(self, stack=dataclasses.replace(self.stack.tiny(), blocks=3))


def uvit_parts(config: TransformerConfig) -> tuple[Residual, ...]:
    """Self-attention, with a bias behind it alone, and feed-forward; pre-norm."""
    return (
        Residual("attention", self_attention(config, bias="out"), "attention_norm", NORM),
        Residual("ffn", feed_forward(config), "ffn_norm", NORM),
    )


class UViT(MaskedNetwork):
    """What predicts each code from all that are known; see `models.masked.Masked`.

    The prefix of P slots, then a slot for each code, each with a learned position of its own; in
    the place of an unknown code stands the same vector, the mask.
    """

    config: UViTConfig
    condition: Condition
    codes: Codes

    def setup(self):
        stack = self.config.stack
        self.prefix = self.condition.prefix(stack.dim)
        self.embed = CodeEmbedding(self.codes, stack.dim, more=1)
        length = self.condition.prefix_length + self.codes.length
        self.positions = LearnedPositions(length, stack.dim, stddev=0.02)
        self.stack = SkippingStack(uvit_parts(stack), stack)
        self.norm = NORM()
        self.head = Head(self.codes, stack.dim, bias=True)

    def hidden(
        self,
        prefix_BPD: jax.Array,
        codes: jax.Array,
        known: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """The network's output for all places, float32 [B, T, D]."""
        x_BTD = jnp.concatenate([prefix_BPD, self.embed.masked(codes, known)], axis=1)
        x_BTD = constrain(x_BTD + self.positions()[None], ("batch", "length", "activation_embed"))
        return self.norm(self.stack(x_BTD, keys=keys)[:, prefix_BPD.shape[1] :])


@dataclasses.dataclass(frozen=True)
class UViTGenerator(Masked):
    """A UViT as pure functions of its parameters; see `Generator` and `Masked`."""

    config: UViTConfig
    condition: Condition
    codes: Codes

    @property
    def network(self) -> UViT:
        return UViT(self.config, self.condition, self.codes)

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"stack": self.config.stack}

    def flops(self) -> dict[str, tuple[int, str]]:
        stack, tokens = self.config.stack, self.codes.length
        slots = tokens + self.condition.prefix_length
        skips = stack.blocks // 2 * 2 * 2 * stack.dim**2 * slots
        return {
            "stack": (
                blocks_forward(stack, slots) + skips,
                "blocks (8 T D^2 + 4 T^2 D + 4 T D F), skips (4 T D^2)",
            ),
            "logits": (2 * tokens * stack.dim * self.codes.entries, "(2 T D V)"),
        }
