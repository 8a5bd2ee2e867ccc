"""The two losses against NumPy; any number of devices takes the same steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.errors import UserError
from babeldraw.estimate.program import collectives
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.coca import CoCaConfig
from babeldraw.objectives.contrastive_captioner import (
    ContrastiveCaptionerLossConfig,
    ContrastiveCaptionerObjective,
    caption_losses,
    contrastive_loss,
)
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.constraint import is_names
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train.step import make_step, state_shardings

B, S, V = 8, 5, 20
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32, dropout=0.1)
MODEL = CoCaConfig(STACK, STACK, STACK, (16, 16), 8, V, S, queries=3, embedding_dim=8)
OBJECTIVE = ContrastiveCaptionerObjective(
    model=MODEL,
    loss=ContrastiveCaptionerLossConfig(),
    optimizer=OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), name="adamw"),
    batch_size=B,
)
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 256, (B, 16, 16, 3), dtype=np.uint8),
    "text": RNG.integers(1, V, (B, S), dtype=np.int32),
}
BATCH["text"][::2, 3:] = 0


def unit(seed, rows=B):
    x = np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def softmax(x, axis):
    shares = np.exp(x - x.max(axis=axis, keepdims=True))
    return shares / shares.sum(axis=axis, keepdims=True)


@functools.cache
def initial():
    """A state with random weights; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if "log_temperature" in name and name.startswith(".params"):
            return np.full((), np.log(0.07), leaf.dtype)
        scale = 0.25 if name.startswith(".params") else 0.0
        offset = 1.0 if name.endswith("['scale']") and name.startswith(".params") else 0.0
        return rng.normal(offset, scale, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(OBJECTIVE.init, KEY))


@functools.cache
def compiled(rules="data_parallel", count=1, model=1):
    """The training step, as the loop makes it, and where its state lives."""
    config = MeshConfig(rules=rules, model=model)
    layout = make_layout(config, make_mesh(config, jax.devices()[:count]))
    places = state_shardings(OBJECTIVE, layout)
    return make_step(OBJECTIVE, layout, places), layout.mesh, places


def losses(step, mesh, places, steps=3):
    state = jax.device_put(initial(), places)
    for _ in range(steps):
        state, metrics = step(state, place_batch(BATCH, mesh), KEY)
        yield float(metrics["loss"])


# ------------------------------------------------------------------ the losses


def test_the_contrastive_loss_is_that_of_the_paper():
    image, text, temperature = unit(1), unit(2), 0.1
    logits = image.astype(float) @ text.astype(float).T / temperature
    expected = -np.log(np.diagonal(softmax(logits, 1))).mean()
    expected -= np.log(np.diagonal(softmax(logits, 0))).mean()
    loss, accuracy = contrastive_loss(image, text, jnp.float32(temperature))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(accuracy, np.mean(logits.argmax(1) == np.arange(B)))


def test_the_contrastive_loss_is_symmetric_and_blind_to_order():
    image, text, temperature = unit(1), unit(2), jnp.float32(0.1)
    loss, _ = contrastive_loss(image, text, temperature)
    np.testing.assert_allclose(contrastive_loss(text, image, temperature)[0], loss, rtol=1e-5)
    order = np.random.default_rng(3).permutation(B)
    shuffled, _ = contrastive_loss(image[order], text[order], temperature)
    np.testing.assert_allclose(shuffled, loss, rtol=1e-5)
    # Only one side shuffled: other pairs, another loss.
    assert abs(contrastive_loss(image[order], text, temperature)[0] - loss) > 0.1


def test_alike_embeddings_tell_nothing_and_orthogonal_pairs_all():
    alike = np.ones((B, 4), np.float32) / 2
    loss, _ = contrastive_loss(alike, alike, jnp.float32(0.1))
    np.testing.assert_allclose(loss, 2 * np.log(B), rtol=1e-5)
    apart = np.eye(B, dtype=np.float32)
    loss, accuracy = contrastive_loss(apart, apart, jnp.float32(0.01))
    assert loss < 1e-5 and accuracy == 1


def test_the_captioning_loss_counts_tokens_and_one_end():
    text = np.array([[3, 4, 0, 0], [5, 6, 7, 8], [0, 0, 0, 0]], np.int32)
    logits = np.random.default_rng(4).normal(size=(3, 4, 10)).astype(np.float32)
    log = np.log(softmax(logits.astype(float), -1))
    expected = [
        -(log[0, 0, 3] + log[0, 1, 4] + log[0, 2, 0]) / 3,
        -(log[1, 0, 5] + log[1, 1, 6] + log[1, 2, 7] + log[1, 3, 8]) / 4,
        -log[2, 0, 0],
    ]
    np.testing.assert_allclose(caption_losses(logits, text), expected, rtol=1e-5)


# ------------------------------------------------------------------ over a mesh


def test_the_global_batch_is_told_apart_whole_on_a_mesh():
    """Same value and gradient on eight devices, none of which holds all similarities."""
    rows = 64
    image, text = unit(5, rows), unit(6, rows)

    def loss(image, text):
        return contrastive_loss(image, text, jnp.float32(0.1))[0]

    expected = jax.value_and_grad(loss, argnums=(0, 1))(image, text)
    config = MeshConfig()
    layout = make_layout(config, make_mesh(config))

    def sharded(image, text):
        with use(layout):
            return jax.value_and_grad(loss, argnums=(0, 1))(image, text)

    split = NamedSharding(layout.mesh, PartitionSpec(("data", "stage")))
    program = jax.jit(sharded, in_shardings=(split, split)).lower(image, text).compile()
    found = program(*jax.device_put((image, text), split))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    text_of_program = program.as_text()
    assert f"f32[{rows},{rows}]" not in text_of_program
    assert f"f32[{rows // 8},{rows}]" in text_of_program
    # What is sent are embeddings and normalisers, never similarities.
    assert max(c.elements for c in collectives(text_of_program)) <= rows * image.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "model"), [("data_parallel", 1), ("fsdp", 1), ("in_layer", 2)])
def test_one_device_and_eight_take_the_same_steps(rules, model):
    expected = list(losses(*compiled()))
    assert len(set(expected)) == 3
    np.testing.assert_allclose(list(losses(*compiled(rules, 8, model))), expected, rtol=1e-4)


# ------------------------------------------------------------------ training


@pytest.mark.slow
def test_both_losses_fall_and_the_temperature_is_learned():
    step, mesh, places = compiled()
    state, first = jax.device_put(initial(), places), None
    for _ in range(60):
        state, metrics = step(state, place_batch(BATCH, mesh), KEY)
        first = first or jax.device_get(metrics)
    for name in ("contrastive", "captioning"):
        assert metrics[name] < 0.5 * first[name], name
    np.testing.assert_allclose(first["temperature"], 0.07, rtol=1e-5)
    assert abs(metrics["temperature"] - first["temperature"]) > 1e-3
    total = first["contrastive"] + 2 * first["captioning"]
    np.testing.assert_allclose(first["loss"], total, rtol=1e-5)


@pytest.mark.slow
def test_metrics_are_finite_float32_scalars_and_the_axes_are_the_state_s():
    step, mesh, places = compiled()
    state = jax.device_put(initial(), places)
    _, metrics = step(state, place_batch(BATCH, mesh), KEY)
    for name, value in metrics.items():
        assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value), name
    state, axes = jax.eval_shape(OBJECTIVE.init, KEY), OBJECTIVE.axes()
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)
    for names, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(state), strict=True
    ):
        assert len(names) == leaf.ndim


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"contrastive": -1.0}, "config.loss.contrastive is -1.0; a weight of at least 0"),
        ({"contrastive": 0.0, "captioning": 0.0}, "captioning are both 0"),
        ({"min_temperature": 0.0}, "config.loss.min_temperature is 0.0; a positive"),
    ],
)
def test_a_bad_value_is_named(bad, message):
    with pytest.raises(UserError, match=message):
        ContrastiveCaptionerLossConfig(**bad)
