"""Stage 1's options, several at a time: two steps that learn, their terms, their state."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.judges.discriminators import NoDiscriminatorConfig, PatchGANConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.objectives.adversarial import AdversarialConfig
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.tokenizers.quantizers import (
    FSQConfig,
    IBQConfig,
    LFQConfig,
    ResidualVQConfig,
    VQConfig,
)
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig

B, V = 4, 16
STACK = TransformerConfig(blocks=1, heads=2, dim=8, hidden=16)
OPTIMIZER = OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), "adamw", b2=0.99)
KEY = jax.random.key(0)
BATCH = {"image": np.random.default_rng(0).integers(0, 256, (B, 8, 8, 3), dtype=np.uint8)}
PATCHES = PatchGANConfig(4, 8, layers=1, norm="batch")
MAGVIT = AdversarialConfig("hinge_non_saturating", r1_gamma=0.0, lecam=0.1)


def objective(quantizer, discriminator, adversarial, loss, **tokenizer):
    return ImageTokenizerObjective(
        ViTVQGANConfig(STACK, STACK, (8, 8), 4, quantizer, **tokenizer),
        OPTIMIZER,
        TokenizerLossConfig(adversarial=0.1 * (discriminator.kind != "none"), **loss),
        B,
        discriminator,
        adversarial,
        OPTIMIZER,
    )


OPTIONS = {
    "batch norm, LeCam, entropy, clusters, vit-vqgan-jax": objective(
        VQConfig(V, 4, straight_through="raw", restart_how="clustered"),
        PATCHES,
        MAGVIT,
        {"entropy": 0.1, "restart_below": 0.5},
        encoder_head="relu",
        decoder_head="none",
        latent_norm="layer",
    ),
    "residual, shared, no norm": objective(
        ResidualVQConfig(V, 4, 2),
        PatchGANConfig(4, 8, layers=1, norm="none"),
        AdversarialConfig(r1_gamma=0.0, lecam=0.1),
        {"entropy": 0.1, "restart_below": 0.99},
    ),
    "residual, a table each": objective(
        ResidualVQConfig(V, 4, 2, shared=False),
        NoDiscriminatorConfig(),
        AdversarialConfig(),
        {"restart_below": 0.99},
    ),
}


@functools.cache
def initial(made):
    """A state with random weights; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        weight = "params" in name and "opt_state" not in name
        offset = 1.0 if name.endswith("['scale']") or "code_share" in name else 0.0
        return jnp.asarray(rng.normal(offset, 0.25 if weight else 0.0, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(made.init, KEY))


# Each compiles a step of two networks.
@pytest.mark.slow
@pytest.mark.budget(10)
@pytest.mark.parametrize("name", OPTIONS)
def test_two_steps(name):
    made, update = OPTIONS[name], jax.jit(OPTIONS[name].update)
    state = before = initial(made)
    for step in range(2):
        state, metrics = update(state, BATCH, jax.random.fold_in(KEY, step))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, state)
    assert all(any(jax.tree.leaves(part)) for part in moved.params.values())
    assert ("entropy" in metrics) == (made.loss.entropy > 0)
    assert ("lecam" in metrics) == (made.adversarial.lecam > 0)
    for term, value in metrics.items():
        assert value.shape == () and np.isfinite(value), term
    weighted = metrics["l2"] + metrics["codebook"] + 0.25 * metrics["commitment"]
    for term in ("entropy", "adversarial"):
        weighted = weighted + 0.1 * metrics.get(term, 0.0)
    np.testing.assert_allclose(metrics["loss"], weighted, rtol=1e-4)
    if made.discriminator.kind != "none":
        assert all(jax.tree.leaves(moved.extra["discriminator"]["lecam"]))
    assert state.extra["code_share"].shape == (sum(made.tokenizer.quantizer.vocab),)


# ------------------------------------------------------------------ large codebooks


def step_of(made):
    return jax.jit(made.update)(initial(made), BATCH, KEY)


@pytest.mark.slow
@pytest.mark.budget(20)
def test_a_discriminator_that_goes_first_is_the_judge_of_the_same_step():
    quantizer = IBQConfig(V, 4)
    first, second = (
        objective(
            quantizer,
            PATCHES,
            dataclasses.replace(MAGVIT, discriminator_first=is_first),
            {"entropy": 0.05},
        )
        for is_first in (True, False)
    )
    (state_first, found), (state_second, other) = step_of(first), step_of(second)
    # The discriminator has seen the same pictures and reconstructions.
    judges = [state.extra["discriminator"]["params"] for state in (state_first, state_second)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *judges)
    before = initial(first)
    extra = {**before.extra, "discriminator": state_first.extra["discriminator"]}
    by_new = jax.jit(first.forward)(before.replace(extra=extra), BATCH, KEY)
    np.testing.assert_allclose(found["adversarial"], by_new["adversarial"], rtol=1e-4)
    assert abs(float(found["adversarial"] - other["adversarial"])) > 1e-5
    # Beta is on the codes' term, as in IBQ's code.
    weighted = found["l2"] + found["index"] + 0.25 * found["codebook"] + found["commitment"]
    weighted = weighted + 0.05 * found["entropy"] + 0.1 * found["adversarial"]
    np.testing.assert_allclose(found["loss"], weighted, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.budget(10)
@pytest.mark.parametrize("quantizer", [LFQConfig(5), FSQConfig((4, 5))])
def test_quantizers_without_a_table_train(quantizer):
    loss = {"entropy": 0.1} if quantizer.kind == "lfq" else {}
    made = objective(quantizer, NoDiscriminatorConfig(), AdversarialConfig(), loss)
    state, metrics = step_of(made)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), initial(made).params, state.params)
    assert all(any(jax.tree.leaves(part)) for part in moved.values()) and "codebook" not in moved
    assert np.isfinite(metrics["loss"]) and 0 < metrics["codes_used"] <= 1
