"""MaskGen: masked prediction by two streams, a text's and a picture's, that attend to each other.

Kim et al., "Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware
One-Dimensional Tokens" (TA-TiTok), 2025; blocks are MM-DiT's (Esser et al., "Scaling Rectified Flow
Transformers for High-Resolution Image Synthesis", 2024). What is drawn from stands before the codes
with projections and feed-forwards of its own, and one vector of it moves all norms.

That vector is made of the condition's `pooled` and, as published, of sines of an aesthetic score.
The score is the config's: no data here have scores, and drawing asks for high ones.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.block import (
    DTYPES,
    Block,
    Residual,
    TransformerConfig,
    feed_forward,
    make_stack,
    self_attention,
)
from babeldraw.layers.dropout import fold
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import Einsum
from babeldraw.layers.modulation import AdaptiveNorm, Standardized
from babeldraw.layers.positions import LearnedPositions
from babeldraw.layers.stack import read_type
from babeldraw.layers.streams import (
    AttentionBeside,
    PerStream,
    StreamAttention,
    StreamModulation,
    Streams,
)
from babeldraw.models.condition import Condition
from babeldraw.models.head import CodeEmbedding, Head
from babeldraw.models.masked import Masked, MaskedNetwork
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample
from babeldraw.tokenizers.base import Codes

# The slowest sine of a score turns once in about 2 pi times so much (the published code).
SCORE_PERIOD, SCORE_SCALE = 1000.0, 100.0
TEXT, IMAGE = "text", "image"


@dataclasses.dataclass(frozen=True)
class MaskGenConfig:
    """Attributes:
    stack: its blocks, at least two; of the last the picture alone goes on.
    text_dim: width in which what is drawn from is read, before a product to D.
    score: aesthetic score that all pictures are said to have, 6.5 in drawing as published.
    score_dim: sines and cosines of it, an even number; 0: there is none.
    spare: rows of the codes' table that none reads, 1,001 in published weights.
    """

    stack: TransformerConfig
    text_dim: int = 768
    score: float = 6.5
    score_dim: int = 256
    spare: int = 0
    kind: str = "maskgen"

    def __post_init__(self):
        path, blocks = "config.model", self.stack.blocks
        require(blocks >= 2, f"{path}.stack.blocks is {blocks}; at least 2 are needed")
        require(self.text_dim >= 1, f"{path}.text_dim is {self.text_dim}; at least 1 is needed")
        require(self.spare >= 0, f"{path}.spare is {self.spare}; at least 0 is needed")
        require(
            self.score_dim >= 0 and self.score_dim % 2 == 0,
            f"{path}.score_dim is {self.score_dim}; an even number is needed, or 0",
        )

    def tiny(self) -> "MaskGenConfig":
        """The same for a first run."""
        stack = dataclasses.replace(self.stack.tiny(), blocks=2)
        return dataclasses.replace(
            self, stack=stack, text_dim=32, score_dim=min(self.score_dim, 8), spare=0
        )


def joint_parts(config: TransformerConfig, streams: Streams, length: int) -> tuple[Residual, ...]:
    """One attention of both streams and a feed-forward of each; a vector moves the norms."""
    attention = functools.partial(StreamAttention, self_attention(config, bias=True), streams)
    ffn = functools.partial(PerStream, feed_forward(config), streams)
    modulation = functools.partial(StreamModulation, streams=streams, length=length)
    return _adaptive(attention, ffn, modulation=modulation)


def last_parts(config: TransformerConfig) -> tuple[Residual, ...]:
    """Of the picture alone, which still sees the text."""
    layer = self_attention(config, bias=True)
    attention = functools.partial(AttentionBeside, layer, IMAGE, TEXT)
    return _adaptive(attention, feed_forward(config))


def _adaptive(attention: Any, ffn: Any, **more: Any) -> tuple[Residual, ...]:
    make = functools.partial(Residual, before=Standardized, adaptive="vector", **more)
    return make("attention", attention, "attention_norm"), make("ffn", ffn, "ffn_norm")


class MaskGen(MaskedNetwork):
    """What predicts each code from all that are known; see `models.masked.Masked`.

    P slots of what is drawn from, then one for each code, with a learned position.
    """

    config: MaskGenConfig
    condition: Condition
    codes: Codes

    def setup(self):
        config, stack = self.config, self.config.stack
        before, tokens, dim = self.condition.prefix_length, self.codes.length, stack.dim
        self.prefix = self.condition.prefix(config.text_dim)
        text = (config.text_dim, dim)
        self.text = Einsum("BSC,CD->BSD", text, (None, "embed"), bias=True)
        told = (config.text_dim + config.score_dim, dim)
        self.vector = Einsum("BC,CD->BD", told, (None, "embed"), bias=True)
        self.embed = CodeEmbedding(self.codes, dim, more=1 + config.spare)
        self.positions = LearnedPositions(tokens, dim, stddev=0.02)
        parts = joint_parts(stack, Streams((TEXT, IMAGE), (before,)), before + tokens)
        self.stack = make_stack(parts, dataclasses.replace(stack, blocks=stack.blocks - 1))
        self.text_norm = AdaptiveNorm(dim)
        self.last = Block(last_parts(stack), stack.dropout, dim, stack.attention_dropout)
        self.norm = AdaptiveNorm(dim)
        self.head = Head(self.codes, dim, self.embed)

    def read(self, condition: Any, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """The text's slots, float32 [B, P, D], and the vector that moves the norms, [B, D]."""
        del keys
        prefix_BPC = self.prefix(condition)
        told_BC = self.condition.pooled(condition, prefix_BPC)
        if self.config.score_dim:
            score_C = score_sines(self.config.score, self.config.score_dim)
            shape = (told_BC.shape[0], self.config.score_dim)
            told_BC = jnp.concatenate([told_BC, jnp.broadcast_to(score_C[None], shape)], axis=-1)
        # Each norm's product has a SiLU before it.
        return {TEXT: self.text(prefix_BPC), "vector": jax.nn.silu(self.vector(told_BC))}

    def hidden(
        self,
        context: dict[str, jax.Array],
        codes: jax.Array,
        known: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """The network's output for all places, float32 [B, T, D]."""
        text_BPD, vector_BD = context[TEXT], context["vector"]
        image_BTD = self.embed.masked(codes, known) + self.positions()[None]
        x_BTD = jnp.concatenate([text_BPD, image_BTD], axis=1)
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        x_BTD = self.stack(x_BTD, {"vector": PerExample(vector_BD)}, keys)
        before, number = text_BPD.shape[1], self.config.stack.blocks - 1
        seen = {TEXT: self.text_norm(x_BTD[:, :before], vector_BD), "vector": vector_BD}
        x_BTD = self.last(x_BTD[:, before:], seen, fold(keys, number), number)
        return self.norm(x_BTD, vector_BD)


def score_sines(score: float, dim: int) -> jax.Array:
    """float32 [dim]: sines of an aesthetic score, then cosines."""
    half = dim // 2
    rates = SCORE_PERIOD ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = SCORE_SCALE * score * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


@dataclasses.dataclass(frozen=True)
class MaskGenGenerator(Masked):
    """A MaskGen as pure functions of its parameters; see `Generator` and `Masked`."""

    config: MaskGenConfig
    condition: Condition
    codes: Codes

    def check(self) -> None:
        super().check()
        before, dim = self.condition.prefix_length, self.config.text_dim
        prefix = jax.ShapeDtypeStruct((1, before, dim), jnp.float32)
        said = jax.eval_shape(lambda: self.condition.example(1))
        width = jax.eval_shape(self.condition.pooled, said, prefix).shape[-1]
        require(
            width == dim,
            f"config.model.text_dim is {dim} and the vector of config.condition.kind="
            f"{self.condition.kind} has {width} numbers; set text_dim={width}",
        )

    @property
    def network(self) -> MaskGen:
        return MaskGen(self.config, self.condition, self.codes)

    def for_reading(self, params: Any) -> Any:
        dtype = DTYPES[self.config.stack.compute.dtype]
        last = read_type({"last": params["last"]}, dtype)
        return {**params, "stack": read_type(params["stack"], dtype), **last}

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"stack": self.config.stack}

    def flops(self) -> dict[str, tuple[int, str]]:
        stack, tokens = self.config.stack, self.codes.length
        slots = tokens + self.condition.prefix_length
        return {
            "stack": (blocks_forward(stack, slots), "blocks (8 T D^2 + 4 T^2 D + 4 T D F)"),
            "logits": (2 * tokens * stack.dim * self.codes.entries, "(2 T D V)"),
        }
