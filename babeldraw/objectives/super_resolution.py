"""Super-resolution on top of a frozen tokenizer: the tokenizer's small picture to the large one.

L = 1.0 L_2 + 0.1 L_perceptual + 0.1 L_adversarial. Parti (arXiv 2206.10789), section 2.1, names the
terms and takes their weights from ViT-VQGAN.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from babeldraw.config import require
from babeldraw.judges.discriminators import DiscriminatorConfig, NoDiscriminatorConfig
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.layers.pictures import downsample
from babeldraw.models.super_resolution import SuperResolutionConfig, Upscaler
from babeldraw.objectives import losses
from babeldraw.objectives.adversarial import (
    STAGE_1_OPTIMIZER,
    AdversarialConfig,
    Adversary,
    check_discriminator,
    uses_perceptual,
)
from babeldraw.objectives.base import Batch, Metrics, TrainState, apply_gradients
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.sharding.constraint import logical_axes
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.kinds import TokenizerConfig, make_tokenizer
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class SuperResolutionLossConfig:
    """Weights of the terms; see `babeldraw.objectives.losses`.

    Attributes:
      l2: of the mean squared error, 1 in Parti.
      perceptual, adversarial: 0.1 each in Parti. They need `config.perceptual.file` and a
        `config.discriminator.kind`.
    """

    l2: float = 1.0
    perceptual: float = 0.0
    adversarial: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(value >= 0, f"config.loss.{field.name} is {value}; at least 0 is needed")

    def tiny(self) -> "SuperResolutionLossConfig":
        """The same for a first run."""
        # The perceptual term would need a file of weights.
        return dataclasses.replace(self, perceptual=0.0)


@dataclasses.dataclass(frozen=True)
class SuperResolutionObjective:
    """Large pictures are made small, go through the tokenizer and are made large again.

    Attributes:
    super_resolution: the network to train.
    tokenizer: the frozen network; its weights are `state.frozen["tokenizer"]`.
    optimizer, loss: their constants.
    batch_size: images per step, over all devices.
    discriminator, adversarial, discriminator_optimizer: the adversary; used where its weight is
      above 0.
    perceptual: the frozen network of the perceptual term; used where its weight is above 0, or
      where the discriminator looks at its features.
    """

    super_resolution: SuperResolutionConfig
    tokenizer: TokenizerConfig
    optimizer: OptimizerConfig
    loss: SuperResolutionLossConfig
    batch_size: int
    discriminator: DiscriminatorConfig = NoDiscriminatorConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    discriminator_optimizer: OptimizerConfig = STAGE_1_OPTIMIZER
    perceptual: PerceptualConfig = PerceptualConfig()

    def __post_init__(self):
        check_discriminator(self.discriminator, self.image_size, self.loss.adversarial)
        require(
            not self.adversarial.discriminator_first,
            "config.adversarial.discriminator_first is True, which is a tokenizer's; here the "
            "discriminator's step is the second, so set it to False",
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the large pictures."""
        height, width = self.tokenizer.image_size
        return height * self.super_resolution.factor, width * self.super_resolution.factor

    def init(self, key: jax.Array) -> TrainState:
        """Frozen parameters are random; `train.starts` brings trained ones."""
        key, tokenizer_key = jax.random.split(key)
        params = nn.unbox(self._upscaler.init(key))
        frozen, extra = {"tokenizer": nn.unbox(self._tokenizer.init(tokenizer_key))}, {}
        if self._perceptual is not None:
            frozen["perceptual"] = nn.unbox(self._perceptual.init(jax.random.fold_in(key, 2)))
        if self._adversary is not None:
            extra["discriminator"] = self._adversary.init(jax.random.fold_in(key, 1))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self._optimizer.init(params),
            frozen=frozen,
            extra=extra,
        )

    def axes(self) -> TrainState:
        state, key = jax.eval_shape(self.init, jax.random.key(0)), jax.random.key(0)
        axes = self._parameter_axes
        frozen, extra = {"tokenizer": logical_axes(jax.eval_shape(self._tokenizer.init, key))}, {}
        if self._perceptual is not None:
            frozen["perceptual"] = logical_axes(jax.eval_shape(self._perceptual.init, key))
        if self._adversary is not None:
            extra["discriminator"] = self._adversary.axes()
        return TrainState(
            step=(),
            params=axes,
            opt_state=optimizer_axes(state.opt_state, state.params, axes),
            frozen=frozen,
            extra=extra,
        )

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Pictures at the high resolution; the small ones are made on the device."""
        shape = (self.batch_size, *self.image_size, 3)
        return {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """batch["image"]: the large pictures, as `batch_spec` says, or float32 in [0, 1]."""
        originals = to_float(batch["image"])
        grads, metrics, images = self._backward(state, originals)
        before, state = state, apply_gradients(state, grads, self._optimizer)
        if self._adversary is not None:
            adversary, found = self._adversary.update(
                before.extra["discriminator"], originals, images, before.step, state.frozen
            )
            metrics |= found
            state = state.replace(extra={"discriminator": adversary})
        return state, metrics

    def forward(self, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        """An adaptive weight, which gradients make, is left out: the term has its plain weight."""
        del key
        originals = to_float(batch["image"])
        images = self._upscale(state.params, self._small(state, originals))
        loss, metrics = self._picture_loss(images, originals, state.frozen)
        if self._adversary is not None:
            metrics["adversarial"] = self._generator_loss(state, images)
            loss = loss + self.loss.adversarial * metrics["adversarial"]
        return metrics | {"loss": loss}

    def gradients(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        """Those of the upscaler; a discriminator takes its own in its step."""
        del key
        return self._backward(state, to_float(batch["image"]))[:2]

    @property
    def after_gradients(self) -> tuple[str, ...]:
        return ("optimizer",) if self._adversary is None else ("optimizer", "discriminator")

    def predict_fns(self) -> dict[str, Callable]:
        def upscale(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
            """The large pictures in [0, 1], and the small ones that they were made from."""
            small = self._small(state, to_float(batch["image"]))
            return self._upscaler.upscale(state.params, small), small

        def distance(state: TrainState, images: jax.Array, originals: jax.Array) -> jax.Array:
            return self._perceptual.distance(state.frozen["perceptual"], images, originals)

        fns = {"upscale": upscale}
        return fns if self._perceptual is None else {**fns, "distance": distance}

    def _upscale(self, params: Any, small: jax.Array) -> jax.Array:
        return self._upscaler.network.apply({"params": params}, small)

    def _backward(self, state: TrainState, originals: jax.Array):
        """Gradients of the upscaler, the metrics, and the large pictures."""
        small = self._small(state, originals)
        # One forward pass; its output meets each loss by itself, and the gradients go back once.
        images, pull = jax.vjp(lambda params: self._upscale(params, small), state.params)
        gradients = jax.value_and_grad(self._picture_loss, has_aux=True)
        (loss, metrics), gradient = gradients(images, originals, state.frozen)
        if self._adversary is not None:
            term, own, weight = self._adversarial_loss(state, images, gradient, pull)
            gradient, loss = gradient + own, loss + weight * term
            metrics |= {"adversarial": term, "adversarial_weight": weight}
        (grads,) = pull(gradient)
        metrics |= {
            "loss": loss,
            "psnr_db": -10 * jnp.log10(metrics["l2"]),
            "grad_norm": optax.tree.norm(grads),
        }
        return grads, metrics, images

    def _picture_loss(self, images: jax.Array, originals: jax.Array, frozen: Any):
        """The terms that compare two pictures, weighted; and each by itself."""
        terms = {"l2": losses.l2(images, originals)}
        loss = self.loss.l2 * terms["l2"]
        if self.loss.perceptual > 0:
            terms["perceptual"] = self._perceptual.loss(frozen["perceptual"], images, originals)
            loss = loss + self.loss.perceptual * terms["perceptual"]
        return loss, terms

    def _adversarial_loss(self, state: TrainState, images: jax.Array, gradient, pull):
        """The term, its weighted gradient at the pictures, and the weight.

        Args:
          state: before the update.
          images: the large pictures.
          gradient: of the other terms there.
          pull: carries a gradient from there to the parameters.
        """

        loss, own = jax.value_and_grad(lambda images: self._generator_loss(state, images))(images)
        weight = jnp.asarray(self.loss.adversarial, jnp.float32)
        if self.adversarial.adaptive:
            # Of each backward pass only its first product is used; the compiler drops the rest.
            last = f"doubling_{self.super_resolution.doublings - 1}"
            tails = [pull(g)[0][last]["tail"] for g in (gradient, own)]
            weight = weight * losses.adaptive_weight(*tails)
        return loss, weight * own, weight

    def _generator_loss(self, state: TrainState, images: jax.Array) -> jax.Array:
        """The adversarial term of the large pictures."""
        judge = state.extra["discriminator"]
        return self._adversary.generator_loss(judge, images, state.step, state.frozen)

    def _small(self, state: TrainState, originals: jax.Array) -> jax.Array:
        """The tokenizer's reconstruction of the pictures at its own size."""
        with jax.named_scope("tokenizer"):
            small = downsample(originals, self.super_resolution.factor)
            return self._tokenizer.reconstruct(state.frozen["tokenizer"], small)[0]

    @functools.cached_property
    def _upscaler(self) -> Upscaler:
        return Upscaler(self.super_resolution)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return make_tokenizer(self.tokenizer)

    @functools.cached_property
    def _adversary(self) -> Adversary | None:
        if self.loss.adversarial == 0:
            return None
        return Adversary(
            self.discriminator,
            self.adversarial,
            self.discriminator_optimizer,
            self.image_size,
            self._perceptual,
        )

    @functools.cached_property
    def _perceptual(self) -> PerceptualNetwork | None:
        used = uses_perceptual(self.loss, self.discriminator)
        return PerceptualNetwork(self.perceptual) if used else None

    @functools.cached_property
    def _parameter_axes(self):
        return logical_axes(jax.eval_shape(self._upscaler.init, jax.random.key(0)))

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._parameter_axes)
