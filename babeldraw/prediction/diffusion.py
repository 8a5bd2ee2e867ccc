"""Diffusion: all continuous codes at once, from noise to codes in some steps.

Flow matching on straight paths, or DDPM (`noising`); drawn by the samplers of `samplers`, with
classifier-free guidance (Ho and Salimans, 2022) in an interval of times (Kynkäänniemi et al.,
"Applying Guidance in a Limited Interval Improves Sample and Distribution Quality", 2024).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require, require_choice
from babeldraw.models.base import Generator
from babeldraw.models.levels import flat
from babeldraw.prediction.base import Given, Metrics, Prediction, mean_of_levels
from babeldraw.prediction.diffusion_sampling import DiffusionSampling, DiffusionSettings
from babeldraw.prediction.logits import guide, risen
from babeldraw.prediction.noising import DDPM, STEPS, Flow, Moves, mean_of_each
from babeldraw.prediction.samplers import PASSES, SAMPLERS

OBJECTIVES, TIMES = ("flow", "ddpm"), ("uniform", "logit_normal")
# Times and noises by which an example is scored.
SCORES = 8
# What an example's or a row's key is folded with for its noise; steps of drawing come after it.
NOISE = 0


@flax.struct.dataclass
class _Noised:
    """Attributes:
    codes: scaled.
    noise, noisy: of their shape.
    time_B: how noisy each is.
    keys: of the network's dropout.
    """

    codes: jax.Array
    noise: jax.Array
    noisy: jax.Array
    time_B: jax.Array
    keys: jax.Array


@dataclasses.dataclass(frozen=True)
class DiffusionPrediction(Prediction):
    """Noise in continuous codes, which are drawn by taking it away.

    What a network must have: see `models.denoiser.Denoiser`. Codes are learned as
    (code - shift) * scale, whose values shall be near mean 0 and deviation 1, and drawn as they
    were.

    Attributes:
      objective: flow or ddpm.
      times: of training: uniform; or logit_normal, of flow.
      shift, scale: one number for all channels, or one for each; (): measured on the data when a
        training run begins, and kept in its config. Where nothing was measured, 0 and 1.
      pictures: on which they are measured.
      sampled: training reads codes drawn from what the tokenizer says of a picture, not their
        means; each step draws anew.
    """

    objective: str = "flow"
    times: str = "uniform"
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    pictures: int = 1024
    sampled: bool = False
    kind: str = "diffusion"
    needs = ("predicted", "read", "denoise")
    sampling = DiffusionSampling

    def __post_init__(self):
        path = "config.prediction"
        require_choice(self, "objective", OBJECTIVES)
        require_choice(self, "times", TIMES)
        require(
            self.objective == "flow" or self.times == "uniform",
            f"times is {self.times!r} and objective {self.objective!r}, whose times are uniform",
        )
        require(self.pictures >= 1, f"{path}.pictures is {self.pictures}; at least 1 is needed")
        require(
            bool(self.shift) == bool(self.scale),
            f"{path}.shift is {self.shift} and scale {self.scale}; give both, or () for both to "
            "have them measured",
        )
        require(
            all(map(math.isfinite, (*self.shift, *self.scale))) and all(s > 0 for s in self.scale),
            f"{path}.shift is {self.shift} and scale {self.scale}; finite numbers are needed, and "
            "scales above 0",
        )

    @property
    def process(self) -> Flow | DDPM:
        return Flow(self.times == "logit_normal") if self.objective == "flow" else DDPM()

    @property
    def measures(self) -> bool:
        """Whether shift and scale are to be measured."""
        return not self.scale

    def tiny(self) -> "DiffusionPrediction":
        """The same for a first run, whose tokenizer has other channels."""
        return dataclasses.replace(self, pictures=16, shift=(), scale=())

    def check(self, generator: Generator) -> None:
        super().check(generator)
        channels = generator.codes.channels
        for name in ("shift", "scale"):
            value = getattr(self, name)
            require(
                len(value) in (0, 1, channels),
                f"config.prediction.{name} has {len(value)} numbers and the tokenizer's codes "
                f"{channels} channels; one number, or one for each, is needed",
            )
        require(
            not generator.learned_variance or self.objective == "ddpm",
            "config.model.learned_sigma is True and config.prediction.objective "
            f"{self.objective!r}, which draws no noise in its steps; take ddpm, or leave it out",
        )

    def check_sampling(self, settings: Any, generator: Generator, path: str = "") -> None:
        super().check_sampling(settings, generator, path)
        process, channels = self.process, generator.codes.channels
        require(
            settings.sampler in process.samplers,
            f"{path}sampler is {settings.sampler!r}, which config.prediction.objective="
            f"{self.objective} does not know; take {' or '.join(process.samplers)}",
        )
        require(
            settings.steps <= process.most_steps,
            f"{path}steps is {settings.steps} and the process has {process.most_steps}; give as "
            "many at most",
        )
        require(
            settings.guided_channels <= channels,
            f"{path}guided_channels is {settings.guided_channels} and the codes have {channels} "
            "channels; give as many at most, or 0 for all",
        )

    def scaled(self, codes: jax.Array) -> jax.Array:
        """Codes as they are learned."""
        shift, scale = self._of_channels(codes)
        return (codes - shift) * scale

    def unscaled(self, codes: jax.Array) -> jax.Array:
        """The inverse."""
        shift, scale = self._of_channels(codes)
        return codes / scale + shift

    def _of_channels(self, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        numbers = (jnp.float32(self.shift or (0.0,)), jnp.float32(self.scale or (1.0,)))
        shape = (*(1,) * (codes.ndim - 1), -1)
        return tuple(jnp.broadcast_to(one.reshape(shape), codes.shape) for one in numbers)

    def loss(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """The squared error of what the network says of the noise, the mean over all values.

        With learned variances their term is added (`DDPM.variance_term`), metric `variance`.
        """
        del step
        drawn = self._noised(codes, keys)
        said = generator.predicted(params, condition, drawn.noisy, drawn.time_B, drawn.keys)
        return self._error(generator, drawn, said)

    def loss_of_levels(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        codes: list[jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """As `Prediction.loss_of_levels`, in one pass of the network where groups are packed."""
        levels = generator.levels
        if not levels.packed:
            return super().loss_of_levels(generator, params, condition, codes, keys, step)
        pairs = zip(codes, levels.apart(keys), strict=True)
        drawn = [self._noised(*map(flat, pair)) for pair in pairs]
        noisy = [
            one.noisy.reshape(-1, count, *one.noisy.shape[1:])
            for one, count in zip(drawn, levels.counts, strict=True)
        ]
        time_RP, own_keys = levels.joined([(one.time_B, one.keys) for one in drawn])
        said = generator.predicted_packed(params, condition, noisy, time_RP, own_keys)
        pairs = zip(drawn, map(flat, said), strict=True)
        return mean_of_levels(levels, [self._error(generator, *pair) for pair in pairs])

    def _noised(self, codes: jax.Array, keys: jax.Array) -> _Noised:
        """Codes at times that are drawn for them."""
        own_B3 = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        codes = self.scaled(codes)
        time_B = self.process.draw_times(own_B3[:, 0])
        noise = _noise(own_B3[:, 1], codes.shape[1:])
        noisy = self.process.noised(codes, noise, time_B)
        return _Noised(codes, noise, noisy, time_B, own_B3[:, 2])

    def _error(
        self, generator: Generator, drawn: _Noised, said: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The loss of what the network says of noisy codes, and its terms."""
        codes, process = drawn.codes, self.process
        said, places = said[..., : codes.shape[-1]], said[..., codes.shape[-1] :]
        loss = jnp.mean(jnp.square(said - process.target(codes, drawn.noise)))
        if not generator.learned_variance:
            return loss, {"loss": loss}
        term = process.variance_term(codes, drawn.noisy, said, places, drawn.time_B)
        term = jnp.mean(term)
        return loss + term, {"loss": loss + term, "squared_error": loss, "variance": term}

    def score(
        self, generator: Generator, params: Any, condition: Any, codes: jax.Array
    ) -> jax.Array:
        """The loss's squared error, float32 [B], by `SCORES` times and noises.

        These are the same for all examples and all times, so that runs and checkpoints compare. It
        is no -log p: a bound of it whose times have other weights (Kingma and Gao, "Understanding
        Diffusion Objectives as the ELBO with Simple Data Augmentation", 2023).
        """
        codes, process = self.scaled(codes), self.process
        rng = np.random.default_rng(0)
        noises = jnp.asarray(rng.standard_normal((SCORES, *codes.shape[1:]), np.float32))
        context = generator.read(params, condition)

        def add(sum_B, drawn):
            time, noise = drawn
            time_B = jnp.broadcast_to(time, codes.shape[:1])
            noise = jnp.broadcast_to(noise[None], codes.shape)
            noisy = process.noised(codes, noise, time_B)
            said = generator.denoise(params, context, noisy, time_B)[..., : codes.shape[-1]]
            error = jnp.square(said - process.target(codes, noise))
            return sum_B + mean_of_each(error), None

        drawn = (jnp.asarray(process.even_times(SCORES)), noises)
        sum_B, _ = jax.lax.scan(add, jnp.zeros(codes.shape[:1]), drawn)
        return sum_B / SCORES

    def draw(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        keys: jax.Array,
        settings: DiffusionSettings,
        given: Given | None = None,
        guided: bool = True,
    ) -> jax.Array:
        """As `Prediction.draw`.

        A row begins with the noise of `fold_in(key, 0)`; step s = 0, 1, ... draws with
        `fold_in(key, 1 + s)`. Kept codes stand in every step with that first noise, as much as its
        time has.
        """
        if given is not None and given.again is not None:
            raise ValueError("diffusion draws from noise, not from what stands there")
        what, process = generator.codes, self.process
        noise = _noise(_folded(keys, NOISE), what.each)
        model = _model(generator, params, condition, keys.shape[0], settings, guided)
        sampler, kept = SAMPLERS[settings.sampler], None
        if given is not None:
            there, kept = self.scaled(given.codes), _each(given.kept, noise)

        def step(noisy, numbered):
            number, move = numbered
            if kept is not None:
                time_B = jnp.broadcast_to(move.time, keys.shape[:1])
                noisy = jnp.where(kept, process.noised(there, noise, time_B), noisy)
            own_B = _folded(keys, NOISE + 1 + number)
            return sampler(lambda x, time: model(x, time, move), noisy, move, own_B), None

        numbered = (jnp.arange(settings.steps), process.moves(settings.steps))
        codes, _ = jax.lax.scan(step, noise, numbered)
        codes = self.unscaled(codes)
        return codes if kept is None else jnp.where(kept, given.codes, codes)

    def step(
        self, generator: Generator, params: Any, condition: Any, samples: int, settings: Any
    ) -> tuple[Callable, tuple[Any, ...], int]:
        """One pass over all codes, as many times as the sampler asks for."""
        rows = jax.tree.leaves(condition)[0].shape[0] * samples

        def read(params, condition):
            return _read(generator, params, condition, rows)

        context = jax.eval_shape(read, params, condition)
        time_B = jax.ShapeDtypeStruct((rows,), jnp.float32)
        passes = settings.steps * PASSES.get(settings.sampler, 1)
        return generator.denoise, (context, generator.codes.spec(rows), time_B), passes


def _read(generator: Generator, params: Any, condition: Any, rows: int) -> Any:
    """What the network makes of conditions, a row for each of the codes."""
    prompts = jax.tree.leaves(condition)[0].shape[0]
    context = generator.read(params, condition)
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, rows // prompts, axis=0), context)


def _model(
    generator: Generator,
    params: Any,
    condition: Any,
    batch: int,
    settings: DiffusionSettings,
    guided: bool,
) -> Callable[[jax.Array, jax.Array, Moves], jax.Array]:
    """What the network says of noisy codes at a time of a move, guided where that is asked for."""
    told = _read(generator, params, condition, batch)

    def alone(noisy: jax.Array, time: jax.Array) -> jax.Array:
        return generator.denoise(params, told, noisy, jnp.broadcast_to(time, (batch,)))

    if not guided:
        return lambda noisy, time, move: alone(noisy, time)
    nothing = _read(generator, params, generator.condition.nothing(condition), batch)
    both = jax.tree.map(lambda *rows: jnp.concatenate(rows), told, nothing)
    channels = settings.guided_channels or generator.codes.channels

    def with_guidance(noisy: jax.Array, time: jax.Array, move: Moves) -> jax.Array:
        time_B = jnp.broadcast_to(time, (2 * batch,))
        said = generator.denoise(params, both, jnp.concatenate([noisy, noisy]), time_B)
        said, unsaid = jnp.split(said, 2)
        share = risen(settings.guidance_schedule, move.place, settings.guidance_power)
        scale = 1 + (settings.guidance - 1) * share
        # Variances, and channels that are not guided, are those of the condition.
        first = guide(said[..., :channels], unsaid[..., :channels], scale)
        return jnp.concatenate([first, said[..., channels:]], axis=-1)

    def model(noisy: jax.Array, time: jax.Array, move: Moves) -> jax.Array:
        if settings.always:
            return with_guidance(noisy, time, move)
        low, high = STEPS * settings.guidance_low, STEPS * settings.guidance_high
        inside = (low <= time) & (time <= high)
        return jax.lax.cond(
            inside,
            with_guidance,
            lambda noisy, time, move: alone(noisy, time),
            *(noisy, time, move),
        )

    return model


def _noise(keys_B: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal noise of each row, float32 [B, *shape]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)


def _folded(keys_B: jax.Array, number: jax.Array | int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)


def _each(kept_BT: jax.Array, codes: jax.Array) -> jax.Array:
    """Of each place, for all channels of its code."""
    kept = kept_BT.reshape(*codes.shape[:-1], 1)
    return jnp.broadcast_to(kept, codes.shape)
