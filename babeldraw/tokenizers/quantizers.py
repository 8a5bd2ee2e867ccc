"""The kinds of quantizers there are: a new one is its own file and a line here."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import OfKind
from babeldraw.tokenizers.base import Reconstruction, Tokenizer
from babeldraw.tokenizers.index_backpropagation import IBQConfig
from babeldraw.tokenizers.lookup_free import FSQConfig, LFQConfig
from babeldraw.tokenizers.running_mean import RunningMeanConfig
from babeldraw.tokenizers.vector_quantizers import ResidualVQConfig, VQConfig

# By the field `kind` of the section `quantizer`.
QUANTIZERS: dict[str, tuple[type]] = {
    "vq": (VQConfig,),
    "residual_vq": (ResidualVQConfig,),
    "ibq": (IBQConfig,),
    "lfq": (LFQConfig,),
    "fsq": (FSQConfig,),
    "running_mean": (RunningMeanConfig,),
}
QuantizerConfig = Annotated[Any, OfKind(QUANTIZERS)]


class QuantizingTokenizer(Tokenizer):
    """A tokenizer with a section `quantizer`, whose module's parameters are `codebook`."""

    @property
    def optional_terms(self) -> tuple[str, ...]:
        return self.config.quantizer.optional_terms

    @property
    def beta_term(self) -> str:
        return self.config.quantizer.beta_term

    @property
    def codebook(self) -> tuple[str, ...]:
        """The part `quantizer` of `groups`."""
        return ("codebook",) if self.config.quantizer.learned else ()

    @property
    def channels(self) -> int:
        """Of continuous codes; 0 of discrete ones."""
        quantizer = self.config.quantizer
        return 0 if quantizer.vocab else quantizer.code_dim

    def code_vectors(self, params: Any) -> np.ndarray:
        codes, quantizer = np.arange(self.codes.vocab_size), self.config.quantizer.make()
        book = {name: params[name] for name in self.codebook}
        variables = {"params": book["codebook"]} if book else {}
        return np.asarray(quantizer.apply(variables, jnp.asarray(codes), method="lookup"))

    def check_split(self, devices: int) -> None:
        self.config.quantizer.check_split(devices)

    def follow(self, before: Any, after: Any, out: Reconstruction) -> Any:
        book = self.config.quantizer.follow(before["codebook"], out.quantized)
        return {**after, "codebook": book}

    def follows(self) -> bool:
        return self.config.quantizer.follows()

    def restart(
        self, params: Any, share: jax.Array, out: Reconstruction, below: float, key: jax.Array
    ) -> tuple[Any, jax.Array]:
        book, quantizer = params["codebook"], self.config.quantizer
        book, share = quantizer.restart(book, share, out.quantized, below, key)
        return {**params, "codebook": book}, share

    def restarts(self) -> bool:
        return self.config.quantizer.restarts()
