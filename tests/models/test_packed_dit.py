"""Pictures of several levels through a DiT: packed into rows they are what they are alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.conditions import ClassCondition, TextCondition
from babeldraw.models.dit import DiTConfig, DiTGenerator
from babeldraw.models.levels import LevelGroup, flat
from babeldraw.tokenizers.base import Codes
from tests.networks import random_params

STACK = TransformerConfig(
    1, 2, 16, 32, activation="gelu", bias=True, compute=ComputeConfig(scan=False)
)
CODES = tuple(Codes((2 * side, 4 * side), (), 3) for side in (3, 2, 1))
LEVELS = LevelGroup(("8", "16", "32"), CODES, (1, 2, 3), packed=True)
ROWS = 2
GENERATORS = {
    "class": DiTGenerator(DiTConfig(STACK), ClassCondition(7, 0.1), CODES[0], LEVELS),
    "text": DiTGenerator(DiTConfig(STACK, encoder=STACK), TextCondition(20, 6), CODES[0], LEVELS),
}
RNG = np.random.default_rng(0)


def conditions(kind):
    if kind == "class":
        return jnp.asarray(RNG.integers(0, 8, (ROWS, LEVELS.size)), jnp.int32)
    ids = RNG.integers(1, 20, (ROWS, LEVELS.size, 6))
    # Texts of several lengths, one of them empty.
    length = RNG.integers(0, 7, (ROWS, LEVELS.size, 1))
    length[0, 0], length[1, 4] = 6, 0
    return jnp.asarray(np.where(np.arange(6) < length, ids, 0), jnp.int32)


def inputs(kind):
    noisy = [
        jnp.float32(RNG.normal(size=(ROWS, count, *codes.each)))
        for codes, count in zip(CODES, LEVELS.counts, strict=True)
    ]
    time_RP = jnp.float32(RNG.uniform(0, 1000, (ROWS, LEVELS.size)))
    return conditions(kind), noisy, time_RP


def one_by_one(generator, params, condition, noisy, time_RP):
    """Each level by itself, in batches of its own."""
    found = []
    told = zip(LEVELS.names, *map(LEVELS.apart, (condition, time_RP)), noisy, strict=True)
    for name, own, time, level in told:
        said = generator.at(name).predicted(params, flat(own), flat(level), flat(time))
        found.append(said.reshape(level.shape))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["class", pytest.param("text", marks=pytest.mark.slow)])
def test_packed_equals_not_packed_in_values_and_gradients(kind):
    generator, given = GENERATORS[kind], inputs(kind)
    params = random_params(generator)
    weights = [jnp.float32(RNG.normal(size=level.shape)) for level in given[1]]

    def summed(way):
        def loss(params, noisy):
            said = way(params, given[0], noisy, given[2])
            pairs = zip(said, weights, strict=True)
            return sum(jnp.mean(level * weight) for level, weight in pairs), said

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, given[1])

    grads, said = summed(generator.predicted_packed)
    other_grads, other = summed(lambda *args: one_by_one(generator, *args))
    assert max(float(jnp.max(jnp.abs(level))) for level in said) > 0.1
    for found, expected in zip(*map(jax.tree.leaves, (said, other)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    for found, expected in zip(*map(jax.tree.leaves, (grads, other_grads)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_picture_hears_of_no_other_in_its_row():
    generator, (condition, noisy, time_RP) = GENERATORS["text"], inputs("text")
    params = random_params(generator)

    @jax.jit
    def slopes(noisy, time_RP):
        def of_one(noisy, time_RP):
            said = generator.predicted_packed(params, condition, noisy, time_RP)
            return jnp.sum(said[1][0, 1])

        return jax.grad(of_one, argnums=(0, 1))(noisy, time_RP)

    slopes_of, times = slopes(noisy, time_RP)
    # The second picture of the second level in the first row: the third of its row.
    assert np.argwhere(np.asarray(times)).tolist() == [[0, 2]]
    for number, level in enumerate(slopes_of):
        heard = np.argwhere(np.abs(level).sum((2, 3, 4))).tolist()
        assert heard == ([[0, 1]] if number == 1 else [])


def test_levels_are_told_apart():
    """Of equal codes and times, by the vector of the level alone."""
    codes = (CODES[1], dataclasses.replace(CODES[1], shape=(2, 8)))
    levels = LevelGroup(("a", "b"), codes, (1, 1))
    generator = dataclasses.replace(GENERATORS["class"], codes=codes[0], levels=levels)
    params = random_params(generator)
    same = {**params, "level": {"table": jnp.zeros_like(params["level"]["table"])}}

    @jax.jit
    def first_places(params):
        said = []
        for level in levels.names:
            x = jnp.ones((1, *generator.at(level).codes.each))
            own = generator.at(level).predicted(params, jnp.int32([1]), x, jnp.ones(1))
            said.append(own[0, 0, 0])
        return jnp.stack(said)

    assert params["level"]["table"].shape == (2, 16)
    moved = np.abs(first_places(params) - first_places(same)).max(axis=-1)
    assert moved.min() > 1e-3
