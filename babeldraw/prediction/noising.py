"""How codes become noise, and what a network learns of it: flow matching, DDPM.

Times are in [0, 1000], whatever the process: at 0 there is no noise, at the other end nothing else.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

# Of DDPM (Ho et al., "Denoising Diffusion Probabilistic Models", 2020, section 4), as in DiT.
STEPS, BETA_FIRST, BETA_LAST = 1000, 1e-4, 0.02
# The width that the published code gives a value of the data, in the last step's likelihood: of 256
# in [-1, 1].
BIN = 2 / 255


@flax.struct.dataclass
class Moves:
    """The steps of a drawing, or one of them: float32 [steps], or [].

    Attributes:
      time: of the codes that a step begins with.
      next: of those that it ends with.
      place: share of the steps that were done before.
      numbers: what else the process's samplers want, by name.
    """

    time: jax.Array
    next: jax.Array
    place: jax.Array
    numbers: dict[str, jax.Array]


def spread(values_B: jax.Array, like: jax.Array) -> jax.Array:
    """One value for each example, over all of its own."""
    return jnp.broadcast_to(values_B.reshape(-1, *(1,) * (like.ndim - 1)), like.shape)


def mean_of_each(values: jax.Array) -> jax.Array:
    """float32 [B]: the mean over all but the first dimension."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


@dataclasses.dataclass(frozen=True)
class Flow:
    """Flow matching on straight paths: x_t = (1 - t) x + t noise, of which dx/dt is learned.

    Lipman et al., "Flow Matching for Generative Modeling", 2023; Liu et al., "Flow Straight and
    Fast", 2023. t is the time's thousandth.

    Attributes:
      logit_normal: in training logit t is normal, so that the middle of the way comes more often
        (Esser et al., "Scaling Rectified Flow Transformers", 2024, equation 19 with m = 0, s = 1);
        else t is uniform.
    """

    logit_normal: bool = False
    samplers = ("euler", "heun")
    most_steps = math.inf

    def draw_times(self, keys_B: jax.Array) -> jax.Array:
        """Of each example in training, float32 [B]."""
        if self.logit_normal:
            return STEPS * jax.nn.sigmoid(jax.vmap(jax.random.normal)(keys_B))
        return STEPS * jax.vmap(jax.random.uniform)(keys_B)

    def even_times(self, count: int) -> np.ndarray:
        """So many over the whole way, float32."""
        return np.float32(STEPS * (np.arange(count) + 0.5) / count)

    def noised(self, codes: jax.Array, noise: jax.Array, time_B: jax.Array) -> jax.Array:
        """Codes with noise, as much as the times say."""
        t = spread(time_B / STEPS, codes)
        return (1 - t) * codes + t * noise

    def target(self, codes: jax.Array, noise: jax.Array) -> jax.Array:
        """What a network learns to say of `noised`."""
        return noise - codes

    def moves(self, steps: int) -> Moves:
        """Of equal length, from noise to codes."""
        times = STEPS * (1 - np.arange(steps + 1) / steps)
        place = np.arange(steps) / steps
        return Moves(*(jnp.float32(a) for a in (times[:-1], times[1:], place)), {})


@dataclasses.dataclass(frozen=True)
class DDPM:
    """1,000 steps of a little noise each, whose sum is learned (Ho et al., 2020).

    At time t = 0 ... 999, x_t = sqrt(a_t) x + sqrt(1 - a_t) noise with a_t the product of 1 - beta
    up to it, betas in even steps from 1e-4 to 0.02.
    """

    samplers = ("ddim", "ancestral")
    most_steps = STEPS

    @property
    def kept(self) -> np.ndarray:
        """a_t, float64 [1000]: the share of the codes' variance that is left."""
        return np.cumprod(1 - np.linspace(BETA_FIRST, BETA_LAST, STEPS))

    def draw_times(self, keys_B: jax.Array) -> jax.Array:
        """Of each example in training, whole numbers, float32 [B]."""
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, STEPS))
        return draw(keys_B).astype(jnp.float32)

    def even_times(self, count: int) -> np.ndarray:
        """So many over the whole way, float32."""
        return np.float32(np.floor(STEPS * (np.arange(count) + 0.5) / count))

    def noised(self, codes: jax.Array, noise: jax.Array, time_B: jax.Array) -> jax.Array:
        """Codes with noise, as much as the times say."""
        kept_B = jnp.asarray(self.kept, jnp.float32)[time_B.astype(jnp.int32)]
        codes_part = spread(jnp.sqrt(kept_B), codes) * codes
        return codes_part + spread(jnp.sqrt(1 - kept_B), codes) * noise

    def target(self, codes: jax.Array, noise: jax.Array) -> jax.Array:
        """What a network learns to say of `noised`."""
        del codes
        return noise

    def moves(self, steps: int) -> Moves:
        """Of `steps` of the 1,000 times, the first and the last among them, from noise to codes.

        Between these a step adds as much noise as all that it stands for (Nichol and Dhariwal,
        "Improved Denoising Diffusion Probabilistic Models", 2021, section 4); one step alone begins
        at the last time.
        """
        used = np.round(np.linspace(0, STEPS - 1, steps)) if steps > 1 else np.float64([STEPS - 1])
        numbers = step_numbers(self.kept[used.astype(np.int64)])
        numbers = {name: jnp.float32(values[::-1]) for name, values in numbers.items()}
        after = np.concatenate([[0.0], used[:-1]])
        place = np.arange(steps) / steps
        return Moves(*(jnp.float32(a) for a in (used[::-1], after[::-1], place)), numbers)

    def variance_term(
        self,
        codes: jax.Array,
        noisy: jax.Array,
        noise: jax.Array,
        places: jax.Array,
        time_B: jax.Array,
    ) -> jax.Array:
        """What teaches a network how much noise a step draws: float32 [B], bits per value.

        The term of the variational bound that its time has (Nichol and Dhariwal, 2021, equation 16;
        the published code): of the two Gaussians of a step back, the true one's divergence from the
        network's. At time 0, -log p of the codes: by their density times the width that the
        published code gives a pixel, where that code integrates, for codes are no 8-bit pixels.

        Args:
          codes: scaled.
          noisy: `noised` of them.
          noise: what the network said of it; no gradient comes back.
          places: what it said of the variances, see `Denoiser.denoise`.
          time_B: float32.
        """
        table, at = step_numbers(self.kept), time_B.astype(jnp.int32)
        own = {name: spread(jnp.float32(table[name])[at], codes) for name in table}
        noise = jax.lax.stop_gradient(noise)
        true = posterior_mean(own, noisy, codes)
        mean = posterior_mean(own, noisy, without_noise(own, noisy, noise))
        log_variance = log_variance_at(own, places)
        apart = jnp.square(true - mean) * jnp.exp(-log_variance)
        ratio = own["log_posterior"] - log_variance
        divergence = 0.5 * (jnp.exp(ratio) - 1 - ratio + apart)
        away = jnp.square(codes - mean) * jnp.exp(-log_variance)
        density = 0.5 * (away + log_variance + math.log(2 * math.pi)) - math.log(BIN)
        first = spread(time_B == 0, codes)
        return mean_of_each(jnp.where(first, density, divergence)) / math.log(2)


# ------------------------------------------------------------------ one step back of DDPM


def step_numbers(kept: np.ndarray) -> dict[str, np.ndarray]:
    """What the steps between some times want, float64 of the shape of `kept`.

    Args:
      kept: a_t at those times, ascending times. Before the first there is no noise.
    """
    before = np.concatenate([[1.0], kept[:-1]])
    beta = 1 - kept / before
    posterior = beta * (1 - before) / (1 - kept)
    # The first is 0, whose logarithm the published code replaces by the second's.
    least = np.concatenate([posterior[1:2], posterior[1:]]) if len(kept) > 1 else beta
    return {
        "kept": kept,
        "before": before,
        "codes_part": beta * np.sqrt(before) / (1 - kept),
        "noisy_part": (1 - before) * np.sqrt(1 - beta) / (1 - kept),
        "log_beta": np.log(beta),
        "log_posterior": np.log(least),
    }


def without_noise(own: dict[str, Any], noisy: jax.Array, noise: jax.Array) -> jax.Array:
    """The codes that noisy ones come from, if the noise is this."""
    return (noisy - jnp.sqrt(1 - own["kept"]) * noise) / jnp.sqrt(own["kept"])


def posterior_mean(own: dict[str, Any], noisy: jax.Array, codes: jax.Array) -> jax.Array:
    """Mean of the codes one step back, given both ends (Ho et al., 2020, equation 7)."""
    return own["codes_part"] * codes + own["noisy_part"] * noisy


def log_variance_at(own: dict[str, Any], places: jax.Array) -> jax.Array:
    """Between the least, of known codes, and the most, beta: places -1 and 1 (equation 15)."""
    share = (places + 1) / 2
    return share * own["log_beta"] + (1 - share) * own["log_posterior"]
