"""Softmax over a codebook in tiles: nothing here is as large as tokens times codes.

The logits of N tokens are the products z.e with all V codes. What a loss needs of their softmax is
summed tile by tile, and probabilities are computed again for the gradient. While codes are not too
many a tile has all of them and some tokens: each logit is computed twice, forward and backward, and
every sum over codes is a tile's own. Of more codes a tile has some, and all tokens: sums over codes
take passes of their own. Where the layout in force splits the batch or the codebook, each device
goes through its own. 2^18 codes for 256 tokens would be 268 MB for each picture, several times.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.tokenizers.tiles import Arrays, Split, numbered, on_devices, over_tiles, own_places

# Logits of a tile with all codes, and the fewest tokens that it is to have: all codes are read for
# each tile.
TILE, FEWEST = 2**21, 32
# Codes of a tile with all tokens.
BLOCK = 1024
# Added to a mean probability before its logarithm: of a code that is nobody's that has no gradient.
# MAGVIT's.
FLOOR = 1e-5
LOWEST, NOBODY = jnp.finfo(jnp.float32).min, jnp.iinfo(jnp.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Indexed:
    """Attributes:
    soft_NQ: the likeliest codes, float32; towards the logits with the gradient of the softmax.
    hard_NQ: the same codes, of which only the codebook has a gradient, that of a lookup.
    ids_N: int32; of equal logits the first.
    entropy: H(p) of each token, in the mean, less H of the mean p, with p = softmax(z.e / T); 0
        without T. Means are over all tokens, whatever devices they are split over.
    """

    soft_NQ: jax.Array
    hard_NQ: jax.Array
    ids_N: jax.Array
    entropy: jax.Array


def indexed(z_NQ: jax.Array, codes_VQ: jax.Array, temperature: float | None = None) -> Indexed:
    """The likeliest code of each token, with the gradient of the whole softmax over codes.

    The value is one-hot(argmax) times the codebook E; towards the logits l = z.e the gradient is
    that of q = softmax(l) in place of one-hot, straight through (Shi et al., "Scalable Image
    Tokenization with Index Backpropagation Quantization", 2024). With g the gradient at the output,
    dl = q (E g - <q, E g>), dz = E^T dl and dE = onehot^T g + dl^T z: every code gets one.

    Args:
      z_NQ: float32, of the tokens.
      codes_VQ: float32.
      temperature: T of the entropy; None: there is none.
    """
    return _indexed(temperature, z_NQ, codes_VQ)


def entropy(z_NQ: jax.Array, codes_VQ: jax.Array) -> jax.Array:
    """`Indexed.entropy` alone, of T = 1."""
    return indexed(z_NQ, codes_VQ, 1.0).entropy


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _indexed(temperature: float | None, z_NQ: jax.Array, codes_VQ: jax.Array) -> Indexed:
    return _forward(temperature, z_NQ, codes_VQ)[0]


def _forward(
    temperature: float | None, z_NQ: jax.Array, codes_VQ: jax.Array
) -> tuple[Indexed, Any]:
    """The outputs, and what the gradient needs."""

    def body(split: Split, rows: Arrays, tokens: Arrays, _: Any) -> tuple[Arrays, Arrays, Any]:
        forward = _forward_by_tokens if _fits(rows[0], tokens[0]) else _forward_by_codes
        ids_N, of_tokens, of_entropy, p_V = forward(split, temperature, *rows, *tokens)
        own_NQ = jnp.take(rows[0], own_places(ids_N, rows[1]), axis=0, mode="fill", fill_value=0)
        found = (split.sum(own_NQ), ids_N, *of_tokens)
        if temperature is None:
            return found, (), jnp.zeros(())
        (sum_N, lean_N), count = of_entropy, len(ids_N) * split.parts
        p_V = split.total(p_V) / count
        of_each = split.total(jnp.sum(jnp.log(sum_N) - lean_N / temperature)) / count
        return (*found, sum_N, lean_N), (p_V,), of_each - split.sum(entropy_of_mean(p_V))

    (chosen_NQ, ids_N, *kept), p_V, entropy = on_devices(body, numbered(codes_VQ), (z_NQ,), ())
    found = Indexed(chosen_NQ, chosen_NQ, ids_N, entropy)
    return found, (z_NQ, codes_VQ, ids_N, tuple(kept), p_V)


def _backward(temperature: float | None, kept: Any, gradient: Indexed) -> Arrays:
    def body(split: Split, rows: Arrays, tokens: Arrays, whole: Any) -> tuple[Arrays, Arrays, Any]:
        (codes_VQ, numbers_V, *slope_V), (ids_N, to_hard_NQ, z_NQ, g_NQ, *of_tokens) = rows, tokens
        pull = None
        if temperature is not None:
            scale = whole / (len(ids_N) * split.parts * temperature)
            pull = _Pull(temperature, scale, *slope_V)
        backward = _backward_by_tokens if _fits(codes_VQ, z_NQ) else _backward_by_codes
        to_z_NQ, to_codes_VQ = backward(split, pull, codes_VQ, z_NQ, g_NQ, of_tokens)
        to_codes_VQ = to_codes_VQ.at[own_places(ids_N, numbers_V)].add(
            g_NQ + to_hard_NQ, mode="drop"
        )
        return (split.sum(to_z_NQ),), (split.total(to_codes_VQ),), ()

    z_NQ, codes_VQ, ids_N, of_tokens, mean = kept
    slope = tuple(jnp.log(p_V + FLOOR) + p_V / (p_V + FLOOR) for p_V in mean)
    tokens = (ids_N, gradient.hard_NQ, z_NQ, gradient.soft_NQ, *of_tokens)
    with jax.named_scope("quantize"):
        (to_z_NQ,), (to_codes_VQ,), _ = on_devices(
            body, (*numbered(codes_VQ), *slope), tokens, gradient.entropy
        )
    return to_z_NQ, to_codes_VQ


_indexed.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Pull:
    """What the entropy's gradient is made of, beside what is kept of each token.

    Towards a logit l of a token with the probabilities p it is scale p (slope - <p, slope> - l / T
    + <p, l> / T).

    Attributes:
      temperature: T.
      scale: the gradient at the entropy, over T and the number of tokens.
      slope_V: the derivative of mean p log(mean p) by mean p.
    """

    temperature: float
    scale: jax.Array
    slope_V: jax.Array


def entropy_of_mean(p_V: jax.Array) -> jax.Array:
    """H of probabilities that are a mean over tokens."""
    return -jnp.sum(p_V * jnp.log(p_V + FLOOR))


# ------------------------------------------------------------------ all codes, some tokens


def _forward_by_tokens(
    split: Split,
    temperature: float | None,
    codes_VQ: jax.Array,
    numbers_V: jax.Array,
    z_NQ: jax.Array,
) -> tuple[jax.Array, Arrays, Arrays, jax.Array]:
    """The ids; the largest logits; sum and mean of l - largest by exp((l - largest) / T); sum p."""

    def step(p_V, z_nQ):
        logits_Vn = codes_VQ @ z_nQ.T
        top_n = split.largest(jnp.max(logits_Vn, axis=0))
        # `argmax` takes several times as long on a CPU.
        chosen_Vn = jnp.where(logits_Vn == top_n[None], numbers_V[:, None], NOBODY)
        ids_n = split.least(jnp.min(chosen_Vn, axis=0))
        if temperature is None:
            return p_V, (ids_n, top_n)
        below_Vn = logits_Vn - top_n[None]
        p_Vn = jnp.exp(below_Vn / temperature)
        sum_n = split.sum(jnp.sum(p_Vn, axis=0))
        lean_n = split.sum(jnp.sum(p_Vn * below_Vn, axis=0)) / sum_n
        return p_V + p_Vn @ (1 / sum_n), (ids_n, top_n, sum_n, lean_n)

    p_V, found = over_tiles(step, jnp.zeros(len(codes_VQ)), (z_NQ,), _tokens_of_tile(codes_VQ))
    return found[0], found[1:2], found[2:], p_V


def _backward_by_tokens(
    split: Split,
    pull: _Pull | None,
    codes_VQ: jax.Array,
    z_NQ: jax.Array,
    g_NQ: jax.Array,
    of_tokens: Arrays,
) -> Arrays:
    def step(to_codes_VQ, z_nQ, g_nQ, top_n, *of_entropy):
        below_Vn, along_Vn = codes_VQ @ z_nQ.T - top_n[None], codes_VQ @ g_nQ.T
        q_Vn = jnp.exp(below_Vn)
        share_n = 1 / split.sum(jnp.sum(q_Vn, axis=0))
        mean_n = share_n * split.sum(jnp.sum(q_Vn * along_Vn, axis=0))
        to_logits_Vn = q_Vn * (share_n[None] * (along_Vn - mean_n[None]))
        if pull is not None:
            (sum_n, lean_n), slope_V = of_entropy, pull.slope_V
            p_Vn = jnp.exp(below_Vn / pull.temperature)
            mean_n = split.sum(slope_V @ p_Vn) / sum_n
            away_Vn = slope_V[:, None] - (below_Vn - lean_n[None]) / pull.temperature
            to_logits_Vn += p_Vn * (pull.scale / sum_n)[None] * (away_Vn - mean_n[None])
        return to_codes_VQ + to_logits_Vn @ z_nQ, (to_logits_Vn.T @ codes_VQ,)

    rows = (z_NQ, g_NQ, *of_tokens)
    nothing_VQ = jnp.zeros_like(codes_VQ)
    to_codes_VQ, (to_z_NQ,) = over_tiles(step, nothing_VQ, rows, _tokens_of_tile(codes_VQ))
    return to_z_NQ, to_codes_VQ


def _tokens_of_tile(codes_VQ: jax.Array) -> int:
    return max(1, TILE // len(codes_VQ))


def _fits(codes_VQ: jax.Array, z_NQ: jax.Array) -> bool:
    """Whether tiles of all codes have tokens enough."""
    return _tokens_of_tile(codes_VQ) >= min(FEWEST, len(z_NQ))


# ------------------------------------------------------------------ some codes, all tokens


def _forward_by_codes(
    split: Split,
    temperature: float | None,
    codes_VQ: jax.Array,
    numbers_V: jax.Array,
    z_NQ: jax.Array,
) -> tuple[jax.Array, Arrays, Arrays, Arrays]:
    """As by tokens; beside the largest logits the sums of exp(l - largest) and the mean codes."""

    def step(carry, codes_bQ, numbers_b):
        top_N, ids_N, sum_N, mean_NQ, *of_entropy = carry
        logits_bN = codes_bQ @ z_NQ.T
        here_N = jnp.max(logits_bN, axis=0)
        chosen_bN = jnp.where(logits_bN == here_N[None], numbers_b[:, None], NOBODY)
        ids_N = jnp.where(here_N > top_N, jnp.min(chosen_bN, axis=0), ids_N)
        new_N = jnp.maximum(top_N, here_N)
        below_bN, shrunk_N = logits_bN - new_N[None], jnp.exp(top_N - new_N)
        q_bN = jnp.exp(below_bN)
        sum_N = shrunk_N * sum_N + jnp.sum(q_bN, axis=0)
        mean_NQ = shrunk_N[:, None] * mean_NQ + q_bN.T @ codes_bQ
        if temperature is not None:
            p_bN = jnp.exp(below_bN / temperature)
            before = _lowered(of_entropy, top_N - new_N, temperature)
            here = (jnp.sum(p_bN, axis=0), jnp.sum(p_bN * below_bN, axis=0))
            of_entropy = jax.tree.map(jnp.add, before, here)
        return (new_N, ids_N, sum_N, mean_NQ, *of_entropy), ()

    none_N = jnp.zeros(len(z_NQ))
    begin = (none_N + LOWEST, jnp.full(len(z_NQ), NOBODY), none_N, jnp.zeros_like(z_NQ))
    begin += () if temperature is None else (none_N, none_N)
    (own_N, ids_N, sum_N, mean_NQ, *of_entropy), _ = over_tiles(
        step, begin, (codes_VQ, numbers_V), BLOCK
    )
    top_N = split.largest(own_N)
    ids_N = split.least(jnp.where(own_N == top_N, ids_N, NOBODY))
    share_N = jnp.exp(own_N - top_N)
    sum_N = split.sum(sum_N * share_N)
    mean_NQ = split.sum(mean_NQ * share_N[:, None]) / sum_N[:, None]
    if temperature is None:
        return ids_N, (top_N, sum_N, mean_NQ), (), ()
    at_N, lean_N = map(split.sum, _lowered(of_entropy, own_N - top_N, temperature))

    def sums(carry, codes_bQ):
        return carry, (jnp.exp((codes_bQ @ z_NQ.T - top_N[None]) / temperature) @ (1 / at_N),)

    _, (p_V,) = over_tiles(sums, (), (codes_VQ,), BLOCK)
    return ids_N, (top_N, sum_N, mean_NQ), (at_N, lean_N / at_N), p_V


def _lowered(of_entropy: Arrays, by_N: jax.Array, temperature: float) -> Arrays:
    """Sums of p and of p l, whose l are lower by `-by_N` now that the largest is another."""
    sum_N, lean_N = of_entropy
    share_N = jnp.exp(by_N / temperature)
    return share_N * sum_N, share_N * (lean_N + sum_N * by_N)


def _backward_by_codes(
    split: Split,
    pull: _Pull | None,
    codes_VQ: jax.Array,
    z_NQ: jax.Array,
    g_NQ: jax.Array,
    of_tokens: Arrays,
) -> Arrays:
    top_N, sum_N, mean_NQ, *of_entropy = of_tokens
    along_N = jnp.sum(mean_NQ * g_NQ, axis=-1)
    rows = (codes_VQ,) if pull is None else (codes_VQ, pull.slope_V)

    def mean(mean_N, codes_bQ, slope_b):
        p_bN = jnp.exp((codes_bQ @ z_NQ.T - top_N[None]) / pull.temperature)
        return mean_N + slope_b @ p_bN, ()

    if pull is not None:
        at_N, lean_N = of_entropy
        slope_N = split.sum(over_tiles(mean, jnp.zeros_like(at_N), rows, BLOCK)[0]) / at_N

    def step(to_z_NQ, codes_bQ, *slope_b):
        below_bN = codes_bQ @ z_NQ.T - top_N[None]
        q_bN = jnp.exp(below_bN) / sum_N[None]
        to_logits_bN = q_bN * (codes_bQ @ g_NQ.T - along_N[None])
        if pull is not None:
            p_bN = jnp.exp(below_bN / pull.temperature)
            away_bN = slope_b[0][:, None] - (below_bN - lean_N[None]) / pull.temperature
            to_logits_bN += p_bN * (pull.scale / at_N)[None] * (away_bN - slope_N[None])
        return to_z_NQ + to_logits_bN.T @ codes_bQ, (to_logits_bN @ z_NQ,)

    to_z_NQ, (to_codes_VQ,) = over_tiles(step, jnp.zeros_like(z_NQ), rows, BLOCK)
    return to_z_NQ, to_codes_VQ
