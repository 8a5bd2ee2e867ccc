"""LlamaGen's and IBQ's generator: one stack of causal blocks as in Llama, after what is drawn from.

Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", 2024; Shi
et al., "Scalable Image Tokenization with Index Backpropagation Quantization" (IBQ), 2024; Luo et
al., "Open-MAGVIT2", 2024; and their code. RMSNorm before each part, SwiGLU, no biases, and rotary
positions by row and column: half of a head is turned by each. What differs between the three is an
argument: IBQ's norms are moved by the class (`adaptive`), Open-MAGVIT2 has factors (`factors`,
`intra`).

Queries and keys of the slots before the picture are zeros, as the published tables of sines and
cosines make them, so that each slot sees all of the class, or of the text, alike. With
`prefix="plain"` they are as they are, and a text's pieces are looked up by what they say.

Weights begin by their fan-in, not with a deviation of 0.02; the softmax layer with zeros, as there.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require, require_choice
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
from babeldraw.layers.dropout import dropout, fold
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import RMSNorm
from babeldraw.layers.masks import BY_PATTERN, NEVER, AttentionPattern, ByRole, Causal
from babeldraw.layers.modulation import AdaptiveNorm, Modulation
from babeldraw.layers.positions import Rotary
from babeldraw.layers.stack import read_type
from babeldraw.models.condition import Condition
from babeldraw.models.factors import FactorVectors, IntraHead, joined, split
from babeldraw.models.head import CodeEmbedding, Head, HeadCompute
from babeldraw.models.sequential import Sequential
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample, PerSlot
from babeldraw.tokenizers.base import Codes

# Of all norms, in the published code.
EPSILON = 1e-5
# As they begin: deviation of what moves norms, IBQ's 0.02 times a half.
MOVED = 0.01
# What keys of dropout are folded with, no number of a block of the stack.
INPUT, INTRA = 1 << 20, 1 << 21
# Of an empty slot of a text, and of all others.
EMPTY, SEEN = 0, 1
SEES_SEEN = ByRole(((BY_PATTERN, NEVER), (NEVER, BY_PATTERN)))


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Attributes:
    decoder: the stack; silu in all published models.
    factors: sizes of the sub-vocabularies that a code of one number is cut into, whose product is
      the codebook's size: (64, 4096) in Open-MAGVIT2. Empty: codes are predicted as they are.
    intra: the blocks that read the factors of one place, see `factors.IntraHead`; None: a
      factor's softmax adds the vectors of those before it.
    adaptive: norms are moved and parts gated by what is drawn from, as in IBQ.
    gate_spread: where they are, deviation of the gates' weights as they begin; IBQ's is 2e-5 in B
      and L, 2e-6 in XL, 2e-7 in XXL.
    token_dropout: rate, on what the first block reads.
    prefix: what queries and keys of what is drawn from are, zeros or plain.
    compute: how the loss is computed.
    """

    decoder: TransformerConfig
    factors: tuple[int, ...] = ()
    intra: TransformerConfig | None = None
    adaptive: bool = False
    gate_spread: float = 0.0
    token_dropout: float = 0.0
    prefix: str = "zeros"
    compute: HeadCompute = HeadCompute()
    kind: str = "llama"

    def __post_init__(self):
        path, dim = "config.model", self.decoder.dim
        require_choice(self, "prefix", ("zeros", "plain"))
        rate, gates = self.token_dropout, self.gate_spread
        require(0 <= rate < 1, f"{path}.token_dropout is {rate}; a rate in [0, 1) is needed")
        require(
            gates == 0 or (self.adaptive and 0 < gates < math.inf),
            f"{path}.gate_spread is {gates} and adaptive {self.adaptive}; it may be more than 0 "
            "with adaptive=True alone",
        )
        require(
            not self.factors or (len(self.factors) > 1 and min(self.factors) >= 2),
            f"{path}.factors is {self.factors}; at least two sizes of at least 2 are needed, or ()",
        )
        require(
            self.intra is None or self.intra.dim == dim,
            f"{path}.intra.dim is {self.intra and self.intra.dim} and decoder.dim {dim}; they read "
            "the same vectors and must be equal",
        )

    def tiny(self) -> "LlamaConfig":
        """The same for a first run; what factors its small codebook has, a config has to say."""
        whole = {"factors": (), "intra": None, "compute": HeadCompute()}
        return dataclasses.replace(self, decoder=self.decoder.tiny(), **whole)

    def predicted(self, codes: Codes) -> Codes:
        """Codes of the tokenizer, as the network reads and predicts them."""
        return dataclasses.replace(codes, vocab=self.factors) if self.factors else codes


@flax.struct.dataclass
class Read:
    """Conditions as the network needs them.

    Attributes:
      prefix: the slots before the codes, float32 [P, S, D].
      context: of the stack: `vector`, [P, D], that moves norms; `roles`, int32 [P, S + T - 1], of
        slots of which not all are seen.
    """

    prefix: jax.Array
    context: dict[str, jax.Array]


@flax.struct.dataclass
class Cache:
    """What decoding keeps between steps.

    Attributes:
      blocks: a cache per block.
      last: the last slot of the prefix, [B, D].
      context: see `Read`.
    """

    blocks: tuple[Any, ...]
    last: jax.Array
    context: dict[str, jax.Array]


def llama_parts(
    config: TransformerConfig, pattern: AttentionPattern, rotate: Rotary, **more: Any
) -> tuple[Residual, ...]:
    """A block's: attention with rotary positions and SwiGLU, each after an RMSNorm.

    Args:
      config: of the stack.
      pattern: who sees whom.
      rotate: the positions.
      more: further fields of both parts.
    """
    part = functools.partial(Residual, before=functools.partial(RMSNorm, EPSILON), **more)
    attention = self_attention(config, pattern, rotate=rotate)
    return (
        part("attention", attention, "attention_norm"),
        part("ffn", feed_forward(config, gated=True), "ffn_norm"),
    )


class Llama(nn.Module):
    """What predicts each code from those before it.

    After the S slots of the prefix, slot S + t holds code t with its row and column, and predicts
    code t + 1.
    """

    config: LlamaConfig
    condition: Condition
    codes: Codes

    def setup(self):
        config, decoder = self.config, self.config.decoder
        what, before = config.predicted(self.codes), self.condition.prefix_length
        grid = what.shape if len(what.shape) == 2 else ()
        rotate = Rotary(grid, before=before, before_scale=float(config.prefix == "plain"))
        pattern = SEES_SEEN if self.condition.padded else Causal()
        norm = functools.partial(RMSNorm, EPSILON)
        more = self._moves(decoder.dim) if config.adaptive else {}
        self.prefix = self.condition.prefix(decoder.dim)
        self.stack = make_stack(llama_parts(decoder, pattern, rotate, **more), decoder)
        options = {"pieces": config.compute.pieces, "scale": 0.0}
        if config.intra is None:
            self.embed = CodeEmbedding(what, decoder.dim)
            self.head = Head(what, decoder.dim, **options)
        else:
            # The slot of the place itself is blind too, and the first factor stands at the grid's
            # first place, in the published code.
            intra = llama_parts(config.intra, Causal(), Rotary(grid, before=1))
            self.embed = FactorVectors(what, decoder.dim)
            self.head = IntraHead(what, config.intra, intra, self.embed, norm, **options)
        if config.adaptive:
            self.norm = AdaptiveNorm(decoder.dim, norm, (MOVED, MOVED))
        elif config.intra is None:
            self.norm = norm()

    def _moves(self, dim: int) -> dict[str, Any]:
        """Fields of parts that are adaptive; their weights lie as IBQ's."""
        spread = (self.config.gate_spread, MOVED, MOVED)
        modulation = functools.partial(Modulation, spread=spread, backwards=True)
        return {"adaptive": "vector", "modulation": modulation}

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
          codes: of pictures, in raster order, as the tokenizer makes them.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.
          read: the codes that are seen before each; None: the same.
        """
        seen = self._split(codes if read is None else read)
        codes = self._split(codes)
        x_BTD = self._outputs(condition, seen, keys)
        if self.config.intra is None:
            return self.head.nll(x_BTD, codes)
        return self.head.nll(x_BTD, codes, fold(keys, INTRA))

    def first_logits(self, condition: Any, codes: jax.Array) -> jax.Array:
        """Of the first number of each code, float32 [B, T, V]."""
        return self.head.logits(self._outputs(condition, self._split(codes), None))

    def _split(self, codes: jax.Array) -> jax.Array:
        return split(codes, self.config.factors) if self.config.factors else codes

    def _outputs(self, condition: Any, codes: jax.Array, keys: jax.Array | None) -> jax.Array:
        read = self.read(condition)
        x_BTD = jnp.concatenate([read.prefix, self.embed(codes[:, :-1])], axis=1)
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        x_BTD = dropout(x_BTD, self.config.token_dropout, fold(keys, INPUT), 0)
        said = {"vector": PerExample, "roles": PerSlot}
        context = {name: said[name](array) for name, array in read.context.items()}
        x_BTD = self.stack(x_BTD, context or None, keys=keys)
        # Slots before the prefix's last predict nothing.
        return self._normed(x_BTD[:, -codes.shape[1] :], read.context)

    def _normed(self, x_BTD: jax.Array, context: dict[str, jax.Array]) -> jax.Array:
        """What the head reads; with `intra` alone it has the norm."""
        if self.config.adaptive:
            return self.norm(x_BTD, context["vector"])
        return x_BTD if self.config.intra is not None else self.norm(x_BTD)

    def read(self, condition: Any) -> Read:
        """Conditions of P rows."""
        prefix, context = self.prefix(condition), {}
        if self.config.adaptive:
            pooled = self.condition.pooled(condition, prefix)
            context["vector"] = jax.nn.silu(pooled).astype(self.stack.dtype)
        seen = self.condition.seen(condition)
        if seen is not None:
            roles = jnp.where(seen, SEEN, EMPTY)
            behind = (0, self.codes.length - 1)
            context["roles"] = jnp.pad(roles, ((0, 0), behind), constant_values=SEEN)
        return Read(prefix, context)

    def start(self, read: Read, samples: int = 1) -> Cache:
        """A cache in which the prefix is but its end."""
        read = jax.tree.map(lambda rows: jnp.repeat(rows, samples, axis=0), read)
        rows, early = read.prefix.shape[0], read.prefix.shape[1] - 1
        blocks = empty_caches(self.stack, read.context, rows, early + self.codes.length)
        if early:
            _, blocks = filled(self.stack, read.prefix[:, :-1], blocks, read.context)
        return Cache(blocks, read.prefix[:, -1], read.context)

    def step(self, codes: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        held_B1D = self.embed(self._split(codes)[:, None])
        first = jnp.broadcast_to(jnp.reshape(index == 0, (-1, 1, 1)), held_B1D.shape)
        x_B1D = jnp.where(first, cache.last[:, None], held_B1D)
        slot = self.condition.prefix_length - 1 + index
        x_B1D, blocks = through(self.stack, x_B1D, cache.blocks, slot, cache.context)
        return self._normed(x_B1D, cache.context), cache.replace(blocks=blocks)

    def next_logits(self, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        return self.head.logits(x_B1D, earlier)


@dataclasses.dataclass(frozen=True)
class LlamaGenerator(Sequential):
    """A Llama as pure functions of its parameters; see `Generator` and `Sequential`."""

    config: LlamaConfig
    condition: Condition
    codes: Codes

    @property
    def network(self) -> Llama:
        return Llama(self.config, self.condition, self.codes)

    @property
    def factors(self) -> tuple[int, ...]:
        return self.config.predicted(self.codes).vocab

    def joined(self, factors: Sequence[jax.Array]) -> jax.Array:
        if not self.config.factors:
            return super().joined(factors)
        return joined(factors, self.config.factors)

    def check(self) -> None:
        super().check()
        path, factors, vocab = "config.model", self.config.factors, self.codes.vocab
        require(
            not factors or vocab == (math.prod(factors),),
            f"{path}.factors is {factors}, whose product is {math.prod(factors)}, and the "
            f"tokenizer's codes are of {' x '.join(map(str, vocab))}; they must be one number, and "
            "the product the codebook's size",
        )
        require(
            self.config.intra is None or len(self.factors) > 1,
            f"{path}.intra is set and a code is one number of {vocab[0]}; set factors, such as "
            "(64, 4096) for 262,144 codes, or intra=None",
        )
        halves = 2 * len(self.codes.shape)
        for name, stack in self.stacks.items():
            require(
                stack.head_dim % halves == 0,
                f"{path}.{name} has heads of {stack.head_dim} values (dim / heads), which rotary "
                f"positions cannot cut into {halves} equal parts; choose a multiple of {halves}",
            )
        self.config.compute.check(self.factors)

    def check_new(self) -> None:
        parts = getattr(self.condition, "parts", None) or {"": self.condition}
        require(
            self.config.prefix == "plain" or all(p.kind != "text" for p in parts.values()),
            f"config.model.prefix is {self.config.prefix!r}, by which every slot sees the pieces "
            "of a text alike, and config.condition has a text, with no encoder before them; set "
            "prefix='plain'",
        )

    def for_reading(self, params: Any) -> Any:
        dtype = DTYPES[self.config.decoder.compute.dtype]
        params = {**params, "stack": read_type(params["stack"], dtype)}
        if self.config.intra is None:
            return params
        dtype = DTYPES[self.config.intra.compute.dtype]
        stack = read_type(params["head"]["stack"], dtype)
        return {**params, "head": {**params["head"], "stack": stack}}

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        intra = {} if self.config.intra is None else {"intra": self.config.intra}
        return {"decoder": self.config.decoder, **intra}

    def flops(self) -> dict[str, tuple[int, str]]:
        tokens, decoder, factors = self.codes.length, self.config.decoder, self.factors
        # The last code is read by none; in its place stands the prefix's last slot.
        slots, intra = tokens + self.condition.prefix_length - 1, self.config.intra
        found = {
            "decoder": (
                blocks_forward(decoder, slots, causal=True, gated=True),
                "blocks (8 T D^2 + 2 T^2 D + 6 T D F)",
            ),
            "logits": (2 * tokens * decoder.dim * sum(factors), "(2 T D V)"),
        }
        if self.config.adaptive:
            moves = (12 * decoder.blocks + 4) * decoder.dim**2
            found["modulation"] = (moves, "(12 blocks + 4) D^2")
        if intra is not None:
            each = blocks_forward(intra, len(factors), causal=True, gated=True)
            found["intra"] = (tokens * each, "T blocks (8 f D^2 + 2 f^2 D + 6 f D F)")
        return found
