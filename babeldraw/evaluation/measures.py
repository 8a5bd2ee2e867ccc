"""How far pictures lie from their originals, and how a codebook is used: figures per picture.

Pure functions of arrays, to be jitted with what surrounds them. Pictures are float32 in [0, 1],
[B, height, width, C]; each function gives float32 [B], so that padding can be masked out.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def l1(images: jax.Array, originals: jax.Array) -> jax.Array:
    """Mean absolute error."""
    return jnp.mean(jnp.abs(images - originals), axis=(1, 2, 3))


def l2(images: jax.Array, originals: jax.Array) -> jax.Array:
    """Mean squared error."""
    return jnp.mean(jnp.square(images - originals), axis=(1, 2, 3))


def psnr_db(squared_error: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error; the peak is 1. Infinite for no error."""
    return math.inf if squared_error == 0 else -10 * math.log10(squared_error)


def perplexity(counts_V: np.ndarray) -> float:
    """exp of the entropy of the codes: 1 where one code is all, V where all are as frequent."""
    counts_V = np.asarray(counts_V, np.float64)
    shares = counts_V[counts_V > 0] / counts_V.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def uniform_usage(vocab: Sequence[int], draws: int) -> float:
    """The share of the codes that so many uniform draws of each factor would reach, expected.

    V (1 - (1 - 1/V)^n) of V codes: what no tokenizer passes by much, and few pictures keep low.
    """
    reached = sum(
        -size * np.expm1(draws * np.log1p(-1 / size)) if size > 1 else 1 for size in vocab
    )
    return float(reached / sum(vocab))


def used_by_place(codes_NT: np.ndarray, vocab: int) -> np.ndarray:
    """float64 [T]: different codes at each place, over what N uniform draws would reach there."""
    sorted_NT = np.sort(codes_NT, axis=0)
    different_T = 1 + np.count_nonzero(np.diff(sorted_NT, axis=0), axis=0)
    return different_T / (vocab * uniform_usage((vocab,), len(codes_NT)))
