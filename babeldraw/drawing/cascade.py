"""Super-resolution by codes: what one run has drawn goes through others before it becomes pixels.

CogView2's hierarchy (Ding et al., 2022, section 3.3): the small codes and the text to large codes
in one pass, direct super-resolution; these drawn again in a few, iterative super-resolution. All
runs have one codebook, and the last codes alone are decoded.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from babeldraw.config import require
from babeldraw.drawing.drawer import Drawer, open_drawer, read_lexicon
from babeldraw.models.code_upscaler import split
from babeldraw.models.condition import Asked, Condition, Lexicon, stacked
from babeldraw.prediction.base import Given
from babeldraw.prediction.kinds import read_sampling
from babeldraw.tokenizers.base import Tokenizer, identity


@dataclasses.dataclass(frozen=True)
class CodeStage:
    """A run that makes codes of codes. Its text is that of the first run, in its own pieces.

    Attributes:
      workdir: its folder, as the user names it.
      drawer: its networks and programs.
      lexicon: of the run.
      settings: how it draws, the run's own.
      step: the checkpoint's.
    """

    workdir: str
    drawer: Drawer
    lexicon: Lexicon
    settings: Any
    step: int

    @property
    def condition(self) -> Condition:
        return self.drawer.generator.condition

    @property
    def takes(self) -> Tokenizer:
        """The tokenizer at the level whose codes it is given."""
        small = split(self.condition)[1]
        return self.drawer.tokenizer if small is None else small.tokenizer

    @property
    def told(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"run": self.workdir, "step": self.step, **dataclasses.asdict(self.settings)}

    def check(self, asked: Sequence[Asked]) -> None:
        """Raises `UserError`: a text in letters that the run's own pieces do not know."""
        text, _ = split(self.condition)
        for one in asked if text is not None else ():
            text.ask(one.text, self.lexicon)

    def draw(self, asked: Sequence[Asked], codes: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Codes of level `takes`, int32 [B, S] -> int32 [B, T] of the run's.

        A picture's depend on its text, codes and seed alone.

        Args:
          asked: the B things that they were drawn of.
          codes: of each.
          seeds: int [B], of each.
        """
        given = None
        if not self.drawer.prediction.begins:
            nowhere = np.zeros(codes.shape[:2], bool)
            given = Given(codes, kept=nowhere, again=~nowhere)
        rows = [self._row(*pair) for pair in zip(asked, codes, strict=True)]
        return self.drawer.drawn(stacked(rows), seeds, self.settings, given)

    def _row(self, asked: Asked, codes: np.ndarray) -> Any:
        def words(part: Condition) -> Any:
            return codes if part.kind == "codes" else asked.text

        condition = self.condition
        if condition.kind == "several":
            said = {name: words(part) for name, part in condition.parts.items()}
        else:
            said = words(condition)
        return condition.ask(said, self.lexicon).row


@dataclasses.dataclass(frozen=True)
class Cascade:
    """Stages one after another. The weights of all lie on the device together.

    Attributes:
      stages: at least one.
    """

    stages: tuple[CodeStage, ...]

    @property
    def last(self) -> Drawer:
        """What decodes."""
        return self.stages[-1].drawer

    @property
    def told(self) -> list[dict[str, Any]]:
        """What a manifest says of its stages."""
        return [stage.told for stage in self.stages]

    def check(self, asked: Sequence[Asked]) -> None:
        """Raises `UserError`: a text that one of the stages cannot read."""
        for stage in self.stages:
            stage.check(asked)

    def draw(
        self, asked: Sequence[Asked], codes: np.ndarray, seeds: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Small codes to the last stage's, int32 [B, T], and pictures, uint8 [B, H, W, 3].

        Args:
          asked: the B things that they were drawn of.
          codes: int32 [B, S].
          seeds: int [B]; each stage folds its number into their keys.
          size: at least B; batches of one size are served by one program a stage.
        """
        rows = np.arange(size) % len(asked)
        padded, seeds, codes = [asked[row] for row in rows], seeds[rows], codes[rows]
        for stage in self.stages:
            codes = stage.draw(padded, codes, seeds)
        return codes[: len(asked)], self.last.pixels(codes)[: len(asked)]


def open_cascade(
    workdir: str,
    first: Drawer,
    by_codes: Sequence[str],
    by_pixels: Sequence[str] = (),
    **how: Any,
) -> Cascade:
    """The stages behind a run.

    Args:
      workdir: of the run that draws the small codes.
      first: its networks.
      by_codes: folders of the stages, in order; at least one.
      by_pixels: those of what is done to the last one's pictures.
      how: as `open_drawer` takes it, the same for all.

    Raises:
      UserError: what `open_drawer` raises, a run that makes no codes of codes, or one that does not
        take those of the run before it.
    """
    stages: list[CodeStage] = []
    before, drawer = workdir, first
    for number, name in enumerate(by_codes, start=1):
        pixels = by_pixels if number == len(by_codes) else ()
        stage = _open_stage(name, number, first, pixels, **how)
        _check_follows(stage, before, drawer)
        stages.append(stage)
        before, drawer = name, stage.drawer
    return Cascade(tuple(stages))


def _open_stage(
    workdir: str, number: int, first: Drawer, pixels: Sequence[str], **how: Any
) -> CodeStage:
    drawer, opened = open_drawer(workdir, stages=pixels, **how)
    # Of one codebook, so that what was found for one run is so for all.
    clusters = first.clusters if drawer.clusters is None else drawer.clusters
    drawer = dataclasses.replace(drawer, number=number, clusters=clusters)
    condition, prediction = drawer.generator.condition, drawer.prediction
    require(
        prediction.begins == (split(condition)[1] is not None),
        f"{workdir} draws from {condition.drawn_from} and makes no codes of those before it; name "
        "runs of direct or iterative super-resolution by codes",
    )
    require(
        condition.text_length == 0 or first.generator.condition.text_length > 0,
        f"{workdir} reads a text and the first run draws from "
        f"{first.generator.condition.drawn_from}; name runs that read one text",
    )
    settings = read_sampling(prediction, opened.config["sampling"], "config.sampling")
    drawer.check_sampling(settings)
    lexicon = read_lexicon(opened.folder, condition)
    return CodeStage(workdir, drawer, lexicon, settings, opened.step)


def _check_follows(stage: CodeStage, before: str, drawer: Drawer) -> None:
    """Refuses a stage that takes other codes than those of the run before it."""
    takes, gives = stage.takes, drawer.tokenizer
    require(
        takes.level == gives.level,
        f"{stage.workdir} takes codes of level {takes.level or 'none'} and {before} draws those of "
        f"level {gives.level or 'none'}; name runs whose levels follow one another",
    )
    wanted = identity(takes, stage.drawer.params["tokenizer"])
    found = identity(gives, drawer.params["tokenizer"])
    require(
        wanted == found,
        f"{stage.workdir} was trained on codes of the tokenizer {wanted} and {before} draws with "
        f"{found}; name runs of one tokenizer",
    )
