"""The contract of predictions: how codes are learned, drawn and scored."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax

from babeldraw.config import require
from babeldraw.models.base import Generator, lacks
from babeldraw.models.levels import LevelGroup, flat

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class Given:
    """Codes that are there already.

    Attributes:
      codes: of each row, as `Codes` says.
      kept: bool [B, T]: True where the code stays as it is, False where one is drawn.
      again: bool [B, T]: True where one is drawn anew from what stands there, among those that are
        not kept; None: nowhere. Only predictions that say `refines` look at it.
    """

    codes: jax.Array
    kept: jax.Array
    again: jax.Array | None = None


class Prediction:
    """A section `prediction`: a frozen dataclass with the field `kind`.

    Attributes:
      needs: the functions that it asks of a network, beside those of `Generator`.
      refines: it can draw a code anew from the one that stands there (`Given.again`).
      begins: it draws from nothing; else it draws again what stands there, which must be given.
      sampled: training reads continuous codes drawn from what the tokenizer says of a picture, not
        their means.
      measures: it has constants that are measured on the data when a training run begins.
      sampling: the dataclass of the section `sampling`, of which the flags of `sample` are made. It
        has `guided`, whether the unconditional branch has any effect, `guidance`, and `traced()`,
        the same as scalars that a compiled program takes as arguments.
    """

    kind: str
    needs: tuple[str, ...] = ()
    refines: bool = False
    begins: bool = True
    sampled: bool = False
    measures: bool = False
    sampling: type

    def tuned(self) -> "Prediction":
        """The same for a run that goes on from another's end and counts its steps from 0 again."""
        return self

    def check(self, generator: Generator) -> None:
        """Raises `UserError` where a network lacks what this asks for."""
        missing = lacks(generator, self.needs)
        require(
            not missing,
            f"config.prediction.kind is {self.kind!r} and config.model.kind="
            f"{generator.config.kind} has no {' and no '.join(missing)}; take a network that has",
        )

    def check_sampling(self, settings: Any, generator: Generator, path: str = "") -> None:
        """Raises `UserError` where a network cannot be drawn from so.

        Args:
          settings: of `sampling`.
          generator: the network.
          path: how the user calls them, with a dot behind; empty: by their names alone.
        """
        guided, guidance = settings.guided, settings.guidance
        generator.condition.check_guidance(guided, guidance, f"{path}guidance")

    def loss(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """What training makes less of.

        Args:
          generator, params: the network.
          condition: a row for each example.
          codes: to be predicted, as `Codes` says.
          keys: one per example, of dropout and of whatever else is drawn for it.
          step: int32, updates done before, for what changes over training.

        Returns:
          The mean over the examples, and metrics that are means too.
        """
        raise NotImplementedError

    def loss_of_levels(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        codes: list[jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """`loss` over groups of pictures of all levels that a network draws into.

        Every picture weighs alike, whatever the number of its codes.

        Args:
          generator, params: the network, with `levels`.
          condition: [R, P, ...], of each picture of a group, in the order of the levels.
          codes: of each level, [R, count, ...].
          keys: [R, P].
          step: as of `loss`.

        Returns:
          The mean over the pictures; metrics likewise, and each level's own, `loss_NAME`.
        """
        levels = generator.levels
        of_levels = zip(
            levels.names, levels.apart(condition), codes, levels.apart(keys), strict=True
        )
        found = [
            self.loss(generator.at(name), params, *map(flat, own), step) for name, *own in of_levels
        ]
        return mean_of_levels(levels, found)

    def draw(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        keys: jax.Array,
        settings: Any,
        given: Given | None = None,
        guided: bool = True,
    ) -> jax.Array:
        """Codes of P conditions, B / P examples of each.

        A row's codes depend on its own condition, key and given codes only.

        Args:
          generator, params: the network.
          condition: of P rows.
          keys: [B], one per example; those of one condition stand together.
          settings: of `sampling.traced()`.
          given: codes that are kept.
          guided: False leaves the unconditional branch out: the same where guidance is 1.
        """
        raise NotImplementedError

    def score(self, generator: Generator, params: Any, condition: Any, codes: jax.Array):
        """-log p of each example's codes, or a bound of it: float32 [B], the mean over places.

        Of diffusion its squared error.
        """
        raise NotImplementedError

    def step(
        self, generator: Generator, params: Any, condition: Any, samples: int, settings: Any
    ) -> tuple[Callable, tuple[Any, ...], int]:
        """The program that drawing repeats, for `bench` and `compile`.

        Args:
          generator, params: the network; abstract parameters will do, as decoding reads them.
          condition: of P rows.
          samples: examples of each.
          settings: of `sampling`.

        Returns:
          A function of (params, *inputs), these inputs, abstract, and how often it is called.
        """
        raise NotImplementedError

    def forward(self, generator: Generator) -> Callable | None:
        """(params, condition, codes) -> what a step without cache computes; None: no such."""
        return None


def mean_of_levels(
    levels: LevelGroup, found: list[tuple[jax.Array, Metrics]]
) -> tuple[jax.Array, Metrics]:
    """Losses and metrics of each level to those of all pictures, and each loss by its name."""

    def mean(*values: jax.Array) -> jax.Array:
        pairs = zip(levels.shares, values, strict=True)
        return sum(share * value for share, value in pairs)

    loss, metrics = jax.tree.map(mean, *found)
    own = {f"loss_{name}": one for name, (one, _) in zip(levels.names, found, strict=True)}
    return loss, {**metrics, **own}
