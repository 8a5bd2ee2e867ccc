"""Codes of a large codebook in factors, each with vectors and a softmax of its own.

Luo et al., "Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-regressive Visual
Generation", 2024, section 3.2: 2^18 codes as 6 and 12 bits, the second known from the first.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.block import Residual, TransformerConfig, make_stack
from babeldraw.layers.linear import Embedding, Logits
from babeldraw.models.head import factor_nll
from babeldraw.tokenizers.base import Codes


def split(codes: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """Numbers below the product of `sizes`, int32 [...], to int32 [..., factors].

    The first factor counts fastest: of bits, the lowest, as in Open-MAGVIT2.
    """
    found = []
    for size in sizes:
        found.append(codes % size)
        codes = codes // size
    return jnp.stack(found, axis=-1)


def joined(factors: Sequence[jax.Array], sizes: Sequence[int]) -> jax.Array:
    """The way back: int32 [...] of each factor, to the numbers."""
    steps = [math.prod(sizes[:place]) for place in range(len(sizes))]
    return sum(factor * step for factor, step in zip(factors, steps, strict=True))


class FactorVectors(nn.Module):
    """Codes int32 [B, T, factors] -> float32 [B, T, D]: the sum of the factors' vectors.

    Attributes:
      codes: what they are, of several factors.
      dim: D.
    """

    codes: Codes
    dim: int

    def setup(self):
        self.tables = [Embedding(size, self.dim) for size in self.codes.vocab]

    def __call__(self, codes: jax.Array) -> jax.Array:
        return sum(self.of(place, codes[..., place]) for place in range(len(self.codes.vocab)))

    def of(self, place: int, factor: jax.Array) -> jax.Array:
        """The vectors of one factor, int32 [...] -> float32 [..., D]."""
        return self.tables[place](factor)


class IntraHead(nn.Module):
    """A head whose factors are read from a causal stack over each place's own.

    The stack's slots are what the network makes of the place and then the vectors of the place's
    factors; slot f predicts factor f, which so knows those before it.

    Attributes:
      codes: what is predicted, of several factors.
      config, parts: of the stack and of its blocks.
      embed: the vectors, those that the network reads too.
      norm: makes the norm of what the stack gives.
      pieces: see `Head`.
      scale: of the weights as they begin, see `Einsum`.
    """

    codes: Codes
    config: TransformerConfig
    parts: tuple[Residual, ...]
    embed: FactorVectors
    norm: Callable[[], nn.Module]
    pieces: int = 1
    scale: float = 1.0

    def setup(self):
        self.stack = make_stack(self.parts, self.config)
        self.stack_norm = self.norm()
        dim, sizes = self.config.dim, self.codes.vocab
        self.factors = [Logits.make(dim, size, scale=self.scale) for size in sizes]

    def logits(self, x_BTD: jax.Array, earlier: jax.Array | None = None) -> jax.Array:
        """Of the next factor; see `Head.logits`."""
        known = 0 if earlier is None else earlier.shape[-1]
        hidden_BTFD = self._hidden(x_BTD, earlier, known, None)
        return self.factors[known](hidden_BTFD[:, :, known])

    def nll(
        self, x_BTD: jax.Array, codes: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code, float32 [B, T], and whether it is the likeliest, bool [B, T].

        Args:
          x_BTD: the network's output.
          codes: int32 [B, T, factors].
          keys: of dropout, one per example; None: no dropout.
        """
        hidden_BTFD = self._hidden(x_BTD, codes, len(self.factors) - 1, keys)
        nll_BT, right_BT = 0.0, True
        for place, softmax in enumerate(self.factors):
            ids_BT = codes[..., place]
            found = factor_nll(softmax, hidden_BTFD[:, :, place], ids_BT, self.pieces)
            nll_BT, right_BT = nll_BT + found[0], right_BT & found[1]
        return nll_BT, right_BT

    def _hidden(
        self, x_BTD: jax.Array, codes: jax.Array | None, known: int, keys: jax.Array | None
    ) -> jax.Array:
        """The stack's output in the first slots, float32 [B, T, known + 1, D]."""
        batch, length, dim = x_BTD.shape
        vectors = [self.embed.of(place, codes[..., place]) for place in range(known)]
        slots = jnp.stack([x_BTD, *(one.astype(x_BTD.dtype) for one in vectors)], axis=2)
        if keys is not None:
            # A place is an example to the stack.
            places = jnp.arange(length, dtype=jnp.uint32)
            keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, places)
            keys = keys.reshape(batch * length)
        out = self.stack(slots.reshape(batch * length, known + 1, dim), keys=keys)
        return self.stack_norm(out.reshape(batch, length, known + 1, dim))
