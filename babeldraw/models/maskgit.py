"""MaskGIT: bidirectional blocks over what is drawn from and the codes, of which some are masked.

Chang et al., "MaskGIT: Masked Generative Image Transformer", CVPR 2022. In three forms: pre-norm
blocks, as in this library's other networks; BERT's, as in TiTok's generators L-32 and B-64 (Yu et
al., 2024); and Google's own, which has BERT's head too.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, require_choice
from babeldraw.layers.block import (
    Residual,
    TransformerConfig,
    encoder_parts,
    feed_forward,
    make_stack,
    self_attention,
)
from babeldraw.layers.dropout import dropout, fold
from babeldraw.layers.feed_forward import ACTIVATIONS
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import Einsum, Embedding, LayerNorm
from babeldraw.layers.masks import AttentionPattern
from babeldraw.layers.packing import Packing
from babeldraw.layers.positions import GridPositions, LearnedPositions
from babeldraw.models.base import example
from babeldraw.models.condition import Condition
from babeldraw.models.head import CodeEmbedding, Head
from babeldraw.models.masked import Masked, MaskedNetwork
from babeldraw.sharding.constraint import constrain
from babeldraw.tokenizers.base import Codes

STYLES, HEADS = ("pre_norm", "bert"), ("linear", "mlm")
# Of BERT (Devlin et al., 2019), in every implementation.
BERT_NORM = functools.partial(LayerNorm, epsilon=1e-12)


@dataclasses.dataclass(frozen=True)
class MaskGITConfig:
    """Attributes:
    stack: the blocks.
    encoder: of blocks that read the condition alone, once for all steps of drawing, before those of
      `stack` see it beside the codes; None: none do.
    style: pre_norm, with positions of rows and columns; or bert: the sums are normalised, attention
      has biases, each slot has a position of its own, and the slots' vectors are normalised too.
    head: linear; or mlm, BERT's: a product, the activation, a norm, and the codes' own vectors.
    token_types: rows of a table of which the first is added to every slot, 2 in BERT; 0: no table.
    mask_is_no_class: a masked place has the vector of the class that says nothing, as in Google's
      weights, where the mask's number is -1 and the last row no class; else one of its own.
    packed: examples that lie side by side in a row of the stack in training, where so many divide
      a batch; 1: none. The same but for rounding and which values dropout takes; TPUs are quicker
      with rows of some 1,000 slots than of 33, which kernels lay side by side in every layer.
    """

    stack: TransformerConfig
    encoder: TransformerConfig | None = None
    style: str = "pre_norm"
    head: str = "linear"
    token_types: int = 0
    mask_is_no_class: bool = False
    packed: int = 1
    kind: str = "maskgit"

    def __post_init__(self):
        require_choice(self, "style", STYLES)
        require_choice(self, "head", HEADS)
        require(
            self.packed >= 1,
            f"config.model.packed is {self.packed}; at least 1 is needed (1: none)",
        )
        dim = self.stack.dim if self.encoder is None else self.encoder.dim
        require(
            dim == self.stack.dim,
            f"encoder.dim is {dim} and stack.dim {self.stack.dim}; they must be equal",
        )

    def tiny(self) -> "MaskGITConfig":
        """The same for a first run."""
        encoder = None if self.encoder is None else self.encoder.tiny()
        return dataclasses.replace(self, stack=self.stack.tiny(), encoder=encoder, packed=1)


def bert_parts(
    config: TransformerConfig, pattern: AttentionPattern | None = None
) -> tuple[Residual, ...]:
    """Self-attention with biases, and feed-forward; post-norm."""
    attention = self_attention(config, pattern, bias=True)
    return (
        Residual("attention", attention, "attention_norm", before=None, rejoin=BERT_NORM),
        Residual("ffn", feed_forward(config), "ffn_norm", before=None, rejoin=BERT_NORM),
    )


PARTS = {"pre_norm": encoder_parts, "bert": bert_parts}


class Transform(nn.Module):
    """BERT's head before the logits: a product, the activation, a norm; [B, T, D] float32."""

    activation: str

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        dim = x_BTD.shape[-1]
        dense = Einsum("BTD,DF->BTF", (dim, dim), ("embed", None), bias=True, name="dense")
        return BERT_NORM(name="norm")(ACTIVATIONS[self.activation](dense(x_BTD)))


class MaskGIT(MaskedNetwork):
    """What predicts each code from all that are known; see `models.masked.Masked`.

    The P slots of the condition's prefix, then one for each code; every slot sees every other.

    Attributes:
      packing: how examples lie in a row of the stack; None: each has its own.
    """

    config: MaskGITConfig
    condition: Condition
    codes: Codes
    packing: Packing | None = None

    def setup(self):
        config, dim = self.config, self.config.stack.dim
        self.prefix = self.condition.prefix(dim)
        if config.encoder is not None:
            self.encoder = make_stack(PARTS[config.style](config.encoder), config.encoder)
        self.embed = CodeEmbedding(self.codes, dim, more=0 if config.mask_is_no_class else 1)
        if config.token_types:
            self.token_types = Embedding(config.token_types, dim, axis=None)
        if config.style == "bert":
            slots = self.condition.prefix_length + self.codes.length
            self.positions = LearnedPositions(slots, dim, stddev=0.02)
            self.slots_norm = BERT_NORM()
        else:
            self.positions = GridPositions(self.codes.shape, dim)
            self.norm = LayerNorm()
        pattern = None if self.packing is None else self.packing.pattern
        self.stack = make_stack(PARTS[config.style](config.stack, pattern), config.stack)
        if config.head == "mlm":
            self.transform = Transform(config.stack.activation)
            more = self.condition.num_classes + 1 if config.mask_is_no_class else 0
            self.head = Head(self.codes, dim, self.embed, bias=True, more=more)
        else:
            self.head = Head(self.codes, dim, bias=True)

    def read(self, condition: Any, keys: jax.Array | None = None) -> jax.Array:
        """The prefix, through the encoder where there is one, float32 [B, P, D]."""
        x_BPD = self.prefix(condition)
        if self.config.encoder is None:
            return x_BPD
        x_BPD = constrain(x_BPD, ("batch", "length", "activation_embed"))
        return self.encoder(x_BPD, keys=fold(keys, 0)).astype(jnp.float32)

    def hidden(
        self,
        prefix_BPD: jax.Array,
        codes: jax.Array,
        known: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """The network's output for all places, float32 [B, T, D]."""
        x_BTD = self._stacked(self._slots(prefix_BPD, codes, known, keys), fold(keys, 1))
        x_BTD = x_BTD[:, prefix_BPD.shape[1] :].astype(jnp.float32)
        if self.config.style == "pre_norm":
            x_BTD = self.norm(x_BTD)
        return self.transform(x_BTD) if self.config.head == "mlm" else x_BTD

    def _stacked(self, x_BTD: jax.Array, keys: jax.Array | None) -> jax.Array:
        """All blocks; of packed rows, which drop by the keys of their first examples."""
        if self.packing is None:
            return self.stack(x_BTD, keys=keys)
        keys = None if keys is None else keys[:: len(self.packing.lengths)]
        x_RTD = x_BTD.reshape(-1, self.packing.slots, x_BTD.shape[-1])
        return self.stack(x_RTD, keys=keys).reshape(x_BTD.shape)

    def _slots(
        self, prefix_BPD: jax.Array, codes: jax.Array, known: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """What the first block reads, float32 [B, P + T, D]."""
        bert, codes_BTD = self.config.style == "bert", self._vectors(codes, known)
        if not bert:
            codes_BTD = codes_BTD + self.positions()[None]
        x_BTD = jnp.concatenate([prefix_BPD, codes_BTD], axis=1)
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        if bert:
            x_BTD = x_BTD + self.positions()[None]
        if self.config.token_types:
            x_BTD = x_BTD + self.token_types(jnp.zeros((1, 1), jnp.int32))
        if bert:
            x_BTD = dropout(self.slots_norm(x_BTD), self.config.stack.dropout, keys, place=2)
        return x_BTD

    def _vectors(self, codes: jax.Array, known: jax.Array) -> jax.Array:
        """Of the codes that are known and of masks, float32 [B, T, D]."""
        if not self.config.mask_is_no_class:
            return self.embed.masked(codes, known)
        nothing = self.condition.nothing(example(self.condition, 1))
        codes_BTD = self.embed(codes)
        mask_BTD = jnp.broadcast_to(self.prefix(nothing), codes_BTD.shape)
        return jnp.where(jnp.broadcast_to(known[..., None], mask_BTD.shape), codes_BTD, mask_BTD)


@dataclasses.dataclass(frozen=True)
class MaskGITGenerator(Masked):
    """A MaskGIT as pure functions of its parameters; see `Generator` and `Masked`."""

    config: MaskGITConfig
    condition: Condition
    codes: Codes

    @property
    def network(self) -> MaskGIT:
        return MaskGIT(self.config, self.condition, self.codes)

    def for_rows(self, rows: int) -> MaskGIT:
        packed = self.config.packed
        if packed == 1 or rows % packed:
            return self.network
        slots = self.condition.prefix_length + self.codes.length
        return MaskGIT(self.config, self.condition, self.codes, Packing(((packed, slots),)))

    @property
    def together(self) -> tuple[int, str]:
        return self.config.packed, "examples of config.model.packed"

    @property
    def class_rows(self) -> dict[str, int]:
        rows, config = super().class_rows, self.config
        if config.head == "mlm" and config.mask_is_no_class:
            # Google's biases, of which those of classes have no effect.
            rows["head/bias"] = self.condition.num_classes + 1
        return rows

    def check(self) -> None:
        super().check()
        require(
            not self.config.mask_is_no_class or self.condition.kind == "class",
            "config.model.mask_is_no_class is set and config.condition.kind "
            f"{self.condition.kind!r}: there is no such class; leave it out, or take kind=class",
        )

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        encoder, stack = self.config.encoder, self.config.stack
        return {"stack": stack} if encoder is None else {"encoder": encoder, "stack": stack}

    def flops(self) -> dict[str, tuple[int, str]]:
        tokens, prefix, stack = self.codes.length, self.condition.prefix_length, self.config.stack
        text = "blocks (8 T D^2 + 4 T^2 D + 4 T D F)"
        slots = {"encoder": prefix, "stack": prefix + tokens}
        found = {name: (blocks_forward(s, slots[name]), text) for name, s in self.stacks.items()}
        logits = 2 * tokens * stack.dim * self.codes.entries
        if self.config.head == "mlm":
            logits += 2 * tokens * stack.dim**2
        return {**found, "logits": (logits, "(2 T D V), mlm (2 T D^2)")}
