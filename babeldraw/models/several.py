"""Several conditions at once, by name."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import OfKind, require
from babeldraw.layers.linear import Embedding
from babeldraw.models.condition import Asked, Condition, Lexicon, check_share
from babeldraw.models.conditions import SINGLE
from babeldraw.tokenizers.base import Tokenizer

# Kinds that read the one text that batches have.
READERS = ("text", "t5", "clip")


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
        check_share(self.dropout)
        require(hasattr(self.parts, "items"), f"config.condition.parts is {self.parts!r}")
        require(len(self.parts) > 1, "config.condition.parts has one part or none; take that alone")
        made = {
            name: OfKind(SINGLE).build(part, f"config.condition.parts.{name}")
            for name, part in self.parts.items()
        }
        kinds = [part.kind for part in made.values()]
        require(
            len(set(kinds)) == len(kinds) and "several" not in kinds,
            f"config.condition.parts are {', '.join(kinds)}; one of each kind may stand there",
        )
        texts = [kind for kind in kinds if kind in READERS]
        require(
            len(texts) < 2,
            f"config.condition.parts are {' and '.join(texts)}, which are ways to read one text; "
            "take one of them",
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
    def in_data(self) -> bool:
        return all(part.in_data for part in self.parts.values())

    @property
    def stored(self) -> bool:
        return any(part.stored for part in self.parts.values())

    @property
    def in_words(self) -> bool:
        return all(part.in_words for part in self.parts.values())

    @property
    def vocabulary(self) -> int:
        return sum(part.vocabulary for part in self.parts.values())

    def with_vocabulary(self, size: int) -> "SeveralConditions":
        return self._with(lambda part: part.with_vocabulary(size))

    def bound(self, make: Callable[[], Tokenizer]) -> "SeveralConditions":
        return self._with(lambda part: part.bound(make))

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {k: v for part in self.parts.values() for k, v in part.spec(batch).items()}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        return {name: part.of_batch(batch) for name, part in self.parts.items()}

    @property
    def needs(self) -> dict[str, Any]:
        return {name: one for part in self.parts.values() for name, one in part.needs.items()}

    @property
    def files(self) -> dict[str, str]:
        return {name: file for part in self.parts.values() for name, file in part.files.items()}

    @property
    def weights_part(self) -> str:
        # One reads a text, and that alone has files.
        return next((p.weights_part for p in self.parts.values() if p.kind in READERS), "params")

    @property
    def states_shape(self) -> tuple[int, ...]:
        return next(filter(None, (part.states_shape for part in self.parts.values())), ())

    def states(self, encoded: Mapping[str, Any]) -> jax.Array:
        name = next(name for name, part in self.parts.items() if part.states_shape)
        return self.parts[name].states(encoded[name])

    @property
    def vocabulary_file(self) -> str:
        return next(filter(None, (part.vocabulary_file for part in self.parts.values())), "")

    def encoded(self, frozen: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part.encoded(frozen, said[name]) for name, part in self.parts.items()}

    def example(self, rows: int) -> dict[str, Any]:
        return {name: part.example(rows) for name, part in self.parts.items()}

    def nothing(self, like: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part.nothing(like[name]) for name, part in self.parts.items()}

    def dropped(self, condition: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, len(self.parts) + 1)
        each = zip(self.parts.items(), keys[1:], strict=True)
        said = {name: part.dropped(condition[name], own) for (name, part), own in each}
        return super().dropped(said, keys[0])

    @property
    def class_rows(self) -> dict[str, int]:
        return {
            f"{name}/{table}": rows
            for name, part in self.parts.items()
            for table, rows in part.class_rows.items()
        }

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return SeveralPrefixes(self, dim, name=name)

    @property
    def prefix_length(self) -> int:
        return sum(part.prefix_length for part in self.parts.values())

    @property
    def padded(self) -> bool:
        return any(part.padded for part in self.parts.values())

    def seen(self, condition: Mapping[str, Any]) -> jax.Array | None:
        if not self.padded:
            return None
        rows = jax.tree.leaves(condition)[0].shape[0]
        found = []
        for name, part in self.parts.items():
            own = part.seen(condition[name])
            found.append(jnp.ones((rows, part.prefix_length), bool) if own is None else own)
        return jnp.concatenate(found, axis=1)

    @property
    def drawn_from(self) -> str:
        return " and ".join(part.drawn_from for part in self.parts.values())

    def ask(self, words: Mapping[str, str], lexicon: Lexicon) -> Asked:
        """`words` by the parts' names."""
        require(
            isinstance(words, Mapping),
            f"{words!r} is asked for; of several conditions say each by name: "
            f"{', '.join(self.parts)}",
        )
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

    def where(self, field: str) -> str:
        """Of the part that has it."""
        name = next((name for name, part in self.parts.items() if getattr(part, field, 0)), "")
        return f"condition.parts.{name}.{field}"

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
