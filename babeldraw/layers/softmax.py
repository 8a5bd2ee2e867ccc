"""Cross-entropy with a large vocabulary: loss and gradients over pieces of it, one after another.

The logits of all ids are never there at once, forward or backward, nor is anything else of their
size; the backward pass computes each piece again from the input and the log of the sum.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from babeldraw.sharding.constraint import constrain, divisible
from babeldraw.sharding.layout import current
from babeldraw.sharding.rules import entry_axes, partition_spec


def streamed_nll(
    x_BTD: jax.Array,
    weight_DV: jax.Array,
    ids_BT: jax.Array,
    pieces: int,
    smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """-log p of each id, float32 [B, T], and whether it is the likeliest, bool [B, T].

    As `models.head.token_nll` of the logits x weight, to rounding. Where a layout splits the
    vocabulary, each device goes through its own share, and what they exchange is of the size of x.

    Args:
      x_BTD: the input of the softmax layer.
      weight_DV: its weights.
      ids_BT: int32 in [0, V).
      pieces: of the vocabulary, in equal sizes.
      smoothing: of labels, see `token_nll`.

    Raises:
      ValueError: `pieces` does not divide V.
    """
    dim, vocab = weight_DV.shape
    if vocab % pieces:
        raise ValueError(f"{pieces} pieces do not divide a vocabulary of {vocab}")
    shares = _shares(vocab // pieces)
    weight_DV = constrain(weight_DV, ("readout", "vocab"))
    weight = weight_DV.reshape(dim, shares, pieces, vocab // (shares * pieces))
    x_BTD = constrain(x_BTD.astype(jnp.float32), ("batch", "length", None))
    return _nll(smoothing, x_BTD, weight.astype(jnp.float32), ids_BT)


def _shares(size: int) -> int:
    """In how many shares the layout in force splits a piece of the vocabulary."""
    layout = current()
    if layout is None or layout.manual:
        return 1
    spec = partition_spec(("activation_vocab",), layout.preset.used)
    (entry,) = divisible(spec, (size,), layout.mesh)
    return math.prod(layout.mesh.shape[axis] for axis in entry_axes(entry))


class _Seen(NamedTuple):
    """Of the pieces so far, by place and share S of the vocabulary, all [B, T, S].

    Attributes:
      top, best: the largest logit and its id.
      total: the sum of exp(logit - top).
      own: the logit of the id that is asked for, or 0.
      every: the sum of all logits.
    """

    top: jax.Array
    best: jax.Array
    total: jax.Array
    own: jax.Array
    every: jax.Array


def _piece(
    x_BTD: jax.Array, weight: jax.Array, ids_BT: jax.Array, number: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Piece `number`: weights [D, S, W], logits and where the asked ids are, [B, T, S, W]; ids."""
    _, shares, pieces, width = weight.shape
    weight_DSW = jax.lax.dynamic_index_in_dim(weight, number, 2, keepdims=False)
    logits = constrain(jnp.einsum("BTD,DSW->BTSW", x_BTD, weight_DSW), _SPLIT)
    first_S = (jnp.arange(shares) * pieces + number) * width
    ids_SW = first_S[:, None] + jnp.arange(width)[None]
    asked = ids_BT[:, :, None, None] == ids_SW[None, None]
    return weight_DSW, logits, asked, ids_SW


_SPLIT = ("batch", "length", "activation_vocab", None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nll(
    smoothing: float, x_BTD: jax.Array, weight: jax.Array, ids_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _forward(smoothing, x_BTD, weight, ids_BT)[0]


def _forward(smoothing: float, x_BTD: jax.Array, weight: jax.Array, ids_BT: jax.Array):
    _, shares, pieces, width = weight.shape
    zeros = constrain(jnp.zeros((*ids_BT.shape, shares)), _SPLIT[:3])

    def step(seen: _Seen, number: jax.Array) -> tuple[_Seen, None]:
        _, logits, asked, ids_SW = _piece(x_BTD, weight, ids_BT, number)
        here, at = jnp.max(logits, axis=-1), jnp.argmax(logits, axis=-1)
        top = jnp.maximum(seen.top, here)
        shifted = logits - jnp.broadcast_to(top[..., None], logits.shape)
        at = at + jnp.broadcast_to(ids_SW[None, None, :, 0], at.shape)
        return _Seen(
            top,
            # Of equal ones the first, as argmax.
            jnp.where(here > seen.top, at, seen.best),
            seen.total * jnp.exp(seen.top - top) + jnp.sum(jnp.exp(shifted), axis=-1),
            seen.own + jnp.sum(jnp.where(asked, logits, 0.0), axis=-1),
            seen.every + (jnp.sum(logits, axis=-1) if smoothing else 0.0),
        ), None

    begin = _Seen(zeros - jnp.inf, jnp.zeros_like(zeros, jnp.int32), zeros, zeros, zeros)
    seen, _ = jax.lax.scan(step, begin, jnp.arange(pieces))
    top_BT = jnp.max(seen.top, axis=-1)
    shift = seen.top - jnp.broadcast_to(top_BT[..., None], seen.top.shape)
    log_sum_BT = top_BT + jnp.log(jnp.sum(seen.total * jnp.exp(shift), axis=-1))
    nll_BT = log_sum_BT - (1 - smoothing) * jnp.sum(seen.own, axis=-1)
    if smoothing:
        nll_BT = nll_BT - smoothing * jnp.sum(seen.every, axis=-1) / (shares * pieces * width)
    share = jnp.argmax(seen.top, axis=-1)[..., None]
    best_BT = jnp.take_along_axis(seen.best, share, axis=-1)[..., 0]
    return (nll_BT, best_BT == ids_BT), (x_BTD, weight, ids_BT, log_sum_BT)


def _backward(smoothing: float, kept: tuple, gradients: tuple):
    x_BTD, weight, ids_BT, log_sum_BT = kept
    slope_BT, _ = gradients
    _, shares, pieces, width = weight.shape
    even = smoothing / (shares * pieces * width)

    def step(sums, number):
        x_sum_BTSD, weight_sum = sums
        weight_DSW, logits, asked, _ = _piece(x_BTD, weight, ids_BT, number)
        shares_of = jnp.exp(logits - jnp.broadcast_to(log_sum_BT[..., None, None], logits.shape))
        slope = shares_of - jnp.where(asked, 1 - smoothing, 0.0) - even
        slope = slope * jnp.broadcast_to(slope_BT[..., None, None], slope.shape)
        slope = constrain(slope, _SPLIT)
        # Each share's own sum, so that they are added up once and not for each piece.
        x_sum_BTSD = x_sum_BTSD + jnp.einsum("BTSW,DSW->BTSD", slope, weight_DSW)
        own_DSW = jnp.einsum("BTD,BTSW->DSW", x_BTD, slope)
        weight_sum = jax.lax.dynamic_update_index_in_dim(weight_sum, own_DSW, number, 2)
        return (constrain(x_sum_BTSD, _SPLIT), weight_sum), None

    x_sum_BTSD = constrain(jnp.zeros((*ids_BT.shape, shares, x_BTD.shape[-1])), _SPLIT)
    sums, _ = jax.lax.scan(step, (x_sum_BTSD, jnp.zeros_like(weight)), jnp.arange(pieces))
    return jnp.sum(sums[0], axis=2), sums[1], None


_nll.defvjp(_forward, _backward)
