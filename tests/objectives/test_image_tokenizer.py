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
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.constraint import is_names, shardings
from babeldraw.sharding.layout import Layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.sharding.rules import PRESETS
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer

B, V = 8, 32
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32, bias=True)
OBJECTIVE = ImageTokenizerObjective(
    tokenizer=ViTVQGANConfig(STACK, STACK, (8, 8), patch_size=4, quantizer=VQConfig(V, 4)),
    optimizer=OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), "adamw", b2=0.99),
    loss=TokenizerLossConfig(l2=2.0, commitment=0.5),
    batch_size=B,
)
# After one step, a code that was not used has 0.98 of an equal share.
RESTARTING = dataclasses.replace(
    OBJECTIVE, loss=dataclasses.replace(OBJECTIVE.loss, restart_below=0.99)
)
KEY = jax.random.key(0)
BATCH = {"image": np.random.default_rng(0).integers(0, 256, (B, 8, 8, 3), dtype=np.uint8)}
IMAGES = BATCH["image"].astype(np.float32) / 255


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


@jax.jit
def forward(params):
    return ViTVQGANTokenizer(OBJECTIVE.tokenizer).network.apply({"params": params}, IMAGES)


@pytest.mark.slow
def test_the_terms_of_the_loss_are_what_they_say():
    state = initial()
    _, metrics = compiled(OBJECTIVE)(state, BATCH, KEY)
    out = forward(state.params)
    l2 = np.mean(np.square(np.asarray(out.images, np.float64) - IMAGES))
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


def test_the_loss_falls_on_a_fixed_batch():
    found = list(losses(compiled(OBJECTIVE), 60))
    assert found[-1] < 0.5 * found[0]


@pytest.mark.slow
def test_idle_codes_move_to_latents_and_busy_ones_stay():
    state = initial()
    restarted, metrics = compiled(RESTARTING)(state, BATCH, KEY)
    kept, _ = compiled(OBJECTIVE)(state, BATCH, KEY)
    quantized = forward(state.params).quantized
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
    # Latents all on one side, where a single code lies; the others on the opposite side.
    table = np.random.default_rng(1).normal(-1, 0.01, (V, 4)).astype(np.float32)
    table[0] = 1
    to_code = {**state.params["to_code"], "bias": jnp.full(4, 10.0, jnp.float32)}
    state = state.replace(
        params={**state.params, "to_code": to_code, "codebook": {"table": jnp.asarray(table)}}
    )

    def shares_used(objective):
        current = state
        for step in range(20):
            key = jax.random.fold_in(KEY, step)
            current, metrics = compiled(objective)(current, BATCH, key)
            yield float(metrics["codes_used"])

    assert set(shares_used(OBJECTIVE)) == {1 / V}
    first, *_, last = shares_used(RESTARTING)
    assert first == 1 / V and last > 0.25


@pytest.mark.slow
@pytest.mark.parametrize("table", ["fsdp", pytest.param("data_parallel", marks=pytest.mark.slow)])
def test_one_device_and_eight_take_the_same_steps(table):
    expected = list(losses(compiled(RESTARTING)))
    assert len(set(expected)) == 3
    found = list(losses(compiled(RESTARTING, 8, table)))
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
    assert spec["image"].shape == BATCH["image"].shape
    assert spec["image"].dtype == BATCH["image"].dtype


def test_reconstructions_are_pictures():
    reconstruct = jax.jit(OBJECTIVE.predict_fns()["reconstruct"])
    images, ids = reconstruct(initial(), BATCH)
    assert images.shape == (B, 8, 8, 3) and ids.shape == (B, 4)
    # Bytes and floats are the same pictures.
    same, _ = reconstruct(initial(), {"image": IMAGES})
    np.testing.assert_allclose(same, images, atol=1e-5)
    assert images.dtype == jnp.float32 and images.min() >= 0 and images.max() <= 1


def test_a_negative_weight_is_named():
    with pytest.raises(UserError, match="config.loss.commitment is -1.0; "):
        TokenizerLossConfig(commitment=-1.0)
