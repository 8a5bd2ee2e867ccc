"""DiT: a transformer that denoises continuous codes; what is drawn from moves its norms.

Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023, whose block is the one
with adaLN-Zero. Of a grid each slot is a square of codes, of codes in one dimension one code.
Positions are fixed sines, so that one set of weights serves any grid.

A condition of one slot, a class or nothing, moves the norms together with the time, as published.
One of several, a text, moves them by its mean, and each block also attends to its slots, between
attention and feed-forward, by a part that begins as the identity like the others (PixArt-alpha,
Chen et al., 2024, whose attention there has no gate and begins with zeros in its last product).

Of a tokenizer with levels one network may draw into all: a vector of the level is added to that of
the time. Pictures of all levels may then be packed into rows, on which all blocks work (`packing`).

Weights begin by their fan-in, where DiT's have Xavier's deviation: the same for square products.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.layers.block import (
    Residual,
    TransformerConfig,
    cross_attention,
    encoder_parts,
    feed_forward,
    make_stack,
    self_attention,
)
from babeldraw.layers.dropout import fold
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import Einsum, Embedding, LayerNorm
from babeldraw.layers.modulation import AdaptiveNorm, Modulation, Standardized
from babeldraw.layers.packed_attention import PackedCrossAttention
from babeldraw.layers.packing import Packing
from babeldraw.layers.pictures import depth_to_space
from babeldraw.layers.positions import sine_grid, sine_positions
from babeldraw.models.condition import Condition
from babeldraw.models.denoiser import Denoiser, DenoisingNetwork
from babeldraw.models.levels import LevelGroup, flat
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample
from babeldraw.tokenizers.base import Codes
from babeldraw.tokenizers.pixels import to_patches

TEXT, VECTOR = "text", "vector"
# Cosines and sines of the time, the slowest of which turns once in about 2 pi times the period
# (the published code, after "Attention Is All You Need").
FREQUENCIES, PERIOD = 256, 10_000.0
# As the published code begins the products of the time.
TIME_STDDEV = 0.02


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Attributes:
    stack: its blocks.
    patch_size: side of the squares of a grid's codes that are a slot each; 1 for codes in one
      dimension.
    learned_sigma: it also says how much noise a step draws, as published; for the objective ddpm.
    encoder: of blocks that read a text alone, once for all steps of drawing; None: none do.
    """

    stack: TransformerConfig
    patch_size: int = 2
    learned_sigma: bool = False
    encoder: TransformerConfig | None = None
    kind: str = "dit"

    def __post_init__(self):
        path, dim = "config.model", self.stack.dim
        require(
            self.patch_size >= 1, f"{path}.patch_size is {self.patch_size}; at least 1 is needed"
        )
        require(dim % 4 == 0, f"{path}.stack.dim is {dim}; sines need a multiple of 4")
        own = dim if self.encoder is None else self.encoder.dim
        require(own == dim, f"{path}.encoder.dim is {own} and stack.dim {dim}; they must be equal")

    def tiny(self) -> "DiTConfig":
        """The same for a first run."""
        encoder = None if self.encoder is None else self.encoder.tiny()
        return dataclasses.replace(self, stack=self.stack.tiny(), encoder=encoder)


def dit_parts(
    config: TransformerConfig, attends: bool, packing: Packing | None = None
) -> tuple[Residual, ...]:
    """Attention, attention to a text where there is one, feed-forward; a vector moves all norms.

    Of packed rows each picture has a text and a vector of its own.
    """
    modulation = functools.partial(Modulation, packing=packing)
    make = functools.partial(Residual, before=Standardized, adaptive=VECTOR, modulation=modulation)
    pattern = None if packing is None else packing.pattern
    own = make("attention", self_attention(config, pattern, bias=True), "attention_norm")
    ffn = make("ffn", feed_forward(config), "ffn_norm")
    if not attends:
        return own, ffn
    text = cross_attention(config, TEXT, bias=True)
    if packing is not None:
        text = functools.partial(PackedCrossAttention, **text.keywords, packing=packing)
    return own, make("cross_attention", text, "cross_norm"), ffn


class TimeEmbedding(nn.Module):
    """float32 [B] -> float32 [B, D]: cosines and sines, then two products with a SiLU between."""

    dim: int

    @nn.compact
    def __call__(self, time_B: jax.Array) -> jax.Array:
        x_BC = time_waves(time_B)
        x_BD = self._product(FREQUENCIES, "first")(x_BC)
        return self._product(self.dim, "second")(jax.nn.silu(x_BD))

    def _product(self, width: int, name: str) -> Einsum:
        axes, scale = ("embed", "activation_embed"), TIME_STDDEV * math.sqrt(width)
        return Einsum("BC,CD->BD", (width, self.dim), axes, bias=True, scale=scale, name=name)


def time_waves(time_B: jax.Array) -> jax.Array:
    """float32 [B, FREQUENCIES]: cosines of a time in [0, 1000], then its sines."""
    half = FREQUENCIES // 2
    rates_C = PERIOD ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BC = time_B[:, None] * rates_C[None]
    return jnp.concatenate([jnp.cos(angles_BC), jnp.sin(angles_BC)], axis=-1)


class Pooled(nn.Module):
    """A condition's vector [B, C] as float32 [B, dim]: as it is, or a product of another width."""

    dim: int

    @nn.compact
    def __call__(self, pooled_BC: jax.Array) -> jax.Array:
        width = pooled_BC.shape[-1]
        if width == self.dim:
            return pooled_BC
        axes = (None, "activation_embed")
        return Einsum("BC,CD->BD", (width, self.dim), axes, bias=True, name="product")(pooled_BC)


class DiT(DenoisingNetwork):
    """What says of noisy codes what is noise; see `models.denoiser.Denoiser`.

    Attributes:
      codes: of the level that is seen.
      levels: those that it may see; None: that one alone.
      packing: how pictures lie in a row; see `PackedDiT`.
    """

    config: DiTConfig
    condition: Condition
    codes: Codes
    levels: LevelGroup | None = None
    packing: Packing | None = None

    def setup(self):
        config, dim = self.config, self.config.stack.dim
        self.prefix = self.condition.prefix(dim)
        self.pooled = Pooled(dim)
        if config.encoder is not None:
            self.encoder = make_stack(encoder_parts(config.encoder), config.encoder)
        if self.attends:
            self.text_norm = LayerNorm()
        values = config.patch_size ** len(self.codes.shape) * self.codes.channels
        self.patches = Einsum("BTC,CD->BTD", (values, dim), ("patch", "embed"), bias=True)
        self.time = TimeEmbedding(dim)
        if self.levels is not None:
            self.level = Embedding(len(self.levels.names), dim, axis=None)
        parts = dit_parts(config.stack, self.attends, self.packing)
        self.stack = make_stack(parts, config.stack)
        self.norm = AdaptiveNorm(dim, backwards=True, packing=self.packing)
        made = values * (2 if config.learned_sigma else 1)
        # Begins with zeros, as all that it reads of the blocks does.
        shape, axes = (dim, made), ("embed", "patch")
        self.head = Einsum("BTD,DC->BTC", shape, axes, bias=True, scale=0.0)

    @property
    def attends(self) -> bool:
        """Whether blocks attend to what is drawn from."""
        return self.condition.prefix_length > 1

    def read(self, condition: Any, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """What is drawn from as a vector [B, D], and the slots of a text, float32 [B, P, D]."""
        prefix_BPD = self.prefix(condition)
        found = {VECTOR: self.pooled(self.condition.pooled(condition, prefix_BPD))}
        if not self.attends:
            return found
        seen_BP, masks = self.condition.seen(condition), {}
        if seen_BP is not None:
            masks["mask"] = seen_BP[:, None, None]
            found[f"{TEXT}_mask"] = masks["mask"]
        if self.config.encoder is not None:
            prefix_BPD = constrain(prefix_BPD, ("batch", "length", "activation_embed"))
            context = {name: PerExample(mask) for name, mask in masks.items()}
            prefix_BPD = self.encoder(prefix_BPD, context, keys=fold(keys, 0))
        return {**found, TEXT: self.text_norm(prefix_BPD)}

    def denoised(
        self,
        context: dict[str, jax.Array],
        noisy: jax.Array,
        time_B: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """As `Denoiser.denoise`."""
        vector_BD = self.time(time_B) + context[VECTOR]
        if self.levels is not None:
            vector_BD = vector_BD + self.level(jnp.int32([self.levels.codes.index(self.codes)]))
        x_BTD = self._through(self._slots(self.codes, noisy), vector_BD, context, keys)
        return self._places(self.codes, self.head(x_BTD))

    def _through(
        self,
        x_BTD: jax.Array,
        vector: jax.Array,
        context: dict[str, jax.Array],
        keys: jax.Array | None,
    ) -> jax.Array:
        """All blocks and the last norm, moved by a vector [B, D], of packed rows [R, P, D]."""
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        # Each norm's product has a SiLU before it.
        vector = jax.nn.silu(vector).astype(self.stack.dtype)
        seen = {VECTOR: PerExample(vector)}
        for name, array in context.items():
            if name != VECTOR:
                # The text is read by every block: kept in the blocks' own type.
                own = array.astype(self.stack.dtype) if name == TEXT else array
                seen[name] = PerExample(own)
        return self.norm(self.stack(x_BTD, seen, keys=fold(keys, 1)), vector)

    def _slots(self, codes: Codes, noisy: jax.Array) -> jax.Array:
        """Noisy codes as slots with their positions, float32 [B, T, D]."""
        dim, patch = self.config.stack.dim, self.config.patch_size
        if len(codes.shape) == 1:
            return self.patches(noisy) + sine_positions(*codes.shape, dim)[None]
        grid = (codes.shape[0] // patch, codes.shape[1] // patch)
        positions_TD = sine_grid(grid, dim, columns_first=True)
        return self.patches(to_patches(noisy, patch)) + positions_TD[None]

    def _places(self, codes: Codes, x_BTC: jax.Array) -> jax.Array:
        """What each slot gives, to the places of codes."""
        if len(codes.shape) == 1:
            return x_BTC
        patch, (h, w) = self.config.patch_size, codes.shape
        x_BhwC = x_BTC.reshape(x_BTC.shape[0], h // patch, w // patch, -1)
        return depth_to_space(x_BhwC, patch)


class PackedDiT(DiT):
    """The same of pictures of all levels in rows: every input and output has rows, then pictures.

    Noisy codes, and what is said of them, are a list by level, each [R, count, *codes].
    """

    def read(self, condition: Any, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """As `DiT.read`, of conditions [R, P, ...]; keys are [R, P]."""
        return self.levels.grouped(super().read(flat(condition), flat(keys)))

    def denoised(
        self,
        context: dict[str, jax.Array],
        noisy: list[jax.Array],
        time_RP: jax.Array,
        keys: jax.Array | None = None,
    ) -> list[jax.Array]:
        """Of each level what `DiT.denoised` says, to rounding but for dropout.

        A row drops by the key of its first picture.
        """
        levels, packing = self.levels, self.packing
        levels_P = np.repeat(np.arange(len(levels.names), dtype=np.int32), levels.counts)
        vector_RPD = levels.grouped(self.time(flat(time_RP))) + context[VECTOR]
        vector_RPD = vector_RPD + self.level(jnp.asarray(levels_P))[None]
        slots = [
            self._slots(codes, flat(level)).reshape(*level.shape[:2], -1, vector_RPD.shape[-1])
            for codes, level in zip(levels.codes, noisy, strict=True)
        ]
        keys = None if keys is None else keys[:, 0]
        x_RTD = self._through(packing.packed(slots), vector_RPD, context, keys)
        return [
            self._places(codes, flat(made)).reshape(*level.shape[:-1], -1)
            for codes, made, level in zip(
                levels.codes, packing.apart(self.head(x_RTD)), noisy, strict=True
            )
        ]


@dataclasses.dataclass(frozen=True)
class DiTGenerator(Denoiser):
    """A DiT as pure functions of its parameters; see `Generator` and `Denoiser`."""

    config: DiTConfig
    condition: Condition
    codes: Codes
    levels: LevelGroup | None = None

    takes_levels = True

    @property
    def network(self) -> DiT:
        return DiT(self.config, self.condition, self.codes, self.levels)

    @property
    def packed(self) -> PackedDiT:
        """The same weights on rows of pictures of all levels."""
        packing = self.levels.packing(tuple(map(self._slots_of, self.levels.codes)))
        return PackedDiT(self.config, self.condition, self.codes, self.levels, packing)

    def _slots_of(self, codes: Codes) -> int:
        return codes.length // self.config.patch_size ** len(codes.shape)

    @property
    def learned_variance(self) -> bool:
        return self.config.learned_sigma

    def check(self) -> None:
        super().check()
        for codes in (self.codes,) if self.levels is None else self.levels.codes:
            self._check_patches(codes.shape)
        require(
            self.config.encoder is None or self.condition.prefix_length > 1,
            f"config.model.encoder is set and config.condition.kind={self.condition.kind} is a "
            "single vector, which no block reads; set it to None",
        )

    @property
    def together(self) -> tuple[int, str]:
        group = 1 if self.levels is None else self.levels.size
        return group, "pictures of config.levels.counts"

    def _check_patches(self, shape: tuple[int, ...]) -> None:
        patch = self.config.patch_size
        require(
            len(shape) == 2 or patch == 1,
            f"config.model.patch_size is {patch} and the tokenizer's codes lie in one dimension; 1 "
            "is needed",
        )
        require(
            not any(side % patch for side in shape),
            f"config.model.patch_size is {patch}, which does not divide the tokenizer's "
            f"{' x '.join(map(str, shape))} codes; choose a divisor of both",
        )

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        encoder, stack = self.config.encoder, self.config.stack
        return {"stack": stack} if encoder is None else {"encoder": encoder, "stack": stack}

    def flops(self) -> dict[str, tuple[int, str]]:
        stack, patch, square = self.config.stack, self.config.patch_size, self.config.stack.dim**2
        slots = self._slots_of(self.codes)
        text = self.condition.prefix_length if self.condition.prefix_length > 1 else 0
        values = patch ** len(self.codes.shape) * self.codes.channels
        ends = values * (3 if self.config.learned_sigma else 2)
        found = {
            "stack": (
                blocks_forward(stack, slots, context=text),
                "blocks (8 T D^2 + 4 T^2 D + 4 T D F)"
                + (" and attention to the text (4 (T + S) D^2 + 4 T S D)" if text else ""),
            ),
            "modulation": (
                2 * stack.blocks * (9 if text else 6) * square + 4 * square,
                f"blocks ({18 if text else 12} D^2) + (4 D^2)",
            ),
            "time": (2 * (FREQUENCIES * stack.dim + square), "(2 D (256 + D))"),
            "ends": (2 * slots * stack.dim * ends, "(2 T D C), C values read and made"),
        }
        if self.config.encoder is not None:
            read = blocks_forward(self.config.encoder, text)
            found["encoder"] = (read, "blocks (8 S D^2 + 4 S^2 D + 4 S D F)")
        return found
