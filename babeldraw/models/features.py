"""What is drawn from: what an encoder of others made of a text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require, require_choice
from babeldraw.errors import UserError
from babeldraw.layers.feed_forward import ACTIVATIONS
from babeldraw.layers.linear import Einsum
from babeldraw.models.condition import Asked, Condition, Lexicon, check_share


@dataclasses.dataclass(frozen=True)
class FeaturesCondition(Condition):
    """What an encoder of others made of a text: its words' states, and more by the encoder.

    A tree of `states`, float32 [B, S, C], and of CLIP `pooled`, [B, C], one vector of all; of T5
    `count`, int32 [B], how many of the first states are words. States of zeros say nothing. T5's
    are read, as float16, from beside stored tokens, where `babeldraw encode` or whoever has made
    them puts them (`commands.encode.store`); CLIP's no source of data has, so batches of one's own
    hold what the tree does. The run does not know their encoder: what is drawn from is states again
    (`data.states.read_features`). The conditions `clip` and `t5` have the encoder in the run.

    T5's are read as LlamaGen does: by two products with a GELU between, the words as the prefix's
    last slots, those before them empty; where nothing is said, learned states stand in place of
    the words, as many (there they are drawn once and not learned).

    Attributes:
      length: S, 77 words in CLIP, 120 in LlamaGen.
      dim: C, 768 in OpenCLIP's ViT-L/14, 2,048 in FLAN-T5-XL.
      dropout: see `Condition`.
      encoder: clip or t5.
    """

    length: int = 77
    dim: int = 768
    dropout: float = 0.1
    encoder: str = "clip"
    kind: str = "features"

    def __post_init__(self):
        require_choice(self, "encoder", ("clip", "t5"))
        for name in ("length", "dim"):
            value = getattr(self, name)
            require(value >= 1, f"config.condition.{name} is {value}; at least 1 is needed")
        check_share(self.dropout)

    @property
    def stored(self) -> bool:
        return self.padded

    @property
    def in_data(self) -> bool:
        return self.stored

    def tiny(self) -> "FeaturesCondition":
        """The same for a first run, as wide as a small MaskGen reads."""
        return dataclasses.replace(self, dim=32)

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        dtype = jnp.float16 if self.stored else jnp.float32
        states = jax.ShapeDtypeStruct((batch, self.length, self.dim), dtype)
        if self.padded:
            return {"states": states, "count": jax.ShapeDtypeStruct((batch,), jnp.int32)}
        return {"states": states, "pooled": jax.ShapeDtypeStruct((batch, self.dim), jnp.float32)}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        found = {name: batch[name] for name in self.spec(1) if name in batch}
        self._check_shapes({name: leaf.shape[1:] for name, leaf in found.items()})
        return {**found, "states": found["states"].astype(jnp.float32)}

    def nothing(self, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        kept = {name: like[name] for name in like if name == "count"}
        return {**jax.tree.map(jnp.zeros_like, dict(like)), **kept}

    @property
    def states_shape(self) -> tuple[int, ...]:
        return self.length, self.dim

    def states(self, encoded: Mapping[str, jax.Array]) -> jax.Array:
        return encoded["states"]

    @property
    def padded(self) -> bool:
        return self.encoder == "t5"

    def seen(self, condition: Mapping[str, jax.Array]) -> jax.Array | None:
        if not self.padded:
            return None
        from_end_S = jnp.arange(self.length, 0, -1)
        # Rows that fill up a batch count 0.
        return from_end_S[None] <= jnp.maximum(condition["count"], 1)[:, None]

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return (CountedPrefix if self.padded else FeaturesPrefix)(dim, name=name)

    @property
    def prefix_length(self) -> int:
        return self.length

    def pooled(self, condition: Mapping[str, jax.Array], prefix_BPD: jax.Array) -> jax.Array:
        """CLIP's is the given vector, [B, C]; T5's the mean over words, [B, D]."""
        if not self.padded:
            return condition["pooled"]
        seen_BPD = jnp.broadcast_to(self.seen(condition)[..., None], prefix_BPD.shape)
        return jnp.mean(prefix_BPD, axis=1, where=seen_BPD)

    def ask(self, words: Mapping[str, np.ndarray], lexicon: Lexicon) -> Asked:
        """`words` are `states`, [S, C], `pooled`, [C], or `count`, [], and `text` where told."""
        self._check_shapes({n: np.shape(words[n]) for n in self.spec(1) if n in words})
        types = {"states": np.float32, "pooled": np.float32, "count": np.int32}
        row = {name: np.asarray(words[name], types[name]) for name in self.spec(1)}
        require(
            not self.padded or 1 <= row["count"] <= self.length,
            f"count, of words in features, is {row.get('count')}; 1 to {self.length} are possible",
        )
        text = str(words["text"]) if "text" in words else None
        return Asked("features" if text is None else text, row, text=text)

    def _check_shapes(self, found: Mapping[str, tuple[int, ...]]) -> None:
        wanted = {name: leaf.shape[1:] for name, leaf in self.spec(1).items()}
        require(
            found == wanted,
            f"features of the shapes {found} are given; {wanted} are needed, by "
            "config.condition.length and dim",
        )

    @property
    def drawn_from(self) -> str:
        return "features, of a file that `babeldraw encode --prompts` writes"

    def first(self, count: int, captions: Sequence[str]) -> list[Any]:
        raise UserError(
            "evaluators draw what words tell, and the run draws from features; leave out those "
            "that draw, as by config.evaluators.samples=None"
        )


class FeaturesPrefix(nn.Module):
    """States [B, S, C] as float32 [B, S, dim]: as they are where C is `dim`, else a product."""

    dim: int

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
        states_BSC = features["states"]
        if states_BSC.shape[-1] == self.dim:
            return states_BSC
        shape = (states_BSC.shape[-1], self.dim)
        return Einsum("BSC,CD->BSD", shape, (None, "embed"), bias=True, name="product")(states_BSC)


class CountedPrefix(nn.Module):
    """The first `count` states [B, S, C] as the last of S slots, float32 [B, S, dim].

    Slots before them hold what is read by none.
    """

    dim: int

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
        states_BSC, count_B1 = features["states"], features["count"][:, None]
        slots, width = states_BSC.shape[1:]
        init = nn.with_logical_partitioning(nn.initializers.normal(width**-0.5), ("position", None))
        unsaid_SC = self.param("nothing", init, (slots, width))
        at_BS = jnp.arange(slots)[None] - (slots - count_B1)
        moved_BSC = jnp.take_along_axis(states_BSC, jnp.maximum(at_BS, 0)[..., None], axis=1)
        said_B11 = jnp.any(states_BSC != 0, axis=(1, 2), keepdims=True)
        # By their own slot: of the states for nothing, too, the last are read.
        read_BSC = jnp.where(said_B11, moved_BSC, unsaid_SC[None])
        hidden = Einsum("BSC,CD->BSD", (width, self.dim), (None, "embed"), name="hidden")
        out = Einsum("BSC,CD->BSD", (self.dim, self.dim), (None, "embed"), name="out")
        return out(ACTIVATIONS["gelu"](hidden(read_BSC)))
