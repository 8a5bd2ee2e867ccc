"""ViT-VQGAN's objective: its terms, two optimizers, frozen parts, a new decoder alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.judges.discriminators import NoDiscriminatorConfig, StyleGANConfig
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.layers.block import TransformerConfig
from babeldraw.objectives import losses
from babeldraw.objectives.adversarial import AdversarialConfig
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.constraint import is_names
from babeldraw.tokenizers.pixels import logit_laplace_parameters
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer

B, V, SIZE = 4, 16, 16
STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32)
OPTIMIZER = OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), "adamw", b2=0.99)
FULL = ImageTokenizerObjective(
    tokenizer=ViTVQGANConfig(STACK, STACK, (SIZE, SIZE), 8, VQConfig(V, 4), "logit_laplace"),
    optimizer=OPTIMIZER,
    loss=TokenizerLossConfig(perceptual=0.1, adversarial=0.1, logit_laplace=0.1),
    batch_size=B,
    discriminator=StyleGANConfig(4, 8),
    adversarial=AdversarialConfig(r1_every=2),
    discriminator_optimizer=OPTIMIZER,
    perceptual=PerceptualConfig(widths=(2, 2, 2, 2, 2)),
)
ADAPTIVE = dataclasses.replace(
    FULL, adversarial=dataclasses.replace(FULL.adversarial, adaptive=True)
)

# Steps of two networks, with R1's second derivative.
pytestmark = pytest.mark.budget(15)
DECODER_ONLY = dataclasses.replace(FULL, train_groups=("decoder",))
GROUPS = ViTVQGANTokenizer(FULL.tokenizer).groups
ENCODER, DECODER = {*GROUPS["encoder"], *GROUPS["quantizer"]}, {*GROUPS["decoder"]}
KEY = jax.random.key(0)
# One colour per quarter: there is something to learn in a few steps.
QUARTERS = np.random.default_rng(0).integers(0, 256, (B, 2, 2, 3), dtype=np.uint8)
BATCH = {"image": QUARTERS.repeat(SIZE // 2, axis=1).repeat(SIZE // 2, axis=2)}
IMAGES = BATCH["image"].astype(np.float32) / 255


@functools.cache
def initial(objective=FULL):
    """A state with random weights; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        weight = "opt_state" not in name and "code_share" not in name
        offset = 1.0 if name.endswith("['scale']") or "code_share" in name else 0.0
        values = rng.normal(offset, 0.25 if weight else 0.0, leaf.shape)
        return jnp.asarray(np.abs(values) if "linear" in name else values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(objective.init, KEY))


@functools.cache
def first(objective=FULL):
    """State and metrics after one step."""
    return jax.jit(objective.update)(initial(objective), BATCH, KEY)


def differing(a, b):
    """The first names under which two trees differ anywhere."""
    same = jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)
    return {name for name, tree in same.items() if not all(jax.tree.leaves(tree))}


@pytest.mark.slow
def test_the_terms_are_summed_with_the_papers_weights():
    state, (_, metrics) = initial(), first()
    network = ViTVQGANTokenizer(FULL.tokenizer).network

    @jax.jit
    def terms_of(state):
        out = network.apply({"params": state.params}, IMAGES)
        perceptual = PerceptualNetwork(FULL.perceptual).distance(
            state.frozen["perceptual"], out.images, IMAGES
        )
        logits = FULL._adversary.logits(state.extra["discriminator"]["params"], out.images)
        return {
            "l2": losses.l2(out.images, IMAGES),
            "logit_laplace": losses.logit_laplace(*logit_laplace_parameters(out.raw), IMAGES),
            "perceptual": jnp.mean(perceptual),
            "adversarial": losses.non_saturating_generator(logits),
            "codebook": out.quantized.codebook_loss,
            "commitment": out.quantized.commitment_loss,
        }

    terms = terms_of(state)
    for name, value in terms.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    weights = {"l2": 1, "codebook": 1, "commitment": 0.25}
    expected = sum(weights.get(name, 0.1) * float(value) for name, value in terms.items())
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
    for name, value in metrics.items():
        assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value), name


@pytest.mark.slow
def test_the_gradient_is_that_of_the_sum():
    state, network = initial(), ViTVQGANTokenizer(FULL.tokenizer).network

    @jax.jit
    @jax.grad
    def gradient(params):
        out = network.apply({"params": params}, IMAGES)
        perceptual = PerceptualNetwork(FULL.perceptual).distance(
            state.frozen["perceptual"], out.images, IMAGES
        )
        logits = FULL._adversary.logits(state.extra["discriminator"]["params"], out.images)
        weighted = (
            losses.logit_laplace(*logit_laplace_parameters(out.raw), IMAGES)
            + jnp.mean(perceptual)
            + losses.non_saturating_generator(logits)
        )
        q = out.quantized
        l2 = losses.l2(out.images, IMAGES)
        return l2 + q.codebook_loss + 0.25 * q.commitment_loss + 0.1 * weighted

    grads = jax.tree.leaves(gradient(state.params))
    norm = np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g in grads))
    np.testing.assert_allclose(first()[1]["grad_norm"], norm, rtol=1e-4)


@pytest.mark.slow
def test_structural_similarity_is_a_term_that_is_off_unless_asked_for():
    raw, frozen = np.full((B, SIZE, SIZE, 6), 0.3, np.float32), initial().frozen
    on = dataclasses.replace(FULL, loss=dataclasses.replace(FULL.loss, ms_ssim=0.5))
    loss, terms = on._reconstruction_loss(raw, IMAGES, frozen)
    plain, others = FULL._reconstruction_loss(raw, IMAGES, frozen)
    assert terms.keys() - others.keys() == {"ms_ssim"} and 0 < terms["ms_ssim"] < 1
    np.testing.assert_allclose(loss - plain, 0.5 * terms["ms_ssim"], rtol=1e-4)


def test_each_network_has_its_own_optimizer_and_the_frozen_one_none():
    before, (after, _) = initial(), first()
    assert after.params.keys() == before.params.keys() == {*ENCODER, *DECODER}
    assert differing(before.params, after.params) == {*ENCODER, *DECODER}
    # The last bias of a discriminator feels real and fake alike, but hardly ever equally.
    own = (before.extra["discriminator"]["params"], after.extra["discriminator"]["params"])
    assert differing(*own) == own[0].keys()
    assert differing(before.frozen, after.frozen) == set()
    assert int(after.step) == 1


@pytest.mark.slow
def test_the_loss_falls_and_the_discriminator_moves_with_it():
    update, state = jax.jit(FULL.update), initial()
    found = []
    for step in range(40):
        state, metrics = update(state, BATCH, jax.random.fold_in(KEY, step))
        found.append({name: float(value) for name, value in metrics.items()})
    assert found[-1]["l2"] < 0.7 * found[0]["l2"]
    assert found[-1]["logit_laplace"] < found[0]["logit_laplace"]
    assert found[-1]["perceptual"] < found[0]["perceptual"]
    assert np.all(np.isfinite([[*row.values()] for row in found]))


@pytest.mark.slow
def test_the_adaptive_weight_balances_the_gradients_at_the_last_layer():
    state = initial()
    network = ViTVQGANTokenizer(ADAPTIVE.tokenizer).network

    def at_last(which):
        def loss(weight):
            to_pixels = {**state.params["to_pixels"], "weight": weight}
            out = network.apply({"params": {**state.params, "to_pixels": to_pixels}}, IMAGES)
            if which == "adversarial":
                params = state.extra["discriminator"]["params"]
                logits = ADAPTIVE._adversary.logits(params, out.images)
                return losses.non_saturating_generator(logits)
            return ADAPTIVE._reconstruction_loss(out.raw, IMAGES, state.frozen)[0]

        return np.linalg.norm(jax.jit(jax.grad(loss))(state.params["to_pixels"]["weight"]))

    expected = 0.1 * at_last("reconstruction") / (at_last("adversarial") + 1e-4)
    found = first(ADAPTIVE)[1]
    np.testing.assert_allclose(found["adversarial_weight"], expected, rtol=1e-4)
    assert first()[1]["adversarial_weight"] == np.float32(0.1)


@pytest.mark.slow
def test_a_decoder_alone_leaves_encoder_and_codebook_bit_for_bit():
    before, update = initial(DECODER_ONLY), jax.jit(DECODER_ONLY.update)
    after = before
    for step in range(3):
        after, metrics = update(after, BATCH, jax.random.fold_in(KEY, step))
    assert differing(before.params, after.params) == set(DECODER)
    tokenizer = ViTVQGANTokenizer(DECODER_ONLY.tokenizer)
    ids = [tokenizer.encode(state.params, IMAGES) for state in (before, after)]
    np.testing.assert_array_equal(*ids)
    # No moments are kept for what does not learn.
    moments = {str(p) for p, _ in jax.tree_util.tree_leaves_with_path(before.opt_state)}
    assert not any("codebook" in p for p in moments) and any("to_pixels" in p for p in moments)
    assert metrics["commitment"] > 0


@pytest.mark.parametrize("objective", [FULL, DECODER_ONLY], ids=["full", "decoder_only"])
def test_the_axes_are_the_state_s(objective):
    state, axes = jax.eval_shape(objective.init, KEY), objective.axes()
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)
    for names, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(state), strict=True
    ):
        assert len(names) == leaf.ndim


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"tokenizer": dataclasses.replace(FULL.tokenizer, output="rgb")},
            "config.loss.logit_laplace is 0.1 and config.tokenizer.output is 'rgb'; set output=",
        ),
        (
            {"discriminator": NoDiscriminatorConfig()},
            "config.loss.adversarial is 0.1 and config.discriminator.kind is 'none'",
        ),
        (
            {
                "tokenizer": dataclasses.replace(FULL.tokenizer, image_size=(8, 8)),
                "loss": dataclasses.replace(FULL.loss, ms_ssim=1.0),
            },
            r"config.loss.ms_ssim is 1.0 and config.tokenizer.image_size is \(8, 8\)",
        ),
        (
            {
                "train_groups": ("decoder",),
                "loss": dataclasses.replace(FULL.loss, restart_below=0.1),
            },
            "config.loss.restart_below is 0.1, which moves codes",
        ),
    ],
)
def test_sections_that_do_not_fit_are_named(fields, line):
    with pytest.raises(UserError, match=line):
        dataclasses.replace(FULL, **fields)
