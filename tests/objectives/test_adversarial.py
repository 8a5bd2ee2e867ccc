"""The discriminator's own step: it learns, R1 is lazy, it rests before its start; bad sections."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.config import OfKind
from babeldraw.errors import UserError
from babeldraw.judges.discriminators import (
    DISCRIMINATORS,
    NoDiscriminatorConfig,
    PatchGANConfig,
    StyleGANConfig,
)
from babeldraw.objectives import losses
from babeldraw.objectives.adversarial import (
    LOSSES,
    STAGE_1_OPTIMIZER,
    AdversarialConfig,
    Adversary,
    check_discriminator,
)
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig, make_schedule
from babeldraw.sharding.constraint import is_names

# Steps of two networks, with R1's second derivative.
pytestmark = pytest.mark.budget(10)

RNG = np.random.default_rng(0)
# Reconstructions are a little brighter: what there is to tell.
REAL = RNG.random((4, 8, 8, 3), np.float32)
FAKE = REAL * np.float32(0.7) + np.float32(0.3)
NETWORK = StyleGANConfig(4, 8, group=2)
CONFIG = AdversarialConfig(r1_gamma=0.0)
OPTIMIZER = OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), "adamw", b2=0.99)
STEP = jnp.asarray(0, jnp.int32)


@functools.cache
def made(**fields):
    """An adversary, its compiled update and a state."""
    adversary = Adversary(NETWORK, dataclasses.replace(CONFIG, **fields), OPTIMIZER, (8, 8))
    return adversary, jax.jit(adversary.update), jax.jit(adversary.init)(jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "least_squares"])
def test_the_discriminator_learns_to_tell(loss):
    _, update, state = made(loss=loss)
    first = None
    for step in range(60):
        state, metrics = update(state, REAL, FAKE, jnp.asarray(step, jnp.int32))
        first = metrics if first is None else first
    assert metrics["discriminator"] < 0.5 * first["discriminator"]
    assert metrics["real_accuracy"] == metrics["fake_accuracy"] == 1
    for name, value in metrics.items():
        assert value.shape == () and value.dtype == jnp.float32, name


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "least_squares"])
def test_the_losses_are_those_of_the_logits(loss):
    adversary, update, state = made(loss=loss)
    real, fake = (adversary.logits(state["params"], images) for images in (REAL, FAKE))
    _, metrics = update(state, REAL, FAKE, STEP)
    of_generator, of_discriminator = (
        getattr(losses, f"{loss}_{side}") for side in ("generator", "discriminator")
    )
    np.testing.assert_allclose(metrics["discriminator"], of_discriminator(real, fake), atol=1e-5)
    found = adversary.generator_loss(state, FAKE, STEP)
    np.testing.assert_allclose(found, of_generator(fake), atol=1e-5)
    np.testing.assert_allclose(
        metrics["real_accuracy"], np.mean(np.asarray(real) > LOSSES[loss][2])
    )
    np.testing.assert_allclose(
        metrics["fake_accuracy"], np.mean(np.asarray(fake) < LOSSES[loss][2])
    )


@pytest.mark.slow
def test_the_penalty_comes_at_every_nth_step_that_many_times():
    adversary, update, state = made(r1_gamma=10.0, r1_every=3)
    # Of pictures in [-1, 1], as StyleGAN2 has them.

    def logits(params, x):
        return adversary.logits(params, (x + 1) / 2)

    r1 = jax.jit(functools.partial(losses.r1_and_gradient, logits))
    expected = 5 * float(r1(state["params"], 2 * REAL - 1)[0])
    assert expected > 0
    found = [float(update(state, REAL, FAKE, jnp.asarray(s, jnp.int32))[1]["r1"]) for s in range(6)]
    np.testing.assert_allclose(found, [3 * expected, 0, 0] * 2, rtol=1e-4)


def test_the_penalty_moves_the_discriminator_only_then():
    _, with_r1, state = made(r1_gamma=10.0, r1_every=3)
    _, without, _ = made()

    def moved(step):
        step = jnp.asarray(step, jnp.int32)
        a, b = (f(state, REAL, FAKE, step)[0]["params"] for f in (with_r1, without))
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return max(float(np.abs(x - y).max()) for x, y in pairs)

    assert moved(3) > 1e-3
    assert moved(1) < 1e-6


@pytest.mark.slow
def test_before_its_start_nothing_moves():
    adversary, update, state = made(start_step=5, r1_gamma=10.0)
    for step, moves in ((4, False), (5, True)):
        step = jnp.asarray(step, jnp.int32)
        after, metrics = update(state, REAL, FAKE, step)
        same = jax.tree.map(lambda a, b: bool(np.all(a == b)), state, after)
        assert all(jax.tree.leaves(same)) != moves
        gradient = jax.grad(adversary.generator_loss, argnums=1)(state, FAKE, step)
        assert bool(np.any(gradient != 0)) == moves
        assert (float(metrics["discriminator"]) > 0) == moves


@pytest.mark.slow
def test_a_head_start_is_the_discriminators_alone():
    adversary, update, state = made(start_step=5, head_start=3)
    for step, learns, pulls in ((4, 0, 0), (5, 1, 0), (7, 1, 0), (8, 1, 1)):
        step = jnp.asarray(step, jnp.int32)
        after, _ = update(state, REAL, FAKE, step)
        same = jax.tree.map(lambda a, b: bool(np.all(a == b)), state, after)
        assert all(jax.tree.leaves(same)) != bool(learns)
        gradient = jax.grad(adversary.generator_loss, argnums=1)(state, FAKE, step)
        assert bool(np.any(gradient != 0)) == bool(pulls)


@pytest.mark.parametrize("of_means", [False, True])
def test_lecam_is_its_recursion(of_means):
    options = {"lecam_decay": 0.75, "lecam_of_means": of_means, "loss": "hinge"}
    adversary, update, state = made(lecam=0.5, **options)
    assert "lecam" not in made(loss="hinge")[2]
    means, found = {"real": 0.0, "fake": 0.0}, 0.0
    for step in range(3):
        logits = {
            name: np.asarray(adversary.logits(state["params"], images), np.float64)
            for name, images in (("real", REAL), ("fake", FAKE))
        }
        means = {name: 0.75 * m + 0.25 * logits[name].mean() for name, m in means.items()}
        # TiTok's is of the mean logit of a batch.
        seen = {name: x.mean(keepdims=True) if of_means else x for name, x in logits.items()}
        expected = np.mean(np.maximum(0, seen["real"] - means["fake"]) ** 2)
        expected += np.mean(np.maximum(0, means["real"] - seen["fake"]) ** 2)
        state, metrics = update(state, REAL, FAKE, jnp.asarray(step, jnp.int32))
        np.testing.assert_allclose(metrics["lecam"], expected, atol=1e-5)
        for name, mean in means.items():
            np.testing.assert_allclose(state["lecam"][name], mean, atol=1e-5)
        found = max(found, expected)
    assert found > 1e-3


@pytest.mark.slow
def test_lecam_holds_the_logits_together():
    apart = {}
    for weight in (0.0, 10.0):
        adversary, update, state = made(lecam=weight, loss="hinge")
        for step in range(20):
            state, _ = update(state, REAL, FAKE, jnp.asarray(step, jnp.int32))
        real, fake = (np.asarray(adversary.logits(state["params"], x)) for x in (REAL, FAKE))
        apart[weight] = float(real.mean() - fake.mean())
    assert 0 < apart[10.0] < 0.5 * apart[0.0]


def test_a_discriminator_learns_nothing_into_the_reconstruction():
    adversary, _, state = made()

    def moved(fake):
        return adversary.update(state, REAL, fake, STEP)[1]["discriminator"]

    assert np.all(jax.jit(jax.grad(moved))(FAKE) == 0)


@pytest.mark.parametrize(
    ("network", "lecam"),
    [(NETWORK, 0.0), (NETWORK, 0.1), (PatchGANConfig(4, 8), 0.0)],
)
def test_axes_are_those_of_the_state(network, lecam):
    adversary = Adversary(network, AdversarialConfig(lecam=lecam), OPTIMIZER, (32, 32))
    state, axes = jax.eval_shape(adversary.init, jax.random.key(0)), adversary.axes()
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)
    for names, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(state), strict=True
    ):
        assert len(names) == leaf.ndim
    # The moments are split as the weights are.
    assert jax.tree.leaves(axes["opt_state"], is_leaf=is_names).count((None, None, None, "embed"))


def test_the_optimizer_is_the_papers():
    optimizer, rate = STAGE_1_OPTIMIZER, make_schedule(STAGE_1_OPTIMIZER.schedule)
    assert (optimizer.name, optimizer.b1, optimizer.b2) == ("adamw", 0.9, 0.99)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (1e-4, 0.0)
    for step, value in {25_000: 5e-5, 50_000: 1e-4, 500_000: 5e-5}.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"loss": "wgan"}, "loss is 'wgan'; the choices are non_saturating, hinge, "),
        ({"r1_every": 0}, "r1_every is 0; at least 1 is needed"),
        ({"r1_gamma": -1.0}, "r1_gamma is -1.0; at least 0 is needed"),
        ({"lecam": -0.1}, "lecam is -0.1; at least 0 is needed"),
        ({"lecam_decay": 1.0}, "lecam_decay is 1.0; 0 to less than 1 is needed"),
    ],
)
def test_a_bad_field_is_named(fields, line):
    with pytest.raises(UserError, match=f"config.adversarial.{line}"):
        dataclasses.replace(CONFIG, **fields)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"kind": "biggan"}, "kind is 'biggan'; the kinds are none, stylegan, patchgan"),
        ({"kind": "stylegan", "max_channels": 2}, "max_channels is 2, less than channels=128"),
        ({"kind": "stylegan", "group": 0}, "group is 0; at least 1 is needed"),
        ({"kind": "stylegan", "layers": 2}, "layers is not a field"),
        ({"kind": "patchgan", "layers": 0}, "layers is 0; at least 1 is needed"),
        ({"kind": "patchgan", "norm": "layer"}, "norm is 'layer'; the choices are group, batch, n"),
        ({"kind": "none", "channels": 4}, "channels is not a field"),
    ],
)
def test_a_bad_network_is_named(section, line):
    with pytest.raises(UserError, match=f"config.discriminator.{line}"):
        OfKind(DISCRIMINATORS).build(section, "config.discriminator")


@pytest.mark.parametrize(
    ("network", "weight", "line"),
    [
        (
            NoDiscriminatorConfig(),
            0.1,
            "config.loss.adversarial is 0.1 and config.discriminator.kind is 'none'",
        ),
        (NETWORK, 0.0, "kind is 'stylegan' and config.loss.adversarial is 0; set kind=none too"),
        (NETWORK, 0.1, "halves pictures of \\(200, 200\\)"),
        (PatchGANConfig(layers=7), 0.1, "7 strides need pictures of at least 384 px"),
    ],
)
def test_sections_that_do_not_fit_are_named(network, weight, line):
    with pytest.raises(UserError, match=line):
        check_discriminator(network, (200, 200), weight)
