"""From logits to a token: guidance, temperature, top-k, top-p. All settings are traced values."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Attributes:
    temperature: divides the logits; 0 takes the likeliest token. 1 in the VIM paper.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the likeliest tokens up to this mass; 1 keeps all.
    guidance: lambda of classifier-free guidance; 1 is the conditional model alone, 0 the
      unconditional one. 1.2 for the paper's FID figures.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self):
        require(self.temperature >= 0, f"temperature is {self.temperature}; at least 0 is needed")
        require(self.top_k >= 0, f"top_k is {self.top_k}; at least 0 is needed (0 keeps all)")
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; a mass in (0, 1] is needed")


@flax.struct.dataclass
class Settings:
    """`SamplingConfig` as scalars that a compiled loop takes as arguments."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    guidance: jax.Array

    @classmethod
    def of(cls, config: SamplingConfig) -> "Settings":
        return cls(
            temperature=jnp.float32(config.temperature),
            top_k=jnp.int32(config.top_k),
            top_p=jnp.float32(config.top_p),
            guidance=jnp.float32(config.guidance),
        )


def guide(conditional: jax.Array, unconditional: jax.Array, guidance: jax.Array) -> jax.Array:
    """Classifier-free guidance on logits, G(z) + lambda (G(z, c) - G(z)) (Parti, equation 1)."""
    return unconditional + guidance * (conditional - unconditional)


def filter_logits(logits_BV: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Sets to -inf what top-k and top-p leave out; the likeliest token always stays.

    Top-p keeps the smallest set of likeliest tokens whose mass reaches p.
    """
    vocab = logits_BV.shape[-1]
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    last = jnp.where(top_k > 0, jnp.minimum(top_k, vocab), vocab) - 1
    kth_B1 = jnp.take(sorted_BV, last, axis=-1)[:, None]
    probabilities_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
    # Rounding could leave out a tail that p = 1 must keep.
    inside_BV = (before_BV < top_p) | (top_p >= 1)
    pth_B1 = jnp.min(jnp.where(inside_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    threshold_B1 = jnp.maximum(kth_B1, pth_B1)
    keep_BV = logits_BV >= jnp.broadcast_to(threshold_B1, logits_BV.shape)
    return jnp.where(keep_BV, logits_BV, -jnp.inf)


def sample_tokens(keys_B: jax.Array, logits_BV: jax.Array, settings: Settings) -> jax.Array:
    """One token per row, int32 [B], each row with its own key."""
    greedy_B = jnp.argmax(logits_BV, axis=-1)
    temperature = jnp.maximum(settings.temperature, 1e-6)
    filtered_BV = filter_logits(logits_BV / temperature, settings.top_k, settings.top_p)
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, filtered_BV)
    return jnp.where(settings.temperature == 0, greedy_B, drawn_B).astype(jnp.int32)
