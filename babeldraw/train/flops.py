"""Operations that a training step cannot do without, by formula or traced.

Multiplications and additions of products of matrices count two. Backward is twice forward; nothing
counts twice for being computed again. Of causal attention half the square counts. Norms, softmax,
lookups and the optimizer do not count.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.judges.perceptual import PerceptualNetwork
from babeldraw.objectives.adversarial import Adversary
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


def with_judges(flops: ModelFlops, experiment: Any) -> ModelFlops:
    """With the networks that look at the pictures of an experiment with picture losses."""
    parts, formula, image = {**flops.parts}, {**flops.formula}, image_spec(experiment.image_size)
    if experiment.loss.perceptual > 0:
        network = PerceptualNetwork(experiment.perceptual)
        pair = traced(lambda params, x: network.distance(params, x, x), network.init, image)
        every = experiment.perceptual.every
        share = "" if every == 1 else f", for one picture in {every}"
        parts["perceptual network"] = 3 * pair // (2 * every)
        formula["perceptual network"] = f"3 forward: of both pictures, and back to one{share}"
    if experiment.loss.adversarial > 0:
        parts["discriminator"], formula["discriminator"] = _discriminator(experiment, image)
    return ModelFlops(parts, formula)


def _discriminator(experiment: Any, image: jax.ShapeDtypeStruct) -> tuple[int, str]:
    """Of the discriminator, with what it looks at."""
    needed = bool(experiment.discriminator.needs)
    network = PerceptualNetwork(experiment.perceptual) if needed else None
    adversary = Adversary(
        experiment.discriminator,
        experiment.adversarial,
        experiment.discriminator_optimizer,
        experiment.image_size,
        network,
    )

    def init(key: jax.Array) -> dict[str, Any]:
        frozen = {"perceptual": network.init(key)} if needed else None
        return {"state": adversary.init(key), "frozen": frozen}

    def logits(params: dict[str, Any], x: jax.Array) -> jax.Array:
        state = params["state"]
        return adversary.logits(state["params"], x, state.get("fixed"), params["frozen"])

    own, told = traced(logits, init, image), "2 for the generator, 3 each for real and drawn"
    if not needed:
        return 8 * own, f"8 forward: {told}"
    maps = traced(network.maps, network.init, image)
    return 8 * (own - maps) + 4 * maps, f"8 forward: {told}; 4 of the frozen network"


def image_spec(size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)


def traced(fn: Callable, init: Callable, *inputs: jax.ShapeDtypeStruct) -> int:
    """Operations of `fn(params, *inputs)`."""
    return traced_flops(fn, nn.unbox(jax.eval_shape(init, jax.random.key(0))), *inputs)
