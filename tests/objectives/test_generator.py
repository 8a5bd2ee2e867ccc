"""Stage 2: the loss falls, the tokenizer does not move, any number of devices does the same."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.babeldraw import BabeldrawConfig
from babeldraw.models.conditions import TextCondition
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.constraint import is_names, shardings
from babeldraw.sharding.layout import Layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.sharding.rules import PRESETS
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig
from tests import networks

B, T, V = 8, 4, 32
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32, dropout=0.1)
WORDS = TextCondition(vocab_size=20, length=5, dropout=0.3)
TOKENIZER = ViTVQGANConfig(STACK, STACK, (8, 8), patch_size=4, quantizer=VQConfig(V, 4))
OPTIMIZER = OptimizerConfig(ScheduleConfig(1e-2, 0, 0, 1, kind="constant"))
OBJECTIVE = networks.generator_objective(
    BabeldrawConfig(STACK, STACK), WORDS, TOKENIZER, OPTIMIZER, B
)
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 256, (B, 8, 8, 3), dtype=np.uint8),
    "text": RNG.integers(1, 20, (B, 5), dtype=np.int32),
}


@functools.cache
def initial():
    """A state with random weights; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        scale = 0.25 if name.startswith((".params", ".frozen")) else 0.0
        offset = 1.0 if name.endswith("['scale']") or "code_share" in name else 0.0
        return jnp.asarray(rng.normal(offset, scale, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(OBJECTIVE.init, KEY))


@functools.cache
def compiled(objective, count=1, table="data_parallel"):
    """`update` compiled for a mesh of `count` devices, as the training loop does it."""
    mesh, preset = make_mesh(MeshConfig(), jax.devices()[:count]), PRESETS[table]
    places = shardings(objective.axes(), jax.eval_shape(objective.init, KEY), mesh, preset.stored)
    whole = NamedSharding(mesh, PartitionSpec())

    @functools.partial(jax.jit, out_shardings=(places, whole))
    def update(state, batch, key):
        with use(Layout(mesh, preset)):
            return objective.update(state, batch, key)

    def place_and_update(state, batch, key):
        return update(jax.device_put(state, places), place_batch(batch, mesh), key)

    return place_and_update


def losses(update, steps=3):
    """The loss of each step, from the initial state on."""
    state = initial()
    for step in range(steps):
        state, metrics = update(state, BATCH, jax.random.fold_in(KEY, step))
        yield float(metrics["loss"])


@functools.cache
def loss_of(share):
    """The loss alone, without dropout in the network and with this share of dropped prompts."""
    stack = dataclasses.replace(STACK, dropout=0.0)
    words = dataclasses.replace(WORDS, dropout=share)
    objective = networks.generator_objective(
        BabeldrawConfig(stack, stack), words, TOKENIZER, OPTIMIZER, B
    )
    return jax.jit(lambda batch: objective.update(initial(), batch, KEY)[1]["loss"])


def tokens_of(state):
    encode = jax.jit(OBJECTIVE.tokenizer.encode)
    return np.asarray(encode(state.frozen["tokenizer"], BATCH["image"].astype(np.float32) / 255))


@pytest.mark.slow
def test_the_loss_is_the_mean_cross_entropy_of_all_tokens():
    state = initial()
    tokens = tokens_of(state)
    logits = np.asarray(
        jax.jit(OBJECTIVE.generator.logits)(state.params, BATCH["text"], tokens), float
    )
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(shares, tokens[..., None], axis=-1)[..., 0])
    np.testing.assert_allclose(loss_of(0.0)(BATCH), expected.mean(), atol=1e-5)
    each = jax.jit(OBJECTIVE.predict_fns()["loss"])(state, BATCH)
    np.testing.assert_allclose(each, expected.mean(axis=1), atol=1e-5)


@pytest.mark.slow
def test_metrics_are_finite_float32_scalars_and_steps_are_counted():
    state, metrics = compiled(OBJECTIVE)(initial(), BATCH, KEY)
    assert int(state.step) == 1 and state.step.dtype == jnp.int32
    for name, value in metrics.items():
        assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value), name


def test_ready_made_tokens_are_those_of_the_pictures():
    losses = jax.jit(OBJECTIVE.predict_fns()["loss"])
    ready = {"text": BATCH["text"], "tokens": tokens_of(initial())}
    expected = losses(initial(), BATCH)
    np.testing.assert_allclose(losses(initial(), ready), expected, atol=1e-5)


def test_the_loss_falls_and_the_tokenizer_stays_bit_for_bit():
    state, first, before = initial(), None, jax.device_get(initial())
    for step in range(30):
        state, metrics = compiled(OBJECTIVE)(state, BATCH, jax.random.fold_in(KEY, step))
        first = float(metrics["loss"]) if first is None else first
    assert metrics["loss"] < 0.5 * first
    assert metrics["accuracy"] > 0.5
    jax.tree.map(np.testing.assert_array_equal, state.frozen, before.frozen)
    for moved, old in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(before.params), strict=True
    ):
        assert np.any(np.asarray(moved) != old)


@pytest.mark.parametrize(("share", "depends"), [(1.0, False), (0.0, True)])
def test_a_dropped_prompt_tells_nothing(share, depends):
    loss = loss_of(share)
    first = loss(BATCH)
    for text in (BATCH["text"][::-1], 0 * BATCH["text"]):
        assert (loss({**BATCH, "text": text}) != first) == depends


def test_whole_prompts_are_dropped_at_their_share():
    text = jnp.ones((4000, 5), jnp.int32)
    dropped = np.asarray(WORDS.dropped(text, KEY))
    assert set(dropped.sum(axis=1)) == {0, 5}
    # Five standard deviations.
    assert abs(np.mean(dropped[:, 0] == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 4000)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["fsdp", "data_parallel"])
def test_one_device_and_eight_take_the_same_steps(table):
    expected = list(losses(compiled(OBJECTIVE)))
    assert len(set(expected)) == 3
    found = list(losses(compiled(OBJECTIVE, 8, table)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_axes_are_the_state_s():
    state, axes = jax.eval_shape(OBJECTIVE.init, KEY), OBJECTIVE.axes()
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)
    for names, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(state), strict=True
    ):
        assert len(names) == leaf.ndim


def test_the_batch_is_what_the_spec_says():
    spec = OBJECTIVE.batch_spec()
    assert spec.keys() == BATCH.keys()
    for name, array in BATCH.items():
        assert spec[name].shape == array.shape and spec[name].dtype == array.dtype
    stored = dataclasses.replace(OBJECTIVE, stored_tokens=True).batch_spec()
    assert stored.keys() == {"tokens", "text"} and stored["text"] == spec["text"]
    assert stored["tokens"] == jax.ShapeDtypeStruct((B, T), jnp.int32)


def test_prompts_become_pictures():
    generate = jax.jit(OBJECTIVE.predict_fns()["generate"], static_argnums=4)
    keys = jax.random.split(KEY, 3)
    images = generate(initial(), BATCH["text"][:3], keys, SamplingConfig().traced(), True)
    assert images.shape == (3, 8, 8, 3) and images.dtype == jnp.float32
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_named(share):
    with pytest.raises(UserError, match=f"config.condition.dropout is {share}; "):
        TextCondition(dropout=share)
