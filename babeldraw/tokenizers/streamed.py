"""Softmax over a codebook in blocks of codes: nothing here is as large as tokens times codes.

The logits of N tokens are the products z.e with all V codes. What a loss needs of their softmax is
summed over blocks of codes, and probabilities are computed again, block by block, for the gradient.
Where the layout in force splits a codebook over the mesh axis `model`, each device goes through its
own codes. 2^18 codes for 256 tokens would be 268 MB for each picture, several times over.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.sharding.layout import Layout, current

# Codes of a block.
BLOCK = 1024
# Added to a mean probability before its logarithm: of a code that is nobody's that has no gradient.
# MAGVIT's.
FLOOR = 1e-5
AXIS = "model"

Arrays = tuple[jax.Array, ...]


# ------------------------------------------------------------------ index backpropagation


@jax.custom_vjp
def indexed(z_NQ: jax.Array, codes_VQ: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The likeliest code of each token, with the gradient of the whole softmax over codes.

    The value is one-hot(argmax) times the codebook E; towards the logits l = z.e the gradient is
    that of p = softmax(l) in place of one-hot, straight through (Shi et al., "Scalable Image
    Tokenization with Index Backpropagation Quantization", 2024). With g the gradient at the output,
    dl = p (E g - <p, E g>), dz = E^T dl and dE = onehot^T g + dl^T z: every code gets one.

    Args:
      z_NQ: float32, of the tokens.
      codes_VQ: float32.

    Returns:
      float32 [N, Q] and int32 [N], of equal logits the first.
    """
    return _indexed(z_NQ, codes_VQ)[0]


def _indexed(z_NQ: jax.Array, codes_VQ: jax.Array) -> tuple[Arrays, Arrays]:
    """The outputs, and what the gradient needs."""

    def body(shards: "_Shards", rows: Arrays, whole: Arrays) -> tuple[Arrays, Arrays]:
        (z_NQ,), tokens = whole, whole[0].shape[:1]

        def step(carry, codes_bQ, numbers_b):
            top_N, sum_N, mean_NQ, ids_N = carry
            logits_Nb = z_NQ @ codes_bQ.T
            here_N = jnp.max(logits_Nb, axis=-1)
            ids_N = jnp.where(here_N > top_N, numbers_b[jnp.argmax(logits_Nb, axis=-1)], ids_N)
            new_N = jnp.maximum(top_N, here_N)
            p_Nb, shrunk_N = jnp.exp(logits_Nb - new_N[:, None]), jnp.exp(top_N - new_N)
            sum_N = shrunk_N * sum_N + jnp.sum(p_Nb, axis=-1)
            return (new_N, sum_N, shrunk_N[:, None] * mean_NQ + p_Nb @ codes_bQ, ids_N), ()

        none = (jnp.full(tokens, -jnp.inf), jnp.zeros(tokens), jnp.zeros_like(z_NQ))
        (own_N, sum_N, mean_NQ, ids_N), _ = _over_blocks(
            step, (*none, jnp.zeros(tokens, jnp.int32)), rows
        )
        top_N = shards.largest(own_N)
        ids_N = shards.least(jnp.where(own_N == top_N, ids_N, jnp.iinfo(jnp.int32).max))
        share_N = jnp.exp(own_N - top_N)
        sum_N = shards.sum(sum_N * share_N)
        mean_NQ = shards.sum(mean_NQ * share_N[:, None]) / sum_N[:, None]
        chosen_NQ = jnp.take(rows[0], _own(ids_N, rows[1]), axis=0, mode="fill", fill_value=0)
        return (shards.sum(chosen_NQ), ids_N, top_N + jnp.log(sum_N), mean_NQ), ()

    (chosen_NQ, ids_N, norm_N, mean_NQ), _ = _by_shards(body, _numbered(codes_VQ), (z_NQ,))
    return (chosen_NQ, ids_N), (z_NQ, codes_VQ, ids_N, norm_N, mean_NQ)


def _indexed_backward(kept: Arrays, gradients: Arrays) -> Arrays:
    def body(shards: "_Shards", rows: Arrays, whole: Arrays) -> tuple[Arrays, Arrays]:
        z_NQ, ids_N, norm_N, mean_NQ, g_NQ = whole
        mean_N = jnp.sum(mean_NQ * g_NQ, axis=-1)

        def step(to_z_NQ, codes_bQ, _):
            p_Nb = jnp.exp(z_NQ @ codes_bQ.T - norm_N[:, None])
            slope_Nb = p_Nb * (g_NQ @ codes_bQ.T - mean_N[:, None])
            return to_z_NQ + slope_Nb @ codes_bQ, (slope_Nb.T @ z_NQ,)

        to_z_NQ, (to_codes_VQ,) = _over_blocks(step, jnp.zeros_like(z_NQ), rows)
        to_codes_VQ = to_codes_VQ.at[_own(ids_N, rows[1])].add(g_NQ, mode="drop")
        return (shards.sum(to_z_NQ),), (to_codes_VQ,)

    (z_NQ, codes_VQ, ids_N, norm_N, mean_NQ), (g_NQ, _) = kept, gradients
    with jax.named_scope("quantize"):
        (to_z_NQ,), (to_codes_VQ,) = _by_shards(
            body, _numbered(codes_VQ), (z_NQ, ids_N, norm_N, mean_NQ, g_NQ)
        )
    return to_z_NQ, to_codes_VQ


indexed.defvjp(_indexed, _indexed_backward)


# ------------------------------------------------------------------ entropy


@jax.custom_vjp
def entropy(z_NQ: jax.Array, codes_VQ: jax.Array) -> jax.Array:
    """H(p) of each token, in the mean, less H of the mean p; p = softmax(z.e) over V.

    The mean is over all tokens, whatever devices they are split over.
    """
    return _entropy(z_NQ, codes_VQ)[0]


def _entropy(z_NQ: jax.Array, codes_VQ: jax.Array) -> tuple[jax.Array, Arrays]:
    def body(shards: "_Shards", rows: Arrays, whole: Arrays) -> tuple[Arrays, Arrays]:
        (z_NQ,), tokens = whole, whole[0].shape[:1]

        def step(carry, codes_bQ, _):
            top_N, sum_N, logit_N = carry
            logits_Nb = z_NQ @ codes_bQ.T
            new_N = jnp.maximum(top_N, jnp.max(logits_Nb, axis=-1))
            p_Nb, shrunk_N = jnp.exp(logits_Nb - new_N[:, None]), jnp.exp(top_N - new_N)
            sum_N = shrunk_N * sum_N + jnp.sum(p_Nb, axis=-1)
            return (new_N, sum_N, shrunk_N * logit_N + jnp.sum(p_Nb * logits_Nb, axis=-1)), ()

        none = (jnp.full(tokens, -jnp.inf), jnp.zeros(tokens), jnp.zeros(tokens))
        (own_N, sum_N, logit_N), _ = _over_blocks(step, none, rows)
        top_N = shards.largest(own_N)
        share_N = jnp.exp(own_N - top_N)
        sum_N = shards.sum(sum_N * share_N)
        logit_N = shards.sum(logit_N * share_N) / sum_N
        norm_N = top_N + jnp.log(sum_N)

        def mean(carry, codes_bQ, _):
            return carry, (jnp.mean(jnp.exp(z_NQ @ codes_bQ.T - norm_N[:, None]), axis=0),)

        return (norm_N, logit_N), _over_blocks(mean, (), rows)[1]

    (norm_N, logit_N), (p_V,) = _by_shards(body, _numbered(codes_VQ), (z_NQ,))
    found = jnp.mean(norm_N - logit_N) - entropy_of_mean(p_V)
    return found, (z_NQ, codes_VQ, norm_N, logit_N, p_V)


def _entropy_backward(kept: Arrays, gradient: jax.Array) -> Arrays:
    def body(shards: "_Shards", rows: Arrays, whole: Arrays) -> tuple[Arrays, Arrays]:
        z_NQ, norm_N, logit_N, scale = whole

        def mean(pull_N, codes_bQ, _, slope_b):
            p_Nb = jnp.exp(z_NQ @ codes_bQ.T - norm_N[:, None])
            return pull_N + p_Nb @ slope_b, ()

        def step(to_z_NQ, codes_bQ, _, slope_b):
            logits_Nb = z_NQ @ codes_bQ.T
            p_Nb = scale * jnp.exp(logits_Nb - norm_N[:, None])
            to_logits_Nb = p_Nb * (slope_b[None] - logits_Nb + (logit_N - pull_N)[:, None])
            return to_z_NQ + to_logits_Nb @ codes_bQ, (to_logits_Nb.T @ z_NQ,)

        pull_N = shards.sum(_over_blocks(mean, jnp.zeros_like(norm_N), rows)[0])
        to_z_NQ, to_codes = _over_blocks(step, jnp.zeros_like(z_NQ), rows)
        return (shards.sum(to_z_NQ),), to_codes

    z_NQ, codes_VQ, norm_N, logit_N, p_V = kept
    slope_V = jnp.log(p_V + FLOOR) + p_V / (p_V + FLOOR)
    with jax.named_scope("entropy"):
        (to_z_NQ,), (to_codes_VQ,) = _by_shards(
            body,
            (*_numbered(codes_VQ), slope_V),
            (z_NQ, norm_N, logit_N, gradient / z_NQ.shape[0]),
        )
    return to_z_NQ, to_codes_VQ


entropy.defvjp(_entropy, _entropy_backward)


def entropy_of_mean(p_V: jax.Array) -> jax.Array:
    """H of probabilities that are a mean over tokens."""
    return -jnp.sum(p_V * jnp.log(p_V + FLOOR))


# ------------------------------------------------------------------ blocks and shards


def _numbered(codes_VQ: jax.Array) -> Arrays:
    """Codes and their numbers, which go with them into blocks and shards."""
    return codes_VQ, jnp.arange(codes_VQ.shape[0], dtype=jnp.int32)


def _own(ids_N: jax.Array, numbers_V: jax.Array) -> jax.Array:
    """Where codes lie among these; behind the last one where they lie elsewhere."""
    size = numbers_V.shape[0]
    places_N = ids_N - numbers_V[0]
    return jnp.where((places_N >= 0) & (places_N < size), places_N, size)


def _over_blocks(step: Callable, carry: Any, rows: Arrays) -> tuple[Any, Arrays]:
    """`step(carry, *block) -> (carry, made)` from block to block.

    Args:
      step: its `made` has a row for each of the block's.
      carry: of the first step.
      rows: arrays of V rows; the last block is what is left of whole ones.

    Returns:
      The last carry, and what was made of all rows.
    """
    size, made = rows[0].shape[0], []
    whole = size // BLOCK * BLOCK
    if whole:
        blocks = [row[:whole].reshape(-1, BLOCK, *row.shape[1:]) for row in rows]
        carry, found = jax.lax.scan(lambda carry, block: step(carry, *block), carry, blocks)
        made.append([array.reshape(whole, *array.shape[2:]) for array in found])
    if whole < size:
        carry, found = step(carry, *(row[whole:] for row in rows))
        made.append(found)
    return carry, tuple(jnp.concatenate(parts) for parts in zip(*made, strict=True))


class _Shards:
    """All codes on this device: what shards would combine is whole already."""

    def sum(self, x: jax.Array) -> jax.Array:
        return x

    largest = least = sum


class _OverModel(_Shards):
    """The codes of this device are a part of them."""

    def sum(self, x: jax.Array) -> jax.Array:
        return jax.lax.psum(x, AXIS)

    def largest(self, x: jax.Array) -> jax.Array:
        return jax.lax.pmax(x, AXIS)

    def least(self, x: jax.Array) -> jax.Array:
        return jax.lax.pmin(x, AXIS)


def _by_shards(body: Callable, rows: Arrays, whole: Arrays) -> tuple[Arrays, Arrays]:
    """`body(shards, rows, whole)`, by hand where the layout in force splits a codebook.

    Args:
      body: gives arrays that are the same on all shards, and arrays with a row for each code.
      rows: with a row for each code.
      whole: what all shards read.
    """
    layout = _splitting(rows[0].shape[0])
    if layout is None:
        return body(_Shards(), rows, whole)
    return jax.shard_map(
        lambda rows, whole: body(_OverModel(), rows, whole),
        # Inside another shard_map the mesh is the one in force there.
        mesh=None if layout.manual else layout.mesh,
        in_specs=(jax.P(AXIS), jax.P()),
        out_specs=(jax.P(), jax.P(AXIS)),
        axis_names={AXIS},
        check_vma=False,
    )(rows, whole)


def _splitting(size: int) -> Layout | None:
    """The layout in force, if it splits so many codes."""
    layout = current()
    if layout is None or AXIS in layout.manual or layout.preset.used["vocab"] != AXIS:
        return None
    devices = layout.mesh.shape[AXIS]
    return layout if devices > 1 and size % devices == 0 else None
