"""Operations that a training step cannot do without, by formula.

Multiplications and additions of products of matrices count two. Backward is twice forward; nothing
counts twice for being computed again. Of causal attention half the square counts. Norms, softmax,
lookups and the optimizer do not count.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.judges.perceptual import PerceptualNetwork
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.babeldraw import BabeldrawConfig
from babeldraw.models.coca import CoCaConfig, ContrastiveCaptioner
from babeldraw.models.super_resolution import Upscaler
from babeldraw.models.vim import TextVIMConfig, VIMConfig
from babeldraw.objectives.adversarial import Adversary
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train.captioner_experiment import ContrastiveCaptionerExperiment
from babeldraw.train.class_experiments import ClassToImageExperiment
from babeldraw.train.experiment import (
    Experiment,
    SuperResolutionExperiment,
    TextToImageExperiment,
    TokenizerExperiment,
)
from babeldraw.train.traced_flops import traced_flops


@dataclasses.dataclass(frozen=True)
class ModelFlops:
    """Attributes:
    parts: operations for one example, by part of the step.
    formula: how they were counted, one line per part.
    """

    parts: dict[str, int]
    formula: dict[str, str]

    @property
    def per_example(self) -> int:
        return sum(self.parts.values())


def model_flops(experiment: Experiment) -> ModelFlops | None:
    """Of a config's training step; None where there is no formula for its objective yet."""
    if isinstance(experiment, TextToImageExperiment | ClassToImageExperiment):
        stored = experiment.data.source == "tokens"
        tokenizer = make_tokenizer(experiment.tokenizer)
        return generator_flops(experiment.model, tokenizer, stored)
    if isinstance(experiment, TokenizerExperiment):
        return tokenizer_flops(experiment)
    if isinstance(experiment, SuperResolutionExperiment):
        return super_resolution_flops(experiment)
    if isinstance(experiment, ContrastiveCaptionerExperiment):
        return captioner_flops(experiment.model)
    return None


def tokenizer_flops(experiment: TokenizerExperiment) -> ModelFlops:
    """Of a tokenizer's step with all its losses, traced; R1, every 16th step, is left out."""
    tokenizer = make_tokenizer(experiment.tokenizer)
    image = _image(experiment.image_size)
    whole = _traced(tokenizer.reconstruct, tokenizer.init, image)
    if "encoder" in experiment.train_groups:
        parts = {"tokenizer": 3 * whole}
        formula = {"tokenizer": "3 forward: its own, and backward twice that"}
    else:
        encoder = _traced(tokenizer.encode, tokenizer.init, image)
        parts = {"encoder (forward)": encoder, "decoder": 3 * (whole - encoder)}
        formula = {"encoder (forward)": "traced", "decoder": "3 forward"}
    return _with_judges(parts, formula, experiment)


def super_resolution_flops(experiment: SuperResolutionExperiment) -> ModelFlops:
    """Of a step of super-resolution with all its losses, traced; R1 is left out."""
    tokenizer = make_tokenizer(experiment.tokenizer)
    upscaler = Upscaler(experiment.super_resolution)
    image = _image(experiment.tokenizer.image_size)
    parts = {
        "tokenizer (forward)": _traced(tokenizer.reconstruct, tokenizer.init, image),
        "upscaler": 3 * _traced(upscaler.upscale, upscaler.init, image),
    }
    formula = {"tokenizer (forward)": "traced", "upscaler": "3 forward"}
    return _with_judges(parts, formula, experiment)


def _with_judges(
    parts: dict[str, int],
    formula: dict[str, str],
    experiment: TokenizerExperiment | SuperResolutionExperiment,
) -> ModelFlops:
    """With the networks that look at the pictures."""
    image = _image(experiment.image_size)
    if experiment.loss.perceptual > 0:
        network = PerceptualNetwork(experiment.perceptual)
        pair = _traced(lambda params, x: network.distance(params, x, x), network.init, image)
        parts["perceptual network"] = 3 * pair // 2
        formula["perceptual network"] = "3 forward: of both pictures, and back to one"
    if experiment.loss.adversarial > 0:
        adversary = Adversary(
            experiment.discriminator, experiment.discriminator_optimizer, experiment.image_size
        )
        own = _traced(lambda state, x: adversary.logits(state["params"], x), adversary.init, image)
        parts["discriminator"] = 8 * own
        formula["discriminator"] = "8 forward: 2 for the generator, 3 each for real and drawn"
    return ModelFlops(parts, formula)


def captioner_flops(model: CoCaConfig) -> ModelFlops:
    """Of a contrastive captioner's step, traced; the similarities of a batch are left out."""
    captioner = ContrastiveCaptioner(model)
    text = jax.ShapeDtypeStruct((1, model.text_length), jnp.int32)
    forward = _traced(captioner, captioner.init, _image(model.image_size), text)
    return ModelFlops({"captioner": 3 * forward}, {"captioner": "3 forward, of attention all"})


def _image(size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)


def _traced(fn: Callable, init: Callable, *inputs: jax.ShapeDtypeStruct) -> int:
    """Operations of `fn(params, *inputs)`."""
    return traced_flops(fn, nn.unbox(jax.eval_shape(init, jax.random.key(0))), *inputs)


def blocks_forward(
    config: TransformerConfig, length: int, causal: bool = False, context: int = 0
) -> int:
    """Operations of a stack for one example.

    Args:
      config: sizes.
      length: positions T.
      causal: self-attention sees half of the square.
      context: positions S of a second source that every block attends to; 0: there is none.
    """
    dim, hidden = config.dim, config.hidden
    projections = 2 * 4 * dim * dim * length
    attention = 4 * length * length * dim // (2 if causal else 1)
    feed_forward = 2 * 2 * dim * hidden * length
    cross = 0
    if context:
        cross = 2 * 2 * dim * dim * (length + context) + 4 * length * context * dim
    return config.blocks * (projections + attention + feed_forward + cross)


def generator_flops(
    model: BabeldrawConfig | VIMConfig | TextVIMConfig,
    tokenizer: Tokenizer,
    stored_tokens: bool,
) -> ModelFlops:
    """Of a generator's step, the frozen tokenizer's included unless tokens come ready-made.

    Args:
      model: sizes of the generator.
      tokenizer: what makes its tokens.
      stored_tokens: there are no pictures in the batch.
    """
    tokens, decoder = tokenizer.codes.length, model.decoder
    logits = 2 * tokens * decoder.dim * tokenizer.codes.vocab_size
    if isinstance(model, BabeldrawConfig):
        text = model.text_length
        parts = {
            "text encoder": 3 * blocks_forward(model.encoder, text),
            "image decoder": 3 * blocks_forward(decoder, tokens, causal=True, context=text),
        }
        formula = {
            "text encoder": "3 blocks (8 S D^2 + 4 S^2 D + 4 S D F)",
            "image decoder": "3 blocks (8 T D^2 + 2 T^2 D + 4 T D F + 4 (T + S) D^2 + 4 T S D)",
        }
    else:
        # The last token is read by none; in its place stand the class or the text.
        prefix = model.text_length if isinstance(model, TextVIMConfig) else 1
        parts = {"decoder": 3 * blocks_forward(decoder, tokens + prefix - 1, causal=True)}
        formula = {"decoder": "3 blocks (8 T D^2 + 2 T^2 D + 4 T D F)"}
    parts["logits"], formula["logits"] = 3 * logits, "3 (2 T D V)"
    if not stored_tokens:
        image = _image(tokenizer.image_size)
        parts["tokenizer (forward)"] = _traced(tokenizer.encode, tokenizer.init, image)
        formula["tokenizer (forward)"] = "traced"
    return ModelFlops(parts, formula)
