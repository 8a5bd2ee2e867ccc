"""What is drawn from: a text, by the states that a frozen T5 makes of it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.models.condition import Asked, Condition, Lexicon, asked_text, check_share
from babeldraw.models.features import FeaturesCondition
from babeldraw.models.t5 import FrozenT5, T5Config

# Rows that a table may have beyond the pieces: T5's has 128, for sentinels and for round numbers.
SPARE_ROWS = 255


@dataclasses.dataclass(frozen=True)
class T5Condition(Condition):
    """int32 [B, S]: T5's pieces of a text, the last of them its end; zero is padding.

    Networks read the states that T5, frozen in the run's state, makes of them, as a
    `FeaturesCondition` of the encoder t5.

    Attributes:
      length: pieces S of a text; longer ones are cut. 120 in LlamaGen.
      dropout: see `Condition`.
      encoder: T5's sizes, those of the weights.
      weights: their .safetensors, of `babeldraw import --kind=t5_v1_1_SIZE`.
      words: T5's SentencePiece model, `spiece.model`; a copy goes with the run.
      stored: training reads the states that `babeldraw encode` stored beside tokens, and T5 reads
        prompts alone.
    """

    length: int = 120
    dropout: float = 0.1
    encoder: T5Config = T5Config()
    weights: str = ""
    words: str = ""
    stored: bool = False
    kind: str = "t5"
    padded = True
    of_text = True

    def __post_init__(self):
        require(
            self.length >= 2,
            f"config.condition.length is {self.length}; at least 2 is needed, a piece and an end",
        )
        check_share(self.dropout)

    @functools.cached_property
    def _features(self) -> FeaturesCondition:
        return FeaturesCondition(self.length, self.encoder.dim, self.dropout, "t5")

    @property
    def needs(self) -> dict[str, FrozenT5]:
        return {"text_encoder": FrozenT5(self.encoder)}

    @property
    def files(self) -> dict[str, str]:
        require(
            bool(self.weights),
            "config.condition.weights is empty; name what `babeldraw import --kind=t5_v1_1_base` "
            "or another size has written",
        )
        return {"text_encoder": self.weights}

    @property
    def vocabulary_file(self) -> str:
        require(
            bool(self.words),
            "config.condition.words is empty; name T5's spiece.model, which lies beside its "
            "weights",
        )
        return self.words

    @property
    def text_length(self) -> int:
        return self.length

    @property
    def vocabulary(self) -> int:
        return self.encoder.vocab_size

    def with_vocabulary(self, size: int) -> "T5Condition":
        """Itself. Raises `UserError`: T5's table is of another vocabulary."""
        rows = self.encoder.vocab_size
        require(
            size <= rows <= size + SPARE_ROWS,
            f"config.condition.words={self.words} has {size} pieces and "
            f"config.condition.encoder.vocab_size is {rows}: the weights are of another "
            "vocabulary; name the spiece.model beside them",
        )
        return self

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        if not self.stored:
            return {"text": jax.ShapeDtypeStruct((batch, self.length), jnp.int32)}
        return self._features.spec(batch)

    def of_batch(self, batch: Mapping[str, jax.Array]) -> Any:
        if not self.stored:
            return batch["text"]
        return self._features.of_batch(batch)

    def encoded(self, frozen: Mapping[str, Any], said: Any) -> dict[str, jax.Array]:
        """`states`, float32 [B, S, D], zeros where nothing is said, and `count`, int32 [B].

        Of pieces, int32 [B, S]; what was stored is that already.
        """
        if isinstance(said, Mapping):
            return dict(said)
        states_BSD = self.needs["text_encoder"](frozen["text_encoder"], said)
        real_BSD = jnp.broadcast_to((said > 0)[..., None], states_BSD.shape)
        count_B = jnp.sum(said > 0, axis=1, dtype=jnp.int32)
        return {
            "states": jnp.where(real_BSD, states_BSD, 0.0),
            "count": jnp.maximum(count_B, 1),
        }

    @property
    def states_shape(self) -> tuple[int, ...]:
        return self._features.states_shape

    def states(self, encoded: Mapping[str, jax.Array]) -> jax.Array:
        return self._features.states(encoded)

    def example(self, rows: int) -> dict[str, jax.Array]:
        return self._features.example(rows)

    def nothing(self, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return self._features.nothing(like)

    def seen(self, condition: Mapping[str, jax.Array]) -> jax.Array:
        return self._features.seen(condition)

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return self._features.prefix(dim, name)

    @property
    def prefix_length(self) -> int:
        return self.length

    def pooled(self, condition: Mapping[str, jax.Array], prefix_BPD: jax.Array) -> jax.Array:
        return self._features.pooled(condition, prefix_BPD)

    def ask(self, words: str, lexicon: Lexicon) -> Asked:
        return asked_text(words, lexicon, self.length)

    def asked_by(self, said: Mapping[str, Sequence[str]], lexicon: Lexicon) -> list[str]:
        renamed = {self.kind if name == "text" else name: words for name, words in said.items()}
        return super().asked_by(renamed, lexicon)

    @property
    def drawn_from(self) -> str:
        return "a text"

    def first(self, count: int, captions: Sequence[str]) -> list[str]:
        return [*captions[:count]]
