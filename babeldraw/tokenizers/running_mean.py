"""A codebook whose codes are running means of the latents that chose them, moved by no gradient.

Van den Oord et al., "Neural Discrete Representation Learning" (VQ-VAE), 2017, appendix A.1:
N <- g N + (1 - g) n and m <- g m + (1 - g) sum z, of each code, which then lies at m / N.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.tokenizers.lookup import RESTARTS, Quantized, quantize, straight_through
from babeldraw.tokenizers.vector_quantizers import INITS, TableConfig


@dataclasses.dataclass(frozen=True)
class RunningMeanConfig(TableConfig):
    """The nearest of a table of running means; see `RunningMeans`.

    Attributes:
      codebook_size, code_dim: V and Q; 20,000 x 256 in icetk.
      decay: g, the share of a mean that a step keeps, 0.99 in VQ-VAE.
      restart_how: as in `VQConfig`; a code that is moved begins anew, with an equal share.
      code_init: of `INITS`, what codes are drawn from.
    """

    codebook_size: int = 20000
    code_dim: int = 256
    decay: float = 0.99
    restart_how: str = "idle"
    code_init: str = "normal"
    kind: str = "running_mean"

    training_fields = ("decay", "restart_how", "code_init")
    beta_on = "commitment"
    entropy_temperature = 1.0

    def __post_init__(self):
        self._check("codebook_size", "code_dim")
        self._check_choice("restart_how", RESTARTS)
        self._check_choice("code_init", INITS)
        require(
            0 <= self.decay < 1,
            f"tokenizer.quantizer.decay is {self.decay}; a share in [0, 1) is needed",
        )

    def make(self) -> "RunningMeans":
        return RunningMeans(self.codebook_size, self.code_dim, self.code_init)

    def follow(self, params: Any, q: Quantized) -> Any:
        """The means after a step. A code that nothing chose stays where it is, bit for bit.

        Args:
          params: of the module, before the step.
          q: of the step's batch, over all devices.
        """
        table_VQ, count_V = params["table"], params["count"]
        ids_N = q.ids.reshape(-1)
        latents_NQ = jax.lax.stop_gradient(q.latents).reshape(ids_N.size, -1)
        new_V = jnp.zeros_like(count_V).at[ids_N].add(1.0)
        sum_VQ = jnp.zeros_like(table_VQ).at[ids_N].add(latents_NQ)
        kept_V = self.decay * count_V
        total_V = kept_V + (1 - self.decay) * new_V
        # Of a step from the code to the mean of its latents, as a difference: exact where it is 0.
        share_V = jnp.where(new_V > 0, (1 - self.decay) / jnp.maximum(total_V, 1e-30), 0.0)
        away_VQ = sum_VQ - new_V[:, None] * table_VQ
        return {"table": table_VQ + share_V[:, None] * away_VQ, "count": total_V}

    def restart(
        self, params: Any, share: jax.Array, q: Quantized, below: float, key: jax.Array
    ) -> tuple[Any, jax.Array]:
        table, after = RESTARTS[self.restart_how](params["table"], share, q, below, key)
        moved_V = jnp.any(table != params["table"], axis=-1)
        equal = q.ids.size / self.codebook_size
        return {"table": table, "count": jnp.where(moved_V, equal, params["count"])}, after


class RunningMeans(nn.Module):
    """V codes of Q values with their running counts.

    The only term of the loss is the commitment.

    Attributes:
      size, dim: V and Q.
      code_init: of `INITS`.
    """

    size: int
    dim: int
    code_init: str = "normal"

    def setup(self):
        drawn = INITS[self.code_init](self.size)
        init = nn.with_logical_partitioning(drawn, ("vocab", "code_dim"))
        self.table = self.param("table", init, (self.size, self.dim))
        count = nn.with_logical_partitioning(nn.initializers.ones, ("vocab",))
        self.count = self.param("count", count, (self.size,))

    def codes(self) -> jax.Array:
        """float32 [V, Q]."""
        return self.table

    def __call__(self, z: jax.Array, with_entropy: bool = False) -> Quantized:
        """Quantizes float32 [..., Q]."""
        del with_entropy
        found = quantize(z, jax.lax.stop_gradient(self.table))
        return found.replace(codes=straight_through(found.codes, z), codebook_loss=None)

    def lookup(self, ids: jax.Array) -> jax.Array:
        """int32 [...] -> float32 [..., Q]."""
        return jnp.take(self.table, ids, axis=0, mode="clip")
