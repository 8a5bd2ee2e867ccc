"""Pictures from a trained VIM: of a class, of nothing, or going on from the beginning of another.

The Python interface of `babeldraw sample --class`.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from babeldraw.config import build, require
from babeldraw.drawing.classifier import ClassifierRun
from babeldraw.drawing.drawer import Drawer, open_drawer
from babeldraw.drawing.editing import Canvas
from babeldraw.drawing.rejection import drawn_for, most_likely
from babeldraw.errors import UserError
from babeldraw.models.vim import Generator, VIMConfig
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.runs.folder import RunFolder
from babeldraw.sharding.mesh import MeshConfig


@dataclasses.dataclass(frozen=True)
class ClassPicture:
    """One drawn picture.

    Attributes:
      label: its class; the number of classes is the no-class.
      seed: with the class, the settings and the canvas, gives the same picture again.
      image: uint8 [height, width, 3].
      tokens: int32 [T].
      score: the classifier's probability of the class; None without one.
    """

    label: int
    seed: int
    image: np.ndarray
    tokens: np.ndarray
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class ClassSampler:
    """Draws pictures of classes.

        sampler = ClassSampler.from_run("runs/digits/vim")
        for picture in sampler.sample([3, 8], num=4):
            ...

    Attributes:
      drawer: the networks, their parameters and compiled programs. Its `canvas` makes the beginning
        of a picture to go on from.
      num_classes: classes there are; this number itself is the no-class.
      guidable: whether the no-class was trained beside classes.
      defaults: settings of the run.
      step: the checkpoint's.
      names: of the classes, where the run kept them.
      classifier: of the same classes, for rejection; None: none.
    """

    drawer: Drawer
    num_classes: int
    guidable: bool
    defaults: SamplingConfig
    step: int
    names: tuple[str, ...] = ()
    classifier: ClassifierRun | None = None

    @classmethod
    def from_run(
        cls,
        workdir: str,
        super_resolution: str = "",
        tokenizer_run: str = "",
        classifier_run: str = "",
        mesh: MeshConfig | None = None,
        weights: str = "",
    ) -> "ClassSampler":
        """Reads the run's config and newest checkpoint.

        Args:
          workdir: folder of a run of class_to_image.
          super_resolution, tokenizer_run, mesh, weights: see `Sampler.from_run`.
          classifier_run: folder of a classifier of the same classes, for rejection; empty: none.

        Raises:
          UserError: no such folder, a run of another kind, no checkpoint yet, what was trained on
            another tokenizer, or a classifier of other classes.
        """
        folder = RunFolder.of(workdir)
        config = folder.read_config()
        if config["objective"] != "class_to_image":
            raise UserError(
                f"{workdir} is a run of {config['objective']}; sampling classes needs one of "
                "class_to_image"
            )
        model = build(VIMConfig, config["model"], "config.model")
        drawer, step = open_drawer(
            workdir,
            lambda tokens: Generator(model, tokens),
            super_resolution=super_resolution,
            tokenizer_run=tokenizer_run,
            mesh=mesh,
            weights=weights,
        )
        return cls(
            drawer=drawer,
            num_classes=model.num_classes,
            guidable=config["loss"]["class_dropout"] > 0,
            defaults=build(SamplingConfig, config["sampling"], "config.sampling"),
            step=step,
            names=folder.read_classes(),
            classifier=_classifier(classifier_run, model.num_classes, folder.read_classes()),
        )

    def sample(
        self,
        classes: Sequence[int],
        num: int = 1,
        seed: int = 0,
        settings: SamplingConfig | None = None,
        batch_size: int = 16,
        canvas: Canvas | None = None,
        acceptance: float = 1.0,
    ) -> Iterator[ClassPicture]:
        """Draws `num` pictures of each class, in order.

        Args:
          classes: 0 to `num_classes`, the last of which is no class.
          num: pictures per class, with seeds seed, seed + 1, ...
          seed: of the first picture of each class, at least 0.
          settings: None for the run's own.
          batch_size: pictures at a time, at least 1; changes none of them beyond rounding.
          canvas: a picture to go on from, of `drawer.canvas`; None: from nothing.
          acceptance: share of the drawn pictures that is kept: those that the classifier holds for
            likeliest of their class. 1 keeps all; below 1, more are drawn.

        Raises:
          UserError: a class that there is not, guidance of a model that was trained without class
            dropout, rejection without a classifier.
        """
        settings = settings or self.defaults
        self.check(classes, settings, acceptance)
        require(batch_size >= 1, f"batch_size is {batch_size}; at least 1 is needed")
        seeds = seed + np.arange(drawn_for(num, acceptance))
        return self._pictures(classes, num, seeds, settings, batch_size, canvas)

    def check(self, classes: Sequence[int], settings: SamplingConfig, acceptance: float) -> None:
        """Raises what `sample` would raise."""
        check_classes(classes, self.num_classes)
        require(
            self.guidable or not settings.guided,
            f"guidance is {settings.guidance} and the run was trained with "
            "config.loss.class_dropout=0: there is no unconditional branch to guide by; take 1",
        )
        drawn_for(1, acceptance)
        require(
            acceptance == 1 or self.classifier is not None,
            f"acceptance is {acceptance}, for which a classifier is needed; name a classifier_run",
        )
        require(
            acceptance == 1 or all(label < self.num_classes for label in classes),
            f"acceptance is {acceptance} and class {self.num_classes} is no class, of which no "
            "classifier knows; take acceptance 1",
        )

    def _pictures(
        self,
        classes: Sequence[int],
        num: int,
        seeds: np.ndarray,
        settings: SamplingConfig,
        batch_size: int,
        canvas: Canvas | None,
    ) -> Iterator[ClassPicture]:
        for label in classes:
            drawn = []
            for start in range(0, len(seeds), batch_size):
                own = seeds[start : start + batch_size]
                drawn += self._draw(label, own, settings, canvas)
            kept = range(num)
            if len(drawn) > num:
                kept = most_likely(np.array([picture.score for picture in drawn]), num)
            yield from (drawn[index] for index in kept)

    def _draw(
        self, label: int, seeds: np.ndarray, settings: SamplingConfig, canvas: Canvas | None
    ) -> list[ClassPicture]:
        class_P = np.array([label], np.int32)
        tokens_BT = self.drawer.tokens(class_P, seeds[None], settings, canvas)[0]
        images = self.drawer.pixels(tokens_BT)
        scores: list[float | None] = [None] * len(seeds)
        if self.classifier is not None and label < self.num_classes:
            scores = [float(p) for p in self.classifier.probabilities(images)[:, label]]
        return [
            ClassPicture(label, int(seed), image, tokens, score)
            for seed, image, tokens, score in zip(seeds, images, tokens_BT, scores, strict=True)
        ]


def _classifier(workdir: str, num_classes: int, names: tuple[str, ...]) -> ClassifierRun | None:
    if not workdir:
        return None
    classifier = ClassifierRun.open(workdir)
    classifier.check_knows(num_classes, names, f"the classifier {workdir}")
    return classifier


def check_classes(classes: Sequence[int], num_classes: int, name: str = "classes") -> None:
    """Refuses numbers that are no class of a model with `num_classes` and the no-class."""
    for number in classes:
        if not 0 <= number <= num_classes:
            choices = f"0 to {num_classes - 1}, or {num_classes} for no class"
            raise UserError(
                f"{name} holds {number}; the model knows "
                f"{choices if num_classes else 'no class but 0, that of no class'}"
            )
