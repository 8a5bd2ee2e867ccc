"""Samplers: from noise to codes in steps, each by what a network says of noisy codes.

A sampler takes one step: `sampler(model, noisy, move, keys_B) -> codes`, less noisy ones. Rows do
not meet: what a row draws, it draws by its own key.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from babeldraw.prediction.noising import (
    STEPS,
    Moves,
    log_variance_at,
    posterior_mean,
    without_noise,
)

# (noisy codes, their time) -> what the network says, float32 [B, *shape, C or 2 C].
Model = Callable[[jax.Array, jax.Array], jax.Array]
Sampler = Callable[[Model, jax.Array, Moves, jax.Array], jax.Array]


def euler(model: Model, noisy: jax.Array, move: Moves, keys_B: jax.Array) -> jax.Array:
    """The flow's slope where the step begins: an error of the first order in the step's length."""
    del keys_B
    return noisy + _length(move) * model(noisy, move.time)


def heun(model: Model, noisy: jax.Array, move: Moves, keys_B: jax.Array) -> jax.Array:
    """The mean of the slopes at both ends of Euler's step: of the second order, twice the work."""
    del keys_B
    length, slope = _length(move), model(noisy, move.time)
    other = model(noisy + length * slope, move.next)
    return noisy + length * (slope + other) / 2


def ddim(model: Model, noisy: jax.Array, move: Moves, keys_B: jax.Array) -> jax.Array:
    """The codes that the noise belongs to, with less of the same noise.

    Song et al., "Denoising Diffusion Implicit Models", 2021, equation 12 without new noise.
    """
    del keys_B
    own = move.numbers
    noise = model(noisy, move.time)[..., : noisy.shape[-1]]
    codes = without_noise(own, noisy, noise)
    return jnp.sqrt(own["before"]) * codes + jnp.sqrt(1 - own["before"]) * noise


def ancestral(model: Model, noisy: jax.Array, move: Moves, keys_B: jax.Array) -> jax.Array:
    """A draw of the step back (Ho et al., 2020, algorithm 2); in the last step its mean.

    Its variance is what the network says, or else that of known codes (the smaller of their
    section 3.2).
    """
    own, channels = move.numbers, noisy.shape[-1]
    said = model(noisy, move.time)
    mean = posterior_mean(own, noisy, without_noise(own, noisy, said[..., :channels]))
    log_variance = own["log_posterior"]
    if said.shape[-1] > channels:
        log_variance = log_variance_at(own, said[..., channels:])
    new = jax.vmap(lambda key: jax.random.normal(key, noisy.shape[1:]))(keys_B)
    return mean + jnp.where(own["before"] < 1, jnp.exp(log_variance / 2), 0.0) * new


def _length(move: Moves) -> jax.Array:
    return (move.next - move.time) / STEPS


# By name; and how often each asks the network in a step, where that is not once.
SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "heun": heun,
    "ddim": ddim,
    "ancestral": ancestral,
}
PASSES = {"heun": 2}
