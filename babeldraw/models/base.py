"""The contract of networks that are trained to predict codes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from babeldraw.config import require
from babeldraw.layers.block import DTYPES, TransformerConfig
from babeldraw.layers.stack import read_type
from babeldraw.models.condition import Condition
from babeldraw.tokenizers.base import Codes


class Generator:
    """A stage 2 network as pure functions of its parameters: a frozen dataclass over its config.

    Beside these a network has what the predictions ask for that it serves, each named in their
    `needs`: `nll`, `start`, `step` and `next_logits` for the next token; and, where it can,
    `features(params, codes)`, which probes read: float32 [B, feature_blocks + 1, D].

    Attributes:
      config: the section `model`.
      condition: what it draws from.
      codes: what it predicts.
      word_table: name of the parameter with a vector for each piece of a text, where it reads one.
      takes_levels: whether one network may draw into several levels of a tokenizer. It then has the
        field `levels`.
      levels: those, a `models.levels.LevelGroup`; None: into that of `codes` alone.
    """

    config: Any
    condition: Condition
    codes: Codes
    word_table = "prefix/embed/table"
    takes_levels = False
    levels: Any = None

    @property
    def class_rows(self) -> dict[str, int]:
        """Of the parameters that end in the classes of the condition: in how many rows.

        By name; a row for each class, then one for none.
        """
        return {f"prefix/{name}": rows for name, rows in self.condition.class_rows.items()}

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes."""
        raise NotImplementedError

    def read(self, params: Any, condition: Any) -> Any:
        """What drawing needs of conditions of P rows; done once, whatever the number of steps."""
        raise NotImplementedError

    def for_reading(self, params: Any) -> Any:
        """`params` with the matrices of stacks in their compute type."""
        read = {
            name: read_type(params[name], DTYPES[stack.compute.dtype])
            for name, stack in self.stacks.items()
        }
        return {**params, **read}

    def for_decoding(self, params: Any) -> Any:
        """`params` as decoding reads them best: cut by layers, matrices in their compute type."""
        return self.for_reading(params)

    @property
    def feature_blocks(self) -> int:
        """Of a network that has `features`: how many blocks it gives them of."""
        raise NotImplementedError

    @property
    def together(self) -> tuple[int, str]:
        """So many examples of a batch stay on one device, and what they are, for people."""
        return 1, ""

    def at(self, level: str) -> "Generator":
        """The same weights at one of the levels that the network draws into, by its name."""
        codes = self.levels.codes[self.levels.names.index(level)]
        return dataclasses.replace(self, codes=codes)

    @property
    def stacks(self) -> Mapping[str, TransformerConfig]:
        """The transformers, by their path in the section."""
        return {}

    def flops(self) -> dict[str, tuple[int, str]]:
        """Operations of a forward pass for one example, with their formula, by part."""
        raise NotImplementedError

    @property
    def factors(self) -> tuple[int, ...]:
        """Values of each of the numbers that are predicted one after another of a code."""
        return self.codes.vocab

    def joined(self, factors: Sequence[jax.Array]) -> jax.Array:
        """The codes, as `Codes` says, of these numbers, int32 [...] each."""
        return factors[0] if len(factors) == 1 else jax.numpy.stack(factors, axis=-1)

    def check(self) -> None:
        """Refuses a condition or codes that it cannot take. Raises `UserError`."""

    def check_new(self) -> None:
        """Refuses, of a training that begins, what has no use. Raises `UserError`."""


def example(condition: Condition, rows: int) -> Any:
    """What networks read of a condition of so many rows, all zeros, to make parameters with."""
    return condition.example(rows)


def check_codebook(generator: Generator) -> None:
    """Raises `UserError` where the codes are continuous, for networks that predict numbers."""
    require(
        bool(generator.codes.vocab),
        "config.tokenizer's codes are continuous and config.model.kind="
        f"{generator.config.kind} predicts numbers; take a tokenizer with a codebook",
    )


def lacks(generator: Generator, needs: tuple[str, ...]) -> list[str]:
    """The functions of `needs` that a network does not have."""
    return [name for name in needs if not isinstance(getattr(generator, name, None), Callable)]
