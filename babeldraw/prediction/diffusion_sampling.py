"""How diffusion draws: its section `sampling`, and the same as a compiled loop takes it."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require, require_choice
from babeldraw.prediction.logits import GUIDANCE_SCHEDULES, GuidanceConfig
from babeldraw.prediction.samplers import SAMPLERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionSampling(GuidanceConfig):
    """How codes are drawn; docs/diffusion.md has the published values.

    Times go from 1, noise, to 0; of DDPM they are a thousandth of its own.

    Attributes:
      steps: of the sampler.
      sampler: euler or heun, of the objective flow; ddim or ancestral, of ddpm.
      guidance_low, guidance_high: guidance is at times from the first to the second, both
        included; outside of them the unconditional branch is not computed.
      guided_channels: so many first channels of codes are guided, 3 of 4 in DiT's published code;
        0: all.
    """

    steps: int = 50
    sampler: str = "euler"
    guidance_low: float = 0.0
    guidance_high: float = 1.0
    guided_channels: int = 0

    def __post_init__(self):
        super().__post_init__()
        require(self.steps >= 1, f"steps is {self.steps}; at least 1 is needed")
        require_choice(self, "sampler", SAMPLERS)
        require(
            0 <= self.guidance_low < self.guidance_high <= 1,
            f"guidance_low and guidance_high are {self.guidance_low} and {self.guidance_high}; two "
            "times in [0, 1], the lower first, are needed",
        )
        require(
            self.guided_channels >= 0,
            f"guided_channels is {self.guided_channels}; at least 0 is needed (0 guides all)",
        )

    def tiny(self) -> "DiffusionSampling":
        """The same for a first run."""
        return dataclasses.replace(self, steps=2)

    def traced(self) -> "DiffusionSettings":
        """The same with what a compiled loop takes as arguments as scalars."""
        return DiffusionSettings(
            steps=self.steps,
            sampler=self.sampler,
            guided_channels=self.guided_channels,
            always=self.guidance_low == 0 and self.guidance_high == 1,
            guidance_low=jnp.float32(self.guidance_low),
            guidance_high=jnp.float32(self.guidance_high),
            guidance=jnp.float32(self.guidance),
            guidance_schedule=jnp.int32(GUIDANCE_SCHEDULES.index(self.guidance_schedule)),
            guidance_power=jnp.float32(self.guidance_power),
        )


@flax.struct.dataclass
class DiffusionSettings:
    """`DiffusionSampling` as a compiled loop takes it; of the first four each value is a program.

    Attributes:
      always: guidance is at all times.
    """

    steps: int = flax.struct.field(pytree_node=False)
    sampler: str = flax.struct.field(pytree_node=False)
    guided_channels: int = flax.struct.field(pytree_node=False)
    always: bool = flax.struct.field(pytree_node=False)
    guidance_low: jax.Array
    guidance_high: jax.Array
    guidance: jax.Array
    guidance_schedule: jax.Array
    guidance_power: jax.Array
