"""What a picture is drawn from: a text, a class, nothing, or several of these by name."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import OfKind, require
from babeldraw.data.shapes import PAIRS
from babeldraw.errors import UserError
from babeldraw.layers.linear import Embedding
from babeldraw.layers.positions import LearnedPositions
from babeldraw.models.condition import Asked, Condition, Lexicon


def _check_share(dropout: float) -> None:
    require(
        0 <= dropout <= 1,
        f"config.condition.dropout is {dropout}; a share in [0, 1] is needed",
    )


# ------------------------------------------------------------------ a text


@dataclasses.dataclass(frozen=True)
class TextCondition(Condition):
    """int32 [B, S]: pieces of a text, zero is padding; nothing but padding is no text.

    Attributes:
      vocab_size: pieces of the vocabulary; 16,000 in Parti.
      length: pieces S of a text; longer ones are cut. 128 in Parti.
      dropout: see `Condition`. Not published for Parti; 0.1 is usual.
    """

    vocab_size: int = 16_000
    length: int = 128
    dropout: float = 0.1
    kind: str = "text"

    def __post_init__(self):
        for name in ("vocab_size", "length"):
            value = getattr(self, name)
            require(value >= 1, f"config.condition.{name} is {value}; at least 1 is needed")
        _check_share(self.dropout)

    @property
    def text_length(self) -> int:
        return self.length

    @property
    def vocabulary(self) -> int:
        return self.vocab_size

    def with_vocabulary(self, size: int) -> "TextCondition":
        return dataclasses.replace(self, vocab_size=size)

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"text": jax.ShapeDtypeStruct((batch, self.length), jnp.int32)}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        return batch["text"]

    def nothing(self, like: jax.Array) -> jax.Array:
        return jnp.zeros_like(like)

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return TextPrefix(self.vocab_size, self.length, dim, name=name)

    @property
    def prefix_length(self) -> int:
        return self.length

    def ask(self, words: str, lexicon: Lexicon) -> Asked:
        """An empty text draws without condition; one of more pieces than are read is cut."""
        vocabulary, notes = lexicon.vocabulary, []
        (pieces,) = vocabulary.lengths([words])
        if pieces > self.length:
            notes.append(
                f"the prompt has {pieces} tokens and is cut to {self.length}: {words[:60]!r}..."
            )
        if unknown := vocabulary.unknown(words):
            notes.append(
                f"{unknown[:20]!r} of the prompt {words[:60]!r} are not in the run's vocabulary: "
                "they draw as one unknown piece"
            )
        if not words.strip():
            notes.append("an empty prompt draws without condition")
        row = vocabulary.encode([words], self.length)[0]
        return Asked(words, row, notes=tuple(notes), text=words)

    def first(self, count: int, captions: Sequence[str]) -> list[str]:
        return [*captions[:count]]

    def tiny(self) -> "TextCondition":
        return dataclasses.replace(self, vocab_size=100, length=32)


class TextPrefix(nn.Module):
    """int32 [B, S] -> float32 [B, S, D]: pieces plus positions. Padding is a piece like others."""

    vocab_size: int
    length: int
    dim: int

    @nn.compact
    def __call__(self, text_BS: jax.Array) -> jax.Array:
        positions_SD = LearnedPositions(self.length, self.dim, name="positions")()
        return Embedding(self.vocab_size, self.dim, name="embed")(text_BS) + positions_SD[None]


# ------------------------------------------------------------------ a class


@dataclasses.dataclass(frozen=True)
class ClassCondition(Condition):
    """int32 [B] in [0, num_classes]; the last says nothing.

    A record without a label, -1, trains the class that says nothing.

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
        _check_share(self.dropout)

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
        return "a number, all or none"
    near = difflib.get_close_matches(word, names, 3, 0.4) or names[:3]
    return f"a name (such as {', '.join(near)}), a number, all or none"


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


# ------------------------------------------------------------------ several

CONDITIONS: dict[str, tuple[type[Condition]]] = {
    "text": (TextCondition,),
    "class": (ClassCondition,),
    "nothing": (NoCondition,),
}


@dataclasses.dataclass(frozen=True)
class SeveralConditions(Condition):
    """A tree of conditions by name, read one after another: a text and a class, say.

    Attributes:
      parts: sections by name. The share that each drops is its own.
      dropout: share of the examples from which all are taken away.
    """

    parts: Any
    dropout: float = 0.1
    kind: str = "several"

    def __post_init__(self):
        _check_share(self.dropout)
        require(hasattr(self.parts, "items"), f"config.condition.parts is {self.parts!r}")
        require(len(self.parts) > 1, "config.condition.parts has one part or none; take that alone")
        made = {
            name: OfKind(CONDITIONS).build(part, f"config.condition.parts.{name}")
            for name, part in self.parts.items()
        }
        kinds = [part.kind for part in made.values()]
        require(
            len(set(kinds)) == len(kinds) and "several" not in kinds,
            f"config.condition.parts are {', '.join(kinds)}; one of each kind may stand there",
        )
        object.__setattr__(self, "parts", made)

    def __hash__(self):
        return hash((tuple(self.parts.items()), self.dropout))

    @property
    def text_length(self) -> int:
        return sum(part.text_length for part in self.parts.values())

    @property
    def num_classes(self) -> int:
        return sum(part.num_classes for part in self.parts.values())

    @property
    def vocabulary(self) -> int:
        return sum(part.vocabulary for part in self.parts.values())

    def with_vocabulary(self, size: int) -> "SeveralConditions":
        return self._with(lambda part: part.with_vocabulary(size))

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {k: v for part in self.parts.values() for k, v in part.spec(batch).items()}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        return {name: part.of_batch(batch) for name, part in self.parts.items()}

    def nothing(self, like: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part.nothing(like[name]) for name, part in self.parts.items()}

    def dropped(self, condition: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, len(self.parts) + 1)
        each = zip(self.parts.items(), keys[1:], strict=True)
        said = {name: part.dropped(condition[name], own) for (name, part), own in each}
        return super().dropped(said, keys[0])

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return SeveralPrefixes(self, dim, name=name)

    @property
    def prefix_length(self) -> int:
        return sum(part.prefix_length for part in self.parts.values())

    @property
    def drawn_from(self) -> str:
        return " and ".join(part.drawn_from for part in self.parts.values())

    def ask(self, words: Mapping[str, str], lexicon: Lexicon) -> Asked:
        """`words` by the parts' names."""
        missing = [name for name in self.parts if name not in words]
        require(not missing, f"nothing is said of {', '.join(missing)}; say all parts by name")
        found = {name: part.ask(words[name], lexicon) for name, part in self.parts.items()}
        told: dict[str, Any] = {"asked": {name: one.name for name, one in found.items()}}
        for one in found.values():
            told |= one.told
        ones = found.values()
        return Asked(
            ", ".join(one.name for one in ones),
            {name: one.row for name, one in found.items()},
            told,
            tuple(note for one in ones for note in one.notes),
            next((one.text for one in ones if one.text is not None), None),
            next((one.label for one in ones if one.label is not None), None),
        )

    def asked_by(self, said: Mapping[str, Sequence[str]], lexicon: Lexicon) -> list[dict[str, str]]:
        """Every text with every class."""
        known = {part.kind for part in self.parts.values()}
        others = [kind for kind, words in said.items() if words and kind not in known]
        require(
            not others,
            f"a {others and others[0]} is given and the run draws from {self.drawn_from}; leave it "
            "out",
        )
        found: list[dict[str, str]] = [{}]
        for name, part in self.parts.items():
            own = {part.kind: said[part.kind] if part.kind in said else ()}
            found = [{**one, name: word} for one in found for word in part.asked_by(own, lexicon)]
        return found

    def first(self, count: int, captions: Sequence[str]) -> list[dict[str, str]]:
        each = {name: part.first(count, captions) for name, part in self.parts.items()}
        length = max(map(len, each.values()))
        return [{n: words[i % len(words)] for n, words in each.items()} for i in range(length)]

    def tiny(self) -> "SeveralConditions":
        return self._with(lambda part: part.tiny())

    def _with(self, change: Any) -> "SeveralConditions":
        return dataclasses.replace(self, parts={n: change(p) for n, p in self.parts.items()})


class SeveralPrefixes(nn.Module):
    """The prefixes of a tree of conditions, one after another, each with a mark of its own."""

    condition: SeveralConditions
    dim: int

    @nn.compact
    def __call__(self, condition: Mapping[str, Any]) -> jax.Array:
        marks = Embedding(len(self.condition.parts), self.dim, axis=None, name="marks")
        found = []
        for number, (name, part) in enumerate(self.condition.parts.items()):
            prefix = part.prefix(self.dim, name)
            x_BPD = prefix(condition[name])
            found.append(x_BPD + jnp.broadcast_to(marks(jnp.int32(number)), x_BPD.shape))
        return jnp.concatenate(found, axis=1)


CONDITIONS["several"] = (SeveralConditions,)
# The type of a section `condition`, whichever kind it is of.
ConditionConfig = Annotated[Any, OfKind(CONDITIONS)]


def read_condition(config: Mapping[str, Any]) -> Condition:
    """The condition of a run's config, as config.json holds it."""
    return OfKind(CONDITIONS).build(config["condition"], "config.condition")
