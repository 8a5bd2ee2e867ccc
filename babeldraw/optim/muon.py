"""Muon: the momentum of each matrix, made orthogonal, is its update.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the scale is that of
Liu et al., "Muon is Scalable for LLM Training", 2025, so that one learning rate serves it and Adam.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Of the momentum; Jordan's.
MOMENTUM = 0.95
# The root mean square of Adam's updates.
UPDATE_RMS = 0.2
# Singular values from LEAST times the norm on come out near 1, smaller ones in proportion. Three
# iterations from 0.01 on cost the demo's tokenizer 0.4 dB (30.6 of 31.0), four nothing.
ITERATIONS, LEAST = 4, 0.003


class MuonState(NamedTuple):
    """Attributes:
    momentum: an average of gradients for each matrix.
    """

    momentum: Any


class Sides(NamedTuple):
    """Which dimensions of a weight are its inputs and which its outputs; others are of many."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def scale_by_muon(sides: Any) -> optax.GradientTransformation:
    """Gradients of matrices to orthogonal updates, of Adam's size.

    Args:
      sides: `Sides` of each matrix, in the tree of the parameters.
    """

    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def update(grads: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        del params
        # Nesterov's: one step ahead. How large it is does not matter to what follows.
        momentum = jax.tree.map(_averaged, state.momentum, grads)
        ahead = jax.tree.map(_averaged, momentum, grads)
        return jax.tree.map(_update, ahead, sides), MuonState(momentum)

    return optax.GradientTransformation(init, update)


def _averaged(momentum: jax.Array, grad: jax.Array) -> jax.Array:
    return MOMENTUM * momentum + (1 - MOMENTUM) * grad


def _update(weight: jax.Array, sides: Sides) -> jax.Array:
    """`weight` made orthogonal, as many matrices of its two sides as there are."""
    many = tuple(dim for dim in range(weight.ndim) if dim not in sides.inputs + sides.outputs)
    order = (*many, *sides.inputs, *sides.outputs)
    turned = weight.transpose(order)
    sizes = (math.prod(weight.shape[dim] for dim in own) for own in (many, *sides))
    matrices_KIO = turned.reshape(*sizes)
    scale = UPDATE_RMS * math.sqrt(max(matrices_KIO.shape[1:]))
    return (scale * orthogonal(matrices_KIO)).reshape(turned.shape).transpose(np.argsort(order))


def orthogonal(matrices: jax.Array) -> jax.Array:
    """The orthogonal factor of each matrix, about: float32 [K, M, N].

    Singular values s become p4(p3(p2(p1(s)))), by the polynomials of `coefficients`: those of at
    least LEAST times the Schatten 4-norm lie in [0.80, 1.20] then (Jordan's five iterations: about
    0.7 to 1.2). All but the first and the last product are of the smaller side's square: with X the
    wide matrix and A = X X^T, X is but multiplied by a polynomial of A, and so is A.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.swapaxes(1, 2) if tall else matrices
    made = _orthogonal(wide)
    return made.swapaxes(1, 2) if tall else made


def _orthogonal(x_KMN: jax.Array) -> jax.Array:
    # The norm below has fourth powers, which of 1e-10 are none in float32: behind gates that begin
    # at zero, as DiT has them, momenta are of such size.
    largest_K11 = jnp.max(jnp.abs(x_KMN), axis=(1, 2), keepdims=True)
    x_KMN = x_KMN / jnp.maximum(largest_K11, jnp.finfo(jnp.float32).tiny)
    gram_KMM = x_KMN @ x_KMN.swapaxes(1, 2)
    # The 4-norm of the singular values, squared: no less than the square of the largest.
    norm_K11 = jnp.sqrt(jnp.sum(jnp.square(gram_KMM), axis=(1, 2), keepdims=True)) + 1e-20
    gram_KMM = gram_KMM / norm_K11
    factor_KMM = None
    for number, (a, b, c) in enumerate(coefficients(ITERATIONS, LEAST)):
        own_KMM = b * gram_KMM + c * (gram_KMM @ gram_KMM) + a * jnp.eye(gram_KMM.shape[-1])[None]
        if number < ITERATIONS - 1:
            gram_KMM = own_KMM @ (own_KMM @ gram_KMM)
        factor_KMM = own_KMM if factor_KMM is None else own_KMM @ factor_KMM
    return (factor_KMM / jnp.sqrt(norm_K11)) @ x_KMN


@functools.lru_cache
def coefficients(iterations: int, least: float) -> tuple[tuple[float, float, float], ...]:
    """(a, b, c) of a s + b s^3 + c s^5 for each iteration: composed, nearest to 1 on [least, 1].

    Each is the best on what the one before leaves, which makes the composition the best of its
    form (Amsel et al., "The Polar Express", 2025).
    """
    low, high, found = least, 1.0, []
    for _ in range(iterations):
        own, error = _nearest_to_one(low, high)
        found.append(own)
        low, high = 1 - error, 1 + error
    return tuple(found)


def _nearest_to_one(low: float, high: float) -> tuple[tuple[float, float, float], float]:
    """The odd quintic nearest to 1 on [low, high] and its error, by Remez's exchange."""
    inner = low + (high - low) * np.array([0.3, 0.8])
    for _ in range(50):
        points = np.array([low, *inner, high])
        # At the four points the error is as large and of alternating sign.
        powers = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, b, c, error = np.linalg.solve(powers, np.ones(4))
        root = math.sqrt(max(9 * b * b - 20 * a * c, 0.0))
        extrema = np.sqrt(np.sort([(-3 * b - root) / (10 * c), (-3 * b + root) / (10 * c)]))
        if np.allclose(inner, extrema, rtol=1e-12):
            break
        inner = extrema
    return (float(a), float(b), float(c)), abs(float(error))
