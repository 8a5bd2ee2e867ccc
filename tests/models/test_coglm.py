"""CogLM: cached drawing, telling and filling in equal whole sequences; sizes; bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.layers.stack import unstack
from babeldraw.models.arrangement import EMPTY, KNOWN, PREDICTED, START, TEXT, Arrangement
from babeldraw.models.coglm import CogLMConfig, CogLMGenerator
from babeldraw.models.conditions import ClassCondition, TextCondition
from babeldraw.models.head import HeadCompute
from babeldraw.tokenizers.base import Codes
from tests import networks

STACK = TransformerConfig(
    blocks=2,
    heads=2,
    dim=16,
    hidden=32,
    activation="gelu",
    bias=True,
    compute=ComputeConfig(scan=False),
)
CONDITION, CODES = TextCondition(20, 4), Codes((2, 3), (17,))
S, T, POSITION = 4, 6, 5
NETWORK = CogLMGenerator(CogLMConfig(STACK, start=POSITION, positions=12), CONDITION, CODES)
TEXT_3S = jnp.array([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]], jnp.int32)
PICTURES = jnp.asarray(np.random.default_rng(0).integers(0, 17, (3, T)), jnp.int32)


@functools.cache
def params():
    return networks.random_params(NETWORK)


def call(method, *inputs):
    """A method of the network, compiled."""
    run = jax.jit(lambda params, *inputs: NETWORK._call(method, params, *inputs))
    return run(params(), *inputs)


def stepped(start, step, logits, ids, late):
    """Logits of every place by cached decoding, rows `late` by as many steps."""
    length, rows = ids.shape[1], ids.shape[0]

    def run(params, ids, late):
        def one(cache, t):
            index = jnp.clip(t - late, 0, length - 1)
            before = jnp.broadcast_to(jnp.maximum(index - 1, 0), (rows,))
            held = ids[jnp.arange(rows), before]
            x_B1D, cache = NETWORK._call(step, params, held, index, cache)
            return cache, NETWORK._call(logits, params, x_B1D, jnp.zeros((rows, 1, 0)))[:, 0]

        return jax.lax.scan(one, start(params), jnp.arange(length + 3))[1]

    found = np.asarray(jax.jit(run)(unstack(params()), ids, late))
    begins = np.broadcast_to(late, rows)
    return np.stack([found[b : b + length, row] for row, b in enumerate(begins)])


LATE = [jnp.int32(0), jnp.array([0, 3, 1])]


@pytest.mark.parametrize("late", LATE)
def test_drawing_step_by_step_is_the_whole_sequence(late):
    def start(params):
        return NETWORK.start(params, NETWORK.read(params, TEXT_3S))

    found = stepped(start, "step", "next_logits", PICTURES, late)
    full = jax.jit(NETWORK.logits)(params(), TEXT_3S, PICTURES)
    assert full.shape == (3, T, 17) and full.dtype == jnp.float32
    np.testing.assert_allclose(found, full, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("late", LATE)
def test_telling_step_by_step_is_the_whole_sequence(late):
    def start(params):
        read = NETWORK._call("read_picture", params, PICTURES)
        return NETWORK._call("start_telling", params, read)

    # No text ends: behind its end nothing is told.
    text = TEXT_3S.at[1:].set(jnp.array([[7, 1, 9, 9], [4, 4, 2, 6]]))
    found = stepped(start, "tell", "next_piece_logits", text, late)
    told = functools.partial(NETWORK.joint.image_to_text, corners_N=jnp.zeros(0, jnp.int32))
    arrangement = jax.vmap(functools.partial(told, patch=1))(text, PICTURES)
    hidden = call("hidden", arrangement)[:, -S:]
    np.testing.assert_allclose(found, call("piece_logits", hidden), atol=1e-5, rtol=1e-5)
    nll = call("arranged_nll", arrangement)[0][:, -S:]
    np.testing.assert_allclose(call("told_nll", PICTURES, text)[0], nll, atol=1e-5, rtol=1e-5)


def filled(known, weight=None):
    """Logits of all places where `known` says what is seen, by one sequence written out."""
    rows, t = len(PICTURES), np.arange(T)
    start = np.full((rows, 1), NETWORK.joint.start_of_image)
    before = np.concatenate([start, PICTURES[:, :-1]], axis=1)
    ids = np.concatenate([17 + TEXT_3S, start, PICTURES, before], axis=1)
    positions = np.concatenate([np.arange(S), [POSITION], POSITION + 1 + t, POSITION + t])
    roles = np.concatenate(
        [
            np.where(TEXT_3S != 0, TEXT, EMPTY),
            np.full((rows, 1), START),
            np.where(known, KNOWN, EMPTY),
            np.where(known, EMPTY, PREDICTED),
        ],
        axis=1,
    )
    arrangement = Arrangement(
        jnp.asarray(ids, jnp.int32),
        jnp.broadcast_to(jnp.asarray(positions, jnp.int32), ids.shape),
        jnp.asarray(roles, jnp.int32),
        jnp.zeros(ids.shape, jnp.int32),
        jnp.zeros(ids.shape, jnp.float32),
    )
    hidden = call("hidden", arrangement)[:, -T:]
    return np.asarray(call("code_logits", hidden))


def test_a_hole_is_drawn_with_both_sides_seen():
    known = np.array([[1, 0, 0, 1, 0, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], bool)

    def start(params):
        read = NETWORK.read(params, TEXT_3S)
        return NETWORK.start_weighted(params, read, 1, None, PICTURES, jnp.asarray(known))

    found = stepped(start, "step", "next_logits", PICTURES, jnp.int32(0))
    np.testing.assert_allclose(found[~known], filled(known)[~known], atol=1e-5, rtol=1e-5)


def test_the_loss_in_pieces_is_the_loss():
    rows = 17 + 20 + 2
    config = dataclasses.replace(NETWORK.config, compute=HeadCompute(pieces=3))
    assert rows % 3 == 0
    pieces = dataclasses.replace(NETWORK, config=config)
    pieces.check()
    for one, other in zip(
        jax.jit(NETWORK.nll)(params(), TEXT_3S, PICTURES),
        jax.jit(pieces.nll)(params(), TEXT_3S, PICTURES),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_six_billion_are_cogview2s():
    stack = TransformerConfig(48, 48, 3072, 4 * 3072, activation="gelu", bias=True)
    network = CogLMGenerator(
        CogLMConfig(stack, specials=3), TextCondition(130_000, 111), Codes((20, 20), (20_000,))
    )
    network.check()
    shapes = networks.abstract_params(network)
    assert shapes["embed"]["table"].shape == (150_003, 3072)
    assert shapes["places"]["table"].shape == (1024, 3072)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    matrices = 12 * 48 * 3072**2 + 150_003 * 3072
    # Biases of 9 D a block, four norms of 2 D, positions, the last norm.
    assert count == matrices + 48 * (9 + 8) * 3072 + 1024 * 3072 + 2 * 3072
    assert round(matrices / 1e9, 2) == 5.90


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"start": 3}}, "start is 3, .*: the text leaves no room; take a length of at"),
        ({"config": {"positions": 11}}, "config.model.positions is 11 and a picture of 6 codes"),
        ({"config": {"specials": 1}}, "config.model.specials is 1; at least 2"),
        ({"config": {"languages": (9,)}}, "config.model.specials is 2; at least 3"),
        ({"config": {"languages": (20,), "specials": 3}}, r"languages is \(20,\), .*_size 20; t"),
        ({"config": {"languages": (9, 7), "specials": 4}}, r"languages is \(9, 7\), the first pi"),
        ({"config": {"stddev": 0.0}}, "config.model.stddev is 0.0; more than 0"),
        ({"config": {"compute": HeadCompute(2)}}, "compute.pieces is 2, which does not divide"),
        ({"condition": ClassCondition(3)}, "config.condition.kind is 'class'; take text"),
        ({"codes": Codes((8,), (17,))}, "draws a grid of codes of one number and the tokenizer gi"),
        ({"codes": Codes((2, 3), (17, 5))}, "a grid of codes of one number"),
    ],
)
def test_what_does_not_fit_is_one_line(change, message):
    with pytest.raises(UserError, match=message) as told:
        changes = dict(change)
        if "config" in changes:
            changes["config"] = dataclasses.replace(NETWORK.config, **changes["config"])
        dataclasses.replace(NETWORK, **changes).check()
    assert "\n" not in str(told.value)


def test_the_deviation_of_a_condition_s_own_table_is_refused_of_runs_that_begin():
    asked = dataclasses.replace(NETWORK, condition=TextCondition(20, 3, stddev=0.5))
    asked.check()
    with pytest.raises(UserError, match="condition.stddev is 0.5 .*model.stddev; set it to 0.02"):
        asked.check_new()
    NETWORK.check_new()
