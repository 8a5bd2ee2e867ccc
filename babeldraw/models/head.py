"""Codes into a network and out of it: their vectors, and a softmax for each factor of a code."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.linear import Embedding, Logits
from babeldraw.layers.softmax import streamed_nll
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True)
class HeadCompute:
    """How a head's loss is computed, not what it is; a run may change it on resuming.

    Attributes:
      pieces: of the vocabulary, gone through one after another in both passes, so that all logits
        are never there at once; 1: all at once, quicker where they fit.
    """

    pieces: int = 1

    def __post_init__(self):
        require(
            self.pieces >= 1,
            f"config.model.compute.pieces is {self.pieces}; at least 1 is needed",
        )

    def check(self, sizes: tuple[int, ...]) -> None:
        """Raises `UserError` where a softmax of one of these sizes cannot be cut so."""
        for size in sizes:
            require(
                size % self.pieces == 0,
                f"config.model.compute.pieces is {self.pieces}, which does not divide the {size} "
                "values of a softmax; take a divisor",
            )


class CodeEmbedding(nn.Module):
    """Codes [B, T] or [B, T, factors] -> float32 [B, T, D]: the sum of the factors' vectors.

    Attributes:
      codes: what they are.
      dim: D.
      more: further rows of the table, numbered after all codes: a start, a mask.
      axis: logical axis of the rows.
    """

    codes: Codes
    dim: int
    more: int = 0
    axis: str | None = "vocab"

    def setup(self):
        self.embed = Embedding(self.codes.entries + self.more, self.dim, self.axis)
        nn.share_scope(self, self.embed)

    def __call__(self, codes: jax.Array) -> jax.Array:
        """int32, as `Codes` says -> float32 [..., D]."""
        return self.rows(self.codes.numbered(codes))

    def rows(self, numbers: jax.Array) -> jax.Array:
        """Of rows of the table, those of one code's factors in the last dimension."""
        vectors = self.embed(numbers)
        return vectors if len(self.codes.vocab) == 1 else jnp.sum(vectors, axis=-2)

    def masked(self, codes: jax.Array, known: jax.Array) -> jax.Array:
        """The same, with the first further row, the mask, where bool [B, T] `known` says no."""
        seen = jnp.reshape(known, known.shape + (1,) * (codes.ndim - known.ndim))
        seen = jnp.broadcast_to(seen, codes.shape)
        return self.rows(jnp.where(seen, self.codes.numbered(codes), self.codes.entries))

    def after(self, codes: jax.Array) -> jax.Array:
        """Of the first further row, then of all codes but the last: slot t holds code t - 1."""
        numbers = self.codes.numbered(codes)
        first = jnp.full_like(numbers[:, :1], self.codes.entries)
        return self.rows(jnp.concatenate([first, numbers[:, :-1]], axis=1))

    def before(self, codes: jax.Array, index: jax.Array) -> jax.Array:
        """The same of one slot, `index`, int32 [] or [B], given the codes before, [B, ...]."""
        numbers = self.codes.numbered(codes)
        first = jnp.reshape(index == 0, index.shape + (1,) * (numbers.ndim - index.ndim))
        first = jnp.broadcast_to(first, numbers.shape)
        return self.rows(jnp.where(first, self.codes.entries, numbers))


class Head(nn.Module):
    """What is predicted of each place: its code, factor by factor.

    The first factor is read from the network's output alone, each later one also from the factors
    before it. Losses call `nll`, draws `logits`.

    Attributes:
      codes: what is predicted.
      dim: D of the network's output.
      tied: the table of codes whose vectors are also the first factor's weights; None: weights of
        its own.
      bias: of the logits.
      more: where they are tied, biases of ids that are no codes; they are kept and have no effect.
      pieces: in which losses go through the vocabulary, see `HeadCompute`; more than 1 for untied
        weights without bias alone.
      scale: of untied weights as they begin, see `Einsum`; 0 for a network that begins with all
        codes alike, as LlamaGen.
    """

    codes: Codes
    dim: int
    tied: CodeEmbedding | None = None
    bias: bool = False
    more: int = 0
    pieces: int = 1
    scale: float = 1.0

    def setup(self):
        first, *others = self.codes.vocab
        if self.pieces > 1 and (self.bias or self.tied is not None):
            raise ValueError("a softmax with bias or tied weights is not computed in pieces")
        if self.tied is None:
            self.first = Logits.make(self.dim, first, self.bias, scale=self.scale)
            nn.share_scope(self, self.first)
        elif self.bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.offset = self.param("bias", init, (first + self.more,))
        self.others = [Logits.make(self.dim, n, self.bias, scale=self.scale) for n in others]
        if others:
            self.earlier = Embedding(sum(self.codes.vocab[:-1]), self.dim, axis=None)

    def logits(self, x_BTD: jax.Array, earlier: jax.Array | None = None) -> jax.Array:
        """Of the next factor: float32 [B, T, V].

        Args:
          x_BTD: the network's output, float32 [B, T, D].
          earlier: int32 [B, T, f], the factors that are known; None: none.
        """
        if earlier is None or earlier.shape[-1] == 0:
            return self.first(x_BTD) if self.tied is None else self._like_vectors(x_BTD)
        return self.others[earlier.shape[-1] - 1](self._knowing(x_BTD, earlier))

    def _knowing(self, x_BTD: jax.Array, earlier: jax.Array) -> jax.Array:
        vectors = self.earlier(self.codes.numbered_first(earlier))
        return x_BTD + jnp.sum(vectors, axis=-2)

    def _like_vectors(self, x_BTD: jax.Array) -> jax.Array:
        size = self.codes.vocab[0]
        vectors_VD = self.tied.embed(jnp.arange(size))
        logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD.astype(jnp.float32), vectors_VD)
        if not self.bias:
            return logits_BTV
        return logits_BTV + jnp.broadcast_to(self.offset[:size], logits_BTV.shape)

    def nll(
        self, x_BTD: jax.Array, codes: jax.Array, smoothing: float = 0.0
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code, float32 [B, T], and whether it is the likeliest, bool [B, T].

        Args:
          x_BTD: the network's output, float32 [B, T, D].
          codes: int32, as `Codes` says.
          smoothing: of labels, see `token_nll`.
        """
        factors = [codes] if len(self.codes.vocab) == 1 else jnp.unstack(codes, axis=-1)
        nll_BT, right_BT = 0.0, True
        for number, factor_BT in enumerate(factors):
            earlier = jnp.stack(factors[:number], axis=-1) if number else None
            if self.pieces > 1:
                softmax = self.others[number - 1] if number else self.first
                hidden_BTD = self._knowing(x_BTD, earlier) if number else x_BTD
                found = factor_nll(softmax, hidden_BTD, factor_BT, self.pieces, smoothing)
            else:
                found = _whole_nll(self.logits(x_BTD, earlier), factor_BT, smoothing)
            nll_BT, right_BT = nll_BT + found[0], right_BT & found[1]
        return nll_BT, right_BT


def factor_nll(
    softmax: Logits, x_BTD: jax.Array, ids_BT: jax.Array, pieces: int, smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """-log p of the ids of one factor, float32 [B, T], and whether each is the likeliest.

    Args:
      softmax: its layer, without bias.
      x_BTD: the layer's input.
      ids_BT: int32.
      pieces, smoothing: see `HeadCompute` and `token_nll`.
    """
    if pieces == 1:
        return _whole_nll(softmax(x_BTD), ids_BT, smoothing)
    return streamed_nll(x_BTD, softmax.weight, ids_BT, pieces, smoothing)


def _whole_nll(
    logits_BTV: jax.Array, ids_BT: jax.Array, smoothing: float
) -> tuple[jax.Array, jax.Array]:
    right_BT = jnp.argmax(logits_BTV.astype(jnp.float32), axis=-1) == ids_BT
    return token_nll(logits_BTV, ids_BT, smoothing), right_BT


def token_nll(logits_BTV: jax.Array, ids_BT: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """-log p of each id, float32 [B, T], by logits of any type.

    With label smoothing the cross-entropy with a label of which the share `smoothing` lies evenly
    on all V ids (Szegedy et al., "Rethinking the Inception Architecture", 2016, section 7).
    """
    log_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    nll_BT = -jnp.take_along_axis(log_BTV, ids_BT[..., None], axis=-1)[..., 0]
    if not smoothing:
        return nll_BT
    return (1 - smoothing) * nll_BT - smoothing * jnp.mean(log_BTV, axis=-1)
