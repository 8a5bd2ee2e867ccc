"""Super-resolution: the loss falls, the tokenizer stays as it is, bicubic is the start."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from babeldraw.data import shapes
from babeldraw.errors import UserError
from babeldraw.judges.discriminators import StyleGANConfig
from babeldraw.judges.perceptual import PerceptualConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.super_resolution import SuperResolutionConfig
from babeldraw.objectives.super_resolution import (
    SuperResolutionLossConfig,
    SuperResolutionObjective,
)
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.constraint import is_names, shardings
from babeldraw.sharding.layout import Layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.sharding.rules import PRESETS
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer

B, SIDE = 8, 32
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32, bias=True)
OBJECTIVE = SuperResolutionObjective(
    super_resolution=SuperResolutionConfig(factor=2, blocks=1, channels=8, expansion=2),
    tokenizer=ViTVQGANConfig(STACK, STACK, (SIDE // 2,) * 2, 4, quantizer=VQConfig(32, 4)),
    optimizer=OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), "adamw", b2=0.99),
    loss=SuperResolutionLossConfig(l2=2.0),
    batch_size=B,
)

# Steps of two networks, with R1's second derivative.
pytestmark = pytest.mark.budget(15)
KEY = jax.random.key(0)
BATCH = {"image": np.stack([shapes.example(i, "train", SIDE, 0)[0] for i in range(B)])}


@functools.cache
def initial():
    return jax.jit(OBJECTIVE.init)(KEY)


@functools.cache
def compiled(count=1, table="data_parallel"):
    """`update` compiled for a mesh of `count` devices, as the training loop does it."""
    mesh, preset = make_mesh(MeshConfig(), jax.devices()[:count]), PRESETS[table]
    places = shardings(OBJECTIVE.axes(), jax.eval_shape(OBJECTIVE.init, KEY), mesh, preset.stored)

    @functools.partial(jax.jit, out_shardings=(places, None))
    def update(state, batch, key):
        with use(Layout(mesh, preset)):
            return OBJECTIVE.update(state, batch, key)

    def place_and_update(state, batch, key):
        return update(jax.device_put(state, places), place_batch(batch, mesh), key)

    return place_and_update


def train(update, steps):
    state, found = initial(), []
    for step in range(steps):
        state, metrics = update(state, BATCH, jax.random.fold_in(KEY, step))
        found.append(float(metrics["loss"]))
    return state, found


def bicubic(state):
    """What any network must beat: the tokenizer's pictures, interpolated."""
    tokenizer = ViTVQGANTokenizer(OBJECTIVE.tokenizer)
    images = BATCH["image"].astype(np.float32) / 255
    small = images.reshape(B, SIDE // 2, 2, SIDE // 2, 2, 3).mean((2, 4))
    small, _ = jax.jit(tokenizer.reconstruct)(state.frozen["tokenizer"], small)
    return images, small, jax.image.resize(small, images.shape, "cubic")


@pytest.mark.slow
def test_the_first_loss_is_that_of_bicubic_interpolation():
    _, metrics = compiled()(initial(), BATCH, KEY)
    images, _, large = bicubic(initial())
    # They differ at the edges, by how they go on outside of the picture.
    l2 = np.mean(np.square(large - images))
    np.testing.assert_allclose(metrics["l2"], l2, rtol=0.02)
    np.testing.assert_allclose(metrics["loss"], 2 * metrics["l2"], rtol=1e-5)
    np.testing.assert_allclose(metrics["psnr_db"], -10 * np.log10(metrics["l2"]), rtol=1e-5)


@pytest.mark.slow
def test_the_loss_falls_and_the_tokenizer_stays():
    state, found = train(compiled(), 40)
    assert found[-1] < 0.7 * found[0]
    before, after = initial().frozen, state.frozen
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert int(state.step) == 40


def test_metrics_are_finite_float32_scalars():
    _, metrics = compiled()(initial(), BATCH, KEY)
    for name, value in metrics.items():
        assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value), name


@pytest.mark.slow
@pytest.mark.parametrize("table", ["fsdp", "data_parallel"])
def test_one_device_and_eight_take_the_same_steps(table):
    _, expected = train(compiled(), 3)
    _, found = train(compiled(8, table), 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_axes_are_the_state_s():
    state, axes = jax.eval_shape(OBJECTIVE.init, KEY), OBJECTIVE.axes()
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)
    for names, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(state), strict=True
    ):
        assert len(names) == leaf.ndim


def test_the_batch_is_the_large_pictures():
    (name,) = OBJECTIVE.batch_spec()
    spec = OBJECTIVE.batch_spec()[name]
    assert (name, spec.shape, spec.dtype) == ("image", (B, SIDE, SIDE, 3), jnp.uint8)


def test_upscaled_pictures_come_from_the_tokenizer_s():
    upscale = jax.jit(OBJECTIVE.predict_fns()["upscale"])
    large, small = upscale(initial(), BATCH)
    assert large.shape == (B, SIDE, SIDE, 3) and large.min() >= 0 and large.max() <= 1
    np.testing.assert_allclose(small, bicubic(initial())[1], atol=1e-5)


def test_a_negative_weight_is_named():
    with pytest.raises(UserError, match="config.loss.l2 is -1.0; "):
        SuperResolutionLossConfig(l2=-1.0)


# ------------------------------------------------------------------ the other terms


FULL = dataclasses.replace(
    OBJECTIVE,
    loss=SuperResolutionLossConfig(l2=1.0, perceptual=0.1, adversarial=0.1),
    discriminator=StyleGANConfig(4, 8),
    discriminator_optimizer=OBJECTIVE.optimizer,
    perceptual=PerceptualConfig(widths=(2, 2, 2, 2, 2)),
)


@functools.cache
def full(objective=FULL):
    state = jax.jit(objective.init)(KEY)
    return state, *jax.jit(objective.update)(state, BATCH, KEY)


@pytest.mark.slow
def test_all_terms_add_up_and_both_networks_learn():
    before, after, metrics = full()
    parts = metrics["l2"] + 0.1 * metrics["perceptual"] + 0.1 * metrics["adversarial"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-5)
    assert float(metrics["perceptual"]) > 0 and float(metrics["adversarial"]) > 0
    for old, new in (
        (before.params, after.params),
        (before.extra["discriminator"]["params"], after.extra["discriminator"]["params"]),
    ):
        moved = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True)]
        assert any(moved)
    jax.tree.map(np.testing.assert_array_equal, before.frozen, after.frozen)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_sum():
    state, _, metrics = full()
    originals, small, _ = bicubic(state)
    adversary, perceptual = FULL._adversary, FULL._perceptual

    @jax.jit
    @jax.grad
    def gradient(params):
        images = FULL._upscaler.network.apply({"params": params}, small)
        distance = perceptual.distance(state.frozen["perceptual"], images, originals)
        judged = adversary.generator_loss(state.extra["discriminator"], images, state.step)
        return jnp.mean(jnp.square(images - originals)) + 0.1 * jnp.mean(distance) + 0.1 * judged

    norm = optax.tree.norm(gradient(state.params))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)


@pytest.mark.slow
def test_an_adaptive_weight_compares_gradients_at_the_tail():
    adaptive = dataclasses.replace(FULL.adversarial, adaptive=True)
    _, _, metrics = full(dataclasses.replace(FULL, adversarial=adaptive))
    assert float(metrics["adversarial_weight"]) > 0
    assert float(metrics["adversarial_weight"]) != pytest.approx(0.1)


@pytest.mark.slow
def test_the_perceptual_distance_is_offered_to_evaluators():
    assert "distance" not in OBJECTIVE.predict_fns()
    state, _, _ = full()
    images = BATCH["image"].astype(np.float32) / 255
    found = jax.jit(FULL.predict_fns()["distance"])(state, images, images)
    np.testing.assert_allclose(found, np.zeros(B), atol=1e-6)


def test_axes_of_the_whole_state():
    state, axes = jax.eval_shape(FULL.init, KEY), FULL.axes()
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)


def test_a_weight_without_its_network_is_refused():
    with pytest.raises(UserError, match="config.discriminator.kind is 'none'"):
        dataclasses.replace(OBJECTIVE, loss=SuperResolutionLossConfig(adversarial=0.1))
