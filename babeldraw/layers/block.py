"""Transformer blocks: lists of residual parts, and the one walk through their caches."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, require_choice
from babeldraw.layers.attention import CrossAttention, SelfAttention
from babeldraw.layers.dropout import dropout
from babeldraw.layers.feed_forward import ACTIVATIONS, FeedForward
from babeldraw.layers.inputs import Inputs
from babeldraw.layers.kernels import KERNELS
from babeldraw.layers.linear import LayerNorm
from babeldraw.layers.masks import AttentionPattern
from babeldraw.layers.modulation import Modulation, moved
from babeldraw.layers.stack import POLICIES, Stack

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def without_compute(section: Any) -> Any:
    """A section of a config, or any value in it, without its sections `compute`, at any depth."""
    if not isinstance(section, Mapping):
        return section
    kept = {name: value for name, value in section.items() if name != "compute"}
    return {name: without_compute(value) for name, value in kept.items()}


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How a network is computed, not what it is.

    A run may change it on resuming, and no identity hangs on it (`dtype` can move a code at a tie).

    Attributes:
      dtype: of attention projections, feed-forward and the residual stream: float32 or bfloat16.
        Norms and softmax are float32 always.
      scan: one compiled block looped over, or all blocks written out (quicker for small stacks).
      remat: what the backward pass recomputes: none, dots (all but matrix products), full, context
        (all but attention), outputs (all but attention and what is added to the residual stream),
        hidden (all but these and the feed-forward's hidden values), gathered (all but these and
        what in-layer parallelism gathers from a split width).
      kernel: of attention over whole sequences: short or splash (TPU), cudnn (GPU), plain, or auto,
        the best that the device has and that can do the pattern.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    kernel: str = "auto"

    def __post_init__(self):
        choices = {"dtype": DTYPES, "remat": POLICIES, "kernel": KERNELS}
        for name, valid in choices.items():
            require_choice(self, name, valid)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """One stack of blocks.

    Attributes:
      blocks, heads, dim, hidden: number of blocks, attention heads, D and F.
      dropout: rate, on the output of each attention and feed-forward.
      activation: of the feed-forward: relu, gelu, gelu_exact, gelu_quick, silu or tanh.
      bias: biases in the feed-forward.
      compute: how it is computed.
      attention_dropout: rate, on the weights of each attention. No kernel has it: in training
        kernel=auto is the plain form then, and kernels by name are refused.
    """

    blocks: int
    heads: int
    dim: int
    hidden: int
    dropout: float = 0.0
    activation: str = "relu"
    bias: bool = False
    compute: ComputeConfig = ComputeConfig()
    attention_dropout: float = 0.0

    def __post_init__(self):
        for name in ("blocks", "heads", "dim", "hidden"):
            value = getattr(self, name)
            require(value >= 1, f"{name} is {value}; at least 1 is needed")
        require(
            self.dim % self.heads == 0,
            f"dim is {self.dim}, which heads={self.heads} does not divide; choose a multiple",
        )
        for name in ("dropout", "attention_dropout"):
            rate = getattr(self, name)
            require(0 <= rate < 1, f"{name} is {rate}; a rate in [0, 1) is needed")
        require(
            not self.attention_dropout or self.compute.kernel in ("auto", "plain"),
            f"compute.kernel is {self.compute.kernel!r}, which cannot do attention_dropout="
            f"{self.attention_dropout}; choose auto or plain, or set attention_dropout to 0",
        )
        require_choice(self, "activation", ACTIVATIONS)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def drops(self) -> bool:
        """Whether training drops anything."""
        return bool(self.dropout or self.attention_dropout)

    def tiny(self) -> "TransformerConfig":
        """The same for a first run."""
        return dataclasses.replace(self, blocks=1, heads=2, dim=32, hidden=64)


@dataclasses.dataclass(frozen=True)
class Residual:
    """A part of a block: x + dropout(after(layer(before(x)))).

    Pre-norm has `before`, post-norm `rejoin`, a sandwich `before` and `after`.

    Attributes:
      name: of the layer's parameters.
      layer: makes the layer, with `whole`, `start` and `step` as of `attention.SelfAttention`.
      norm: of the parameters of its norms.
      before: makes the norm of what the layer reads; None: none.
      after: makes the norm of what it gives; None: none.
      rejoin: makes the norm of the sum; None: none.
      hidden_dropout: what lies inside the layer is dropped too, as in VIM's feed-forward.
      adaptive: name of the context's vector that shifts and scales what the layer reads and gates
        what it gives, [B, C] of each example or [B, T, C] of each slot; empty: none. Of a step
        through caches it is that of the slot, [B, 1, C].
      modulation: makes, of D, what of that vector shifts, scales and gates.
    """

    name: str
    layer: Callable[[], nn.Module]
    norm: str
    before: Callable[[], nn.Module] | None = LayerNorm
    after: Callable[[], nn.Module] | None = None
    rejoin: Callable[[], nn.Module] | None = None
    hidden_dropout: bool = False
    adaptive: str = ""
    modulation: Callable[[int], nn.Module] = Modulation


class Block(nn.Module):
    """Parts one after another; whole sequences, or one slot at a time through caches.

    Attributes:
      parts: what it is made of.
      dropout: rate, on the output of each part.
      dim: D, for parts that are adaptive.
      attention_dropout: rate, on the weights of each attention.
    """

    parts: tuple[Residual, ...]
    dropout: float = 0.0
    dim: int = 0
    attention_dropout: float = 0.0

    def setup(self):
        for part in self.parts:
            setattr(self, part.name, part.layer())
            for suffix, norm in (
                ("", part.before),
                ("_after", part.after),
                ("_rejoin", part.rejoin),
            ):
                if norm is not None:
                    setattr(self, part.norm + suffix, norm())
            if part.adaptive:
                setattr(self, f"{part.name}_modulation", part.modulation(self.dim))

    def __call__(
        self,
        x_BTD: jax.Array,
        context: Mapping[str, Any] | None = None,
        keys: jax.Array | None = None,
        layer: jax.Array | int = 0,
    ) -> jax.Array:
        """All T slots at once, as in training.

        Args:
          x_BTD: the residual stream.
          context: arrays by name, as the parts ask for them.
          keys: of dropout, one per example; None: no dropout.
          layer: number of the block.
        """
        drop = functools.partial(dropout, keys_B=keys)
        inner = functools.partial(drop, rate=self.dropout, place=len(self.parts))
        for place, part in enumerate(self.parts):
            inputs = Inputs(context or {}, layer, inner if part.hidden_dropout else None)
            if self.attention_dropout and keys is not None:
                weights = len(self.parts) + 1 + place
                weights = functools.partial(drop, rate=self.attention_dropout, place=weights)
                inputs = dataclasses.replace(inputs, drop_weights=weights)
            read_BTD, gate = self._read(part, x_BTD, inputs)
            y_BTD = getattr(self, part.name).whole(read_BTD, inputs)
            x_BTD = self._joined(part, x_BTD, y_BTD, gate, self.dropout, keys, place)
        return x_BTD

    def empty_cache(
        self, context: Mapping[str, Any], rows: int, length: int, layer: int
    ) -> tuple[Any, ...]:
        """What each part keeps between steps, for `length` slots of `rows` rows."""
        inputs = Inputs(context, layer)
        return tuple(getattr(self, part.name).start(inputs, rows, length) for part in self.parts)

    def step(
        self,
        x_B1D: jax.Array,
        caches: tuple[Any, ...],
        index: jax.Array,
        context: Mapping[str, Any],
        layer: int = 0,
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """One slot, `index`: int32 [], or [B] where rows stand at different places."""
        return self._kept(
            x_B1D,
            caches,
            Inputs(context, layer),
            lambda layer, y_B1D, cache, inputs: layer.step(y_B1D, cache, index, inputs),
        )

    def fill(
        self,
        x_BPD: jax.Array,
        caches: tuple[Any, ...],
        context: Mapping[str, Any],
        layer: int = 0,
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """The first P slots at once, as a prefix that is there before the steps."""
        return self._kept(
            x_BPD,
            caches,
            Inputs(context, layer),
            lambda layer, y_BPD, cache, inputs: layer.fill(y_BPD, cache, inputs),
        )

    def _kept(
        self, x_BPD: jax.Array, caches: tuple[Any, ...], inputs: Inputs, run: Callable
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """The parts one after another, each with its cache."""
        kept = []
        for place, (part, cache) in enumerate(zip(self.parts, caches, strict=True)):
            y_BPD, gate = self._read(part, x_BPD, inputs)
            y_BPD, cache = run(getattr(self, part.name), y_BPD, cache, inputs)
            x_BPD = self._joined(part, x_BPD, y_BPD, gate, 0.0, None, place)
            kept.append(cache)
        return x_BPD, tuple(kept)

    def _read(
        self, part: Residual, x_BTD: jax.Array, inputs: Inputs
    ) -> tuple[jax.Array, jax.Array | None]:
        """What a part's layer reads, and the gate of what it gives; None: none."""
        read_BTD = x_BTD if part.before is None else getattr(self, part.norm)(x_BTD)
        if not part.adaptive:
            return read_BTD, None
        modulation = getattr(self, f"{part.name}_modulation")
        shift, scale, gate = modulation(inputs.context[part.adaptive])
        return moved(read_BTD, shift, scale), gate

    def _joined(
        self,
        part: Residual,
        x_BTD: jax.Array,
        y_BTD: jax.Array,
        gate: jax.Array | None,
        rate: float,
        keys: jax.Array | None,
        place: int,
    ) -> jax.Array:
        """The residual sum, in the type of x."""
        if part.after is not None:
            y_BTD = getattr(self, f"{part.norm}_after")(y_BTD)
        if gate is not None:
            y_BTD = y_BTD * jnp.broadcast_to(gate, y_BTD.shape).astype(y_BTD.dtype)
        x_BTD = x_BTD + dropout(y_BTD.astype(x_BTD.dtype), rate, keys, place)
        if part.rejoin is None:
            return x_BTD
        return getattr(self, f"{part.norm}_rejoin")(x_BTD).astype(x_BTD.dtype)


# ------------------------------------------------------------------ parts as a config says


def self_attention(
    config: TransformerConfig, pattern: AttentionPattern | None = None, **options: Any
) -> Callable[[], nn.Module]:
    """Makes a block's attention to itself; `options` are further fields of `SelfAttention`."""
    return functools.partial(SelfAttention, **_sizes(config), pattern=pattern, **options)


def cross_attention(
    config: TransformerConfig, source: str = "text", **options: Any
) -> Callable[[], nn.Module]:
    """Makes a block's attention to a source of the context."""
    return functools.partial(CrossAttention, **_sizes(config), source=source, **options)


def feed_forward(config: TransformerConfig, **options: Any) -> Callable[[], nn.Module]:
    """Makes a block's feed-forward."""
    return functools.partial(
        FeedForward,
        config.dim,
        config.hidden,
        config.activation,
        config.bias,
        DTYPES[config.compute.dtype],
        **options,
    )


def _sizes(config: TransformerConfig) -> dict[str, Any]:
    return {
        "num_heads": config.heads,
        "head_dim": config.head_dim,
        "dim": config.dim,
        "dtype": DTYPES[config.compute.dtype],
        "kernel": config.compute.kernel,
    }


def encoder_parts(
    config: TransformerConfig,
    pattern: AttentionPattern | None = None,
    norm: Callable[[], nn.Module] = LayerNorm,
    after: Callable[[], nn.Module] | None = None,
    **options: Any,
) -> tuple[Residual, ...]:
    """Self-attention, by the context's `mask` or a pattern, and feed-forward; pre-norm.

    Args:
      config, pattern, options: see `self_attention`.
      norm, after: `before` and `after` of both parts, see `Residual`.
    """
    attention = self_attention(config, pattern, **options)
    return (
        Residual("attention", attention, "attention_norm", norm, after),
        Residual("ffn", feed_forward(config), "ffn_norm", norm, after),
    )


def decoder_parts(
    config: TransformerConfig, pattern: AttentionPattern, source: str
) -> tuple[Residual, ...]:
    """Self-attention by a pattern, attention to a source, feed-forward; pre-norm."""
    return (
        Residual("self_attention", self_attention(config, pattern), "self_norm"),
        Residual("cross_attention", cross_attention(config, source), "cross_norm"),
        Residual("ffn", feed_forward(config), "ffn_norm"),
    )


def make_stack(
    parts: tuple[Residual, ...], config: TransformerConfig, name: str | None = None
) -> Stack:
    """The stack that a config describes, of blocks of these parts."""
    return Stack(
        functools.partial(Block, parts, config.dropout, config.dim, config.attention_dropout),
        config.blocks,
        config.compute.scan,
        config.compute.remat,
        DTYPES[config.compute.dtype],
        numbered=True,
        name=name,
    )


def through(
    stack: Stack,
    x_B1D: jax.Array,
    caches: tuple[Any, ...],
    index: jax.Array,
    context: Mapping[str, Any],
) -> tuple[jax.Array, tuple[Any, ...]]:
    """One slot through all blocks of a stack.

    Args:
      stack: of `make_stack`, bound.
      x_B1D: the slot's input.
      caches: of each block.
      index: which slot, int32 [], or [B] where rows stand at different places.
      context: arrays by name.
    """
    return _through(stack, x_B1D, caches, "step", index, context)


def filled(
    stack: Stack, x_BPD: jax.Array, caches: tuple[Any, ...], context: Mapping[str, Any]
) -> tuple[jax.Array, tuple[Any, ...]]:
    """The first P slots at once through all blocks of a stack, and the caches with them in.

    Only for patterns whose ring has room for P slots.
    """
    return _through(stack, x_BPD, caches, "fill", context)


def _through(stack: Stack, x_BPD: jax.Array, caches: tuple[Any, ...], method: str, *inputs: Any):
    block, after = stack.block, []
    x_BPD = x_BPD.astype(stack.dtype)
    for layer, params in enumerate(stack.layers()):
        x_BPD, cache = block.apply(
            {"params": params}, x_BPD, caches[layer], *inputs, layer, method=method
        )
        after.append(cache)
    return x_BPD, tuple(after)


def empty_caches(
    stack: Stack, context: Mapping[str, Any], rows: int, length: int
) -> tuple[tuple[Any, ...], ...]:
    """A cache for each block of a stack; see `Block.empty_cache`."""
    block = stack.block
    return tuple(
        block.apply({"params": params}, context, rows, length, layer, method="empty_cache")
        for layer, params in enumerate(stack.layers())
    )
