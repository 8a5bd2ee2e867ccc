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
from babeldraw.objectives import losses
from babeldraw.objectives.adversarial import STAGE_1_OPTIMIZER, Adversary, DiscriminatorConfig
from babeldraw.objectives.base import Batch, Metrics, TrainState, to_float
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.sharding.constraint import logical_axes
from babeldraw.tokenizers.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.tokenizers.pixels import logit_laplace_parameters, to_images
from babeldraw.tokenizers.quantizers import Quantized
from babeldraw.tokenizers.vit_vqgan import DECODER, ViTVQGANConfig, ViTVQGANTokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerLossConfig:
    """Weights of the terms; see `babeldraw.objectives.losses`.

    Attributes:
      l2: of the mean squared error, 1 in the paper.
      commitment: beta of the quantizer's loss, 0.25 in the paper.
      perceptual, adversarial, logit_laplace: 0.1 each in the paper. They need
        `config.perceptual.file`, a `config.discriminator.kind` and
        `config.tokenizer.output=logit_laplace`.
      restart_below: a code whose running share of the tokens falls under this fraction of an equal
        share is replaced by a latent that the codebook serves badly. 0 (the paper) never does;
        small data needs it, or a handful of codes takes everything.
    """

    l2: float = 1.0
    commitment: float = 0.25
    perceptual: float = 0.0
    adversarial: float = 0.0
    logit_laplace: float = 0.0
    restart_below: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(value >= 0, f"config.loss.{field.name} is {value}; at least 0 is needed")


@dataclasses.dataclass(frozen=True)
class ImageTokenizerObjective:
    """Attributes:
    tokenizer: the network to train.
    optimizer, loss: their constants.
    batch_size: images per step, over all devices.
    discriminator, discriminator_optimizer: the adversary; used where its weight is above 0.
    perceptual: the frozen network of the perceptual term; used where its weight is above 0.
    decoder_only: the encoder and the codebook stay as they are, bit for bit, and only the decoder
      learns (Babeldraw's second phase of stage 1).
    """

    tokenizer: ViTVQGANConfig
    optimizer: OptimizerConfig
    loss: TokenizerLossConfig
    batch_size: int
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    discriminator_optimizer: OptimizerConfig = STAGE_1_OPTIMIZER
    perceptual: PerceptualConfig = PerceptualConfig()
    decoder_only: bool = False

    def __post_init__(self):
        output = self.tokenizer.output
        require(
            self.loss.logit_laplace == 0 or output == "logit_laplace",
            f"config.loss.logit_laplace is {self.loss.logit_laplace} and config.tokenizer.output "
            f"is {output!r}; set output=logit_laplace, or the weight to 0",
        )
        self.discriminator.check(self.tokenizer.image_size, self.loss.adversarial)
        require(
            not (self.decoder_only and self.loss.restart_below > 0),
            f"config.loss.restart_below is {self.loss.restart_below}, which moves codes, and "
            "config.decoder_only keeps them; set restart_below=0",
        )

    def init(self, key: jax.Array) -> TrainState:
        """The perceptual network's parameters are random here; `with_perceptual` brings its own."""
        params = nn.unbox(self._tokenizer.init(key))
        extra = {"code_share": jnp.full((self.tokenizer.codebook_size,), 1.0, jnp.float32)}
        if self._adversary is not None:
            extra["discriminator"] = self._adversary.init(jax.random.fold_in(key, 1))
        frozen = {}
        if self._perceptual is not None:
            frozen["perceptual"] = nn.unbox(self._perceptual.init(jax.random.fold_in(key, 2)))
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
        extra, frozen = {"code_share": (None,)}, {}
        if self._adversary is not None:
            extra["discriminator"] = self._adversary.axes()
        if self._perceptual is not None:
            boxed = jax.eval_shape(self._perceptual.init, jax.random.key(0))
            frozen["perceptual"] = logical_axes(boxed)
        return TrainState(
            step=(),
            params=axes,
            opt_state=optimizer_axes(state.opt_state, trained, trained_axes),
            frozen=frozen,
            extra=extra,
        )

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (self.batch_size, *self.tokenizer.image_size, 3)
        return {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """batch["image"]: uint8, or float32 in [0, 1], [B, height, width, 3].

        One forward pass of the tokenizer; its output meets each loss by itself, and the sum of
        their gradients goes back once.
        """
        images = to_float(batch["image"])
        dropout_key, restart_key = jax.random.split(key)
        trained = self._trained(state.params)

        def forward(trained):
            out = self._tokenizer.network.apply(
                {"params": {**state.params, **trained}},
                images,
                False,
                rngs={"dropout": dropout_key},
            )
            q = out.quantized
            return (out.raw, q.codebook_loss, q.commitment_loss), q

        (raw, codebook, commitment), pull, q = jax.vjp(forward, trained, has_aux=True)
        gradients = jax.value_and_grad(self._reconstruction_loss, has_aux=True)
        (loss, metrics), gradient = gradients(raw, images, state.frozen)
        loss = loss + codebook + self.loss.commitment * commitment
        metrics |= {"codebook": codebook, "commitment": commitment}
        ones = (jnp.ones(()), jnp.asarray(self.loss.commitment, jnp.float32))
        if self._adversary is not None:
            added, own, weight = self._adversarial_loss(state, raw, gradient, pull)
            gradient, loss = gradient + own, loss + weight * added
            metrics |= {"adversarial": added, "adversarial_weight": weight}
        (grads,) = pull((gradient, *ones))
        metrics |= {
            "loss": loss,
            "psnr_db": -10 * jnp.log10(metrics["l2"]),
            "codes_used": jnp.mean(_counts(q.ids, self.tokenizer.codebook_size) > 0),
            "grad_norm": optax.tree.norm(grads),
        }
        before, state = state, self._apply_gradients(state, grads)
        if self._adversary is not None:
            adversary, found = self._adversary.update(
                before.extra["discriminator"], images, self._draw(raw), before.step
            )
            metrics |= found
            state = state.replace(extra={**state.extra, "discriminator": adversary})
        if self.loss.restart_below > 0:
            state = self._restart_codes(state, q, restart_key)
        return state, metrics

    def predict_fns(self) -> dict[str, Callable]:
        def reconstruct(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
            return self._tokenizer.reconstruct(state.params, to_float(batch["image"]))

        def distance(state: TrainState, images: jax.Array, originals: jax.Array) -> jax.Array:
            return self._perceptual.distance(state.frozen["perceptual"], images, originals)

        fns = {"reconstruct": reconstruct}
        return fns if self._perceptual is None else {**fns, "distance": distance}

    def with_perceptual(self, state: TrainState, params: Any) -> TrainState:
        """`state` with these parameters of the perceptual network."""
        return state.replace(frozen={**state.frozen, "perceptual": params})

    def with_trained(self, state: TrainState, params: Any) -> TrainState:
        """`state` with these parts of a trained tokenizer in place of its own."""
        return state.replace(params={**state.params, **params})

    def _reconstruction_loss(self, raw_BhwC: jax.Array, images: jax.Array, frozen: Any):
        """The terms that compare two pictures, weighted; and each by itself."""
        weights, drawn = self.loss, self._draw(raw_BhwC)
        terms = {"l2": losses.l2(drawn, images)}
        loss = weights.l2 * terms["l2"]
        if weights.logit_laplace > 0:
            mean, log_scale = logit_laplace_parameters(raw_BhwC)
            terms["logit_laplace"] = losses.logit_laplace(mean, log_scale, images)
            loss = loss + weights.logit_laplace * terms["logit_laplace"]
        if self._perceptual is not None:
            distance_B = self._perceptual.distance(frozen["perceptual"], drawn, images)
            terms["perceptual"] = jnp.mean(distance_B)
            loss = loss + weights.perceptual * terms["perceptual"]
        return loss, terms

    def _adversarial_loss(self, state: TrainState, raw_BhwC, gradient, pull):
        """The term, its weighted gradient at the decoder's output, and the weight.

        Args:
          state: before the update.
          raw_BhwC: the decoder's output.
          gradient: of the other terms there.
          pull: carries a gradient from there to the parameters.
        """

        def loss_fn(raw):
            adversary = state.extra["discriminator"]
            return self._adversary.generator_loss(adversary, self._draw(raw), state.step)

        loss, own = jax.value_and_grad(loss_fn)(raw_BhwC)
        weight = jnp.asarray(self.loss.adversarial, jnp.float32)
        if self.discriminator.adaptive:
            # Of each backward pass only its first product is used; the compiler drops the rest.
            zero = jnp.zeros(())
            last = [pull((g, zero, zero))[0]["to_pixels"]["weight"] for g in (gradient, own)]
            weight = weight * losses.adaptive_weight(*last)
        return loss, weight * own, weight

    def _draw(self, raw_BhwC: jax.Array) -> jax.Array:
        return to_images(raw_BhwC, self.tokenizer.output)

    def _trained(self, params: Any) -> Any:
        """The part of a tree of parameters, or of their axes, that learns."""
        return {name: params[name] for name in DECODER} if self.decoder_only else params

    def _apply_gradients(self, state: TrainState, grads: Any) -> TrainState:
        trained = self._trained(state.params)
        updates, opt_state = self._optimizer.update(grads, state.opt_state, trained)
        params = {**state.params, **optax.apply_updates(trained, updates)}
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state)

    def _restart_codes(self, state: TrainState, q: Quantized, key: jax.Array) -> TrainState:
        """Moves idle codes to latents drawn with probability proportional to squared error."""
        size = self.tokenizer.codebook_size
        counts_V = _counts(q.ids, size)
        # In units of an equal share; remembers about fifty batches.
        share_V = 0.98 * state.extra["code_share"] + 0.02 * counts_V * (size / q.ids.size)
        latents_NQ = jax.lax.stop_gradient(q.latents).reshape(-1, q.latents.shape[-1])
        chosen_NQ = jax.lax.stop_gradient(q.codes).reshape(latents_NQ.shape)
        error_N = jnp.sum(jnp.square(latents_NQ - chosen_NQ), axis=-1)
        drawn_V = jax.random.categorical(key, jnp.log(error_N + 1e-12), shape=(size,))
        idle_V = share_V < self.loss.restart_below
        table_VQ = state.params["codebook"]["table"]
        idle_VQ = jnp.broadcast_to(idle_V[:, None], table_VQ.shape)
        table_VQ = jnp.where(idle_VQ, latents_NQ[drawn_V], table_VQ)
        params = {**state.params, "codebook": {"table": table_VQ}}
        share_V = jnp.where(idle_V, 1.0, share_V)
        return state.replace(params=params, extra={**state.extra, "code_share": share_V})

    @functools.cached_property
    def _tokenizer(self) -> ViTVQGANTokenizer:
        return ViTVQGANTokenizer(self.tokenizer)

    @functools.cached_property
    def _adversary(self) -> Adversary | None:
        if self.loss.adversarial == 0:
            return None
        size = self.tokenizer.image_size
        return Adversary(self.discriminator, self.discriminator_optimizer, size)

    @functools.cached_property
    def _perceptual(self) -> PerceptualNetwork | None:
        return PerceptualNetwork(self.perceptual) if self.loss.perceptual > 0 else None

    @functools.cached_property
    def _parameter_axes(self):
        return logical_axes(jax.eval_shape(self._tokenizer.init, jax.random.key(0)))

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._trained(self._parameter_axes))


def _counts(ids: jax.Array, size: int) -> jax.Array:
    """float32 [V]: how often each code occurs."""
    return jnp.zeros(size, jnp.float32).at[ids.reshape(-1)].add(1.0)
