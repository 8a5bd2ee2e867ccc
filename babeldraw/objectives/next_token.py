"""What recipes share that predict image tokens one after another, whatever they draw from.

Cross-entropy, the mean over all image tokens. Tokens come from the frozen tokenizer inside the
step, or ready-made in the batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from babeldraw.layers.dropout import example_keys
from babeldraw.objectives.base import (
    Batch,
    Metrics,
    TrainState,
    accumulate,
    apply_gradients,
    to_float,
)
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.prediction.logits import Settings
from babeldraw.prediction.next_token import decode
from babeldraw.sharding.constraint import Overrides, constrain, logical_axes, override
from babeldraw.sharding.layout import current, over_all_devices, use
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.kinds import TokenizerConfig, make_tokenizer


@dataclasses.dataclass(frozen=True)
class NextTokenObjective:
    """A recipe says what its generator is and what the condition is: the four last members.

    Attributes:
      model: the generator to train.
      tokenizer: the frozen tokenizer.
      optimizer, loss: their constants.
      batch_size: images per step, over all devices.
      stored_tokens: batches hold ready-made tokens, not images.
      accumulation: parts of a batch whose gradients are summed before an update.
      overrides: logical axes of some parameters, by regular expression over their names.
    """

    model: Any
    tokenizer: TokenizerConfig
    optimizer: OptimizerConfig
    loss: Any
    batch_size: int
    stored_tokens: bool = False
    accumulation: int = 1
    overrides: Overrides = ()

    def init(self, key: jax.Array) -> TrainState:
        """The tokenizer's parameters are random here; `with_tokenizer` brings trained ones."""
        params = nn.unbox(self._generator.init(jax.random.fold_in(key, 0)))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self._optimizer.init(params),
            frozen={"tokenizer": nn.unbox(self._tokenizer.init(jax.random.fold_in(key, 1)))},
            extra={},
        )

    def axes(self) -> TrainState:
        state = jax.eval_shape(self.init, jax.random.key(0))
        axes = self._parameter_axes
        tokenizer = jax.eval_shape(self._tokenizer.init, jax.random.key(0))
        return TrainState(
            step=(),
            params=axes,
            opt_state=optimizer_axes(state.opt_state, state.params, axes),
            frozen={"tokenizer": logical_axes(tokenizer)},
            extra={},
        )

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        image = (self.batch_size, *self.tokenizer.image_size, 3)
        pictures = {"image": jax.ShapeDtypeStruct(image, jnp.uint8)}
        if self.stored_tokens:
            pictures = {"tokens": self._tokenizer.codes.spec(self.batch_size)}
        return {**pictures, **self._condition_spec()}

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """batch: what `batch_spec` says, images as uint8 or as float32 in [0, 1]."""
        dropout_key, condition_key = jax.random.split(key)
        inputs = {
            "condition": self._drop(self._condition(batch), condition_key),
            "tokens": self._tokens(state.frozen, batch),
            "keys": example_keys(dropout_key, self.batch_size),
        }

        def loss_fn(params, inputs):
            logits_BTV = self._generator.network.apply(
                {"params": params}, inputs["condition"], inputs["tokens"], inputs["keys"]
            )
            loss, correct = _cross_entropy(logits_BTV, inputs["tokens"])
            return loss, {"loss": loss, "accuracy": correct}

        params, layout = state.params, current()
        if self.accumulation > 1 and not (layout is not None and layout.pipelined):
            # Once for all parts, as a pipeline does by itself; each part's gradients are in the
            # type that products give them in.
            params = self._generator.for_reading(params)
        grads, metrics = accumulate(loss_fn, params, inputs, self.accumulation)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return apply_gradients(state, grads, self._optimizer), metrics

    def predict_fns(self) -> dict[str, Callable]:
        def loss(state: TrainState, batch: Batch) -> jax.Array:
            """Cross-entropy of each example, float32 [B]."""
            tokens_BT = self._tokens(state.frozen, batch)
            logits_BTV = self._generator.logits(state.params, self._condition(batch), tokens_BT)
            return jnp.mean(_token_losses(logits_BTV, tokens_BT), axis=-1)

        def generate(
            state: TrainState, condition: jax.Array, keys_B: jax.Array, settings: Settings
        ) -> jax.Array:
            """Pictures of conditions, float32 [B, height, width, 3] in [0, 1]."""
            tokens_BT = decode(
                self._generator, state.params, condition, keys_B, settings, guided=self._guided
            )
            return self._tokenizer.decode(state.frozen["tokenizer"], tokens_BT)

        return {"loss": loss, "generate": generate}

    def with_tokenizer(self, state: TrainState, params: Any) -> TrainState:
        """`state` with these frozen tokenizer parameters."""
        return state.replace(frozen={"tokenizer": params})

    def _tokens(self, frozen: Any, batch: Batch) -> jax.Array:
        if "tokens" in batch:
            return batch["tokens"]
        with use(over_all_devices()):
            images = constrain(to_float(batch["image"]), ("batch", None, None, None))
            with jax.named_scope("tokenizer"):
                tokens_BT = self._tokenizer.encode(frozen["tokenizer"], images)
        return constrain(tokens_BT, ("batch", "length"))

    def _drop(self, condition: jax.Array, key: jax.Array) -> jax.Array:
        """`condition` with `_dropped_share` of its rows replaced by the one that says nothing."""
        drop_B = jax.random.bernoulli(key, self._dropped_share, condition.shape[:1])
        drop = jnp.expand_dims(drop_B, tuple(range(1, condition.ndim)))
        drop = jnp.broadcast_to(drop, condition.shape)
        return jnp.where(drop, self._generator.unconditional(condition), condition)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return make_tokenizer(self.tokenizer)

    @functools.cached_property
    def _parameter_axes(self):
        axes = logical_axes(jax.eval_shape(self._generator.init, jax.random.key(0)))
        return override(axes, self.overrides)

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._parameter_axes)

    # ------------------------------------------------------------------ what a recipe says

    @property
    def _generator(self) -> Any:
        """As pure functions; see `babeldraw.models.vim.Generator`."""
        raise NotImplementedError

    @property
    def _dropped_share(self) -> float:
        """Share of the conditions that are dropped in training."""
        raise NotImplementedError

    @property
    def _guided(self) -> bool:
        """Whether `generate` reads the settings' guidance."""
        return True

    def _condition_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The part of a batch that says what is to be drawn."""
        raise NotImplementedError

    def _condition(self, batch: Batch) -> jax.Array:
        """What the generator reads of it, a row for each example."""
        raise NotImplementedError


def _token_losses(logits_BTV: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """-log p of each token, float32 [B, T]."""
    log_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    return -jnp.take_along_axis(log_BTV, tokens_BT[..., None], axis=-1)[..., 0]


def _cross_entropy(logits_BTV: jax.Array, tokens_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean loss and share of tokens whose likeliest prediction is right."""
    correct_BT = jnp.argmax(logits_BTV, axis=-1) == tokens_BT
    return jnp.mean(_token_losses(logits_BTV, tokens_BT)), jnp.mean(correct_BT)
