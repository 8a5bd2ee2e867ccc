"""RAR: who sees whom in any order, raster order as plain next token, cached decoding."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.layers.dropout import example_keys
from babeldraw.layers.stack import unstack
from babeldraw.models.conditions import ClassCondition, NoCondition, TextCondition
from babeldraw.models.rar import RARConfig, RARGenerator, SpareRows
from babeldraw.models.several import SeveralConditions
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.prediction.permuted import PermutedNextToken
from babeldraw.tokenizers.base import Codes
from tests import networks

STACK = TransformerConfig(
    blocks=2, heads=2, dim=16, hidden=32, dropout=0.1, bias=True, compute=ComputeConfig(scan=False)
)
ONE, TWO = Codes((2, 3), (17,)), Codes((2, 3), (5, 4))
T = ONE.length
TEXT, CLASS = TextCondition(20, 4), ClassCondition(3)
# Name: condition, codes, a condition of three rows, the last of which says nothing.
CASES = {
    "class": (CLASS, ONE, jnp.array([0, 2, 3], jnp.int32)),
    "text": (TEXT, ONE, jnp.array([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]], jnp.int32)),
    "nothing": (NoCondition(), ONE, jnp.zeros(3, jnp.int32)),
    "two factors": (CLASS, TWO, jnp.array([0, 2, 3], jnp.int32)),
}
BOTH = SeveralConditions({"text": TEXT, "class": CLASS})
CASES["several"] = (BOTH, ONE, {"text": CASES["text"][2], "class": CASES["class"][2]})
RNG = np.random.default_rng(0)
IMAGES = {
    ONE: jnp.asarray(RNG.integers(0, 17, (3, T)), jnp.int32),
    TWO: jnp.asarray(np.stack([RNG.integers(0, n, (3, T)) for n in (5, 4)], -1), jnp.int32),
}
ORDERS = jnp.asarray(np.stack([RNG.permutation(T) for _ in range(3)]), jnp.int32)
RASTER = jnp.tile(jnp.arange(T, dtype=jnp.int32), (3, 1))


@functools.cache
def generator(case):
    condition, codes, _ = CASES[case]
    return RARGenerator(RARConfig(STACK), condition, codes)


@functools.cache
def params(case):
    return networks.random_params(generator(case))


def inputs(case):
    _, codes, condition = CASES[case]
    return params(case), condition, IMAGES[codes]


@functools.cache
def step_by_step(case):
    """Logits of every position by cached decoding, rows `late` by as many steps."""
    network = generator(case)

    @jax.jit
    def run(params, condition, image, late):
        def step(cache, t):
            index = jnp.clip(t - late, 0, T - 1)
            rows, before = jnp.arange(3), jnp.broadcast_to(jnp.maximum(index - 1, 0), (3,))
            found, cache = networks.step(network, params, image[rows, before], index, cache)
            return cache, found

        cache = networks.start(network, params, condition)
        return jax.lax.scan(step, cache, jnp.arange(T + 3))[1]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_cached_decoding_is_the_full_forward_at_one_place_or_many(case):
    whole, condition, image = inputs(case)
    full = jax.jit(generator(case).logits)(whole, condition, image)
    assert full.shape == (3, T, CASES[case][1].vocab[0]) and full.dtype == jnp.float32
    for late in (jnp.int32(0), jnp.array([0, 3, 1])):
        found = step_by_step(case)(unstack(whole), condition, image, late)
        for row, begin in enumerate(np.broadcast_to(late, 3)):
            own = found[begin : begin + T, row]
            np.testing.assert_allclose(own, full[row], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["class", "text", "two factors"])
def test_the_raster_permutation_is_plain_next_token(case):
    network, given = generator(case), inputs(case)
    keys, ordered = example_keys(jax.random.key(3), 3), jax.jit(network.ordered_nll)
    plain, raster = jax.jit(network.nll)(*given, keys), ordered(*given, RASTER, keys)
    np.testing.assert_allclose(raster[0], plain[0], atol=1e-5)
    np.testing.assert_array_equal(raster[1], plain[1])
    assert np.abs(ordered(*given, ORDERS, keys)[0] - plain[0]).max() > 1e-2


@pytest.mark.parametrize("case", ["class", "text"])
def test_a_code_sees_those_before_it_in_its_order_and_knows_its_place(case):
    # The code of place p is p and stands nowhere else, so its vector is row p of the table.
    image, order = jnp.arange(T, dtype=jnp.int32)[None], np.asarray(ORDERS[:1])
    whole, first = params(case), jax.tree.map(lambda a: a[:1], CASES[case][2])

    def nll(tables):
        changed = {**whole, **{name: {"table": table} for name, table in tables.items()}}
        return generator(case).ordered_nll(changed, first, image, jnp.asarray(order))[0][0]

    tables = {name: whole[name]["table"] for name in ("embed", "places", "targets", "times")}
    jacobian = jax.jit(jax.jacrev(nll))(tables)
    depends = {name: np.any(np.asarray(j) != 0, axis=2) for name, j in jacobian.items()}
    rank = np.argsort(order[0])
    before = rank[None] < rank[:, None]
    slots = 1 + CASES[case][0].prefix_length
    np.testing.assert_array_equal(depends["embed"][:, :T], before)
    assert not depends["embed"][:, T:].any()
    # Of places those that are read; of targets also the one that is predicted.
    np.testing.assert_array_equal(depends["places"][:, slots:], before)
    np.testing.assert_array_equal(depends["targets"][:, slots:], before | np.eye(T, dtype=bool))
    assert depends["places"][:, :slots].all() and not depends["targets"][:, :slots].any()
    # The numbers of slots go by the order: the first code is drawn in the prefix's last slot.
    numbers = np.arange(slots + T)[None] < slots + rank[:, None]
    np.testing.assert_array_equal(depends["times"], numbers)


def test_spare_rows_are_read_by_none():
    network = dataclasses.replace(
        generator("class"), config=RARConfig(STACK, SpareRows(codes=1, positions=4, times=2))
    )
    whole = networks.random_params(network)
    gradient = jax.jit(jax.grad(lambda p: network.nll(p, *inputs("class")[1:])[0].sum()))(whole)
    for name, rows in {"embed": 1, "places": 4, "targets": 4, "times": 2}.items():
        table = np.asarray(gradient[name]["table"])
        assert not table[-rows:].any() and table[: -rows - 1].any(), name
    with pytest.raises(UserError, match="config.model.spare.times is -1; at least 0 is needed"):
        SpareRows(times=-1)


def test_drawing_is_that_of_the_next_token_in_raster_order():
    case, prediction = "class", PermutedNextToken(anneal_start=1, anneal_end=2)
    whole, condition, _ = inputs(case)
    keys, settings = jax.random.split(jax.random.key(0), 3), SamplingConfig(0.0).traced()
    draw = jax.jit(functools.partial(prediction.draw, generator(case), guided=False))
    found = draw(whole, condition, keys, settings)
    best = jax.jit(generator(case).logits)(whole, condition, found).argmax(-1)
    np.testing.assert_array_equal(found, best)


@pytest.mark.slow
def test_every_block_begins_as_the_identity():
    network, given = generator("class"), inputs("class")[1:]
    whole = jax.jit(lambda key: nn.unbox(network.init(key)))(jax.random.key(0))
    without = {**whole, "stack": jax.tree.map(jnp.zeros_like, whole["stack"])}
    run = jax.jit(network.nll)
    np.testing.assert_array_equal(run(whole, *given)[0], run(without, *given)[0])
