"""Pictures from a trained VIM: of a class, of nothing, or going on from the beginning of another.

The Python interface of `babeldraw sample --class`.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from babeldraw.config import build, require
from babeldraw.data.image import center_crop, to_uint8
from babeldraw.errors import UserError
from babeldraw.models.vim import Generator, VIMConfig
from babeldraw.runs.checkpoints import on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder
from babeldraw.sampling.classifier import ClassifierRun
from babeldraw.sampling.decode import Given, decode
from babeldraw.sampling.logits import SamplingConfig, Settings
from babeldraw.sampling.rejection import drawn_for, most_likely
from babeldraw.sampling.tokenizers import other_decoder
from babeldraw.tokenizers.base import ImageTokens
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer, identity

# Batches are padded to one of these sizes, so that few programs are compiled.
BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True)
class ClassPicture:
    """One drawn picture.

    Attributes:
      label: its class; the number of classes is the no-class.
      seed: with the class, the settings and the prefix, gives the same picture again.
      image: uint8 [height, width, 3].
      tokens: int32 [T].
      score: the classifier's probability of the class; None without rejection.
    """

    label: int
    seed: int
    image: np.ndarray
    tokens: np.ndarray
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The beginning of a picture, which is kept.

    Attributes:
      image: uint8 [H, W, 3], cropped and resized to the run's size.
      length: of its tokens in raster order, how many are kept.
    """

    image: np.ndarray
    length: int


@dataclasses.dataclass(frozen=True)
class ClassSampler:
    """Draws pictures of classes.

    Attributes:
      generator, tokenizer: the two networks.
      params: {"generator": ..., "tokenizer": ..., "decoder": ...}; the last draws.
      drawing: the tokenizer whose decoder draws; the run's own unless another is named.
      defaults: settings of the run.
      guidable: whether the no-class was trained, beside classes, for guidance.
      step: the checkpoint's.
      classifier: rejects pictures; None: none.
    """

    generator: Generator
    tokenizer: ViTVQGANTokenizer
    params: dict[str, Any]
    drawing: ViTVQGANTokenizer
    defaults: SamplingConfig
    guidable: bool
    step: int
    classifier: ClassifierRun | None = None

    @classmethod
    def from_run(
        cls, workdir: str, tokenizer_run: str = "", classifier_run: str = ""
    ) -> "ClassSampler":
        """Reads the run's config and newest checkpoint.

        Args:
          workdir: folder of a run of class_to_image.
          tokenizer_run: folder of a tokenizer whose decoder draws in place of the run's own;
            empty: the own.
          classifier_run: folder of a classifier of the same classes, for rejection; empty: none.

        Raises:
          UserError: no such folder, a run of another kind, no checkpoint yet, a decoder that was
            trained on another tokenizer, or a classifier of other classes.
        """
        folder = RunFolder.of(workdir)
        config = folder.read_config()
        if config["objective"] != "class_to_image":
            raise UserError(
                f"{workdir} is a run of {config['objective']}; sampling classes needs one of "
                "class_to_image"
            )
        tokenizer = ViTVQGANTokenizer(
            build(ViTVQGANConfig, config["tokenizer"], "config.tokenizer")
        )
        generator = Generator(build(VIMConfig, config["model"], "config.model"), tokenizer.tokens)
        key = jax.random.key(0)
        abstract = {
            "params": nn.unbox(jax.eval_shape(generator.init, key)),
            "frozen": {"tokenizer": nn.unbox(jax.eval_shape(tokenizer.init, key))},
        }
        step, state = restore_subset(folder.checkpoints, on_first_device(abstract))
        own = state["frozen"]["tokenizer"]
        drawing, decoder = tokenizer, own
        if tokenizer_run:
            drawing, decoder = other_decoder(tokenizer_run, identity(config["tokenizer"], own))
        return cls(
            generator=generator,
            tokenizer=tokenizer,
            params={"generator": state["params"], "tokenizer": own, "decoder": decoder},
            drawing=drawing,
            defaults=build(SamplingConfig, config["sampling"], "config.sampling"),
            guidable=config["loss"]["class_dropout"] > 0,
            step=step,
            classifier=_classifier(classifier_run, generator.config.num_classes),
        )

    @property
    def num_classes(self) -> int:
        """Classes there are; this number itself is the no-class."""
        return self.generator.config.num_classes

    def sample(
        self,
        classes: Sequence[int],
        num: int = 1,
        seed: int = 0,
        settings: SamplingConfig | None = None,
        batch_size: int = 16,
        prefix: Prefix | None = None,
        acceptance: float = 1.0,
    ) -> Iterator[ClassPicture]:
        """Draws `num` pictures of each class, in order.

        Args:
          classes: 0 to `num_classes`, the last of which is no class.
          num: pictures per class, with seeds seed, seed + 1, ...
          seed: of the first picture of each class, at least 0.
          settings: None for the run's own.
          batch_size: pictures at a time, at least 1; changes none of them beyond rounding.
          prefix: what every picture begins with.
          acceptance: share of the drawn pictures that is kept: those that the classifier holds for
            likeliest of their class. 1 keeps all; below 1, more are drawn.

        Raises:
          UserError: a class that there is not, a prefix longer than a picture, guidance of a model
            that was trained without class dropout, rejection without a classifier.
        """
        settings = settings or self.defaults
        self._check(classes, batch_size, settings, acceptance)
        check_prefix(0 if prefix is None else prefix.length, self.generator.tokens)
        each = drawn_for(num, acceptance)
        start = self._start(prefix)
        for label in classes:
            drawn = self._pictures(label, range(seed, seed + each), settings, batch_size, start)
            if acceptance == 1:
                yield from drawn
                continue
            pictures = [*drawn]
            scores = np.array([picture.score for picture in pictures])
            yield from (pictures[index] for index in most_likely(scores, num))

    def _check(
        self, classes: Sequence[int], batch_size: int, settings: SamplingConfig, acceptance: float
    ) -> None:
        require(batch_size >= 1, f"batch_size is {batch_size}; at least 1 is needed")
        check_classes(classes, self.num_classes)
        require(
            self.guidable or not settings.guided,
            f"guidance is {settings.guidance} and the run was trained with "
            "config.loss.class_dropout=0: there is no unconditional branch to guide by; take 1",
        )
        require(
            acceptance == 1 or self.classifier is not None,
            f"acceptance is {acceptance}, for which a classifier is needed; name a classifier_run",
        )
        require(
            acceptance == 1 or all(label < self.num_classes for label in classes),
            f"acceptance is {acceptance} and class {self.num_classes} is no class, of which no "
            "classifier knows; take acceptance 1",
        )

    def _start(self, prefix: Prefix | None) -> tuple[np.ndarray, int]:
        """Tokens int32 [T] of the picture to go on from, and how many of them are kept."""
        if prefix is None:
            return np.zeros(self.generator.tokens.length, np.int32), 0
        image = center_crop(prefix.image, self.tokenizer.image_size)[None]
        tokens = self._encode(self.params["tokenizer"], image.astype(np.float32) / 255)
        return np.asarray(tokens)[0], prefix.length

    def _pictures(
        self,
        label: int,
        seeds: range,
        settings: SamplingConfig,
        batch_size: int,
        start: tuple[np.ndarray, int],
    ) -> Iterator[ClassPicture]:
        for first in range(0, len(seeds), batch_size):
            own = seeds[first : first + batch_size]
            images, tokens = self._draw(label, list(own), settings, start)
            scores: Sequence[float | None] = [None] * len(own)
            if self.classifier is not None and label < self.num_classes:
                scores = [float(p) for p in self.classifier.probabilities(images)[:, label]]
            for i, seed in enumerate(own):
                yield ClassPicture(label, seed, images[i], tokens[i], scores[i])

    def _draw(
        self, label: int, seeds: list[int], settings: SamplingConfig, start: tuple[np.ndarray, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, height, width, 3] and int32 [n, T]."""
        size = next((b for b in BUCKETS if b >= len(seeds)), len(seeds))
        keys_B = jax.vmap(jax.random.key)(np.resize(np.asarray(seeds), size))
        tokens_T, kept = start
        tokens_BT = np.broadcast_to(tokens_T, (size, len(tokens_T)))
        given = Given(tokens_BT, np.broadcast_to(np.arange(len(tokens_T)) < kept, tokens_BT.shape))
        class_B = np.full(size, label, np.int32)
        images, tokens = self._program(
            self.params, class_B, keys_B, Settings.of(settings), given, settings.guided
        )
        return to_uint8(np.asarray(images))[: len(seeds)], np.asarray(tokens)[: len(seeds)]

    @functools.cached_property
    def _program(self):
        def draw(params, class_B, keys_B, settings, given, guided):
            tokens_BT = decode(
                self.generator, params["generator"], class_B, keys_B, settings, given, guided
            )
            return self.drawing.decode(params["decoder"], tokens_BT), tokens_BT

        return jax.jit(draw, static_argnums=5)

    @functools.cached_property
    def _encode(self):
        return jax.jit(self.tokenizer.encode)


def _classifier(workdir: str, num_classes: int) -> ClassifierRun | None:
    if not workdir:
        return None
    classifier = ClassifierRun.open(workdir)
    require(
        classifier.num_classes == num_classes,
        f"the classifier {workdir} knows {classifier.num_classes} classes and the model "
        f"{num_classes}; name one of the same classes",
    )
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


def check_prefix(length: int, tokens: ImageTokens) -> None:
    """Refuses to keep more tokens than a picture has."""
    require(
        0 <= length <= tokens.length,
        f"the prefix is {length} tokens long and a picture has {tokens.length}; at most "
        f"{tokens.length} can be kept",
    )


def rows_of_tokens(rows: int, tokens: ImageTokens) -> int:
    """How many tokens the first rows of a picture have.

    Raises:
      UserError: the tokenizer gives a sequence, which has no rows, or a picture has fewer.
    """
    require(
        len(tokens.shape) == 2,
        f"{rows} rows are asked for and the tokenizer gives a sequence of {tokens.length} tokens, "
        "not a grid; give a number of tokens",
    )
    h, w = tokens.shape
    require(0 <= rows <= h, f"{rows} rows are asked for and a picture has {h} rows of tokens")
    return rows * w
