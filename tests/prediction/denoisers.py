"""Stand-ins for networks: what they say of noisy codes is known."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.models.conditions import ClassCondition
from babeldraw.models.denoiser import Denoiser
from babeldraw.prediction.noising import DDPM
from babeldraw.tokenizers.base import Codes

CODES = Codes((2, 3), (), 4)


@dataclasses.dataclass(frozen=True)
class KnownConfig:
    kind: str = "known"


@dataclasses.dataclass(frozen=True)
class Known(Denoiser):
    """Says `say(noisy, time, label)` of each row, all of them with the codes' dimensions."""

    say: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    codes: Codes = CODES
    condition: Any = ClassCondition(3, 0.1)
    config: Any = KnownConfig()
    learned_variance: bool = False

    def read(self, params, condition):
        del params
        return condition

    def denoise(self, params, context, noisy, time_B):
        del params

        def over(values):
            values = values.astype(jnp.float32).reshape(-1, *(1,) * (noisy.ndim - 1))
            return jnp.broadcast_to(values, noisy.shape)

        return self.say(noisy, over(time_B), over(context))

    def predicted(self, params, condition, noisy, time_B, keys=None):
        del keys
        return self.denoise(params, condition, noisy, time_B)


def flow_of_gaussian(mean: float, deviation: float) -> Callable:
    """The slope of the flow whose codes are normal: E[noise - codes | noisy]."""

    def say(noisy, time, label):
        del label
        t = time / 1000
        variance = ((1 - t) * deviation) ** 2 + t**2
        away = (noisy - (1 - t) * mean) / variance
        return t * away - mean - (1 - t) * deviation**2 * away

    return say


def noise_of_gaussian(mean: float, deviation: float) -> Callable:
    """The same for DDPM: E[noise | noisy]."""
    kept = jnp.asarray(DDPM().kept, jnp.float32)

    def say(noisy, time, label):
        del label
        a = kept[time.astype(jnp.int32)]
        away = noisy - jnp.sqrt(a) * mean
        return jnp.sqrt(1 - a) * away / (a * deviation**2 + 1 - a)

    return say


def noises(keys, shape, number=None):
    """Normal noise of each key, or of what it is folded with."""
    if number is not None:
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    return np.stack([np.asarray(jax.random.normal(key, shape), np.float64) for key in keys])
