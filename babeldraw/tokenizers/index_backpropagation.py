"""Index backpropagation (IBQ): a codebook of which every code learns at every step.

Shi et al., "Scalable Image Tokenization with Index Backpropagation Quantization", 2024. A latent's
logits are its products with all codes, not l2-normalised and without a temperature; the likeliest
code is taken, and its gradient is that of the softmax over all (`streamed.indexed`), so that those
that are not chosen learn too; in short runs it is the entropy term that brings them into use
(docs/ibq.md). There is no other way from the codes to the encoder: of two latents with the same
logits it cannot tell one from the other.
"""

import dataclasses

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.tokenizers import streamed
from babeldraw.tokenizers.lookup import Quantized
from babeldraw.tokenizers.vector_quantizers import BETA_ON, INITS, Codebook, TableConfig


@dataclasses.dataclass(frozen=True)
class IBQConfig(TableConfig):
    """The likeliest of a table of vectors; see `IndexCodebook`.

    Attributes:
      codebook_size: V; 1024, 8192, 16384 and 262144 are published.
      code_dim: Q, 256 in all of them.
      beta_on: of `BETA_ON`, the term that beta, `config.loss.commitment`, weighs: the codes', as in
        the published code, or the latents', as the paper has it.
      entropy_temperature: T of the entropy, 0.01; its weight, `config.loss.entropy`, is 0.05.
      code_init: of `INITS`, what codes are drawn from.
    """

    codebook_size: int = 16384
    code_dim: int = 256
    beta_on: str = "codebook"
    entropy_temperature: float = 0.01
    code_init: str = "normal"
    kind: str = "ibq"

    optional_terms = ("entropy",)
    training_fields = ("beta_on", "entropy_temperature", "code_init")
    mixes = True

    def __post_init__(self):
        self._check("codebook_size", "code_dim")
        self._check_choice("beta_on", BETA_ON)
        self._check_choice("code_init", INITS)

    def check_split(self, devices: int) -> None:
        require(
            self.codebook_size % devices == 0,
            f"tokenizer.quantizer.codebook_size is {self.codebook_size}, which config.mesh.model="
            f"{devices} does not divide; each device has as many codes, so choose a multiple",
        )

    def make(self) -> "IndexCodebook":
        return IndexCodebook(
            self.codebook_size,
            self.code_dim,
            l2_normalized=False,
            temperature=self.entropy_temperature,
            code_init=self.code_init,
        )


class IndexCodebook(Codebook):
    """V codes of Q dimensions; of each latent z the code e with the largest z.e.

    The loss of the published code has three terms: |z_q - z|^2 with the gradient to both sides
    (`index`), |z_q - sg z|^2 (`codebook`) and |sg z_q - z|^2 (`commitment`), means over all
    elements; the code is the same in all, the first one's gradient that of all indices.
    """

    def __call__(self, z: jax.Array, with_entropy: bool = False) -> Quantized:
        """Quantizes float32 [..., Q]."""
        z_NQ = z.reshape(-1, z.shape[-1])
        with jax.named_scope("quantize"):
            found = streamed.indexed(z_NQ, self.table, self.temperature if with_entropy else None)
        more = {"index": jnp.mean(jnp.square(found.soft_NQ - z_NQ))}
        if with_entropy:
            more["entropy"] = found.entropy
        hard_NQ, fixed_NQ = found.hard_NQ, jax.lax.stop_gradient(found.hard_NQ)
        return Quantized(
            codes=found.soft_NQ.reshape(z.shape),
            ids=found.ids_N.reshape(z.shape[:-1]),
            latents=z,
            codebook_loss=jnp.mean(jnp.square(hard_NQ - jax.lax.stop_gradient(z_NQ))),
            commitment_loss=jnp.mean(jnp.square(fixed_NQ - z_NQ)),
            more=more,
        )
