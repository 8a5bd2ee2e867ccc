"""Stage 1: trains an image tokenizer to reconstruct.

L = l2 + codebook + beta * commitment, the reconstruction and quantizer terms of ViT-VQGAN.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from babeldraw.config import require
from babeldraw.objectives.base import (
    Batch,
    Metrics,
    TrainState,
    apply_gradients,
    to_float,
)
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.sharding.constraint import logical_axes
from babeldraw.tokenizers.quantizers import Quantized
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerLossConfig:
    """Attributes:
    l2: weight of the mean squared error, 1 in the paper.
    commitment: beta of the quantizer's loss, 0.25 in the paper.
    restart_below: a code whose running share of the tokens falls under this fraction of an equal
      share is replaced by a latent that the codebook serves badly. 0 (the paper) never does; small
      data needs it, or a handful of codes takes everything.
    """

    l2: float = 1.0
    commitment: float = 0.25
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
    """

    tokenizer: ViTVQGANConfig
    optimizer: OptimizerConfig
    loss: TokenizerLossConfig
    batch_size: int

    def init(self, key: jax.Array) -> TrainState:
        params = nn.unbox(self._tokenizer.init(key))
        share_V = jnp.full((self.tokenizer.codebook_size,), 1.0, jnp.float32)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self._optimizer.init(params),
            frozen={},
            extra={"code_share": share_V},
        )

    def axes(self) -> TrainState:
        state = jax.eval_shape(self.init, jax.random.key(0))
        axes = self._parameter_axes
        return TrainState(
            step=(),
            params=axes,
            opt_state=optimizer_axes(state.opt_state, state.params, axes),
            frozen={},
            extra={"code_share": (None,)},
        )

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (self.batch_size, *self.tokenizer.image_size, 3)
        return {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """batch["image"]: uint8, or float32 in [0, 1], [B, height, width, 3]."""
        images = to_float(batch["image"])
        dropout_key, restart_key = jax.random.split(key)

        def loss_fn(params):
            out = self._tokenizer.network.apply(
                {"params": params}, images, False, rngs={"dropout": dropout_key}
            )
            q = out.quantized
            l2 = jnp.mean(jnp.square(out.images - images))
            loss = self.loss.l2 * l2 + q.codebook_loss + self.loss.commitment * q.commitment_loss
            terms = {"l2": l2, "codebook": q.codebook_loss, "commitment": q.commitment_loss}
            return loss, (terms, q)

        (loss, (terms, q)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        metrics = {
            "loss": loss,
            **terms,
            "psnr_db": -10 * jnp.log10(terms["l2"]),
            "codes_used": jnp.mean(_counts(q.ids, self.tokenizer.codebook_size) > 0),
            "grad_norm": optax.tree.norm(grads),
        }
        state = apply_gradients(state, grads, self._optimizer)
        if self.loss.restart_below > 0:
            state = self._restart_codes(state, q, restart_key)
        return state, metrics

    def predict_fns(self) -> dict[str, Callable]:
        def reconstruct(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
            return self._tokenizer.reconstruct(state.params, to_float(batch["image"]))

        return {"reconstruct": reconstruct}

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
        return state.replace(params=params, extra={"code_share": jnp.where(idle_V, 1.0, share_V)})

    @functools.cached_property
    def _tokenizer(self) -> ViTVQGANTokenizer:
        return ViTVQGANTokenizer(self.tokenizer)

    @functools.cached_property
    def _parameter_axes(self):
        return logical_axes(jax.eval_shape(self._tokenizer.init, jax.random.key(0)))

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._parameter_axes)


def _counts(ids: jax.Array, size: int) -> jax.Array:
    """float32 [V]: how often each code occurs."""
    return jnp.zeros(size, jnp.float32).at[ids.reshape(-1)].add(1.0)
