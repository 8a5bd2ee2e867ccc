"""A discriminator on a frozen network: who learns, who does not, and where gradients go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.judges.discriminators import PatchGANConfig, ProjectedConfig
from babeldraw.judges.perceptual import PerceptualConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.objectives.adversarial import AdversarialConfig
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.constraint import is_names
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig

# Steps of three networks.
pytestmark = pytest.mark.budget(15)

B, SIZE, KEY = 4, 32, jax.random.key(0)
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32)
OPTIMIZER = OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), "adamw", b2=0.99)
OBJECTIVE = ImageTokenizerObjective(
    tokenizer=ViTVQGANConfig(STACK, STACK, (SIZE, SIZE), 8, VQConfig(16, 4)),
    optimizer=OPTIMIZER,
    # Without the perceptual term itself.
    loss=TokenizerLossConfig(adversarial=0.1),
    batch_size=B,
    discriminator=ProjectedConfig(4, 8, stages=(2, 3, 4)),
    adversarial=AdversarialConfig(loss="hinge", r1_gamma=0.3, r1_every=2),
    discriminator_optimizer=OPTIMIZER,
    perceptual=PerceptualConfig(widths=(4, 4, 4, 4, 4)),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (B, 4, 4, 3), dtype=np.uint8)
BATCH = {"image": IMAGES.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)}


@functools.cache
def initial():
    return jax.jit(OBJECTIVE.init)(KEY)


@functools.cache
def steps(count=2):
    update, state, found = jax.jit(OBJECTIVE.update), initial(), []
    for step in range(count):
        state, metrics = update(state, BATCH, jax.random.fold_in(KEY, step))
        found.append(jax.device_get(metrics))
    return state, found


def moved(before, after):
    pairs = zip(*map(jax.tree.leaves, (before, after)), strict=True)
    return np.array([np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs])


@pytest.mark.slow
def test_the_heads_learn_and_what_is_frozen_or_fixed_stays():
    before, (after, metrics) = initial(), steps()
    own, grown = before.extra["discriminator"], after.extra["discriminator"]
    for name, layer in own["params"].items():
        # The last bias feels real and drawn ones alike, and the hinge both equally.
        weight = "scale" if name.endswith("norm") else "weight"
        assert moved(layer[weight], grown["params"][name][weight]).all(), name
    assert own["fixed"] and not moved(own["fixed"], grown["fixed"]).any()
    assert before.frozen["perceptual"] and not moved(before.frozen, after.frozen).any()
    # No moments are kept of what does not learn.
    kept = {str(path) for path, _ in jax.tree_util.tree_leaves_with_path(own["opt_state"])}
    assert kept and not any("csm" in path or "vgg" in path for path in kept)
    assert metrics[0]["r1"] > 0 and metrics[1]["r1"] == 0
    # The term is not asked for; its network is there all the same.
    assert "perceptual" not in metrics[0]
    assert np.all(np.isfinite([[*row.values()] for row in metrics]))


@pytest.mark.slow
def test_the_heads_learn_to_tell():
    state, images = initial(), BATCH["image"].astype(np.float32) / 255
    update, judge = jax.jit(OBJECTIVE._adversary.update), state.extra["discriminator"]
    found = []
    for step in range(80):
        now = jnp.asarray(step, jnp.int32)
        judge, metrics = update(judge, images, 0.7 * images + 0.3, now, state.frozen)
        found.append(float(metrics["discriminator"]))
    assert found[-1] < 0.5 * found[0]
    assert metrics["real_accuracy"] > 0.8 and metrics["fake_accuracy"] > 0.8


@pytest.mark.slow
def test_the_generator_s_gradient_flows_through_the_frozen_network():
    state, adversary = initial(), OBJECTIVE._adversary
    images = BATCH["image"].astype(np.float32) / 255

    judge = state.extra["discriminator"]

    @jax.grad
    def gradient(fake):
        return adversary.generator_loss(judge, fake, state.step, state.frozen)

    to_fake = jax.jit(gradient)(images)
    assert np.all(np.isfinite(to_fake)) and np.all(np.abs(to_fake).max((1, 2, 3)) > 0)
    # Another frozen network judges otherwise: its weights are in use.
    other = jax.tree.map(lambda leaf: leaf[..., ::-1], state.frozen)
    logits = jax.jit(adversary.logits)
    found = [
        logits(judge["params"], images, judge["fixed"], frozen) for frozen in (state.frozen, other)
    ]
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.slow
def test_frozen_weights_are_arguments_of_the_step():
    closed = jax.make_jaxpr(OBJECTIVE.update)(initial(), BATCH, KEY)
    assert sum(np.size(constant) for constant in closed.consts) < 100


def test_the_axes_are_the_state_s():
    state, axes = jax.eval_shape(OBJECTIVE.init, KEY), OBJECTIVE.axes()
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)
    for names, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(state), strict=True
    ):
        assert len(names) == jnp.ndim(leaf)


def test_a_first_run_asks_for_no_file():
    assert isinstance(ProjectedConfig().tiny(), PatchGANConfig)
