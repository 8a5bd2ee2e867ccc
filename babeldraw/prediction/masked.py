"""Masked prediction: all unknown codes at once, of which the surest stay, a few times.

Chang et al., "MaskGIT: Masked Generative Image Transformer", 2022; as in TiTok (Yu et al., "An
Image is Worth 32 Tokens for Reconstruction and Generation", 2024).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require, require_choice
from babeldraw.models.base import Generator
from babeldraw.prediction.base import Given, Metrics, Prediction
from babeldraw.prediction.logits import (
    GUIDANCE_SCHEDULES,
    GuidanceConfig,
    check_temperature,
    guide,
    risen,
)
from babeldraw.prediction.masking import (
    ORDERS,
    SCHEDULES,
    halton_places,
    left_masked,
    random_mask,
    ranks,
)

TEMPERATURE_SCHEDULES = ("constant", "linear")
# Masks by which an example is scored.
SCORE_MASKS = 8

# ------------------------------------------------------------------ how it draws


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedSampling(GuidanceConfig):
    """How codes are drawn; docs/masked.md has the published values.

    With T steps, after step s = 0, 1, ... the share r = (s + 1) / T of the way is gone. Guidance
    is at s / T of its own schedule.

    Attributes:
      steps: T, passes through the network; each number of them is a program of its own.
      schedule: of how many places stay masked, a name in `masking.SCHEDULES`.
      order: of which places stay masked, one of `masking.ORDERS`.
      temperature: of the draw of each code; 0 takes the likeliest.
      temperature_schedule: constant, or linear: times 1 - r.
      choice_temperature: weight of Gumbel noise on how sure a code is, times 1 - r; 0: none.
      logits_temperature: divides the logits, for the draw and for how sure a code is.
      logits_annealing: times 1 - r, what is added to that: TiTok has 0.5 and 0.8.
    """

    steps: int = 8
    schedule: str = "arccos"
    order: str = "probability"
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    choice_temperature: float = 4.5
    logits_temperature: float = 1.0
    logits_annealing: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        require(self.steps >= 1, f"steps is {self.steps}; at least 1 is needed")
        require_choice(self, "schedule", SCHEDULES)
        require_choice(self, "order", ORDERS)
        require_choice(self, "temperature_schedule", TEMPERATURE_SCHEDULES)
        check_temperature(self, "temperature", "choice_temperature", "logits_annealing")
        require(
            0 < self.logits_temperature < np.inf,
            f"logits_temperature is {self.logits_temperature}; more than 0 is needed",
        )

    def tiny(self) -> "MaskedSampling":
        """The same for a first run."""
        return dataclasses.replace(self, steps=2)

    def traced(self) -> "MaskedSettings":
        """The same as scalars that a compiled loop takes as arguments, all but `steps`."""
        return MaskedSettings(
            steps=self.steps,
            schedule=jnp.int32([*SCHEDULES].index(self.schedule)),
            order=jnp.int32(ORDERS.index(self.order)),
            temperature=jnp.float32(self.temperature),
            temperature_falls=jnp.float32(self.temperature_schedule == "linear"),
            choice_temperature=jnp.float32(self.choice_temperature),
            logits_temperature=jnp.float32(self.logits_temperature),
            logits_annealing=jnp.float32(self.logits_annealing),
            guidance=jnp.float32(self.guidance),
            guidance_schedule=jnp.int32(GUIDANCE_SCHEDULES.index(self.guidance_schedule)),
            guidance_power=jnp.float32(self.guidance_power),
        )


@flax.struct.dataclass
class MaskedSettings:
    """`MaskedSampling` as scalars that a compiled loop takes as arguments, all but `steps`."""

    steps: int = flax.struct.field(pytree_node=False)
    schedule: jax.Array
    order: jax.Array
    temperature: jax.Array
    temperature_falls: jax.Array
    choice_temperature: jax.Array
    logits_temperature: jax.Array
    logits_annealing: jax.Array
    guidance: jax.Array
    guidance_schedule: jax.Array
    guidance_power: jax.Array


# ------------------------------------------------------------------ the prediction


@dataclasses.dataclass(frozen=True)
class MaskedPrediction(Prediction):
    """Codes from the condition and whichever other codes are known.

    What a network must have: see `models.masked.Masked`.

    Attributes:
      schedule: of the share of places that training masks, a name in `masking.SCHEDULES`, at a
        place that each example draws evenly in [0, 1]. arccos in TiTok, cosine in MaskGIT.
      smoothing: of the labels; 0.1 in both.
      unmasked_weight: of the loss at places that are not masked; 0.1 in TiTok, 0 in MaskGIT.
    """

    schedule: str = "arccos"
    smoothing: float = 0.1
    unmasked_weight: float = 0.1
    kind: str = "masked"
    needs = ("masked_nll", "hidden", "factor_logits")
    sampling = MaskedSampling

    def __post_init__(self):
        require_choice(self, "schedule", SCHEDULES)
        for name, most in (("smoothing", "below 1"), ("unmasked_weight", "up to 1")):
            value = getattr(self, name)
            fits = 0 <= value < 1 or (name == "unmasked_weight" and value == 1)
            require(fits, f"{name} is {value}; a number from 0, {most}, is needed")

    def check_sampling(self, settings: Any, generator: Generator, path: str = "") -> None:
        super().check_sampling(settings, generator, path)
        length = generator.codes.length
        require(
            settings.steps <= length,
            f"{path}steps is {settings.steps} and a picture has {length} tokens, of which each "
            f"step draws one or more; give 1 to {length}",
        )

    def loss(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy over the batch's places, by weight; `accuracy`: of those that are masked.

        Each example draws how many of its places are masked, at least one, and which. The sum is
        divided by that of the weights, so an example counts the more, the more of it is masked.
        """
        del step
        weight = self.unmasked_weight
        return masked_loss(
            generator, params, condition, codes, keys, self.shares, weight, self.smoothing
        )

    def shares(self, key: jax.Array) -> jax.Array:
        """The share of an example's places that training masks, float32 []."""
        return SCHEDULES[self.schedule](jax.random.uniform(key), jnp)

    def score(
        self, generator: Generator, params: Any, condition: Any, codes: jax.Array
    ) -> jax.Array:
        """A bound of -log p, float32 [B], the mean over places: the same for equal examples.

        Drawn one by one in a random order, codes have a -log p whose mean over orders is at least
        theirs, and by place the mean of the masked places' over all numbers of masked ones
        (Hoogeboom et al., "Autoregressive Diffusion Models", 2022, equation 6). Estimated by
        `SCORE_MASKS` masks that are the same for all examples and all times.
        """
        return masked_score(generator, params, condition, codes, score_masks(codes.shape[1]))

    def draw(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        keys: jax.Array,
        settings: MaskedSettings,
        given: Given | None = None,
        guided: bool = True,
    ) -> jax.Array:
        """As `Prediction.draw`: given codes are seen by all others, whichever side they lie on.

        Step s of a row draws with `fold_in(key, s)`, factor f of its codes with f folded in, how
        sure they are with the number of factors. How many places stay masked is a row's own: the
        schedule's share of those that it began with, at least one fewer than before, at least one
        until the last step.
        """
        if given is not None and given.again is not None:
            raise ValueError("a masked code is drawn without a look at what stood there")
        batch, what = keys.shape[0], generator.codes
        context = read_rows(generator, params, condition, batch, guided)
        codes = jnp.zeros((batch, *what.each), jnp.int32)
        known_BT = jnp.zeros((batch, what.length), bool)
        if given is not None:
            codes, known_BT = jnp.asarray(given.codes), jnp.asarray(given.kept)
        begun_B = jnp.sum(~known_BT, axis=1)
        left_SN = jnp.asarray(left_masked(settings.steps, what.length))[settings.schedule]

        def step(carry, number):
            codes, known_BT = carry
            own_B = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            new, sure_BT = _drawn(
                generator, params, context, codes, known_BT, own_B, settings, number, guided
            )
            before_B = jnp.sum(~known_BT, axis=1)
            stay_B = jnp.maximum(jnp.minimum(left_SN[number, begun_B], before_B - 1), 1)
            stay_B = jnp.where(number == settings.steps - 1, 0, jnp.minimum(stay_B, before_B))
            masked_BT = ranks(jnp.where(known_BT, jnp.inf, sure_BT)) < stay_B[:, None]
            codes = jnp.where(of_factors(known_BT, codes), codes, new)
            return (codes, ~masked_BT), None

        (codes, _), _ = jax.lax.scan(step, (codes, known_BT), jnp.arange(settings.steps))
        return codes

    def step(
        self, generator: Generator, params: Any, condition: Any, samples: int, settings: Any
    ) -> tuple[Callable, tuple[Any, ...], int]:
        """One pass over all places, as many times as there are steps."""
        step, inputs = one_pass(generator, params, condition, samples)
        return step, inputs, settings.steps


# ------------------------------------------------------------------ what refinement shares


def masked_loss(
    generator: Generator,
    params: Any,
    condition: Any,
    codes: jax.Array,
    keys: jax.Array,
    shares: Callable[[jax.Array], jax.Array],
    unmasked_weight: float = 0.0,
    smoothing: float = 0.0,
) -> tuple[jax.Array, Metrics]:
    """Cross-entropy over the batch's places; see `MaskedPrediction.loss`.

    Args:
      generator, params, condition, codes, keys: as of `Prediction.loss`.
      shares: of an example's key the share of its places that is masked.
      unmasked_weight, smoothing: see `MaskedPrediction`.
    """
    own_B3 = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
    share_B = jax.vmap(shares)(own_B3[:, 0])
    count_B = jnp.maximum(jnp.round(codes.shape[1] * share_B), 1).astype(jnp.int32)
    masked_BT = random_mask(own_B3[:, 1], count_B, codes.shape[1])
    nll_BT, right_BT = generator.masked_nll(
        params, condition, codes, ~masked_BT, own_B3[:, 2], smoothing
    )
    weight_BT = jnp.where(masked_BT, 1.0, unmasked_weight)
    loss = jnp.sum(nll_BT * weight_BT) / jnp.sum(weight_BT)
    return loss, {"loss": loss, "accuracy": jnp.mean(right_BT, where=masked_BT)}


def masked_score(
    generator: Generator, params: Any, condition: Any, codes: jax.Array, masks_NT: np.ndarray
) -> jax.Array:
    """-log p of the places that each mask hides, float32 [B], the mean over them and the masks."""

    def add(sum_B, mask_T):
        known_BT = jnp.broadcast_to(~mask_T[None], codes.shape[:2])
        nll_BT = generator.masked_nll(params, condition, codes, known_BT)[0]
        return sum_B + jnp.mean(nll_BT, axis=-1, where=~known_BT), None

    sum_B, _ = jax.lax.scan(add, jnp.zeros(codes.shape[:1]), masks_NT)
    return sum_B / len(masks_NT)


def one_pass(
    generator: Generator, params: Any, condition: Any, samples: int
) -> tuple[Callable, tuple[Any, ...]]:
    """The program of one pass over all places, and its inputs, abstract; see `Prediction.step`."""
    rows = jax.tree.leaves(condition)[0].shape[0] * samples

    def read(params, condition):
        return read_rows(generator, params, condition, rows, guided=False)

    context = jax.eval_shape(read, params, condition)
    codes = generator.codes.spec(rows)
    known = jax.ShapeDtypeStruct(codes.shape[:2], jnp.bool_)

    def step(params, context, codes, known):
        hidden = generator.hidden(params, context, codes, known)
        drawn = jnp.zeros((*known.shape, len(generator.codes.vocab)), jnp.int32)
        return [
            generator.factor_logits(params, hidden, drawn[..., :number])
            for number in range(drawn.shape[-1])
        ]

    return step, (context, codes, known)


def score_masks(length: int) -> np.ndarray:
    """bool [SCORE_MASKS, T]: True is masked, numbers of places evenly from few to all but few."""
    share_N = (np.arange(SCORE_MASKS) + 0.5) / SCORE_MASKS
    count_N = np.maximum(np.round(share_N * length), 1)
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(length) < count for count in count_N])


# ------------------------------------------------------------------ one step of drawing


def read_rows(generator: Generator, params: Any, condition: Any, batch: int, guided: bool) -> Any:
    """What the network makes of the conditions, a row for each example, and for each without."""
    rows = condition
    if guided:
        nothing = generator.condition.nothing(condition)
        rows = jax.tree.map(lambda *both: jnp.concatenate(both), condition, nothing)
    context = generator.read(params, rows)
    samples = batch // jax.tree.leaves(condition)[0].shape[0]
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, samples, axis=0), context)


def _drawn(
    generator: Generator,
    params: Any,
    context: Any,
    codes: jax.Array,
    known_BT: jax.Array,
    keys_B: jax.Array,
    settings: MaskedSettings,
    number: jax.Array,
    guided: bool,
) -> tuple[jax.Array, jax.Array]:
    """A code at every place, and how sure it is, float32 [B, T]."""
    gone = (number + 1).astype(jnp.float32) / settings.steps
    sums = {"logit": 0.0, "log_p": 0.0}

    def choose(factor: int, logits_BTV: jax.Array) -> jax.Array:
        divisor = settings.logits_temperature + settings.logits_annealing * (1 - gone)
        logits_BTV = logits_BTV / divisor
        temperature = settings.temperature * (1 - settings.temperature_falls * gone)
        noise_BTV = _noise(keys_B, factor, logits_BTV.shape[1:])
        new_BT = jnp.argmax(logits_BTV + temperature * noise_BTV, axis=-1).astype(jnp.int32)
        sums["logit"] += _at(logits_BTV, new_BT)
        sums["log_p"] += _at(jax.nn.log_softmax(logits_BTV), new_BT)
        return new_BT

    guidance = _guidance(settings, number) if guided else None
    drawn = by_factors(generator, params, context, codes, known_BT, guidance, choose)
    noise_BT = _noise(keys_B, len(generator.codes.vocab), known_BT.shape[1:])
    noise_BT = settings.choice_temperature * (1 - gone) * noise_BT
    late_BT = _places_by_order(generator.codes.shape, known_BT.shape)
    sure_BT = jnp.stack([sums["logit"] + noise_BT, sums["log_p"] + noise_BT, -late_BT])
    return drawn, sure_BT[settings.order]


def by_factors(
    generator: Generator,
    params: Any,
    context: Any,
    codes: jax.Array,
    known_BT: jax.Array,
    guidance: jax.Array | None,
    choose: Callable[[int, jax.Array], jax.Array],
) -> jax.Array:
    """A code at every place in one pass, each factor given those drawn before it.

    Args:
      generator, params: the network.
      context: of `read_rows`.
      codes: as `Codes` says, of which the network sees those of `known_BT`, bool [B, T].
      guidance: float32 []; None: none.
      choose: from a factor's number and its logits, float32 [B, T, V], to int32 [B, T].
    """

    def rows(array: jax.Array) -> jax.Array:
        return array if guidance is None else jnp.concatenate([array, array])

    hidden = generator.hidden(params, context, rows(codes), rows(known_BT))
    drawn: list[jax.Array] = []
    for factor in range(len(generator.codes.vocab)):
        earlier = rows(jnp.stack(drawn, axis=-1)) if drawn else None
        logits_BTV = generator.factor_logits(params, hidden, earlier).astype(jnp.float32)
        if guidance is not None:
            logits_BTV = guide(*jnp.split(logits_BTV, 2), guidance)
        drawn.append(choose(factor, logits_BTV))
    return drawn[0] if len(drawn) == 1 else jnp.stack(drawn, axis=-1)


def _guidance(settings: MaskedSettings, number: jax.Array) -> jax.Array:
    """Of a step, float32 scalar."""
    place = number.astype(jnp.float32) / settings.steps
    share = risen(settings.guidance_schedule, place, settings.guidance_power)
    return 1 + (settings.guidance - 1) * share


def _noise(keys_B: jax.Array, number: int, shape: tuple[int, ...]) -> jax.Array:
    """Gumbel noise of each row, float32 [B, *shape]."""

    def one(key):
        uniform = jax.random.uniform(jax.random.fold_in(key, number), shape)
        return -jnp.log(jnp.maximum(-jnp.log(jnp.maximum(uniform, 1e-20)), 1e-20))

    return jax.vmap(one)(keys_B)


def _at(values_BTV: jax.Array, ids_BT: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values_BTV, ids_BT[..., None], axis=-1)[..., 0]


def of_factors(known_BT: jax.Array, codes: jax.Array) -> jax.Array:
    """Of each place, bool [B, T], for all factors of its code."""
    known = jnp.reshape(known_BT, known_BT.shape + (1,) * (codes.ndim - 2))
    return jnp.broadcast_to(known, codes.shape)


def _places_by_order(shape: tuple[int, ...], rows: tuple[int, ...]) -> jax.Array:
    """float32 [B, T]: which in the fixed order each place is."""
    late_T = np.argsort(halton_places(shape)).astype(np.float32)
    return jnp.broadcast_to(late_T[None], rows)
