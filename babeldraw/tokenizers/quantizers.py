"""Vector quantizers: the nearest code of a learned codebook."""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import OfKind, require
from babeldraw.layers.linear import l2_normalize


@flax.struct.dataclass
class Quantized:
    """Attributes:
    codes: float32 [..., Q], the chosen codes, with the gradient passed straight through.
    ids: int32 [...].
    latents: float32 [..., Q], as compared with the codes (normalised when they are).
    codebook_loss, commitment_loss: float32 scalars, the two terms of L_VQ without beta.
    """

    codes: jax.Array
    ids: jax.Array
    latents: jax.Array
    codebook_loss: jax.Array
    commitment_loss: jax.Array


def nearest(z: jax.Array, codes_VQ: jax.Array) -> jax.Array:
    """Index of the code at the least Euclidean distance. [..., Q] -> int32 [...]."""
    half_norms_V = 0.5 * jnp.sum(jnp.square(codes_VQ), axis=-1)
    # argmin |z - e|^2 = argmax z.e - |e|^2 / 2: the term |z|^2 is the same for all codes.
    scores = jnp.einsum("...Q,VQ->...V", z, codes_VQ)
    return jnp.argmax(scores - jnp.broadcast_to(half_norms_V, scores.shape), axis=-1)


def quantize(z: jax.Array, codes_VQ: jax.Array) -> Quantized:
    """Replaces each vector by its nearest code, straight-through.

    L_VQ = |sg[z] - e|^2 + beta |z - sg[e]|^2, means over all elements (ViT-VQGAN, equation 1); beta
    is the caller's. The gradient with respect to the output goes to z unchanged.
    """
    with jax.named_scope("quantize"):
        ids = nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(codes_VQ))
        chosen = jnp.take(codes_VQ, ids, axis=0)
        return Quantized(
            codes=z + jax.lax.stop_gradient(chosen - z),
            ids=ids.astype(jnp.int32),
            latents=z,
            codebook_loss=jnp.mean(jnp.square(jax.lax.stop_gradient(z) - chosen)),
            commitment_loss=jnp.mean(jnp.square(z - jax.lax.stop_gradient(chosen))),
        )


@dataclasses.dataclass(frozen=True)
class VQConfig:
    """The nearest of a table of vectors; see `Codebook`.

    Attributes:
      codebook_size: V, 8192 in ViT-VQGAN.
      code_dim: Q of the factorized lookup, 32 in ViT-VQGAN.
      l2_normalized: normalise latents and codes before the lookup.
    """

    codebook_size: int = 8192
    code_dim: int = 32
    l2_normalized: bool = True
    kind: str = "vq"

    def __post_init__(self):
        for name in ("codebook_size", "code_dim"):
            value = getattr(self, name)
            require(value >= 1, f"tokenizer.quantizer.{name} is {value}; at least 1 is needed")
        require(
            self.codebook_size < 2**31,
            f"tokenizer.quantizer.codebook_size is {self.codebook_size}; ids are int32, so below "
            f"{2**31}",
        )

    def tiny(self) -> "VQConfig":
        """The same for a first run."""
        return dataclasses.replace(self, codebook_size=64, code_dim=8)

    @property
    def vocab(self) -> tuple[int, ...]:
        """Values of each factor of a code."""
        return (self.codebook_size,)

    def make(self) -> "Codebook":
        """The module that quantizes."""
        return Codebook(self.codebook_size, self.code_dim, self.l2_normalized)


class Codebook(nn.Module):
    """V codes of Q dimensions, drawn from a standard normal; lookup on the unit sphere.

    With l2-normalised codes and latents, Euclidean distance is cosine similarity (ViT-VQGAN,
    section 3.1).

    Attributes:
      size, dim: V and Q.
      l2_normalized: normalise both sides before the lookup.
    """

    size: int
    dim: int
    l2_normalized: bool = True

    def setup(self):
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "code_dim"))
        self.table = self.param("table", init, (self.size, self.dim))

    def codes(self) -> jax.Array:
        """float32 [V, Q], as they are looked up."""
        return l2_normalize(self.table) if self.l2_normalized else self.table

    def __call__(self, z: jax.Array) -> Quantized:
        """Quantizes float32 [..., Q]."""
        return quantize(l2_normalize(z) if self.l2_normalized else z, self.codes())

    def lookup(self, ids: jax.Array) -> jax.Array:
        """int32 [...] -> float32 [..., Q]."""
        return jnp.take(self.codes(), ids, axis=0, mode="clip")


def restart_idle(
    table_VQ: jax.Array, share_V: jax.Array, q: Quantized, below: float, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Moves idle codes to latents drawn with probability proportional to squared error.

    Args:
      table_VQ: the codebook.
      share_V: how much each code was used, in units of an equal share; remembers fifty batches.
      q: of this batch.
      below: the share under which a code is idle.
      key: of the draw.

    Returns:
      The codebook and the shares, those of moved codes 1.
    """
    size = table_VQ.shape[0]
    counts_V = jnp.zeros(size, jnp.float32).at[q.ids.reshape(-1)].add(1.0)
    share_V = 0.98 * share_V + 0.02 * counts_V * (size / q.ids.size)
    latents_NQ = jax.lax.stop_gradient(q.latents).reshape(-1, q.latents.shape[-1])
    chosen_NQ = jax.lax.stop_gradient(q.codes).reshape(latents_NQ.shape)
    error_N = jnp.sum(jnp.square(latents_NQ - chosen_NQ), axis=-1)
    # By the sums up to each latent: a number for each code, where Gumbel's way takes V times N.
    sums_N = jnp.cumsum(error_N + 1e-12)
    drawn_V = jnp.searchsorted(sums_N, jax.random.uniform(key, (size,)) * sums_N[-1])
    drawn_V = jnp.minimum(drawn_V, sums_N.size - 1)
    idle_V = share_V < below
    idle_VQ = jnp.broadcast_to(idle_V[:, None], table_VQ.shape)
    return jnp.where(idle_VQ, latents_NQ[drawn_V], table_VQ), jnp.where(idle_V, 1.0, share_V)


# By the field `kind` of the section `quantizer`: a new one is a class and a line here.
QUANTIZERS: dict[str, tuple[type]] = {"vq": (VQConfig,)}
QuantizerConfig = Annotated[Any, OfKind(QUANTIZERS)]
