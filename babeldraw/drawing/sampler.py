"""Pictures from a trained run: the Python interface of `babeldraw sample`."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from babeldraw.config import require
from babeldraw.drawing.canvas import Canvas
from babeldraw.drawing.cascade import Cascade, open_cascade
from babeldraw.drawing.drawer import Drawer, open_drawer, power_of_two, read_lexicon
from babeldraw.drawing.judging import Judge, best, open_judge
from babeldraw.drawing.stages import by_kind
from babeldraw.drawing.styles import PLACE, styled, template
from babeldraw.models.condition import Asked, Condition, Lexicon
from babeldraw.prediction.kinds import read_sampling
from babeldraw.sharding.mesh import MeshConfig


@dataclasses.dataclass(frozen=True)
class Picture:
    """One drawn picture.

    Attributes:
      asked: what was asked for.
      seed: with what was asked for and the settings, gives the same picture again.
      image: uint8 [height, width, 3].
      tokens: its codes, int32 [T] for those of one factor.
      score: the judge's; None without one.
      rank: among those of one thing, by the judge, 0 the best; None without one.
      level: of the tokenizer, in whose codes it was drawn; empty where it has one.
    """

    asked: Asked
    seed: int
    image: np.ndarray
    tokens: np.ndarray
    score: float | None = None
    rank: int | None = None
    level: str = ""

    @property
    def prompt(self) -> str:
        """What was asked for, as people call it."""
        return self.asked.name


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws pictures from texts, classes, or whatever else the run draws from.

        sampler = Sampler.from_run("runs/demo/text_to_image")
        for picture in sampler.sample(["a small red circle"], num=4):
            ...

    Attributes:
      drawer: the networks, their parameters and compiled programs.
      lexicon: of the run.
      defaults: settings of the run.
      step: the checkpoint's.
      judge: of what is drawn, in a cascade of the small pictures; None: none.
      cascade: makes larger codes of those that are drawn, before they are decoded; None: none.
      style: of each text, see `styles.template`. What is drawn is called, and judged, by the text
        without it.
    """

    drawer: Drawer
    lexicon: Lexicon
    defaults: Any
    step: int
    judge: Judge | None = None
    cascade: Cascade | None = None
    style: str = "none"

    @classmethod
    def from_run(
        cls,
        workdir: str,
        stages: Sequence[str] = (),
        tokenizer_run: str = "",
        judge: str = "",
        mesh: MeshConfig | None = None,
        weights: str = "",
    ) -> "Sampler":
        """Reads the run's config, words and newest checkpoint.

        Args:
          workdir: folder of a generator's run.
          stages: folders of runs of what makes each picture larger, in order: super-resolution by
            codes, direct or iterative, and behind it by pixels.
          tokenizer_run: folder of a tokenizer whose decoder draws in place of the run's own;
            empty: the own.
          judge: folder of a contrastive captioner's, a CogLM's or a classifier's run, or a file of
            CLIP's weights, by which the best are kept; empty: none.
          mesh: devices to share the generator, such as
            `MeshConfig(model=4, rules="in_layer_serving")`; None: one device.
          weights: `ema`, the average of the weights, or `params`, as they are; empty: the average
            where the run keeps one.

        Raises:
          UserError: no such folder, a run of another kind, no checkpoint yet, stages or a decoder
            that were trained on another tokenizer, a judge of other things, or too few devices.
        """
        by_codes, by_pixels = by_kind(stages)
        by = open_judge(judge) if judge else None
        how = {"tokenizer_run": tokenizer_run, "mesh": mesh, "weights": weights}
        drawer, opened = open_drawer(workdir, stages=() if by_codes else by_pixels, **how)
        condition = drawer.generator.condition
        lexicon = read_lexicon(opened.folder, condition)
        sampling = opened.config["sampling"]
        defaults = read_sampling(drawer.prediction, sampling, "config.sampling")
        cascade = None
        if by_codes:
            cascade = open_cascade(workdir, drawer, by_codes, by_pixels, **how)
        if by is not None:
            by.check(condition, lexicon)
        return cls(drawer, lexicon, defaults, opened.step, by, cascade)

    @property
    def condition(self) -> Condition:
        """What it draws from."""
        return self.drawer.generator.condition

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the tokenizer's pictures, those of the cascade's last stage."""
        last = self.drawer if self.cascade is None else self.cascade.last
        return last.tokenizer.image_size

    def at(self, level: str) -> "Sampler":
        """The same, drawing into a level of the tokenizer; see `Drawer.at`.

        Raises:
          UserError: also where a cascade takes codes of another level.
        """
        own = self.drawer.tokenizer.level
        require(
            self.cascade is None or level in ("", own),
            f"level is {level!r} and what follows takes codes of level {own}; leave one of the two "
            "out",
        )
        return dataclasses.replace(self, drawer=self.drawer.at(level))

    def ask(self, words: Sequence[Any]) -> list[Asked]:
        """What words say to the run. Raises `UserError`: what it, or a stage, does not know."""
        asked = self._asked(words)
        if self.cascade is not None:
            self.cascade.check([self._styled(one) for one in asked])
        return asked

    def _asked(self, words: Sequence[Any]) -> list[Asked]:
        inside = template(self.style)
        if inside == PLACE:
            return [self.condition.ask(word, self.lexicon) for word in words]
        require(
            self.condition.of_text,
            f"style is {self.style!r} and the run draws from {self.condition.drawn_from}; leave it "
            "out",
        )
        return [self._ask_styled(word, inside) for word in words]

    def _ask_styled(self, text: str, inside: str) -> Asked:
        asked = self.condition.ask(styled(text, inside), self.lexicon)
        return dataclasses.replace(asked, name=text, text=text)

    def _styled(self, asked: Asked) -> Asked:
        """The same with its text in the style, for stages, which read it in their own pieces."""
        if self.style == "none":
            return asked
        return dataclasses.replace(asked, text=styled(asked.text, template(self.style)))

    def sample(
        self,
        words: Sequence[Any],
        num: int = 1,
        seed: int | Sequence[int] = 0,
        settings: Any = None,
        batch_size: int = 16,
        canvas: Canvas | Sequence[Canvas] | None = None,
        keep: int | None = None,
        level_of: Callable[[Asked], str] | None = None,
    ) -> Iterator[Picture]:
        """Draws `num` pictures of each thing, in order.

        Args:
          words: of each thing: a text, a class by name or number, `""` of nothing; of several
            conditions a mapping by name. An empty text, or the class `none`, draws without
            condition.
          num: pictures of each, with seeds seed, seed + 1, ...
          seed: of the first picture of each, at least 0; or one of each thing. With one for all,
            pictures of different things share their noise: what they have in common by chance is
            no sample of it.
          settings: None for the run's own.
          batch_size: pictures at a time, at least 1; changes none of them beyond rounding. The
            conditions of a batch are read once, whatever the number of their pictures. A cascade
            takes as many of those that are kept.
          canvas: a picture to go on from, see `canvas`, for all or one of each thing; None: from
            nothing.
          keep: of each thing the best so many are given, the best first, as the judge says; None:
            all, and where there is a judge in its order.
          level_of: of a run that draws into several levels, into which each thing is drawn, such as
            by its text's score; empty: the run's own. Things one after another that go into one
            level are drawn together. None: all go into the sampler's, see `at`.

        Raises:
          UserError: what there is not, guidance of a model that was trained without dropping its
            condition, a choice without a judge, seeds or canvases of another number, canvases for
            several levels or for a cascade, or a run that draws nothing by itself.
        """
        require(batch_size >= 1, f"batch_size is {batch_size}; at least 1 is needed")
        require(num >= 1, f"num is {num}; at least 1 is needed")
        require(
            keep is None or self.judge is not None,
            f"keep is {keep} of {num} and nothing says which are best; name a judge",
        )
        require(
            keep is None or 1 <= keep <= num,
            f"keep is {keep} of {num} pictures; a number from 1 to {num} is needed",
        )
        canvases = [canvas] * len(words) if isinstance(canvas, Canvas) else canvas
        require(
            canvases is None or len(canvases) == len(words),
            f"canvas holds {len(canvases or ())} pictures to go on from and {len(words)} things "
            "are to be drawn; give one, or one of each",
        )
        seeds = [seed] * len(words) if isinstance(seed, int) else seed
        require(
            len(seeds) == len(words),
            f"seed holds {len(seeds)} numbers and {len(words)} things are to be drawn; give one "
            "for all, or one of each",
        )
        settings = settings or self.defaults
        self.drawer.check_sampling(settings)
        self._check_given(canvas)
        asked = self.ask(words)
        if self.judge is not None:
            for one in asked:
                self.judge.notes(one)
        more = (num, settings, batch_size, canvases, keep or num)
        if level_of is None:
            return self._larger(self._pictures(asked, seeds, *more), batch_size)
        require(canvas is None, "a picture to go on from has codes of one level; name that alone")
        levels = [level_of(one) for one in asked]
        # What there is not is told before a picture is drawn.
        at = {level: self.at(level) for level in dict.fromkeys(levels)}
        pictures = self._of_levels(asked, seeds, [at[level] for level in levels], more)
        return self._larger(pictures, batch_size)

    def _check_given(self, canvas: Canvas | None) -> None:
        prediction = self.drawer.prediction
        require(
            prediction.begins or canvas is not None,
            f"the run draws codes again that others have drawn (prediction.kind={prediction.kind}) "
            "and begins none; draw with one that does and name this one in its `babeldraw sample "
            "--super_resolution`",
        )
        require(
            canvas is None or self.cascade is None,
            "a picture to go on from has codes of the small size alone and a cascade makes all of "
            "it anew; leave one of the two out",
        )

    def _larger(self, pictures: Iterator[Picture], batch_size: int) -> Iterator[Picture]:
        """What the cascade makes of them, by batches of one size."""
        if self.cascade is None:
            yield from pictures
            return
        size, at_once = 0, _power_of_two_in(batch_size)
        while part := list(itertools.islice(pictures, at_once)):
            size = size or power_of_two(len(part))
            asked = [self._styled(one.asked) for one in part]
            seeds = np.array([one.seed for one in part])
            small = np.stack([one.tokens for one in part])
            level = self.cascade.last.tokenizer.level
            drawn = self.cascade.draw(asked, small, seeds, size)
            for one, tokens, image in zip(part, *drawn, strict=True):
                yield dataclasses.replace(one, image=image, tokens=tokens, level=level)

    def _of_levels(
        self,
        asked: Sequence[Asked],
        seeds: Sequence[int],
        samplers: Sequence["Sampler"],
        more: tuple[Any, ...],
    ) -> Iterator[Picture]:
        things = zip(samplers, asked, seeds, strict=True)
        for _, run in itertools.groupby(things, key=lambda one: one[0].drawer.tokenizer.level):
            own, part, of_part = zip(*run, strict=True)
            yield from own[0]._pictures(part, of_part, *more)

    def _pictures(
        self,
        asked: Sequence[Asked],
        seeds: Sequence[int],
        num: int,
        settings: Any,
        batch_size: int,
        canvases: Sequence[Canvas] | None,
        keep: int,
    ) -> Iterator[Picture]:
        # So that the rows of a batch are not rounded up.
        at_once = _power_of_two_in(max(1, batch_size // power_of_two(min(num, batch_size))))
        for start in range(0, len(asked), at_once):
            drawn: list[Picture] = []
            part = asked[start : start + at_once]
            laid = canvases and canvases[start : start + at_once]
            first_P = np.array(seeds[start : start + at_once])
            for first in range(0, num, batch_size):
                numbers = np.arange(first, min(first + batch_size, num))
                for picture in self._draw(part, first_P[:, None] + numbers, settings, laid):
                    drawn.append(picture)
                    if len(drawn) == num:
                        yield from self._chosen(drawn, keep)
                        drawn = []

    def canvas(
        self,
        image: np.ndarray,
        rows: int | None = None,
        count: int | None = None,
        mask: np.ndarray | None = None,
    ) -> Canvas:
        """A picture to go on from; give one of rows, count and mask.

        Args:
          image: uint8 [H, W, 3]; its largest centred crop is resized to the tokenizer's size.
          rows: the first so many rows of tokens are kept.
          count: the first so many tokens are kept.
          mask: [H, W], what is true or above 127 is drawn anew and the rest is kept. What a hole
            is drawn from depends on the prediction: see `drawing.canvas`. Of codes; to have the
            picture's own pixels kept, and for pictures of any size, see `drawing.editing.edit`.

        Raises:
          UserError: not exactly one is given, or it does not fit the picture or the tokens.
        """
        return self.drawer.canvas(image, rows, count, mask)

    def _chosen(self, drawn: list[Picture], keep: int) -> list[Picture]:
        if self.judge is None:
            return drawn
        images = np.stack([picture.image for picture in drawn])
        scores = self.judge.score(images, [picture.asked for picture in drawn])
        order = enumerate(best(scores, keep))
        return [
            dataclasses.replace(drawn[i], score=float(scores[i]), rank=rank) for rank, i in order
        ]

    def _draw(
        self,
        asked: Sequence[Asked],
        seeds: np.ndarray,
        settings: Any,
        canvases: Sequence[Canvas] | None,
    ) -> Iterator[Picture]:
        """Pictures of each thing by `seeds`, int [P, num]."""
        tokens = self.drawer.tokens([one.row for one in asked], seeds, settings, canvases)
        flat, level = tokens.reshape(-1, *tokens.shape[2:]), self.drawer.tokenizer.level
        # Small pictures of a cascade are seen by a judge alone.
        unseen = self.cascade is not None and self.judge is None
        said = [one.row for one in asked for _ in seeds[0]]
        images = [None] * len(flat) if unseen else self.drawer.pixels(flat, said)
        for i, (image, codes) in enumerate(zip(images, flat, strict=True)):
            which, number = divmod(i, seeds.shape[1])
            yield Picture(asked[which], int(seeds[which, number]), image, codes, level=level)


def _power_of_two_in(count: int) -> int:
    """The largest power of two that is at most `count`."""
    return 1 << (count.bit_length() - 1)
