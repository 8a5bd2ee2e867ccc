"""What is drawn from: a text, by the states that CLIP's frozen tower of texts makes of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require, require_choice
from babeldraw.judges.clip import CLIPS, TEXT_ALONE, UNTRAINED, CLIPConfig, TextTower
from babeldraw.models.condition import Asked, Condition, Lexicon, asked_text, check_share
from babeldraw.models.features import FeaturesCondition


@dataclasses.dataclass(frozen=True)
class FrozenClipText:
    """CLIP's tower of texts as pure functions of its parameters; see `TextTower`."""

    config: CLIPConfig

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes; of `UNTRAINED` the same for every key."""
        if self.config == UNTRAINED:
            # A tokenizer's and a generator's runs shall read a text alike.
            key = jax.random.key(0)
        return TextTower(self.config).init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def __call__(self, params: Any, text_BS: jax.Array) -> dict[str, jax.Array]:
        """int32 [B, S] -> what `TextTower.states` gives, without gradient."""
        found = TextTower(self.config).apply({"params": params}, text_BS, method="states")
        return jax.lax.stop_gradient(found)


@dataclasses.dataclass(frozen=True)
class ClipCondition(Condition):
    """int32 [B, S]: CLIP's tokens of a text, its start and end among them, then 0.

    Networks read, as a `FeaturesCondition` of the encoder clip, the states before the tower's last
    block and the embedding; a decoder draws beside the states of the whole tower (TA-TiTok). Where
    nothing is said stand those of an empty text. As MaskGen has all three (Kim et al., 2025).

    Attributes:
      length: tokens S of a text; longer ones are cut. 77 in CLIP, at most.
      dropout: see `Condition`.
      encoder: kind of the weights: `clip_l14_336_text` in TA-TiTok and MaskGen; `untrained`: a
        small tower of random weights, for first runs, which reads the run's own vocabulary.
      weights: their .safetensors, of `babeldraw import --kind=clip_l14_336_text` or another's.
      words: CLIP's merges.txt or bpe_simple_vocab_16e6.txt.gz; a copy goes with the run.
    """

    length: int = 77
    dropout: float = 0.1
    encoder: str = "clip_l14_336_text"
    weights: str = ""
    words: str = ""
    kind: str = "clip"
    of_text = True
    weights_part = "clip/text"

    def __post_init__(self):
        require_choice(self, "encoder", (*CLIPS, *TEXT_ALONE, "untrained"))
        most = self._config.length
        require(
            2 <= self.length <= most,
            f"config.condition.length is {self.length}; 2 to {most} are possible, a start and an "
            "end among them",
        )
        check_share(self.dropout)

    @property
    def _config(self) -> CLIPConfig:
        return {**CLIPS, **TEXT_ALONE, "untrained": UNTRAINED}[self.encoder]

    @property
    def _trained(self) -> bool:
        return self.encoder != "untrained"

    @property
    def _features(self) -> FeaturesCondition:
        return FeaturesCondition(self.length, self._config.text.dim, self.dropout)

    @property
    def needs(self) -> dict[str, FrozenClipText]:
        return {"text_encoder": FrozenClipText(self._config)}

    @property
    def files(self) -> dict[str, str]:
        if not self._trained:
            return {}
        require(
            bool(self.weights),
            "config.condition.weights is empty; name what `babeldraw import "
            f"--kind={self.encoder}` has written",
        )
        return {"text_encoder": self.weights}

    @property
    def vocabulary_file(self) -> str:
        require(
            bool(self.words) or not self._trained,
            "config.condition.words is empty; name CLIP's merges.txt or "
            "bpe_simple_vocab_16e6.txt.gz, which lies beside its weights",
        )
        return self.words

    @property
    def text_length(self) -> int:
        return self.length

    @property
    def vocabulary(self) -> int:
        return self._config.words

    def with_vocabulary(self, size: int) -> "ClipCondition":
        """Itself. Raises `UserError`: CLIP's table is of another vocabulary."""
        require(
            size == self.vocabulary or (size < self.vocabulary and not self._trained),
            f"config.condition.words={self.words} has {size} tokens and {self.encoder} knows "
            f"{self.vocabulary}: it is of another vocabulary; name CLIP's merges.txt or "
            "bpe_simple_vocab_16e6.txt.gz",
        )
        return self

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"text": jax.ShapeDtypeStruct((batch, self.length), jnp.int32)}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        return batch["text"]

    def encoded(self, frozen: Mapping[str, Any], said: jax.Array) -> dict[str, Any]:
        """`states` and `last`, float32 [B, S, D], `pooled`, [B, E]; `unsaid`: of an empty text."""
        empty_1S = np.zeros((1, self.length), np.int32)
        if self._trained:
            # The two marks are the last of all tokens.
            empty_1S[0, :2] = self.vocabulary - 2, self.vocabulary - 1
        read, params = self.needs["text_encoder"], frozen["text_encoder"]
        found, unsaid = read(params, said), read(params, jnp.asarray(empty_1S))
        unsaid = jax.tree.map(
            lambda one, all_of: jnp.broadcast_to(one, all_of.shape), unsaid, found
        )
        return {**found, "unsaid": unsaid}

    def example(self, rows: int) -> dict[str, Any]:
        dim = self._config.text.dim
        one = {
            "states": jnp.zeros((rows, self.length, dim)),
            "last": jnp.zeros((rows, self.length, dim)),
            "pooled": jnp.zeros((rows, self._config.dim)),
        }
        return {**one, "unsaid": one}

    def nothing(self, like: Mapping[str, Any]) -> dict[str, Any]:
        return {**like["unsaid"], "unsaid": like["unsaid"]}

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return self._features.prefix(dim, name)

    @property
    def prefix_length(self) -> int:
        return self.length

    def pooled(self, condition: Mapping[str, jax.Array], prefix_BPD: jax.Array) -> jax.Array:
        return condition["pooled"]

    @property
    def states_shape(self) -> tuple[int, ...]:
        return self.length, self._config.text.dim

    def states(self, encoded: Mapping[str, jax.Array]) -> jax.Array:
        return encoded["last"]

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

    def tiny(self) -> "ClipCondition":
        return dataclasses.replace(self, encoder="untrained", length=16, weights="", words="")
