"""Learning-rate schedules, as functions of the step."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from babeldraw.config import require

KINDS = ("exponential", "cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, a flat part, a decay, constant after.

    The defaults are Babeldraw's (Parti): peak 4.5e-5, 5,000 steps of warm-up, flat to 85,000,
    exponential (log-linear) to 0.025 of the peak at 450,000.

    Attributes:
      peak: highest learning rate.
      warmup_steps: steps from `warmup_from` to the peak.
      warmup_from: first learning rate over the peak.
      decay_start: step at which the decay begins.
      decay_end: step at which it reaches `final_ratio`.
      final_ratio: last learning rate over the peak.
      kind: exponential, cosine, linear or constant.
      drops: steps from each of which on the rate is a tenth of what it would be, as in IBQ.
    """

    peak: float = 4.5e-5
    warmup_steps: int = 5_000
    decay_start: int = 85_000
    decay_end: int = 450_000
    final_ratio: float = 0.025
    kind: str = "exponential"
    warmup_from: float = 0.0
    drops: tuple[int, ...] = ()

    def __post_init__(self):
        path = "config.optimizer.schedule"
        require(
            self.kind in KINDS, f"{path}.kind is {self.kind!r}; the kinds are {', '.join(KINDS)}"
        )
        require(self.peak > 0, f"{path}.peak is {self.peak}; a positive rate is needed")
        require(self.warmup_steps >= 0, f"{path}.warmup_steps is {self.warmup_steps}; at least 0")
        require(
            0 <= self.warmup_from <= 1,
            f"{path}.warmup_from is {self.warmup_from}; a ratio in [0, 1] is needed",
        )
        require(
            self.warmup_steps <= self.decay_start < self.decay_end,
            f"{path} has warmup_steps={self.warmup_steps}, decay_start={self.decay_start}, "
            f"decay_end={self.decay_end}; they must be in this order",
        )
        require(
            all(step >= 1 for step in self.drops),
            f"{path}.drops is {self.drops}; steps of at least 1 are needed",
        )
        require(
            0 < self.final_ratio <= 1 or (self.kind == "linear" and self.final_ratio == 0),
            f"{path}.final_ratio is {self.final_ratio}; a ratio in (0, 1] is needed, or 0 with "
            "kind=linear",
        )

    def tiny(self) -> "ScheduleConfig":
        """The same for a first run."""
        return dataclasses.replace(self, warmup_steps=1, decay_start=2, decay_end=4, drops=())


def make_schedule(config: ScheduleConfig) -> optax.Schedule:
    """The learning rate as a function of the number of updates done, float32."""

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = (
            jnp.minimum(step / max(config.warmup_steps, 1), 1.0) if config.warmup_steps else 1.0
        )
        if config.warmup_from:
            warmup = config.warmup_from + (1 - config.warmup_from) * warmup
        span = config.decay_end - config.decay_start
        share = jnp.clip((step - config.decay_start) / span, 0.0, 1.0)
        rate = config.peak * warmup * _decay(config, share)
        for drop in config.drops:
            rate = jnp.where(step >= drop, 0.1 * rate, rate)
        return rate

    return schedule


def _decay(config: ScheduleConfig, share: jax.Array) -> jax.Array:
    """The rate over its peak when `share` in [0, 1] of the decay is done."""
    if config.kind == "exponential":
        return jnp.power(jnp.float32(config.final_ratio), share)
    if config.kind == "cosine":
        wave = 0.5 * (1 + jnp.cos(jnp.pi * share))
        return config.final_ratio + (1 - config.final_ratio) * wave
    if config.kind == "linear":
        return 1 - (1 - config.final_ratio) * share
    return jnp.ones_like(share)
