"""A pipeline is the sequential stack, in value and gradient, whatever its schedule."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import (
    DTYPES,
    ComputeConfig,
    TransformerConfig,
    decoder_parts,
    encoder_parts,
    make_stack,
)
from babeldraw.layers.dropout import example_keys
from babeldraw.layers.masks import Causal, padding_mask
from babeldraw.layers.stack import Stack
from babeldraw.sharding import pipeline
from babeldraw.sharding.context import PerExample, PerSlot, Shared
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.sharding.pipeline import Schedule

STAGES, B, T, D = 4, 16, 6, 16
RNG = np.random.default_rng(0)
X, TEXT = (jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32) for _ in range(2))
TARGET = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
MASK = padding_mask(jnp.asarray(RNG.integers(0, 3, (B, T)), jnp.int32))
BLOCKS = {
    "encoder": encoder_parts,
    "decoder": lambda config: decoder_parts(config, Causal(), "text"),
}
PIPELINE = MeshConfig(data=2, stage=STAGES, rules="pipeline")


def stack_of(kind, layers, dtype="float32", dropout=0.0):
    compute = ComputeConfig(dtype=dtype, remat="full")
    config = TransformerConfig(layers, 2, D, 32, dropout=dropout, compute=compute)
    return make_stack(BLOCKS[kind](config), config)


def context_of(kind, text, dtype="float32"):
    if kind == "encoder":
        return {"mask": PerExample(MASK)}
    return {"text": PerExample(text.astype(DTYPES[dtype])), "text_mask": PerExample(MASK)}


@functools.cache
def parameters(kind, layers):
    stack = stack_of(kind, layers)
    return nn.unbox(jax.jit(stack.init)(jax.random.key(0), X, context_of(kind, TEXT)))["params"]


@functools.cache
def loss_and_gradients(kind, layers, mesh_config=None, dropout=0.0, dtype="float32"):
    """Of a regression loss, with respect to parameters, x and text; the loss in float64.

    Its mean in float32 rounds by more than the stacks differ.
    """
    stack, params = stack_of(kind, layers, dtype, dropout), parameters(kind, layers)
    keys = example_keys(jax.random.key(7), B) if dropout else None
    layout = mesh_config and make_layout(mesh_config, make_mesh(mesh_config))

    def loss(params, x, text):
        with use(layout):
            y = stack.apply({"params": params}, x, context_of(kind, text, dtype), keys=keys)
        y = y.astype(jnp.float32)
        return jnp.mean(jnp.square(y - TARGET)), y

    found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(params, X, TEXT)
    (_, y), gradients = found
    return np.mean(np.square(np.asarray(y, np.float64) - np.asarray(TARGET))), gradients


def relative_error(expected, got):
    """Of two trees as one vector."""
    flat = [np.concatenate([np.ravel(a) for a in jax.tree.leaves(t)]) for t in (expected, got)]
    # Zero against zero, as the gradient of a text that an encoder never sees, is no error.
    return np.linalg.norm(flat[1] - flat[0]) / max(np.linalg.norm(flat[0]), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.1], ids=["plain", "dropout"]
)
# The schedule of all four is looked at below; here the simplest and the one that has both.
@pytest.mark.parametrize(
    ("rounds", "segments"),
    [
        (1, 1),
        (4, 2),
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(4, 1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_pipeline_has_the_loss_and_gradient_of_the_sequential_stack(
    kind, segments, rounds, dropout
):
    config = dataclasses.replace(PIPELINE, microbatches=segments * STAGES)
    loss, gradients = loss_and_gradients(kind, STAGES * rounds, dropout=dropout)
    piped_loss, piped = loss_and_gradients(kind, STAGES * rounds, config, dropout)
    np.testing.assert_allclose(piped_loss, loss, rtol=1e-6)
    assert relative_error(gradients, piped) <= 5e-6
    for expected, got in zip(jax.tree.leaves(gradients), jax.tree.leaves(piped), strict=True):
        assert relative_error(expected, got) <= 5e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(PIPELINE, zero1=True),
        dataclasses.replace(PIPELINE, stage=2, model=2),
        dataclasses.replace(PIPELINE, stage=2, model=2, zero1=True, microbatches=4),
        dataclasses.replace(PIPELINE, data=1, stage=8),
    ],
    ids=["zero1", "in_layer", "in_layer_zero1", "stages_alone"],
)
def test_so_it_is_where_weights_are_stored_or_split_otherwise(config):
    loss, gradients = loss_and_gradients("decoder", 8, dropout=0.1)
    piped_loss, piped = loss_and_gradients("decoder", 8, config, 0.1)
    np.testing.assert_allclose(piped_loss, loss, rtol=1e-6)
    assert relative_error(gradients, piped) <= 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", BLOCKS)
def test_in_bfloat16_it_is_as_near_to_float32_as_the_sequential_stack(kind):
    exact = loss_and_gradients(kind, 16)[1]
    sequential = loss_and_gradients(kind, 16, dtype="bfloat16")[1]
    piped = loss_and_gradients(kind, 16, PIPELINE, dtype="bfloat16")[1]
    assert relative_error(exact, piped) <= 1.2 * relative_error(exact, sequential)


class Turned(nn.Module):
    """x + tanh((x + its slots' own) * weight) * what all share."""

    @nn.compact
    def __call__(self, x, context, keys=None):
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        weight = jnp.broadcast_to(self.param("weight", ones, (D,)), x.shape)
        return x + jnp.tanh((x + context["own"]) * weight) * context["all"]


def test_a_context_is_of_all_of_examples_or_of_slots_as_it_says():
    shared = jnp.asarray(RNG.normal(size=(1, T, D)), jnp.float32)
    stack = Stack(Turned, STAGES)
    context = {"own": PerSlot(TEXT), "all": Shared(shared)}
    params = nn.unbox(stack.init(jax.random.key(0), X, context))["params"]
    layout = make_layout(PIPELINE, make_mesh(PIPELINE))

    def gradients(layout):
        def loss(params, own, shared):
            said = {"own": PerSlot(own), "all": Shared(shared)}
            with use(layout):
                y = stack.apply({"params": params}, X, said)
            return jnp.mean(jnp.square(y - TARGET))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, TEXT, shared)

    (loss, expected), (piped_loss, found) = gradients(None), gradients(layout)
    np.testing.assert_allclose(piped_loss, loss, rtol=1e-6)
    assert relative_error(expected, found) <= 5e-6
    # What all share gets no gradient, with a pipeline or without.
    assert not np.any(expected[2]) and not np.any(found[2]) and np.any(found[1])


@pytest.mark.slow
def test_what_is_in_a_bubble_reaches_nothing(monkeypatch):
    expected = loss_and_gradients("decoder", 8, PIPELINE, 0.1)
    poisoned = functools.partial(pipeline.pipeline, poison=True)
    monkeypatch.setattr("babeldraw.layers.stack.pipeline", poisoned)
    got = loss_and_gradients.__wrapped__("decoder", 8, PIPELINE, 0.1)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        assert np.all(np.isfinite(b))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("rounds", "segments"), [(1, 1), (4, 1), (1, 2), (4, 2)])
def test_the_schedule_runs_every_layer_of_every_microbatch_once_in_order(rounds, segments):
    schedule = Schedule(STAGES, rounds, segments)
    seen = {}
    for t in range(schedule.iterations):
        for stage in range(STAGES):
            valid, round_, segment, number = map(int, schedule.item(stage, t))
            if valid:
                layers = seen.setdefault((segment, number), [])
                layers.append((t, round_ * STAGES + stage))
    assert set(seen) == {(s, n) for s in range(segments) for n in range(STAGES)}
    for layers in seen.values():
        assert [layer for _, layer in layers] == list(range(STAGES * rounds))
        # One iteration after the other: a microbatch never waits between two layers.
        assert np.all(np.diff([t for t, _ in layers]) == 1)
    idle = STAGES * schedule.iterations - segments * STAGES * rounds * STAGES
    assert schedule.bubble == idle / (STAGES * schedule.iterations)


def test_the_decoder_of_the_20b_has_the_bubble_of_the_paper():
    assert Schedule(16, 4, 1).iterations == 79
    assert round(Schedule(16, 4, 1).bubble, 2) == 0.19
    assert round(Schedule(16, 1, 1).bubble, 2) == 0.48


def test_layers_or_batches_that_do_not_divide_are_told():
    with pytest.raises(UserError, match="mesh.stage is 4, which does not divide .* 6 blocks"):
        loss_and_gradients.__wrapped__("encoder", 6, PIPELINE)
    with pytest.raises(UserError, match="batch_size is 16, which 2 data groups of 12 microbatches"):
        config = dataclasses.replace(PIPELINE, microbatches=12)
        loss_and_gradients.__wrapped__("encoder", 4, config)
