"""Pictures from a trained run: the Python interface of `babeldraw sample`."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from babeldraw.config import build, require
from babeldraw.data.text import Vocabulary
from babeldraw.drawing.drawer import Drawer, open_drawer, power_of_two
from babeldraw.drawing.editing import Canvas
from babeldraw.errors import UserError
from babeldraw.models import babeldraw, vim
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.runs.folder import RunFolder
from babeldraw.sharding.mesh import MeshConfig

# What draws from text, by the run's objective.
MODELS = {
    "text_to_image": (babeldraw, babeldraw.BabeldrawConfig),
    "text_to_image_decoder_only": (vim, vim.TextVIMConfig),
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """One drawn picture.

    Attributes:
      prompt: what was asked for.
      seed: with the prompt and the settings, gives the same picture again.
      image: uint8 [height, width, 3].
      tokens: int32 [T].
    """

    prompt: str
    seed: int
    image: np.ndarray
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws pictures from prompts.

        sampler = Sampler.from_run("runs/demo/text_to_image")
        for picture in sampler.sample(["a small red circle"], num=4):
            ...

    Attributes:
      drawer: the networks, their parameters and compiled programs.
      text_length: tokens of a prompt that the model reads.
      image_size: (height, width) of the tokenizer's pictures.
      vocabulary: of the prompts.
      defaults: settings of the run.
      step: the checkpoint's.
    """

    drawer: Drawer
    text_length: int
    image_size: tuple[int, int]
    vocabulary: Vocabulary
    defaults: SamplingConfig
    step: int

    @classmethod
    def from_run(
        cls,
        workdir: str,
        super_resolution: str = "",
        tokenizer_run: str = "",
        mesh: MeshConfig | None = None,
        weights: str = "",
    ) -> "Sampler":
        """Reads the run's config, vocabulary and newest checkpoint.

        Args:
          workdir: folder of a text-to-image run.
          super_resolution: folder of a run that makes the tokenizer's pictures larger; empty: none.
          tokenizer_run: folder of a tokenizer whose decoder draws in place of the run's own;
            empty: the own.
          mesh: devices to share the generator, such as
            `MeshConfig(model=4, rules="in_layer_serving")`; None: one device.
          weights: `ema`, the average of the weights, or `params`, as they are; empty: the average
            where the run keeps one.

        Raises:
          UserError: no such folder, a run of another kind, no checkpoint yet, super-resolution
            or a decoder that was trained on another tokenizer, or too few devices.
        """
        folder = RunFolder.of(workdir)
        config = folder.read_config()
        if config["objective"] not in MODELS:
            raise UserError(
                f"{workdir} is a run of {config['objective']}; sampling from text needs one of "
                f"{' or '.join(MODELS)} (one of class_to_image takes --class)"
            )
        room, section = MODELS[config["objective"]]
        model = build(section, config["model"], "config.model")
        drawer, step = open_drawer(
            workdir,
            lambda tokens: room.Generator(model, tokens),
            super_resolution=super_resolution,
            tokenizer_run=tokenizer_run,
            mesh=mesh,
            weights=weights,
        )
        return cls(
            drawer=drawer,
            text_length=model.text_length,
            image_size=drawer.tokenizer.image_size,
            vocabulary=Vocabulary(folder.vocabulary_file),
            defaults=build(SamplingConfig, config["sampling"], "config.sampling"),
            step=step,
        )

    def sample(
        self,
        prompts: Sequence[str],
        num: int = 1,
        seed: int = 0,
        settings: SamplingConfig | None = None,
        batch_size: int = 16,
        canvas: Canvas | None = None,
    ) -> Iterator[Picture]:
        """Draws `num` pictures of each prompt, in order.

        Args:
          prompts: an empty one draws without condition; one longer than the model reads is cut
            (`too_long` tells).
          num: pictures per prompt, with seeds seed, seed + 1, ...
          seed: of the first picture of each prompt, at least 0.
          settings: None for the run's own.
          batch_size: pictures at a time, at least 1; changes none of them beyond rounding. The
            prompts of a batch are read once, whatever the number of their pictures.
          canvas: a picture to go on from, see `canvas`; None: from nothing.
        """
        require(batch_size >= 1, f"batch_size is {batch_size}; at least 1 is needed")
        require(num >= 1, f"num is {num}; at least 1 is needed")
        settings = settings or self.defaults
        room = max(1, batch_size // power_of_two(min(num, batch_size)))
        # Rounded down to a power of two, so that the rows of a batch are not rounded up.
        at_once = 1 << (room.bit_length() - 1)
        for start in range(0, len(prompts), at_once):
            for first in range(0, num, batch_size):
                seeds = seed + np.arange(first, min(first + batch_size, num))
                yield from self._draw(prompts[start : start + at_once], seeds, settings, canvas)

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
          mask: [H, W], what is true or above 127 is drawn anew and the rest is kept. Tokens are
            drawn in raster order and know nothing of kept ones after them: see `editing`.

        Raises:
          UserError: not exactly one is given, or it does not fit the picture or the tokens.
        """
        return self.drawer.canvas(image, rows, count, mask)

    def unknown(self, prompt: str) -> str:
        """The characters of a prompt that the run's vocabulary does not know, each once."""
        return self.vocabulary.unknown(prompt)

    def too_long(self, prompts: Sequence[str]) -> list[tuple[str, int]]:
        """Prompts of more tokens than the model reads, each with its number of tokens."""
        lengths = self.vocabulary.lengths(list(prompts))
        return [(p, n) for p, n in zip(prompts, lengths, strict=True) if n > self.text_length]

    def _draw(
        self,
        prompts: Sequence[str],
        seeds: np.ndarray,
        settings: SamplingConfig,
        canvas: Canvas | None,
    ) -> Iterator[Picture]:
        text = self.vocabulary.encode(list(prompts), self.text_length)
        rows = np.broadcast_to(seeds, (len(prompts), len(seeds)))
        tokens = self.drawer.tokens(text, rows, settings, canvas)
        images = self.drawer.pixels(tokens.reshape(-1, tokens.shape[-1]))
        for i, image in enumerate(images):
            prompt, picture = divmod(i, len(seeds))
            yield Picture(prompts[prompt], int(seeds[picture]), image, tokens[prompt, picture])
