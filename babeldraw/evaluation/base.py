"""The contract of evaluators."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from etils import epath
from jax.sharding import Mesh

from babeldraw.data.config import DataConfig
from babeldraw.data.records import Source
from babeldraw.data.sources import open_source, open_texts
from babeldraw.data.spread import Spread
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.evaluation.protocol import of_pictures, of_records
from babeldraw.models.condition import Condition, Lexicon
from babeldraw.objectives.base import TrainState

Value = float | np.ndarray
# Sources whose records stand in no order, so that the first ones are as good as any.
UNORDERED = ("shapes", "shape_pairs", "digits")


class Evaluator(Protocol):
    """Judges a state. Every host yields the same names in the same order."""

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        """Figures (float) and pictures (uint8 [H, W, 3])."""
        ...

    def protocol(self) -> dict[str, Any]:
        """How the figures come about, as JSON holds it; see `evaluation.protocol`."""
        ...


@dataclasses.dataclass(frozen=True)
class HalfDone:
    """Attributes:
    folder: for files of what an evaluation has done so far.
    identity: of the weights that are judged; what was done with others is not gone on from.
    """

    folder: epath.Path
    identity: str


@dataclasses.dataclass(frozen=True)
class Context:
    """What any evaluator may need beside its own config.

    Attributes:
      data: where held-out examples come from.
      image_size: (height, width).
      seed: of the run.
      mesh: over which batches are split.
      vocabulary, text_length: of a run that reads texts.
      classes: names of those that the run learns; empty where it learns none or kept no names.
      condition: what a generator draws from; None of other runs.
      pictures: whether held-out data are opened with them, or as texts alone.
      half_done: where long evaluations keep what they have; None: they do not.
      beside_text: whether pictures are given back beside their captions, whose pieces stand in
        their batches then.
    """

    data: DataConfig
    image_size: tuple[int, int]
    seed: int
    mesh: Mesh
    vocabulary: Vocabulary | None = None
    text_length: int = 0
    classes: tuple[str, ...] = ()
    condition: Condition | None = None
    pictures: bool = True
    half_done: HalfDone | None = None
    beside_text: bool = False
    # Opened once for all evaluators and all evaluations.
    _opened: dict[bool, Source] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def lexicon(self) -> Lexicon:
        return Lexicon(self.vocabulary, self.classes)


def of_split(context: Context, split: str) -> Context:
    """The same judged by another part of the data; an empty `split` leaves it as it is."""
    if not split:
        return context
    data = dataclasses.replace(context.data, eval_split=split)
    return dataclasses.replace(context, data=data, _opened={})


def of_level(context: Context, level: str, image_size: tuple[int, int]) -> Context:
    """The same judged at another level of a tokenizer, by pictures of its size."""
    half_done, opened = context.half_done, context._opened
    if half_done is not None:
        half_done = dataclasses.replace(half_done, identity=f"{half_done.identity} {level}")
    if image_size != context.image_size:
        opened = {}
    return dataclasses.replace(context, image_size=image_size, half_done=half_done, _opened=opened)


def with_texts(context: Context) -> Context:
    """The same of pictures that are given back beside their captions."""
    return dataclasses.replace(context, beside_text=True, _opened={})


def of_texts(context: Context, data: DataConfig) -> Context:
    """The same judged by texts alone, those of `data`."""
    return dataclasses.replace(context, data=data, pictures=False, _opened={})


def open_held_out(context: Context, captions: bool | None = None) -> Source:
    """The data that evaluators judge by: of `data.eval_split`, of the size that training sees.

    Args:
      context: of the run.
      captions: whether pictures without are left out; None: where the run reads text.

    Raises:
      UserError: what `open_source` says, of that field.
    """
    if captions is None:
        captions = context.vocabulary is not None
    if captions not in context._opened:
        context._opened[captions] = _open_held_out(context, captions)
    return context._opened[captions]


def _open_held_out(context: Context, captions: bool) -> Source:
    data = context.data
    try:
        if not context.pictures:
            return open_texts(data, data.eval_split, context.seed)
        return open_spread(context, data.eval_split, captions)
    except UserError as error:
        said = str(error).replace("data.split=", "data.eval_split=")
        if "eval_split" not in said:
            said = f"data.eval_split={data.eval_split!r}: {said}"
        raise UserError(said) from error


def open_spread(context: Context, split: str, captions: bool) -> Source:
    """A split whose first records, by which evaluators judge, are of all of it (`data.spread`)."""
    data, side = context.data, max(context.image_size)
    source = open_source(data, split, side, context.seed, require_captions=captions)
    return source if data.source in UNORDERED else Spread(source)


class HeldOut:
    """An evaluator that reads held-out data, which it can look for before any step is done."""

    _context: Context
    _config: Any

    def protocol(self) -> dict[str, Any]:
        context = self._context
        source, num = open_held_out(context), self._config.num_examples
        if not context.pictures:
            texts = of_records(source, num, context.data.eval_split)
            return {"texts": {**texts, "pieces": context.text_length}}
        return {"pictures": of_pictures(source, num, context.data.eval_split, context.image_size)}

    def check(self) -> None:
        """Raises what opening the data would raise."""
        open_held_out(self._context)
