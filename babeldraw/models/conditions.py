"""What is drawn from: a text, a class, nothing; a picture, to be told in words."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import center_crop
from babeldraw.data.shapes import PAIRS
from babeldraw.errors import UserError
from babeldraw.layers.linear import Embedding
from babeldraw.layers.positions import LearnedPositions
from babeldraw.models.clip_condition import ClipCondition
from babeldraw.models.codes_condition import CodesCondition
from babeldraw.models.condition import Asked, Condition, Lexicon, asked_text, check_share
from babeldraw.models.features import FeaturesCondition
from babeldraw.models.t5_condition import T5Condition
from babeldraw.tokenizers.pixels import to_float

# ------------------------------------------------------------------ a text


@dataclasses.dataclass(frozen=True)
class TextCondition(Condition):
    """int32 [B, S]: pieces of a text, zero is padding; nothing but padding is no text.

    Attributes:
      vocab_size: pieces of the vocabulary; 16,000 in Parti.
      length: pieces S of a text; longer ones are cut. 128 in Parti.
      dropout: see `Condition`. Not published for Parti; 0.1 is usual.
      stddev: of the pieces' vectors before training. Positions have 0.5, beside which 0.02 is
        learned away in long runs; where most words come a few times only, words that weigh as much
        as their places are told apart sooner.
      words: a SentencePiece model that the texts are read by, such as icetk's, of `vocab_size`
        pieces; a copy goes with the run. Empty: the run's own, trained on its captions.
    """

    vocab_size: int = 16_000
    length: int = 128
    dropout: float = 0.1
    stddev: float = 0.02
    words: str = ""
    kind: str = "text"
    of_text = True

    def __post_init__(self):
        for name in ("vocab_size", "length"):
            value = getattr(self, name)
            require(value >= 1, f"config.condition.{name} is {value}; at least 1 is needed")
        require(self.stddev > 0, f"config.condition.stddev is {self.stddev}; more than 0 is needed")
        check_share(self.dropout)

    @property
    def text_length(self) -> int:
        return self.length

    @property
    def vocabulary(self) -> int:
        return self.vocab_size

    @property
    def vocabulary_file(self) -> str:
        return self.words

    def with_vocabulary(self, size: int) -> "TextCondition":
        """Raises `UserError`: `words` is given and has another number of pieces."""
        require(
            not self.words or size == self.vocab_size,
            f"config.condition.words={self.words} has {size} pieces and "
            f"config.condition.vocab_size is {self.vocab_size}: name the vocabulary of that many, "
            f"or set vocab_size={size}",
        )
        return dataclasses.replace(self, vocab_size=size)

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"text": jax.ShapeDtypeStruct((batch, self.length), jnp.int32)}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        return batch["text"]

    def nothing(self, like: jax.Array) -> jax.Array:
        return jnp.zeros_like(like)

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return TextPrefix(self.vocab_size, self.length, dim, self.stddev, name=name)

    @property
    def prefix_length(self) -> int:
        return self.length

    def ask(self, words: str, lexicon: Lexicon) -> Asked:
        """An empty text draws without condition; one of more pieces than are read is cut."""
        return asked_text(words, lexicon, self.length)

    def first(self, count: int, captions: Sequence[str]) -> list[str]:
        return [*captions[:count]]

    def tiny(self) -> "TextCondition":
        return dataclasses.replace(self, vocab_size=100, length=32, words="")


class TextPrefix(nn.Module):
    """int32 [B, S] -> float32 [B, S, D]: pieces plus positions. Padding is a piece like others."""

    vocab_size: int
    length: int
    dim: int
    stddev: float

    @nn.compact
    def __call__(self, text_BS: jax.Array) -> jax.Array:
        positions_SD = LearnedPositions(self.length, self.dim, name="positions")()
        embed = Embedding(self.vocab_size, self.dim, stddev=self.stddev, name="embed")
        return embed(text_BS) + positions_SD[None]


# ------------------------------------------------------------------ a class


@dataclasses.dataclass(frozen=True)
class ClassCondition(Condition):
    """int32 [B] in [0, num_classes]; the last says nothing.

    A record without a label, -1, trains the class that says nothing. So would a label that is no
    class; sources that name their classes refuse such records (`data.records.checked_label`), a
    config of another number of classes is refused at the start, and whoever makes batches in Python
    answers for them.

    Attributes:
      num_classes: 1,000 for ImageNet.
      dropout: see `Condition`; 0 in the VIM paper, which samples without guidance.
    """

    num_classes: int = 0
    dropout: float = 0.0
    kind: str = "class"

    def __post_init__(self):
        require(
            self.num_classes >= 1,
            f"config.condition.num_classes is {self.num_classes}; at least 1 is needed (to draw "
            "without classes, take kind=nothing)",
        )
        check_share(self.dropout)

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"label": jax.ShapeDtypeStruct((batch,), jnp.int32)}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        label_B, count = batch["label"], self.num_classes
        return jnp.where((label_B >= 0) & (label_B < count), label_B, count)

    def nothing(self, like: jax.Array) -> jax.Array:
        return jnp.full_like(like, self.num_classes)

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return ClassPrefix(self.num_classes, dim, name=name)

    @property
    def prefix_length(self) -> int:
        return 1

    @property
    def class_rows(self) -> dict[str, int]:
        return {"embed/table": self.num_classes + 1}

    def ask(self, words: str | int, lexicon: Lexicon) -> Asked:
        """A class by its name or number; `#3` is a number only, `none` says nothing."""
        label = self._label(str(words), lexicon.classes)
        if label == self.num_classes:
            return Asked("no class", np.int32(label), {"class": label})
        told: dict[str, Any] = {"class": label}
        if label < len(lexicon.classes):
            told["name"] = lexicon.classes[label]
        name = " ".join(["class", *map(str, told.values())])
        return Asked(name, np.int32(label), told, label=label)

    def asked_by(self, said: Mapping[str, Sequence[str]], lexicon: Lexicon) -> list[str]:
        """`all` is each class once."""
        found: list[str] = []
        for word in super().asked_by(said, lexicon):
            every = [f"#{number}" for number in range(self.num_classes)]
            found += every if word == "all" and word not in lexicon.classes else [word]
        return found

    def first(self, count: int, captions: Sequence[str]) -> list[str]:
        return [f"#{number}" for number in range(min(count, self.num_classes))]

    def tiny(self) -> "ClassCondition":
        return dataclasses.replace(self, num_classes=len(PAIRS))

    def _label(self, word: str, names: Sequence[str]) -> int:
        meant = {word: names.index(word)} if word in names else {}
        plain = word.removeprefix("#")
        if word == "none":
            meant["no class"] = self.num_classes
        elif plain.isascii() and plain.isdigit():
            meant["number"] = int(plain)
        if len(set(meant.values())) > 1:
            number = meant[word]
            raise UserError(
                f"the class {word!r} is the name of class {number} and something else besides; "
                f"write #{number} for that class"
                + (f", #{plain} for class {plain}" if "number" in meant else "")
            )
        if not meant:
            raise UserError(f"the class {word!r} is not there: {_choices(word, names)} is needed")
        label = next(iter(meant.values()))
        require(
            label <= self.num_classes,
            f"the class {word!r} is not there; the model knows 0 to {self.num_classes - 1}, or "
            f"{self.num_classes} for no class",
        )
        return label


def _choices(word: str, names: Sequence[str]) -> str:
    if not names:
        return "a number or none"
    near = difflib.get_close_matches(word, names, 3, 0.4) or names[:3]
    return f"a name (such as {', '.join(near)}), a number or none"


class ClassPrefix(nn.Module):
    """int32 [B] in [0, num_classes] -> float32 [B, 1, D], from a table of its own."""

    num_classes: int
    dim: int

    @nn.compact
    def __call__(self, class_B: jax.Array) -> jax.Array:
        return Embedding(self.num_classes + 1, self.dim, axis=None, name="embed")(class_B)[:, None]


# ------------------------------------------------------------------ nothing


@dataclasses.dataclass(frozen=True)
class NoCondition(Condition):
    """int32 [B], all zero: the same learned vector stands before every picture."""

    kind: str = "nothing"

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.zeros(next(iter(batch.values())).shape[:1], jnp.int32)

    def nothing(self, like: jax.Array) -> jax.Array:
        return like

    def dropped(self, condition: jax.Array, key: jax.Array) -> jax.Array:
        return condition

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return ClassPrefix(0, dim, name=name)

    @property
    def prefix_length(self) -> int:
        return 1

    @property
    def drawn_from(self) -> str:
        return "nothing"

    def ask(self, words: str, lexicon: Lexicon) -> Asked:
        require(words in ("", "none"), f"{words!r} is asked for and the run draws from nothing")
        return Asked("no class", np.int32(0))

    def asked_by(self, said: Mapping[str, Sequence[str]], lexicon: Lexicon) -> list[str]:
        # Whoever says `none` where others say a class asks for no more than there is.
        given = {kind: [w for w in words if w != "none"] for kind, words in said.items()}
        return super().asked_by({**given, self.kind: [""]}, lexicon)

    def first(self, count: int, captions: Sequence[str]) -> list[str]:
        return [""] * count


# ------------------------------------------------------------------ a picture


@dataclasses.dataclass(frozen=True)
class ImageCondition(Condition):
    """float32 [B, height, width, 3] in [0, 1]: what captioners draw from.

    Attributes:
      image_size: (height, width) in pixels.
    """

    image_size: tuple[int, int]
    kind: str = "image"

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"image": jax.ShapeDtypeStruct((batch, *self.image_size, 3), jnp.uint8)}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        return to_float(batch["image"])

    def nothing(self, like: jax.Array) -> jax.Array:
        return jnp.zeros_like(like)

    def ask(self, words: np.ndarray, lexicon: Lexicon) -> Asked:
        """`words` is a picture, uint8 [H, W, 3]; its largest centred crop is resized."""
        image = center_crop(words, self.image_size)
        return Asked("a picture", image.astype(np.float32) / 255)


# Those that a run may draw from, alone or several of them by name.
SINGLE: dict[str, tuple[type[Condition]]] = {
    "text": (TextCondition,),
    "class": (ClassCondition,),
    "nothing": (NoCondition,),
    "features": (FeaturesCondition,),
    "t5": (T5Condition,),
    "clip": (ClipCondition,),
    "codes": (CodesCondition,),
}
