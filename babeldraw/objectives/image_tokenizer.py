"""Stage 1: trains an image tokenizer, or a new decoder for one, to reconstruct.

L = L_VQ + 0.1 L_adversarial + 0.1 L_perceptual + 0.1 L_logit-Laplace + 1.0 L_2, of ViT-VQGAN,
section 3.2; each term is a weight in `TokenizerLossConfig` and 0 leaves it out.
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
from babeldraw.models.condition import Condition
from babeldraw.models.conditions import NoCondition
from babeldraw.objectives import losses
from babeldraw.objectives.adversarial import (
    STAGE_1_OPTIMIZER,
    AdversarialConfig,
    Adversary,
    check_discriminator,
    uses_perceptual,
)
from babeldraw.objectives.base import Batch, Metrics, TrainState
from babeldraw.objectives.tokenizer_checks import check_loss, check_terms, codes_of
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.sharding.constraint import logical_axes
from babeldraw.tokenizers.base import PARTS, Tokenizer
from babeldraw.tokenizers.kinds import TokenizerConfig, make_tokenizer
from babeldraw.tokenizers.pixels import logit_laplace_parameters, to_float

# What a step's key is folded with to drop conditions.
CONDITION = (1 << 30) + 3


@dataclasses.dataclass(frozen=True)
class ImageTokenizerObjective:
    """Attributes:
    tokenizer: the network to train.
    optimizer, loss: their constants.
    batch_size: images per step, over all devices.
    discriminator, adversarial, discriminator_optimizer: the adversary; used where its weight is
      above 0.
    perceptual: the frozen network of the perceptual term; used where its weight is above 0, or
      where the discriminator looks at its features.
    train_groups: the parts that learn; the others stay as they are, bit for bit. The decoder alone
      is Babeldraw's second phase of stage 1.
    condition: the texts whose states the decoder draws beside, where it does.
    """

    tokenizer: TokenizerConfig
    optimizer: OptimizerConfig
    loss: TokenizerLossConfig
    batch_size: int
    discriminator: DiscriminatorConfig = NoDiscriminatorConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    discriminator_optimizer: OptimizerConfig = STAGE_1_OPTIMIZER
    perceptual: PerceptualConfig = PerceptualConfig()
    train_groups: tuple[str, ...] = PARTS
    condition: Condition = NoCondition()

    def __post_init__(self):
        check_loss(self.loss, self._tokenizer, self.train_groups)
        check_discriminator(self.discriminator, self.tokenizer.image_size, self.loss.adversarial)
        require(
            not self.adversarial.adaptive
            or self.loss.adversarial == 0
            or (self._tokenizer.last and "decoder" in self.train_groups),
            "config.adversarial.adaptive weighs by the decoder's last weight, which "
            f"config.train_groups={self.train_groups} does not train; set adaptive=false",
        )

    def init(self, key: jax.Array) -> TrainState:
        """The perceptual network's parameters are random here; `train.starts` brings its own."""
        params = nn.unbox(self._tokenizer.init(key))
        require(
            bool(jax.tree.leaves(self._trained(params))),
            f"config.train_groups is {self.train_groups}, and of {codes_of(self._tokenizer)} that "
            "has no parameters; name another part",
        )
        extra = {}
        if self._tokenizer.restarts():
            extra["code_share"] = jnp.full((self._tokenizer.codes.entries,), 1.0, jnp.float32)
        if self._adversary is not None:
            extra["discriminator"] = self._adversary.init(jax.random.fold_in(key, 1))
        frozen = {
            name: nn.unbox(init(jax.random.fold_in(key, 2))) for name, init in self._frozen.items()
        }
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self._optimizer.init(self._trained(params)),
            frozen=frozen,
            extra=extra,
        )

    def axes(self) -> TrainState:
        state, axes = jax.eval_shape(self.init, jax.random.key(0)), self._parameter_axes
        trained, trained_axes = self._trained(state.params), self._trained(axes)
        extra = {}
        if self._tokenizer.restarts():
            extra["code_share"] = (None,)
        if self._adversary is not None:
            extra["discriminator"] = self._adversary.axes()
        frozen = {
            name: logical_axes(jax.eval_shape(init, jax.random.key(0)))
            for name, init in self._frozen.items()
        }
        return TrainState(
            step=(),
            params=axes,
            opt_state=optimizer_axes(state.opt_state, trained, trained_axes),
            frozen=frozen,
            extra=extra,
        )

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (self.batch_size, *self.tokenizer.image_size, 3)
        image = {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}
        if self._tokenizer.reads_levels:
            image["level"] = jax.ShapeDtypeStruct((self.batch_size,), jnp.int32)
        return {**image, **self.condition.spec(self.batch_size)}

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """batch["image"]: uint8, or float32 in [0, 1], [B, height, width, 3].

        One forward pass of the tokenizer; its output meets each loss by itself, and the sum of
        their gradients goes back once. Beside the picture what the condition is read from.
        """
        dropout_key, restart_key = jax.random.split(key)
        grads, metrics, out, state = self._backward(state, batch, dropout_key)
        images = losses.beside(to_float(batch["image"]), out.raw)
        before, state = state, self._apply_gradients(state, grads)
        if self._tokenizer.follows() and "quantizer" in self.train_groups:
            followed = self._tokenizer.follow(before.params, state.params, out)
            state = state.replace(params=followed)
        if self._adversary is not None and not self.adversarial.discriminator_first:
            state, found = self._discriminate(state, images, out.raw, before.step)
            metrics |= found
        if self.loss.restart_below > 0:
            params, share = self._tokenizer.restart(
                state.params,
                state.extra["code_share"],
                out,
                self.loss.restart_below,
                restart_key,
            )
            state = state.replace(params=params, extra={**state.extra, "code_share": share})
        return state, metrics

    def forward(self, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        """An adaptive weight, which gradients make, is left out: the term has its plain weight."""
        dropout_key, _ = jax.random.split(key)
        out = self._reconstruct(state, self._trained(state.params), batch, dropout_key)
        images = losses.beside(to_float(batch["image"]), out.raw)
        loss, metrics = self._reconstruction_loss(out.raw, images, state.frozen)
        for name, term in out.terms.items():
            loss = loss + self._weight(name) * term
        metrics |= out.terms
        if self._adversary is not None:
            metrics["adversarial"] = self._generator_loss(state, out.raw)
            loss = loss + self.loss.adversarial * metrics["adversarial"]
        return metrics | {"loss": loss}

    def gradients(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        """Those of the tokenizer; a discriminator takes its own in its step."""
        dropout_key, _ = jax.random.split(key)
        return self._backward(state, batch, dropout_key)[:2]

    @property
    def after_gradients(self) -> tuple[str, ...]:
        found = ("optimizer",)
        if self._adversary is not None:
            found += ("discriminator",)
        return (*found, "restarts") if self.loss.restart_below > 0 else found

    def predict_fns(self) -> dict[str, Callable]:
        """`reconstruct` at the tokenizer's first level, `reconstruct_LEVEL` at each other."""

        def reconstruct(level: str, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
            images, frozen = to_float(batch["image"]), self._needed(state)
            return self._tokenizer.at(level).reconstruct(
                state.params, images, frozen, **self._said(state.frozen, batch)
            )

        def distance(state: TrainState, images: jax.Array, originals: jax.Array) -> jax.Array:
            return self._perceptual.distance(state.frozen["perceptual"], images, originals)

        first, *others = self._tokenizer.levels
        fns = {"reconstruct": functools.partial(reconstruct, first)}
        for level in others:
            fns[f"reconstruct_{level}"] = functools.partial(reconstruct, level)
        return fns if self._perceptual is None else {**fns, "distance": distance}

    def _reconstruct(self, state: TrainState, trained: Any, batch: Batch, key: jax.Array):
        """One pass through the tokenizer, with `trained` in place of what learns."""
        with jax.named_scope("tokenizer"):
            params, images = {**state.params, **trained}, to_float(batch["image"])
            asked = self._asked() | self._said(state.frozen, batch, key)
            if self._tokenizer.reads_levels:
                asked["levels"] = batch["level"]
            return self._tokenizer.forward(params, images, key, self._needed(state), **asked)

    def _needed(self, state: TrainState) -> dict[str, Any]:
        """Of the frozen networks those that the tokenizer asks for."""
        return {name: state.frozen[name] for name in self._tokenizer.needs}

    def _said(
        self, frozen: Any, batch: Batch, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """The tokenizer's argument of what its decoder draws beside; with a key not said to all."""
        if not self._tokenizer.condition:
            return {}
        with jax.named_scope("condition"):
            said = self.condition.encoded(frozen, self.condition.of_batch(batch))
            if key is not None and self.condition.dropout > 0:
                said = self.condition.dropped(said, jax.random.fold_in(key, CONDITION))
            return {"condition": self.condition.states(said)}

    def _backward(self, state: TrainState, batch: Batch, key: jax.Array):
        """Gradients of what learns, the metrics, the pass that they are of, and the state.

        That has another discriminator, by which they are, where it goes first.
        """

        def forward(trained):
            out = self._reconstruct(state, trained, batch, key)
            return (out.raw, out.terms), out

        trained = self._trained(state.params)
        (raw, terms), pull, out = jax.vjp(forward, trained, has_aux=True)
        images = losses.beside(to_float(batch["image"]), raw)
        gradients = jax.value_and_grad(self._reconstruction_loss, has_aux=True)
        (loss, metrics), gradient = gradients(raw, images, state.frozen)
        weights = {name: jnp.asarray(self._weight(name), jnp.float32) for name in terms}
        for name, term in terms.items():
            loss = loss + weights[name] * term
        metrics |= terms
        if self._adversary is not None:
            if self.adversarial.discriminator_first:
                state, found = self._discriminate(state, images, raw, state.step)
                metrics |= found
            added, own, weight = self._adversarial_loss(state, raw, gradient, terms, pull)
            gradient, loss = gradient + own, loss + weight * added
            metrics |= {"adversarial": added, "adversarial_weight": weight}
        (grads,) = pull((gradient, weights))
        if raw is not None:
            metrics["psnr_db"] = -10 * jnp.log10(metrics["l2"])
        metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        if self._tokenizer.codes.vocab:
            metrics["codes_used"] = jnp.mean(self._tokenizer.codes.counts(out.codes) > 0)
        return grads, metrics, out, state

    def _discriminate(
        self, state: TrainState, images: jax.Array, raw_BhwC: jax.Array, step: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """One step of the discriminator, of pictures and what the decoder gave for them."""
        adversary, metrics = self._adversary.update(
            state.extra["discriminator"],
            images,
            self._tokenizer.to_images(raw_BhwC),
            step,
            state.frozen,
        )
        return state.replace(extra={**state.extra, "discriminator": adversary}), metrics

    def _reconstruction_loss(self, raw_BhwC: jax.Array | None, images: jax.Array, frozen: Any):
        """The terms that compare two pictures, weighted; and each by itself. None: no pictures."""
        if raw_BhwC is None:
            return jnp.zeros((), jnp.float32), {}
        weights, drawn = self.loss, self._tokenizer.to_images(raw_BhwC)
        terms = {"l2": losses.l2(drawn, images)}
        loss = weights.l2 * terms["l2"]
        for name in ("l1", "gradient", "ms_ssim"):
            if getattr(weights, name) > 0:
                terms[name] = getattr(losses, name)(drawn, images)
                loss = loss + getattr(weights, name) * terms[name]
        if weights.logit_laplace > 0:
            mean, log_scale = logit_laplace_parameters(raw_BhwC)
            terms["logit_laplace"] = losses.logit_laplace(mean, log_scale, images)
            loss = loss + weights.logit_laplace * terms["logit_laplace"]
        if weights.perceptual > 0:
            terms["perceptual"] = self._perceptual.loss(frozen["perceptual"], drawn, images)
            loss = loss + weights.perceptual * terms["perceptual"]
        return loss, terms

    def _adversarial_loss(self, state: TrainState, raw_BhwC, gradient, terms, pull):
        """The term, its weighted gradient at the decoder's output, and the weight.

        Args:
          state: before the update.
          raw_BhwC: the decoder's output.
          gradient: of the other terms there.
          terms: the tokenizer's own, as the forward pass gave them.
          pull: carries a gradient of output and terms to the parameters.
        """

        loss, own = jax.value_and_grad(lambda raw: self._generator_loss(state, raw))(raw_BhwC)
        weight = jnp.asarray(self.loss.adversarial, jnp.float32)
        if self.adversarial.adaptive:
            # Of each backward pass only its first product is used; the compiler drops the rest.
            zeros = jax.tree.map(jnp.zeros_like, terms)
            last = [self._last(pull((g, zeros))[0]) for g in (gradient, own)]
            weight = weight * losses.adaptive_weight(*last)
        return loss, weight * own, weight

    def _generator_loss(self, state: TrainState, raw_BhwC: jax.Array) -> jax.Array:
        """The adversarial term of the decoder's output."""
        drawn = self._tokenizer.to_images(raw_BhwC)
        judge = state.extra["discriminator"]
        return self._adversary.generator_loss(judge, drawn, state.step, state.frozen)

    def _weight(self, term: str) -> float:
        """Of a term that the tokenizer gives."""
        own = {self._tokenizer.beta_term: self.loss.commitment}
        own |= {"entropy": self.loss.entropy, "kl": self.loss.kl}
        return own.get(term, 1.0)

    def check_weights(self) -> None:
        """Raises `UserError`: one, not the usual, is of a term that the codes lack.

        Or nothing of the tokenizer would learn.
        """
        key = jax.random.key(0)
        state, batch = jax.eval_shape(self.init, key), self.batch_spec()
        trained = self._trained(state.params)
        terms = jax.eval_shape(self._reconstruct, state, trained, batch, key).terms
        check_terms(self.loss, self._tokenizer, terms)

    def _asked(self) -> dict[str, Any]:
        """The argument of `Tokenizer.forward` by which optional terms of a weight are computed."""
        terms = tuple(t for t in self._tokenizer.optional_terms if self._weight(t) > 0)
        return {"terms": terms} if terms else {}

    def _last(self, tree: Any) -> jax.Array:
        """Of a tree like the parameters, the leaf of the decoder's last weight."""
        for name in self._tokenizer.last:
            tree = tree[name]
        return tree

    def _trained(self, params: Any) -> Any:
        """The part of a tree of parameters, or of their axes, that learns."""
        if set(self.train_groups) == set(PARTS):
            return params
        return self._tokenizer.part(params, self.train_groups)

    def _apply_gradients(self, state: TrainState, grads: Any) -> TrainState:
        trained = self._trained(state.params)
        updates, opt_state = self._optimizer.update(grads, state.opt_state, trained)
        params = {**state.params, **optax.apply_updates(trained, updates)}
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state)

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
            self.tokenizer.image_size,
            self._perceptual,
        )

    @functools.cached_property
    def _perceptual(self) -> PerceptualNetwork | None:
        used = uses_perceptual(self.loss, self.discriminator)
        return PerceptualNetwork(self.perceptual) if used else None

    @property
    def _frozen(self) -> dict[str, Callable[[jax.Array], Any]]:
        """What makes each of the networks that stay as they are."""
        needs = {**self._tokenizer.needs, **self.condition.needs}
        found = {name: needed.init for name, needed in needs.items()}
        return found if self._perceptual is None else {**found, "perceptual": self._perceptual.init}

    @functools.cached_property
    def _parameter_axes(self):
        return logical_axes(jax.eval_shape(self._tokenizer.init, jax.random.key(0)))

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._trained(self._parameter_axes))
