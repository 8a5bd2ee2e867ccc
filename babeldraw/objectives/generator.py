"""Stage 2: a network learns to predict the codes of pictures from what they are drawn from.

Codes come from the frozen tokenizer inside the step, or ready-made in the batch. Pictures are
augmented first and made codes afterwards, as in ViT-VQGAN (section 4). Of a network that draws into
several levels of its tokenizer a batch is groups of pictures, and which of a group becomes codes of
which level is always the same (`models.levels`): one program serves all steps.
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
from babeldraw.models.base import Generator
from babeldraw.models.levels import flat
from babeldraw.objectives.base import (
    Batch,
    Metrics,
    TrainState,
    accumulate,
    apply_gradients,
    in_parts,
)
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.prediction.base import Prediction
from babeldraw.sharding.constraint import Overrides, constrain, logical_axes, override
from babeldraw.sharding.layout import current, over_all_devices, use
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.pixels import to_float

# What a step's key is folded with to draw continuous codes.
CODES = (1 << 30) + 2


@dataclasses.dataclass(frozen=True)
class GeneratorObjective:
    """Attributes:
    generator: the network to train; its condition is what it draws from.
    prediction: how.
    tokenizer: the frozen tokenizer.
    optimizer: its constants.
    batch_size: images per step, over all devices.
    stored_tokens: batches hold ready-made codes, not images; of a network that draws into several
      levels those of all, see `tokenizers.all_levels`.
    accumulation: parts of a batch whose gradients are summed before an update.
    overrides: logical axes of some parameters, by regular expression over their names.
    """

    generator: Generator
    prediction: Prediction
    tokenizer: Tokenizer
    optimizer: OptimizerConfig
    batch_size: int
    stored_tokens: bool = False
    accumulation: int = 1
    overrides: Overrides = ()

    def init(self, key: jax.Array) -> TrainState:
        """Frozen parameters are random here; `train.starts` brings trained ones."""
        params = nn.unbox(self.generator.init(jax.random.fold_in(key, 0)))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self._optimizer.init(params),
            frozen=nn.unbox(self._frozen(jax.random.fold_in(key, 1))),
            extra={},
        )

    def axes(self) -> TrainState:
        state = jax.eval_shape(self.init, jax.random.key(0))
        axes = self._parameter_axes
        frozen = jax.eval_shape(self._frozen, jax.random.key(0))
        return TrainState(
            step=(),
            params=axes,
            opt_state=optimizer_axes(state.opt_state, state.params, axes),
            frozen={name: logical_axes(part) for name, part in frozen.items()},
            extra={},
        )

    def _frozen(self, key: jax.Array) -> dict[str, Any]:
        """Boxed, by name: the tokenizer, and what the condition is encoded by."""
        needs = self.generator.condition.needs
        return {"tokenizer": self.tokenizer.init(key)} | {
            name: network.init(key) for name, network in needs.items()
        }

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        image = (self.batch_size, *self.tokenizer.image_size, 3)
        pictures = {"image": jax.ShapeDtypeStruct(image, jnp.uint8)}
        if self.stored_tokens:
            levels = self.generator.levels
            codes = self.tokenizer.codes if levels is None else levels.stored.whole
            pictures = {"tokens": codes.spec(self.batch_size)}
        return {**pictures, **self.generator.condition.spec(self.batch_size)}

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """batch: what `batch_spec` says, images as uint8 or as float32 in [0, 1]."""
        grads, metrics = self.gradients(state, batch, key)
        return apply_gradients(state, grads, self._optimizer), metrics

    def forward(self, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        """As `update` computes it: the same shares of the batch, one after another."""
        loss_fn, params, inputs = self._to_learn(state, batch, key)
        return in_parts(lambda *given: loss_fn(*given)[1], params, inputs, self.accumulation)

    def gradients(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        loss_fn, params, inputs = self._to_learn(state, batch, key)
        grads, metrics = accumulate(loss_fn, params, inputs, self.accumulation)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return grads, metrics

    @property
    def after_gradients(self) -> tuple[str, ...]:
        return ("optimizer",)

    def _to_learn(self, state: TrainState, batch: Batch, key: jax.Array):
        """The loss as a function of parameters and inputs, and both."""
        own_key, condition_key = jax.random.split(key)
        condition, levels = self.generator.condition, self.generator.levels
        inputs = {
            "condition": condition.dropped(self._said(state.frozen, batch), condition_key),
            "keys": example_keys(own_key, self.batch_size),
        }
        if levels is None:
            loss = self.prediction.loss
            inputs["codes"] = self._codes(state.frozen, batch, self._codes_key(key))
        else:
            # By groups from here on, of which shares of a batch take whole ones.
            loss, inputs = self.prediction.loss_of_levels, levels.grouped(inputs)
            inputs["codes"] = self._codes_of_levels(state.frozen, batch, self._codes_key(key))

        def loss_fn(params, inputs):
            return loss(self.generator, params, **inputs, step=state.step)

        params, layout = state.params, current()
        if self.accumulation > 1 and not (layout is not None and layout.pipelined):
            # Once for all parts, as a pipeline does by itself; each part's gradients are in the
            # type that products give them in.
            params = self.generator.for_reading(params)
        return loss_fn, params, inputs

    def at(self, level: str) -> "GeneratorObjective":
        """The same at one of the levels that the network draws into."""
        generator, tokenizer = self.generator.at(level), self.tokenizer.at(level)
        return dataclasses.replace(self, generator=generator, tokenizer=tokenizer)

    def predict_fns(self) -> dict[str, Callable]:
        """Of a network that draws into several levels those of one of them; see `at`."""

        def loss(state: TrainState, batch: Batch) -> jax.Array:
            """The prediction's score of each example, float32 [B]."""
            codes, said = self._codes(state.frozen, batch), self._said(state.frozen, batch)
            return self.prediction.score(self.generator, state.params, said, codes)

        def generate(
            state: TrainState, condition: Any, keys_B: jax.Array, settings: Any, guided: bool
        ) -> jax.Array:
            """Pictures of conditions, float32 [B, height, width, 3] in [0, 1]."""
            condition = self.generator.condition.encoded(state.frozen, condition)
            codes = self.prediction.draw(
                self.generator, state.params, condition, keys_B, settings, guided=guided
            )
            params = state.frozen["tokenizer"]
            if not self.tokenizer.condition:
                return self.tokenizer.decode(params, codes)
            states = self.generator.condition.states(condition)
            each = len(codes) // len(states)
            return self.tokenizer.decode(params, codes, jnp.repeat(states, each, axis=0))

        def features(state: TrainState, batch: Batch) -> jax.Array:
            """Of every block, float32 [B, L + 1, D]; the condition is not told."""
            return self.generator.features(state.params, self._codes(state.frozen, batch))

        def text_features(state: TrainState, batch: Batch) -> jax.Array:
            """Of the text encoder, float32 [B, D]."""
            return self.generator.text_features(state.params, batch["text"])

        found = {"loss": loss, "generate": generate}
        others = (features, text_features)
        return found | {fn.__name__: fn for fn in others if hasattr(self.generator, fn.__name__)}

    def _said(self, frozen: Any, batch: Batch) -> Any:
        """The condition of each example, as the network reads it."""
        condition = self.generator.condition
        if not condition.needs:
            return condition.of_batch(batch)
        with use(over_all_devices()), jax.named_scope("condition"):
            said = condition.encoded(frozen, condition.of_batch(batch))
        return jax.tree.map(lambda a: constrain(a, ("batch", *(None,) * (a.ndim - 1))), said)

    def _codes_key(self, key: jax.Array) -> jax.Array | None:
        return jax.random.fold_in(key, CODES) if self.prediction.sampled else None

    def _codes(self, frozen: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """Of pictures; continuous ones are drawn where there is a key, else their means."""
        if "tokens" in batch:
            codes, levels = batch["tokens"], self.generator.levels
            return codes if levels is None else levels.stored.of_level(codes, self.tokenizer.level)
        with use(over_all_devices()):
            images = constrain(to_float(batch["image"]), ("batch", None, None, None))
            params = frozen["tokenizer"]
            with jax.named_scope("tokenizer"):
                if key is None:
                    codes = self.tokenizer.encode(params, images)
                else:
                    codes = self.tokenizer.sampled(params, images, key)
        return constrain(codes, ("batch", "length", *(None,) * (codes.ndim - 2)))

    def _codes_of_levels(self, frozen: Any, batch: Batch, key: jax.Array | None) -> list[jax.Array]:
        """Of groups of pictures, [R, count, ...] of each level."""
        levels, found = self.generator.levels, []
        kind = "tokens" if self.stored_tokens else "image"
        pictures = levels.apart(levels.grouped(batch[kind]))
        for number, (name, part) in enumerate(zip(levels.names, pictures, strict=True)):
            own = None if key is None else jax.random.fold_in(key, number)
            codes = self.at(name)._codes(frozen, {kind: flat(part)}, own)
            found.append(codes.reshape(*part.shape[:2], *codes.shape[1:]))
        return found

    @functools.cached_property
    def _parameter_axes(self):
        axes = logical_axes(jax.eval_shape(self.generator.init, jax.random.key(0)))
        return override(axes, self.overrides)

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._parameter_axes)
