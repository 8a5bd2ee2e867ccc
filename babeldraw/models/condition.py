"""The contract of conditions: what is drawn from, as a user says it and as a network reads it.

A condition is a tree of arrays with a row for each example. Its section says what it reads of a
batch, what it is where nothing is said, and how a user's words become it; networks read it through
`prefix`, or by an encoder of their own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.data.text import Vocabulary
from babeldraw.tokenizers.base import Tokenizer


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """What a run knows of words.

    Attributes:
      vocabulary: of its texts; None where it reads none.
      classes: names of its classes, where it kept them.
    """

    vocabulary: Vocabulary | None = None
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Asked:
    """One thing to be drawn.

    Attributes:
      name: as people call it: the text, or `class 3 red ring`.
      row: the condition of one example, NumPy arrays without the batch dimension.
      told: what a manifest says of it beside its name.
      notes: what will be otherwise than the words say, a sentence each.
      text: what a judge of texts reads; None: no text was asked for.
      label: the class that a judge of classes looks for; None: none was asked for.
    """

    name: str
    row: Any
    told: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    text: str | None = None
    label: int | None = None


class Condition:
    """A section `condition`; a kind extends it and has the functions that raise here.

    Attributes:
      kind: in the table `CONDITIONS`.
      dropout: share of the examples from which it is taken away in training, which teaches the
        unconditional branch of classifier-free guidance; 0: there is no such branch.
      num_classes: how many classes the data must have; 0: any.
      in_data: whether sources of data have what it is read from; else batches of one's own do.
      stored: training reads states that lie beside stored tokens; see `data.states`.
      padded: slots of its prefix may be empty; see `seen`.
      of_text: what a user says is one text, as captions are.
      in_words: words say all of it, so that evaluators can ask for pictures.
      weights_part: where in its `files` the names of its weights begin; `params`: at once.
    """

    kind: str
    dropout: float = 0.0
    num_classes: int = 0
    in_data = True
    stored = False
    padded = False
    of_text = False
    in_words = True
    weights_part = "params"

    @property
    def text_length(self) -> int:
        """Tokens of the text that is read; 0 where none is."""
        return 0

    @property
    def vocabulary(self) -> int:
        """Pieces that the vocabulary of its text shall have; 0 where none is read."""
        return 0

    def with_vocabulary(self, size: int) -> "Condition":
        """The same with a vocabulary of so many pieces."""
        del size
        return self

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The part of a batch of so many examples that it is read from."""
        raise NotImplementedError

    def of_batch(self, batch: Mapping[str, jax.Array]) -> Any:
        """The condition of each example."""
        raise NotImplementedError

    def bound(self, make: Callable[[], Tokenizer]) -> "Condition":
        """The same, knowing the run's tokenizer where it is read by that; `make` gives it."""
        del make
        return self

    @property
    def needs(self) -> Mapping[str, Any]:
        """By name, the frozen networks by which it is encoded, each with an `init(key)`."""
        return {}

    @property
    def files(self) -> Mapping[str, str]:
        """By name of `needs`, the files that their weights come from."""
        return {}

    @property
    def vocabulary_file(self) -> str:
        """The SentencePiece model that its text is read by; empty: the run's own."""
        return ""

    def encoded(self, frozen: Mapping[str, Any], said: Any) -> Any:
        """What networks read of it.

        Args:
          frozen: parameters of `needs`, by name.
          said: as `of_batch` and `ask` give it.
        """
        del frozen
        return said

    @property
    def states_shape(self) -> tuple[int, ...]:
        """(S, E) of the states of a text that a decoder may draw beside; (): it has none."""
        return ()

    def states(self, encoded: Any) -> jax.Array:
        """These of what networks read, float32 [B, S, E]; TA-TiTok's decoder draws beside them."""
        raise NotImplementedError

    def example(self, rows: int) -> Any:
        """What networks read of so many examples, all zeros, to make parameters with."""
        shapes = self.spec(rows) or {"rows": jax.ShapeDtypeStruct((rows,), jnp.int32)}
        batch = {name: jnp.zeros(one.shape, one.dtype) for name, one in shapes.items()}
        return self.of_batch(batch)

    def nothing(self, like: Any) -> Any:
        """As many conditions that say nothing, as networks read them."""
        raise NotImplementedError

    def dropped(self, condition: Any, key: jax.Array) -> Any:
        """`condition` as training sees it, said to `1 - dropout` of the examples only."""
        rows = jax.tree.leaves(condition)[0].shape[:1]
        drop_B = jax.random.bernoulli(key, self.dropout, rows)

        def one(said: jax.Array, unsaid: jax.Array) -> jax.Array:
            drop = jnp.expand_dims(drop_B, tuple(range(1, said.ndim)))
            return jnp.where(jnp.broadcast_to(drop, said.shape), unsaid, said)

        return jax.tree.map(one, condition, self.nothing(condition))

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        """A network that reads it: condition -> float32 [B, `prefix_length`, dim]."""
        raise NotImplementedError

    @property
    def prefix_length(self) -> int:
        raise NotImplementedError

    @property
    def class_rows(self) -> Mapping[str, int]:
        """By name in its prefix, the tables that end in its classes: in how many rows.

        A row for each class, then one for none.
        """
        return {}

    def pooled(self, condition: Any, prefix_BPD: jax.Array) -> jax.Array:
        """A vector of each example, float32 [B, D]: the mean over its prefix."""
        del condition
        return jnp.mean(prefix_BPD, axis=1)

    def seen(self, condition: Any) -> jax.Array | None:
        """Which slots of its prefix are not empty, bool [B, `prefix_length`]; None: all."""
        del condition
        return None

    def ask(self, words: Any, lexicon: Lexicon) -> Asked:
        """What a user's words say. Raises `UserError`: nothing that the run knows."""
        raise NotImplementedError

    def asked_by(self, said: Mapping[str, Sequence[str]], lexicon: Lexicon) -> list[Any]:
        """The words of each thing to be drawn.

        Args:
          said: lists of words by the kind of condition that they are for, such as `text`.
          lexicon: of the run.

        Raises:
          UserError: words for another kind, or none.
        """
        others = [kind for kind, words in said.items() if words and kind != self.kind]
        require(
            not others,
            f"a {others and others[0]} is given and the run draws from {self.drawn_from}; leave it "
            "out",
        )
        words = [*(said[self.kind] if self.kind in said else ())]
        require(bool(words), f"nothing to draw is given; the run draws from {self.drawn_from}")
        return words

    @property
    def drawn_from(self) -> str:
        """For people: what the run draws from."""
        return f"a {self.kind}"

    def first(self, count: int, captions: Sequence[str]) -> list[Any]:
        """Words of the first `count` things that there are to draw."""
        raise NotImplementedError

    def tiny(self) -> "Condition":
        """The same for a first run, on data of the shapes world."""
        return self

    def where(self, field: str) -> str:
        """Where the config says a field of it, for messages."""
        return f"condition.{field}"

    def check_guidance(self, guided: bool, guidance: float, name: str = "guidance") -> None:
        """Refuses guidance by a branch that was never trained.

        Args:
          guided: whether the unconditional branch has any effect.
          guidance: how much.
          name: how the user calls it.
        """
        require(
            not guided or self.dropout > 0,
            f"{name} is {guidance} and config.condition.dropout 0: no unconditional branch is "
            "trained to guide by; take guidance 1, or train with dropout=0.1",
        )


def asked_text(words: str, lexicon: Lexicon, length: int) -> Asked:
    """A text as its pieces, int32 [length], cut there; an empty one draws without condition.

    Args:
      words: the text.
      lexicon: of the run.
      length: pieces that are read.

    Raises:
      UserError: most of its letters have no piece.
    """
    vocabulary, notes = lexicon.vocabulary, []
    (pieces,) = vocabulary.lengths([words])
    if pieces > length:
        notes.append(f"the prompt has {pieces} tokens and is cut to {length}: {words[:60]!r}...")
    if unknown := vocabulary.unknown(words):
        require(
            vocabulary.knows(words),
            f"most letters of the prompt {words[:60]!r} are not in the run's vocabulary: it is of "
            "a language that the run has not learned; write it in that of its captions",
        )
        notes.append(
            f"{unknown[:20]!r} of the prompt {words[:60]!r} are not in the run's vocabulary: "
            "they draw as one unknown piece"
        )
    if not words.strip():
        notes.append("an empty prompt draws without condition")
    return Asked(words, vocabulary.encode([words], length)[0], notes=tuple(notes), text=words)


def check_share(dropout: float) -> None:
    """Raises `UserError` for a dropout that is no share."""
    require(
        0 <= dropout <= 1,
        f"config.condition.dropout is {dropout}; a share in [0, 1] is needed",
    )


def stacked(rows: Sequence[Any]) -> Any:
    """The conditions of a batch, of its rows."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
