"""Continuous codes: a Gaussian at each place and no codebook, which makes a tokenizer a VAE."""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import OfKind, require_positive
from babeldraw.tokenizers.quantizers import QUANTIZERS
from babeldraw.tokenizers.vector_quantizers import Quantizer

# The logarithm of the variance stays within these; beyond them its exponential leaves float32.
LOG_VARIANCE = (-30.0, 20.0)


@flax.struct.dataclass
class Drawn:
    """Attributes:
    codes: float32 [..., Q], what the decoder reads: a sample in training, else the mean.
    ids: float32 [..., Q], the mean, which is the code of a place.
    terms: of the loss by name, without weights.
    """

    codes: jax.Array
    ids: jax.Array
    terms: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class GaussianConfig(Quantizer):
    """A diagonal Gaussian at each place; see `Gaussian`.

    Attributes:
      code_dim: Q, values of a code, 16 in TiTok's and TA-TiTok's. The weight of its term is
        `config.loss.kl`.
    """

    code_dim: int = 16
    kind: str = "gaussian"

    learned = False

    def __post_init__(self):
        require_positive(self, "tokenizer.quantizer", "code_dim")

    def tiny(self) -> "GaussianConfig":
        """The same for a first run."""
        return dataclasses.replace(self, code_dim=4)

    @property
    def vocab(self) -> tuple[int, ...]:
        return ()

    @property
    def latent_dim(self) -> int:
        return 2 * self.code_dim

    def make(self) -> "Gaussian":
        return Gaussian()


class Gaussian(nn.Module):
    """Means and log-variances to codes, drawn where there is a key of that name, else the means.

    The term `kl` is the divergence from a standard normal, summed over a picture's values, the mean
    over the batch (Kingma and Welling, 2014, appendix B; with these sums as in latent diffusion).
    """

    @nn.compact
    def __call__(self, z: jax.Array, with_entropy: bool = False) -> Drawn:
        """float32 [B, T, 2 Q]: means, then logarithms of variances."""
        del with_entropy
        mean, log_variance = jnp.split(z, 2, axis=-1)
        log_variance = jnp.clip(log_variance, *LOG_VARIANCE)
        variance = jnp.exp(log_variance)
        divergence = 0.5 * (jnp.square(mean) + variance - 1 - log_variance)
        codes = mean
        if self.has_rng("codes"):
            noise = jax.random.normal(self.make_rng("codes"), mean.shape)
            codes = mean + jnp.sqrt(variance) * noise
        return Drawn(codes, mean, {"kl": jnp.sum(divergence) / mean.shape[0]})

    def lookup(self, codes: jax.Array) -> jax.Array:
        """The decoder reads the codes themselves."""
        return codes


# Of a section `quantizer` that may have continuous codes.
BOTTLENECKS: dict[str, tuple[type]] = {**QUANTIZERS, "gaussian": (GaussianConfig,)}
BottleneckConfig = Annotated[Any, OfKind(BOTTLENECKS)]
