"""Quantizers without a table: each value of a latent is rounded by itself.

LFQ has two values of each (Yu et al., "Language Model Beats Diffusion" (MAGVIT-v2), 2023, section
3.1), FSQ a few (Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", 2023).
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.tokenizers.lookup import Quantized, straight_through
from babeldraw.tokenizers.streamed import entropy_of_mean
from babeldraw.tokenizers.vector_quantizers import Quantizer

# Of ids, which are int32.
MOST_BITS = 30
# FSQ's values lie so much beyond the outermost ones at the most, that a tanh may reach these.
MARGIN = 1e-3


# ------------------------------------------------------------------ LFQ


@dataclasses.dataclass(frozen=True)
class LFQConfig(Quantizer):
    """A bit of each value; see `Bits`.

    Attributes:
      bits: values of a latent; 18 in Open-MAGVIT2, which is 262,144 codes.
      entropy_temperature: T of the entropy, 0.01; its weight, `config.loss.entropy`, is 0.1.
    """

    bits: int = 18
    entropy_temperature: float = 0.01
    kind: str = "lfq"

    optional_terms = ("entropy",)
    training_fields = ("entropy_temperature",)
    learned = False

    def __post_init__(self):
        require(
            1 <= self.bits <= MOST_BITS,
            f"tokenizer.quantizer.bits is {self.bits}; 1 to {MOST_BITS} are possible",
        )
        self._check()

    def tiny(self) -> "LFQConfig":
        """The same for a first run."""
        return dataclasses.replace(self, bits=8)

    @property
    def code_dim(self) -> int:
        return self.bits

    @property
    def codebook_size(self) -> int:
        """2^bits."""
        return 2**self.bits

    @property
    def vocab(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    def make(self) -> "Bits":
        return Bits(self.bits, self.entropy_temperature)


class Bits(nn.Module):
    """Codes of -1 and 1: the sign of each value, of which bit i of the id is value i's.

    Attributes:
      bits: Q.
      temperature: of the entropy.
    """

    bits: int
    temperature: float = 0.01

    def __call__(self, z: jax.Array, with_entropy: bool = False) -> Quantized:
        """Quantizes float32 [..., Q]; 0 is -1."""
        with jax.named_scope("quantize"):
            on = z > 0
            weights_Q = jnp.asarray(2 ** np.arange(self.bits), jnp.int32)
            codes = jnp.where(on, 1.0, -1.0)
            more = {"entropy": bit_entropy(z, self.temperature)} if with_entropy else {}
            return Quantized(
                codes=straight_through(codes, z),
                ids=jnp.einsum("...Q,Q->...", on.astype(jnp.int32), weights_Q),
                latents=z,
                codebook_loss=None,
                commitment_loss=jnp.mean(jnp.square(z - codes)),
                more=more,
            )

    def lookup(self, ids: jax.Array) -> jax.Array:
        """int32 [...] -> float32 [..., Q]."""
        bits = jnp.stack([(ids >> i) & 1 for i in range(self.bits)], axis=-1)
        return 2.0 * bits.astype(jnp.float32) - 1.0


def bit_entropy(z: jax.Array, temperature: float) -> jax.Array:
    """`lookup.entropy` of all 2^Q codes of -1 and 1, in closed form.

    Of the softmax of -|z - c|^2 / T, and of 2 z.c / T, which is the same, each bit is independent,
    1 with the probability sigmoid(4 z_i / T). So a latent's entropy is the sum of its bits'. And
    the mean of the products of two halves of the bits is a product of two matrices over all
    latents: N times 2^(Q/2) numbers and the 2^Q means stand there, N times 2^Q nowhere.
    """
    with jax.named_scope("entropy"):
        logits_NQ = z.reshape(-1, z.shape[-1]) * (4 / temperature)
        each_N = jnp.sum(jax.nn.softplus(logits_NQ), axis=-1)
        each_N = each_N - jnp.sum(jax.nn.sigmoid(logits_NQ) * logits_NQ, axis=-1)
        half = -(-z.shape[-1] // 2)
        low_NA, high_NB = map(_joint, (logits_NQ[:, :half], logits_NQ[:, half:]))
        mean_BA = jnp.einsum("NB,NA->BA", high_NB, low_NA) / each_N.shape[0]
        return jnp.mean(each_N) - entropy_of_mean(mean_BA.reshape(-1))


def _joint(logits_NQ: jax.Array) -> jax.Array:
    """Probabilities of all combinations of independent bits, [N, 2^Q]; bit i counts 2^i."""
    joint_NA = jnp.ones_like(logits_NQ, shape=(logits_NQ.shape[0], 1))
    for logits_N in logits_NQ.T:
        on_N1, off_N1 = (jax.nn.sigmoid(sign * logits_N)[:, None] for sign in (1, -1))
        joint_NA = jnp.concatenate([joint_NA * off_N1, joint_NA * on_N1], axis=1)
    return joint_NA


# ------------------------------------------------------------------ FSQ


@dataclasses.dataclass(frozen=True)
class FSQConfig(Quantizer):
    """A few values of each; see `Scalars`.

    Attributes:
      levels: numbers of values of each dimension of a code. The paper's are (8, 6, 5) for some 2^8
        codes, (8, 5, 5, 5) 2^10, (7, 5, 5, 5, 5) 2^12, (8, 8, 8, 6, 5) 2^14, (8, 8, 8, 5, 5, 5)
        2^16; (8, 8, 8, 8, 8, 8) is 2^18.
    """

    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    kind: str = "fsq"

    learned = False

    def __post_init__(self):
        require(
            len(self.levels) >= 1 and min(self.levels) >= 2,
            f"tokenizer.quantizer.levels is {self.levels}; at least 2 of each dimension are needed",
        )
        require(
            self.codebook_size < 2**31,
            f"tokenizer.quantizer.levels is {self.levels}, {self.codebook_size} codes; ids are "
            f"int32, so below {2**31}",
        )

    def check_new(self) -> None:
        require(
            min(self.levels) >= 3,
            f"tokenizer.quantizer.levels is {self.levels}; of two the bound's tanh gives hardly "
            "any gradient: take at least 3 of each dimension, or kind=lfq, which has two of each",
        )

    def tiny(self) -> "FSQConfig":
        """The same for a first run."""
        return dataclasses.replace(self, levels=(8, 5))

    @property
    def code_dim(self) -> int:
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        """The product of all levels."""
        return math.prod(self.levels)

    @property
    def vocab(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    def make(self) -> "Scalars":
        return Scalars(self.levels)


class Scalars(nn.Module):
    """Each value bounded by a tanh and rounded to one of L, as numbers in [-1, 1].

    A latent of zeros is a code of zeros: for even L, of which one more value lies below 0 than
    above, the tanh is moved. There is no loss: nothing but the decoder's moves the latents.

    Attributes:
      levels: L of each dimension; that of the first counts 1 in an id.
    """

    levels: tuple[int, ...]

    def __call__(self, z: jax.Array, with_entropy: bool = False) -> Quantized:
        """Quantizes float32 [..., Q]."""
        del with_entropy
        with jax.named_scope("quantize"):
            levels = np.asarray(self.levels, np.float32)
            reach, even = (levels - 1) * (1 + MARGIN) / 2, np.where(levels % 2 == 0, 0.5, 0)
            moved = np.arctanh(even / reach)
            reach, even, moved = (_like(row, z) for row in (reach, even, moved))
            bounded = jnp.tanh(z + moved) * reach - even
            steps = straight_through(jnp.round(bounded), bounded)
            digits = jax.lax.stop_gradient(steps + _like(self._below, z)).astype(jnp.int32)
            weights_Q = jnp.asarray(self._weights, jnp.int32)
            return Quantized(
                codes=steps / _like(self._below, z),
                ids=jnp.einsum("...Q,Q->...", digits, weights_Q),
                latents=z,
                codebook_loss=None,
                commitment_loss=None,
            )

    def lookup(self, ids: jax.Array) -> jax.Array:
        """int32 [...] -> float32 [..., Q]."""
        places = zip(self._weights, self.levels, strict=True)
        digits = jnp.stack([ids // weight % level for weight, level in places], axis=-1)
        below = _like(self._below, digits)
        return (digits.astype(jnp.float32) - below) / below

    @property
    def _below(self) -> np.ndarray:
        """How many of the values of each dimension lie below 0."""
        return np.asarray(self.levels) // 2

    @property
    def _weights(self) -> tuple[int, ...]:
        """Of each dimension in an id."""
        return tuple(math.prod(self.levels[:i]) for i in range(len(self.levels)))


def _like(row: np.ndarray, z: jax.Array) -> jax.Array:
    """A row for the last dimension, float32, over all others of z."""
    return jnp.broadcast_to(jnp.asarray(row, jnp.float32), z.shape)
