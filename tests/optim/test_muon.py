"""Muon: updates are orthogonal whatever the dimensions of a weight mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from babeldraw.optim.muon import (
    ITERATIONS,
    LEAST,
    MOMENTUM,
    UPDATE_RMS,
    coefficients,
    orthogonal,
)
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer
from babeldraw.optim.schedules import ScheduleConfig

RNG = np.random.default_rng(0)


def composed(values):
    for a, b, c in coefficients(ITERATIONS, LEAST):
        values = a * values + b * values**3 + c * values**5
    return values


def test_the_polynomials_bring_values_near_one():
    values = composed(np.linspace(LEAST, 1.0, 10_000))
    assert 0.80 < values.min() < 0.81 and 1.19 < values.max() < 1.20
    # Smaller ones grow in proportion, by more than any later value does.
    small = np.array([1e-5, 1e-4, 1e-3])
    np.testing.assert_allclose(composed(small) / small, composed(1e-6) / 1e-6, rtol=0.02)
    assert composed(0.0) == 0.0


def test_more_iterations_come_nearer():
    errors = []
    for iterations in (2, 3, 4):
        values = np.linspace(0.05, 1.0, 1000)
        for a, b, c in coefficients(iterations, 0.05):
            values = a * values + b * values**3 + c * values**5
        errors.append(abs(values - 1).max())
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8), (1, 16, 16)])
def test_singular_vectors_stay_and_values_become_one(shape):
    matrices = RNG.normal(size=shape).astype(np.float32)
    made = np.asarray(jax.jit(orthogonal)(matrices))
    for before, after in zip(matrices, made, strict=True):
        u, s, v = np.linalg.svd(before, full_matrices=False)
        norm = np.sum(s**4) ** 0.25
        np.testing.assert_allclose(after, u * composed(s / norm) @ v, atol=1e-4)
    # A matrix of zeros has no direction.
    np.testing.assert_array_equal(orthogonal(jnp.zeros(shape)), 0.0)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-10, 1e-8, 1e18])
def test_how_large_a_matrix_is_changes_nothing(size):
    """Behind a gate that begins at zero momenta are near 1e-10, whose fourth power is none."""
    matrices = RNG.normal(size=(2, 128, 512)).astype(np.float32)
    made = jax.jit(orthogonal)
    np.testing.assert_allclose(made(size * matrices), made(matrices), atol=1e-4)


WEIGHTS = {
    "table": ((50, 6), ("vocab", "embed")),
    "scale": ((6,), ("embed",)),
    "up": ((2, 6, 10), ("layers", "embed", "mlp")),
    "query": ((2, 6, 2, 3), ("layers", "embed", "heads", "head_dim")),
    "out": ((2, 2, 3, 6), ("layers", "heads", "head_dim", "embed")),
}


@pytest.mark.slow
def test_matrices_are_orthogonal_and_all_else_goes_to_adam():
    axes = {name: own for name, (_, own) in WEIGHTS.items()}
    params = {
        name: jnp.asarray(RNG.normal(size=shape), jnp.float32)
        for name, (shape, _) in WEIGHTS.items()
    }
    schedule = ScheduleConfig(kind="constant", peak=0.1, warmup_steps=0)
    sections = [
        OptimizerConfig(schedule, name, b2=0.99, weight_decay=0.01, clip_norm=0.0)
        for name in ("muon", "adamw")
    ]
    muon, adam = (make_optimizer(section, axes) for section in sections)
    states = [tx.init(params) for tx in (muon, adam)]
    momentum = jax.tree.map(np.zeros_like, params)
    for _ in range(3):
        grads = jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape), a.dtype), params)
        found, states[0] = muon.update(grads, states[0], params)
        expected, states[1] = adam.update(grads, states[1], params)
        step = lambda old, grad: MOMENTUM * old + (1 - MOMENTUM) * np.asarray(grad)  # noqa: E731
        momentum = jax.tree.map(step, momentum, grads)
        ahead = jax.tree.map(step, momentum, grads)
    for name in ("table", "scale"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    for name, matrix in {"up": (6, 10), "query": (6, 6), "out": (6, 6)}.items():
        made = orthogonal(jnp.asarray(ahead[name]).reshape(-1, *matrix))
        size = UPDATE_RMS * np.sqrt(max(matrix))
        own = -0.1 * (size * made.reshape(params[name].shape) + 0.01 * params[name])
        np.testing.assert_allclose(found[name], own, atol=1e-5)
    assert len(jax.tree.leaves(optax.tree.get(states[0], "momentum"))) == 3
