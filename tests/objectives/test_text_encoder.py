"""The losses of a text encoder against NumPy; any number of devices takes the same steps."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.layers.dropout import example_keys, fold
from babeldraw.models.babeldraw import BabeldrawConfig, BabeldrawGenerator
from babeldraw.models.conditions import TextCondition
from babeldraw.models.text_pretraining import TextPretrainer, TextPretrainingConfig
from babeldraw.objectives.masked_text import mask_pieces
from babeldraw.objectives.text_encoder import TextEncoderLossConfig, TextEncoderObjective
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.runs.weights import flatten
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.constraint import is_names
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers.base import Codes
from babeldraw.train.step import make_step, state_shardings

B, S, V = 8, 6, 20
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32, dropout=0.1)
MODEL = TextPretrainingConfig(STACK, STACK, (16, 16), 8, embedding_dim=8)
CONDITION = TextCondition(V, S, stddev=0.5)
OBJECTIVE = TextEncoderObjective(
    model=MODEL,
    condition=CONDITION,
    loss=TextEncoderLossConfig(masked=0.5, contrastive=2.0, share=0.4),
    optimizer=OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), name="adamw"),
    batch_size=B,
)
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 256, (B, 16, 16, 3), dtype=np.uint8),
    "text": RNG.integers(2, V, (B, S), dtype=np.int32),
}
BATCH["text"][::2, 3:] = 0


@functools.cache
def initial(objective=OBJECTIVE):
    """A state with random weights; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if not name.startswith(".params"):
            return np.zeros(leaf.shape, leaf.dtype)
        if "log_temperature" in name:
            return np.full((), np.log(0.07), leaf.dtype)
        offset = 1.0 if name.endswith("['scale']") else 0.0
        return rng.normal(offset, 0.25, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(objective.init, KEY))


def with_loss(**weights):
    loss = dataclasses.replace(OBJECTIVE.loss, **weights)
    return dataclasses.replace(OBJECTIVE, loss=loss)


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


@pytest.mark.slow
def test_the_masked_loss_is_the_mean_over_all_pieces_that_are_asked_for():
    """And over no padding: NumPy counts pieces alone."""
    objective = with_loss(contrastive=0.0)
    state = initial(objective)
    keys, still = example_keys(KEY, B), dataclasses.replace(STACK, dropout=0.0)
    objective = dataclasses.replace(objective, model=dataclasses.replace(MODEL, encoder=still))
    metrics = jax.device_get(jax.jit(objective.forward)(state, BATCH, KEY))
    masked = mask_pieces(jnp.asarray(BATCH["text"]), fold(keys, 0), V, 0.4)
    network = TextPretrainer(objective.model, CONDITION, True, False)
    # Of every place, not only of those that the loss reads.
    all_places = jnp.broadcast_to(jnp.arange(S)[None], (B, S))
    logits = jax.jit(network.piece_logits)(
        state.params, masked.read_BS, masked.hidden_BS, all_places
    )
    logits, masked = np.asarray(logits, np.float64), jax.device_get(masked)
    found, right = [], []
    for row in range(B):
        for place in masked.places_BK[row][masked.asked_BK[row]]:
            piece = BATCH["text"][row, place]
            assert piece != 0
            shifted = logits[row, place] - logits[row, place].max()
            found.append(np.log(np.exp(shifted).sum()) - shifted[piece])
            right.append(logits[row, place].argmax() == piece)
    assert len(found) == 4 * 2 + 4 * 1
    np.testing.assert_allclose(metrics["masked"], np.mean(found), rtol=1e-4)
    np.testing.assert_allclose(metrics["masked_accuracy"], np.mean(right), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.5 * metrics["masked"], rtol=1e-6)


@pytest.mark.slow
def test_padding_has_no_gradient():
    """No place of padding is asked for: its logits may be anything."""
    objective = with_loss(contrastive=0.0)
    batch = {"text": np.zeros((B, S), np.int32)}
    batch["text"][:, 0] = 5
    grads, _ = jax.jit(objective.gradients)(initial(objective), batch, KEY)
    # Of what is asked only piece 5 is right, so no other bias is pulled up: the softmax pushes all.
    bias = np.asarray(grads["piece_head"]["logits"]["bias"])
    assert bias[5] < 0 and (np.delete(bias, 5) > 0).all()
    # A padding's vector is read by none, and no place behind the first.
    assert not np.any(grads["text_encoder"]["embed"]["table"][0])
    assert not np.any(grads["text_encoder"]["positions"]["table"][1:])
    empty, metrics = jax.jit(objective.gradients)(
        initial(objective), {"text": np.zeros((B, S), np.int32)}, KEY
    )
    assert metrics["loss"] == 0 and all(np.all(leaf == 0) for leaf in jax.tree.leaves(empty))


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_embedding_of_a_text_is_of_its_pieces(pooling):
    config = dataclasses.replace(MODEL, pooling=pooling)
    network = TextPretrainer(config, CONDITION, False, True)
    params = initial(with_loss(masked=0.0)).params
    apply = functools.partial(network.network.apply, {"params": params})
    states = np.asarray(apply(BATCH["text"], method=lambda m, text: m.text_encoder(text)))
    pooled = []
    for row, text in zip(states, BATCH["text"], strict=True):
        pooled.append(row[0] if pooling == "first" else row[text > 0].mean(axis=0))
    product = np.stack(pooled) @ params["to_text_embedding"]["weight"]
    expected = product / np.linalg.norm(product, axis=1, keepdims=True)
    found = apply(BATCH["text"], method="embed_text")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_the_terms_are_summed_by_their_weights_and_texts_may_be_others():
    texts = dataclasses.replace(OBJECTIVE, own_texts=True)
    same = {**BATCH, "masked_text": BATCH["text"]}
    found = jax.device_get(jax.jit(OBJECTIVE.forward)(initial(), BATCH, KEY))
    total = 0.5 * found["masked"] + 2 * found["contrastive"]
    np.testing.assert_allclose(found["loss"], total, rtol=1e-5)
    beside = jax.jit(texts.forward)
    assert beside(initial(), same, KEY)["loss"] == found["loss"]
    other = beside(initial(), {**same, "masked_text": BATCH["text"][::-1].copy()}, KEY)
    assert other["contrastive"] == found["contrastive"] and other["masked"] != found["masked"]


# ------------------------------------------------------------------ the generator's encoder


def test_the_encoder_is_the_generator_s_in_names_shapes_and_numbers():
    config = BabeldrawConfig(STACK, STACK)
    generator = BabeldrawGenerator(config, CONDITION, Codes((2, 2), (7,)))
    theirs = flatten(nn.unbox(jax.eval_shape(generator.init, KEY))["text_encoder"])
    ours = flatten(initial().params["text_encoder"])
    shapes = {name: leaf.shape for name, leaf in ours.items()}
    assert shapes == {name: leaf.shape for name, leaf in theirs.items()}
    params = {"text_encoder": initial().params["text_encoder"]}
    read = generator.network.apply({"params": params}, BATCH["text"], method="read")
    pretrained = TextPretrainer(MODEL, CONDITION, True, True).network.apply(
        {"params": initial().params},
        BATCH["text"],
        method=lambda m, text: m.text_encoder(text),
    )
    np.testing.assert_array_equal(read.states_BSD, pretrained)


# ------------------------------------------------------------------ over a mesh


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "model"), [("data_parallel", 1), ("fsdp", 1), ("in_layer", 2)])
def test_one_device_and_eight_take_the_same_steps(rules, model):
    expected = list(losses(*compiled()))
    assert len(set(expected)) == 3
    np.testing.assert_allclose(list(losses(*compiled(rules, 8, model))), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "model"), [("data_parallel", 1), ("fsdp", 1), ("in_layer", 2)])
def test_a_loss_on_eight_devices_is_that_on_one(rules, model):
    def loss(count, rules, model):
        config = MeshConfig(rules=rules, model=model)
        layout = make_layout(config, make_mesh(config, jax.devices()[:count]))
        state = jax.device_put(initial(), state_shardings(OBJECTIVE, layout))

        def forward(state, batch):
            with use(layout):
                return OBJECTIVE.forward(state, batch, KEY)

        return jax.device_get(jax.jit(forward)(state, place_batch(BATCH, layout.mesh)))

    found, expected = loss(8, rules, model), loss(1, "data_parallel", 1)
    assert expected["masked"] > 0 and expected["contrastive"] > 0
    for name in ("masked", "contrastive", "loss", "masked_accuracy", "accuracy"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)


# ------------------------------------------------------------------ training


@pytest.mark.slow
def test_both_losses_fall_and_the_temperature_is_learned():
    step, mesh, places = compiled()
    state, first = jax.device_put(initial(), places), None
    for _ in range(60):
        state, metrics = step(state, place_batch(BATCH, mesh), KEY)
        first = first or jax.device_get(metrics)
    for name in ("contrastive", "masked"):
        assert metrics[name] < 0.7 * first[name], name
    assert abs(metrics["temperature"] - first["temperature"]) > 1e-3


def test_the_axes_are_the_state_s_and_what_has_no_weight_has_no_network():
    for objective in (OBJECTIVE, with_loss(masked=0.0), with_loss(contrastive=0.0)):
        state, axes = jax.eval_shape(objective.init, KEY), objective.axes()
        assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)
        leaves = jax.tree.leaves(axes, is_leaf=is_names)
        for names, leaf in zip(leaves, jax.tree.leaves(state), strict=True):
            assert len(names) == leaf.ndim
        assert ("piece_head" in state.params) == (objective.loss.masked > 0)
        assert ("image_encoder" in state.params) == (objective.loss.contrastive > 0)
        assert set(objective.predict_fns()) - {"text_features"} == {
            name
            for name, weight in (
                ("loss", objective.loss.masked),
                ("embed", objective.loss.contrastive),
            )
            if weight
        }


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"masked": -1.0}, "config.loss.masked is -1.0; a weight of at least 0"),
        ({"contrastive": -0.5}, "config.loss.contrastive is -0.5; a weight of at least 0"),
        ({"masked": float("inf")}, "config.loss.masked is inf; a weight of at least 0, and finite"),
        ({"masked": 0.0, "contrastive": 0.0}, "masked and contrastive are both 0"),
        ({"share": 0.0}, "config.loss.share is 0.0; a share above 0"),
        ({"min_temperature": 0.0}, "config.loss.min_temperature is 0.0; a positive"),
    ],
)
def test_a_bad_value_is_named(bad, message):
    with pytest.raises(UserError, match=message):
        TextEncoderLossConfig(**bad)
