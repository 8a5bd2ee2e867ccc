"""What every experiment is made of, and what it says of itself where a recipe says no other."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from babeldraw.data.config import DataConfig
from babeldraw.data.records import Source
from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.layers.block import TransformerConfig
from babeldraw.objectives.adversarial import uses_perceptual
from babeldraw.objectives.base import Objective
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.sharding.layout import Layout
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.train.flops import ModelFlops
from babeldraw.train.settings import TrainConfig
from babeldraw.train.starts import StartConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole config as typed sections; each attribute is the section of that name.

    evaluators: which judge the run, in a dataclass of their sections; None leaves one out.
    tokenizer_run: run folder of the trained tokenizer that it builds on; empty: none.
    starts: further weights that come from elsewhere.
    """

    objective: str
    train: TrainConfig
    data: DataConfig
    optimizer: OptimizerConfig
    evaluators: Any
    starts: tuple[StartConfig, ...] = ()
    mesh: MeshConfig = MeshConfig()

    # Sections that a begun run of this recipe cannot change, beside those of every recipe.
    also_fixed = ()
    # Whether batches hold pictures, or codes of them; else the data are read as texts alone.
    reads_pictures = True

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures to train on."""
        raise NotImplementedError

    @property
    def text_length(self) -> int:
        """Tokens of the captions that are read; 0 where none are."""
        return 0

    @property
    def vocab_size(self) -> int:
        """Pieces that the vocabulary of the captions shall have."""
        return 0

    @property
    def states_shape(self) -> tuple[int, ...]:
        """(S, E) of the states of texts that a tokenizer's decoder may draw beside; (): none."""
        return ()

    @property
    def texts_beside(self) -> DataConfig | None:
        """Data of which batches hold as many texts besides, as `masked_text`; None: none."""
        return None

    @property
    def vocabulary_file(self) -> str:
        """The SentencePiece model that texts are read by; empty: the run trains its own."""
        return ""

    @property
    def word_table(self) -> str:
        """Name of the parameter with a vector for each piece of a text; empty: there is none."""
        return ""

    def with_vocabulary(self, size: int) -> "Experiment":
        """The same with a vocabulary of so many pieces."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """How many classes the data must have; 0: any."""
        return 0

    @property
    def class_rows(self) -> Mapping[str, int]:
        """Of the parameters that end in a row for each class and one for none, by name: how many.

        A run that begins from one of other classes has fresh rows there, see `starts.begun`.
        """
        return {}

    # Where the config says these two, for messages.
    text_in = "condition.length"
    classes_in = "condition.num_classes"

    @property
    def frozen_tokenizer(self) -> bool:
        """Whether the state holds a trained tokenizer that stays as it is."""
        return False

    @property
    def uses_perceptual(self) -> bool:
        """Whether its losses look at the perceptual network, whose file must then be there."""
        return hasattr(self, "perceptual") and uses_perceptual(self.loss, self.discriminator)

    @property
    def own_starts(self) -> tuple[StartConfig, ...]:
        """What the recipe itself begins from."""
        return self.frozen_starts

    @property
    def frozen_starts(self) -> tuple[StartConfig, ...]:
        """Of it what stays as it is: a frozen tokenizer, a network of a loss."""
        found = []
        if self.frozen_tokenizer:
            found.append(StartConfig(run=self.tokenizer_run, into="frozen/tokenizer"))
        if self.uses_perceptual:
            found.append(StartConfig(file=self.perceptual.file, into="frozen/perceptual"))
        return tuple(found)

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        """The transformers to be trained, by their path in the config."""
        return {}

    @property
    def width_field(self) -> str:
        """The config's field that a step's time hangs on most; empty: none stands out."""
        stacks = self.stacks
        if not stacks:
            return ""
        # Of stacks that are alike the last: a picture's decoder, after a text's encoder.
        largest = max(
            reversed(stacks), key=lambda path: stacks[path].blocks * stacks[path].dim ** 2
        )
        return f"{largest}.dim"

    def tuned(self) -> "Experiment":
        """The same recipe for a run that goes on from this one's end, with steps from 0 again."""
        return self

    def make_objective(self) -> Objective:
        raise NotImplementedError

    def check_layout(self, layout: Layout) -> None:
        """Raises `UserError` when the config does not fit a mesh."""
        raise NotImplementedError

    def arranged(self, source: Source) -> Source:
        """The data in the order that batches want, where that is not the source's own."""
        return source

    def check_new(self) -> None:
        """Raises `UserError` for what a run that is there may have, and one that begins may not."""

    def check_data(self, source: Source) -> None:
        """Raises `UserError` when the data are none to train on."""

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """The configured evaluators by name."""
        raise NotImplementedError

    def flops(self) -> ModelFlops | None:
        """Operations of a training step for one example; None: there is no formula."""
        return None
