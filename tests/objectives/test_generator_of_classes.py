"""VIM's recipe: the loss of known classes, of none, of dropped ones; stored tokens; features."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.conditions import ClassCondition, NoCondition
from babeldraw.models.vim import VIMConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig
from tests import networks

B, V, K = 8, 32, 3
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32, compute=ComputeConfig(scan=False))
CLASSES = ClassCondition(K, dropout=0.3)
PARTS = (
    ViTVQGANConfig(STACK, STACK, (8, 8), patch_size=4, quantizer=VQConfig(V, 4)),
    OptimizerConfig(ScheduleConfig(1e-2, 0, 0, 1, kind="constant")),
    B,
)
MODEL = VIMConfig(dataclasses.replace(STACK, dropout=0.1))
OBJECTIVE = networks.generator_objective(MODEL, CLASSES, *PARTS)
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 256, (B, 8, 8, 3), dtype=np.uint8),
    "label": np.array([0, 1, 2, 0, 1, 2, -1, 2], np.int32),
}


@functools.cache
def state():
    """Random weights; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        scale = 0.25 if name.startswith((".params", ".frozen")) else 0.0
        offset = 1.0 if name.endswith("['scale']") else 0.0
        return jnp.asarray(rng.normal(offset, scale, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(OBJECTIVE.init, KEY))


losses = jax.jit(OBJECTIVE.predict_fns()["loss"])


def tokens():
    encode = jax.jit(OBJECTIVE.tokenizer.encode)
    return np.asarray(encode(state().frozen["tokenizer"], BATCH["image"].astype(np.float32) / 255))


@pytest.mark.slow
def test_the_loss_is_the_cross_entropy_given_the_class_and_no_label_is_the_no_class():
    generator = OBJECTIVE.generator
    classes = np.where(BATCH["label"] < 0, K, BATCH["label"])
    logits = np.asarray(jax.jit(generator.logits)(state().params, classes, tokens()), float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(shares, tokens()[..., None], axis=-1)[..., 0])
    np.testing.assert_allclose(losses(state(), BATCH), expected.mean(axis=1), atol=1e-5)


def test_ready_made_tokens_are_those_of_the_pictures():
    ready = {"label": BATCH["label"], "tokens": tokens()}
    np.testing.assert_allclose(losses(state(), ready), losses(state(), BATCH), atol=1e-5)


@pytest.mark.slow
def test_the_loss_falls_and_the_tokenizer_stays_bit_for_bit():
    now, before = state(), jax.device_get(state())
    update, seen = jax.jit(OBJECTIVE.update), []
    for step in range(30):
        now, metrics = update(now, BATCH, jax.random.fold_in(KEY, step))
        seen.append(float(metrics["loss"]))
    assert seen[-1] < 0.5 * seen[0] and int(now.step) == 30
    jax.tree.map(np.testing.assert_array_equal, now.frozen, before.frozen)
    for moved, old in zip(jax.tree.leaves(now.params), jax.tree.leaves(before.params), strict=True):
        assert np.any(np.asarray(moved) != old)


def test_classes_are_dropped_at_their_share():
    dropped = np.asarray(CLASSES.dropped(jnp.ones(4000, jnp.int32), KEY))
    assert set(dropped) == {1, K}
    # Five standard deviations.
    assert abs(np.mean(dropped == K) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 4000)


def test_without_classes_labels_tell_nothing():
    objective = networks.generator_objective(MODEL, NoCondition(), *PARTS)
    embed = state().params["prefix"]["embed"]["table"]
    params = {**state().params, "prefix": {"embed": {"table": embed[K:]}}}
    loss = jax.jit(objective.predict_fns()["loss"])
    found = loss(state().replace(params=params), BATCH)
    expected = losses(state(), {**BATCH, "label": np.full(B, -1, np.int32)})
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_features_do_not_know_the_class():
    features = jax.jit(OBJECTIVE.predict_fns()["features"])
    found = features(state(), {"image": BATCH["image"]})
    assert found.shape == (B, 2, 16)
    network = OBJECTIVE.generator.network
    inputs = {"params": state().params}, jnp.full(B, K, jnp.int32), tokens()
    expected = network.apply(*inputs, method="features")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_batch_is_what_the_spec_says():
    spec = OBJECTIVE.batch_spec()
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()} == {
        name: (array.shape, array.dtype) for name, array in BATCH.items()
    }
    stored = dataclasses.replace(OBJECTIVE, stored_tokens=True).batch_spec()
    assert stored.keys() == {"tokens", "label"}


def test_a_share_that_is_none_is_named():
    with pytest.raises(UserError, match="config.condition.dropout is 1.5; "):
        ClassCondition(3, dropout=1.5)
