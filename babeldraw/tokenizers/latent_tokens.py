"""What a tokenizer of one dimension is made of: latent tokens beside a grid, in one transformer.

Yu et al., "An Image is Worth 32 Tokens for Reconstruction and Generation" (TiTok), 2024, section
3.2; the order of layers is that of the published code. In names here T are the cells of the grid in
raster order, K latent tokens and S words of a text.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.block import Residual, TransformerConfig, encoder_parts, make_stack
from babeldraw.layers.convolution import Conv
from babeldraw.layers.dropout import example_keys
from babeldraw.layers.linear import Einsum, LayerNorm
from babeldraw.layers.positions import LearnedPositions
from babeldraw.sharding.context import PerExample
from babeldraw.tokenizers.pixels import CHANNELS, from_patches

Norm = functools.partial(LayerNorm, 1e-5)


def vectors(count: int, dim: int, name: str | None = None) -> LearnedPositions:
    """So many learned vectors, drawn as the published ones: of length 1 in the mean."""
    return LearnedPositions(count, dim, dim**-0.5, name=name)


def block_parts(config: TransformerConfig) -> tuple[Residual, ...]:
    """Attention of all to all and feed-forward, pre-norm, with biases in both or in neither."""
    return encoder_parts(config, norm=Norm, bias=config.bias)


class LatentTransformer(nn.Module):
    """Blocks over one sequence: a class row, the cells of a grid, latent tokens, words.

    Attributes:
      config: of the blocks.
      cells, tokens, words: T, K and S; S is 0 where no text guides it.
      gives: what comes out, `tokens` or `cells`.
    """

    config: TransformerConfig
    cells: int
    tokens: int
    words: int = 0
    gives: str = "tokens"

    @nn.compact
    def __call__(
        self,
        cells_BTD: jax.Array,
        tokens_BKD: jax.Array,
        words_BSD: jax.Array | None = None,
        kept_B: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """float32 [B, T, D] or [B, K, D], behind a norm.

        Args:
          cells_BTD: patches, or mask tokens.
          tokens_BKD: latent tokens; fewer than K are the first ones.
          words_BSD: states of a text; where `words` is 0, None.
          kept_B: int32, of each example how many latent tokens are seen, the first ones; None: all.
          deterministic: whether nothing is dropped.
        """
        dim, rows = self.config.dim, cells_BTD.shape[0]
        row_1D = vectors(1, dim, "class_row")()
        grid_TD = vectors(1 + self.cells, dim, "positions")()
        of_tokens_KD = vectors(self.tokens, dim, "token_positions")()[: tokens_BKD.shape[1]]
        first_B1D = jnp.broadcast_to((row_1D + grid_TD[:1])[None], (rows, 1, dim))
        parts = [first_B1D, cells_BTD + grid_TD[None, 1:], tokens_BKD + of_tokens_KD[None]]
        if self.words:
            parts.append(words_BSD + vectors(self.words, dim, "word_positions")()[None])
        x_BTD = Norm(name="norm_before")(jnp.concatenate(parts, axis=1))
        x_BTD = self._through(x_BTD, tokens_BKD.shape[1], kept_B, deterministic)
        first = 1 if self.gives == "cells" else 1 + self.cells
        count = self.cells if self.gives == "cells" else tokens_BKD.shape[1]
        return Norm(name="norm_after")(x_BTD[:, first : first + count])

    def _through(
        self, x_BTD: jax.Array, tokens: int, kept_B: jax.Array | None, deterministic: bool
    ) -> jax.Array:
        """All slots through the blocks."""
        stack, context = make_stack(block_parts(self.config), self.config, "stack"), None
        if kept_B is not None:
            slots_T = jnp.arange(x_BTD.shape[1]) - 1 - self.cells
            seen_BT = (slots_T[None] < kept_B[:, None]) | (slots_T[None] >= tokens)
            context = {"mask": PerExample(seen_BT[:, None, None])}
        rng = None if deterministic or not self.config.drops else self.make_rng("dropout")
        keys = None if rng is None else example_keys(rng, x_BTD.shape[0])
        return stack(x_BTD, context, keys)


class CodeHead(nn.Module):
    """Logits of another tokenizer's codes at each cell: two layers with tanh between them.

    The hidden width is twice D, as in the published code.
    """

    dim: int
    vocab: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> float32 [B, T, V]."""
        wide = Einsum(
            "BTD,DF->BTF", (self.dim, 2 * self.dim), ("embed", "mlp"), bias=True, name="hidden"
        )
        logits = Einsum(
            "BTF,FV->BTV", (2 * self.dim, self.vocab), ("mlp", None), bias=True, name="logits"
        )
        return logits(jnp.tanh(wide(x_BTD)))


class PixelHead(nn.Module):
    """A patch of each cell, then a 3 x 3 convolution over the whole picture, near [0, 1].

    Attributes:
      dim, grid, patch: D, (h, w) and the side of a patch.
    """

    dim: int
    grid: tuple[int, int]
    patch: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> float32 [B, height, width, 3]."""
        values = math.prod((self.patch, self.patch, CHANNELS))
        patches = Einsum(
            "BTD,DP->BTP", (self.dim, values), ("embed", "patch"), bias=True, name="patches"
        )
        picture = from_patches(patches(x_BTD), self.grid, self.patch)
        return Conv(CHANNELS, name="smooth")(picture)
