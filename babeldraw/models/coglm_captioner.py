"""A CogLM as a network that draws texts from the codes of pictures: captioning is drawing a text.

The picture is seen whole, on both sides; the padding behind a text is its end. As CogView2's
`--inverse-prompt`, whose perplexity of a text is what pictures are chosen by.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from babeldraw.models.arrangement import PAD
from babeldraw.models.coglm import CogLM, CogLMGenerator
from babeldraw.models.condition import Condition
from babeldraw.models.sequential import Sequential
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True)
class PictureCodes(Condition):
    """int32 [B, T]: the codes of a picture.

    Attributes:
      codes: what they are.
    """

    codes: Codes
    kind: str = "codes"

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"tokens": self.codes.spec(batch)}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        return batch["tokens"]


@dataclasses.dataclass(frozen=True)
class CogLMCaptioner(Sequential):
    """`Sequential` of texts; its parameters are the generator's.

    Attributes:
      generator: the network.
    """

    generator: CogLMGenerator

    @property
    def condition(self) -> PictureCodes:
        return PictureCodes(self.generator.codes)

    @property
    def codes(self) -> Codes:
        read = self.generator.condition
        return Codes((read.text_length,), (read.vocabulary,), end=PAD)

    @property
    def network(self) -> CogLM:
        return self.generator.network

    def init(self, key: jax.Array) -> Any:
        return self.generator.init(key)

    def for_reading(self, params: Any) -> Any:
        return self.generator.for_reading(params)

    def nll(
        self,
        params: Any,
        condition: jax.Array,
        codes: jax.Array,
        keys: jax.Array | None = None,
        read: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each piece and of the end; not for training, which draws its maskings."""
        if keys is not None or read is not None:
            raise ValueError("a captioner is trained by its generator's prediction")
        return self._call("told_nll", params, condition, codes)

    def read(self, params: Any, condition: jax.Array) -> Any:
        return self._call("read_picture", params, condition)

    def start(self, params: Any, context: Any, samples: int = 1) -> Any:
        return self._call("start_telling", params, context, samples)

    def step(
        self, params: Any, codes: jax.Array, index: jax.Array, cache: Any
    ) -> tuple[jax.Array, Any]:
        return self._call("tell", params, codes, index, cache)

    def next_logits(self, params: Any, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        return self._call("next_piece_logits", params, x_B1D, earlier[:, None])[:, 0]


def captioner_of(generator: Any) -> CogLMCaptioner | None:
    """The same network as a captioner; None: it tells nothing."""
    return CogLMCaptioner(generator) if isinstance(generator, CogLMGenerator) else None
