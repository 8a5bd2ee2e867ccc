"""Stage 1: the loss falls, idle codes come back, any number of devices does the same."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective, TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.constraint import is_names, layout, shardings
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.sharding.rules import TABLES
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig

B, V = 8, 32
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32, bias=True)
OBJECTIVE = ImageTokenizerObjective(
    tokenizer=ViTVQGANConfig(STACK, STACK, (8, 8), patch_size=4, codebook_size=V, code_dim=4),
    optimizer=OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), "adamw", b2=0.99),
    loss=TokenizerLossConfig(),
    batch_size=B,
)
KEY = jax.random.key(0)
BATCH = {"image": np.random.default_rng(0).integers(0, 256, (B, 8, 8, 3), dtype=np.uint8)}


@functools.cache
def initial():
    return jax.jit(OBJECTIVE.init)(KEY)


@functools.cache
def compiled(objective):
    return jax.jit(objective.update)


def with_loss(**changes):
    return dataclasses.replace(OBJECTIVE, loss=TokenizerLossConfig(**changes))


def losses_on(objective, devices, table, steps=3):
    """The loss of each step, compiled for a mesh as the training loop does it."""
    mesh, rules = make_mesh(MeshConfig(), devices), TABLES[table]
    places = shardings(objective.axes(), jax.eval_shape(objective.init, KEY), mesh, rules)
    whole = NamedSharding(mesh, PartitionSpec())

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, whole))
    def update(state, batch):
        with layout(mesh, rules):
            return objective.update(state, batch, jax.random.fold_in(KEY, state.step))

    state = jax.device_put(jax.device_get(initial()), places)
    losses = []
    for _ in range(steps):
        state, metrics = update(state, place_batch(BATCH, mesh))
        losses.append(float(metrics["loss"]))
    return losses


def test_the_terms_of_the_loss_are_what_they_say():
    state = initial()
    _, metrics = compiled(with_loss(l2=2.0, commitment=0.5))(state, BATCH, KEY)
    images = BATCH["image"].astype(np.float32) / 255
    out = OBJECTIVE._tokenizer.network.apply({"params": state.params}, images)
    l2 = np.mean(np.square(np.asarray(out.images, np.float64) - images))
    np.testing.assert_allclose(metrics["l2"], l2, rtol=1e-5)
    np.testing.assert_allclose(metrics["psnr_db"], 10 * np.log10(1 / l2), rtol=1e-5)
    vq = np.mean(np.square(np.asarray(out.quantized.latents - out.quantized.codes, np.float64)))
    np.testing.assert_allclose([metrics["codebook"], metrics["commitment"]], vq, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 2 * l2 + 1.5 * vq, atol=1e-5)
    np.testing.assert_allclose(metrics["codes_used"], len(np.unique(out.quantized.ids)) / V)


def test_metrics_are_finite_float32_scalars_and_steps_are_counted():
    state, metrics = compiled(OBJECTIVE)(initial(), BATCH, KEY)
    assert int(state.step) == 1 and state.step.dtype == jnp.int32
    for name, value in metrics.items():
        assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value), name


def test_integers_and_floats_are_the_same_pictures():
    floats = {"image": BATCH["image"].astype(np.float32) / np.float32(255)}
    _, integers = compiled(OBJECTIVE)(initial(), BATCH, KEY)
    _, metrics = compiled(OBJECTIVE)(initial(), floats, KEY)
    np.testing.assert_allclose(metrics["loss"], integers["loss"], atol=1e-6)


def test_the_loss_falls_on_a_fixed_batch():
    state, losses = initial(), []
    for _ in range(40):
        state, metrics = compiled(OBJECTIVE)(state, BATCH, KEY)
        losses.append(float(metrics["l2"]))
    assert losses[-1] < 0.5 * losses[0]


def test_idle_codes_move_to_latents_and_busy_ones_stay():
    state = initial()
    # After one step, a code that was not used has 0.98 of an equal share.
    restarted, metrics = compiled(with_loss(restart_below=0.99))(state, BATCH, KEY)
    kept, _ = compiled(OBJECTIVE)(state, BATCH, KEY)
    images = BATCH["image"].astype(np.float32) / 255
    quantized = OBJECTIVE._tokenizer.network.apply({"params": state.params}, images).quantized
    latents = np.asarray(quantized.latents).reshape(-1, 4)
    idle = np.setdiff1d(np.arange(V), np.unique(quantized.ids))
    busy = np.unique(quantized.ids)
    assert len(idle) > 3 and len(busy) > 3
    assert metrics["codes_used"] == len(busy) / V
    table = np.asarray(restarted.params["codebook"]["table"])
    distances = np.linalg.norm(table[idle, None] - latents[None], axis=-1).min(axis=1)
    np.testing.assert_allclose(distances, 0, atol=1e-5)
    assert len(np.unique(table[idle], axis=0)) > 3
    share = np.asarray(restarted.extra["code_share"])
    expected = (
        0.98 + 0.02 * np.bincount(np.ravel(quantized.ids), minlength=V) * V / latents.shape[0]
    )
    # Codes that lie under the mark though they were used move as well.
    stay = expected >= 0.99
    np.testing.assert_allclose(share, np.where(stay, expected, 1.0), atol=1e-5)
    np.testing.assert_array_equal(table[stay], np.asarray(kept.params["codebook"]["table"])[stay])
    rest = dict(restarted.params, codebook=kept.params["codebook"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), rest, dict(kept.params))


def test_restarts_revive_a_collapsed_codebook():
    state = initial()
    # All codes but one lie in one corner, opposite to the one that is near everything.
    corner = jnp.asarray(np.random.default_rng(1).normal(-1, 0.01, (V, 4)), jnp.float32)
    table = corner.at[0].set(1.0)
    encoded = OBJECTIVE._tokenizer.network.apply(
        {"params": state.params}, BATCH["image"].astype(np.float32) / 255
    )
    to_code = dict(state.params["to_code"], bias=jnp.full(4, 10.0))
    params = {**state.params, "to_code": to_code, "codebook": {"table": table}}
    assert len(np.unique(encoded.quantized.ids)) > 1
    used = {}
    for restart_below in (0.0, 0.9):
        collapsed = state.replace(params=params)
        update = compiled(with_loss(restart_below=restart_below))
        for step in range(20):
            collapsed, metrics = update(collapsed, BATCH, jax.random.fold_in(KEY, step))
            if step == 0:
                assert metrics["codes_used"] == 1 / V
        used[restart_below] = float(metrics["codes_used"])
    assert used[0.0] == 1 / V
    assert used[0.9] > 0.25


@pytest.mark.parametrize(
    "optimizer",
    [OBJECTIVE.optimizer, OptimizerConfig(OBJECTIVE.optimizer.schedule)],
    ids=lambda o: o.name,
)
def test_one_device_and_eight_take_the_same_steps(optimizer):
    objective = dataclasses.replace(
        OBJECTIVE,
        tokenizer=dataclasses.replace(
            OBJECTIVE.tokenizer, encoder=dataclasses.replace(STACK, dropout=0.1)
        ),
        optimizer=optimizer,
        loss=TokenizerLossConfig(restart_below=0.99),
    )
    expected = losses_on(objective, jax.devices()[:1], "data_parallel")
    assert len(set(expected)) == 3
    for table in TABLES:
        np.testing.assert_allclose(losses_on(objective, None, table), expected, atol=1e-5)


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
    assert spec["image"].shape == BATCH["image"].shape
    assert spec["image"].dtype == BATCH["image"].dtype


def test_reconstructions_are_pictures():
    images, ids = jax.jit(OBJECTIVE.predict_fns()["reconstruct"])(initial(), BATCH)
    assert images.shape == (B, 8, 8, 3) and ids.shape == (B, 4)
    assert images.dtype == jnp.float32 and images.min() >= 0 and images.max() <= 1


def test_a_negative_weight_is_named():
    with pytest.raises(UserError, match="config.loss.commitment is -1.0; "):
        TokenizerLossConfig(commitment=-1.0)
