"""Pictures from a trained run: the Python interface of `babeldraw sample`."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from babeldraw.config import build, require
from babeldraw.data.image import to_uint8
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.models import babeldraw, vim
from babeldraw.runs.checkpoints import on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder
from babeldraw.sampling.decode import decode
from babeldraw.sampling.logits import SamplingConfig, Settings
from babeldraw.sampling.tokenizers import other_decoder
from babeldraw.sampling.upscaling import SuperResolutionRun
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer, identity

# What draws from text, by the run's objective.
MODELS = {
    "text_to_image": (babeldraw, babeldraw.BabeldrawConfig),
    "text_to_image_decoder_only": (vim, vim.TextVIMConfig),
}
# Batches are padded to one of these sizes, so that few programs are compiled.
BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True)
class Picture:
    """One drawn picture.

    Attributes:
      prompt: what was asked for.
      seed: with the prompt and the settings, gives the same picture again.
      image: uint8 [height, width, 3].
    """

    prompt: str
    seed: int
    image: np.ndarray


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws pictures from prompts.

    Attributes:
      generator, tokenizer: the two networks.
      params: {"generator": ..., "tokenizer": ...}.
      vocabulary: of the prompts.
      defaults: settings of the run.
      step: the checkpoint's.
      super_resolution: makes each picture larger; None leaves it as the tokenizer gives it.
    """

    generator: babeldraw.Generator | vim.Generator
    tokenizer: ViTVQGANTokenizer
    params: dict[str, Any]
    vocabulary: Vocabulary
    defaults: SamplingConfig
    step: int
    super_resolution: SuperResolutionRun | None = None

    @classmethod
    def from_run(
        cls, workdir: str, super_resolution: str = "", tokenizer_run: str = ""
    ) -> "Sampler":
        """Reads the run's config, vocabulary and newest checkpoint.

        Args:
          workdir: folder of a text-to-image run.
          super_resolution: folder of a run that makes the tokenizer's pictures larger; empty: none.
          tokenizer_run: folder of a tokenizer whose decoder draws in place of the run's own;
            empty: the own.

        Raises:
          UserError: no such folder, a run of another kind, no checkpoint yet, or super-resolution
            or a decoder that was trained on another tokenizer.
        """
        folder = RunFolder.of(workdir)
        config = folder.read_config()
        if config["objective"] not in MODELS:
            raise UserError(
                f"{workdir} is a run of {config['objective']}; sampling from text needs one of "
                f"{' or '.join(MODELS)} (a run of class_to_image takes --class)"
            )
        tokenizer = ViTVQGANTokenizer(
            build(ViTVQGANConfig, config["tokenizer"], "config.tokenizer")
        )
        room, section = MODELS[config["objective"]]
        generator = room.Generator(
            build(section, config["model"], "config.model"), tokenizer.tokens
        )
        key = jax.random.key(0)
        abstract = {
            "params": nn.unbox(jax.eval_shape(generator.init, key)),
            "frozen": {"tokenizer": nn.unbox(jax.eval_shape(tokenizer.init, key))},
        }
        step, state = restore_subset(folder.checkpoints, on_first_device(abstract))
        tokenizer_params = state["frozen"]["tokenizer"]
        own = identity(config["tokenizer"], tokenizer_params)
        if tokenizer_run:
            tokenizer, tokenizer_params = other_decoder(tokenizer_run, own)
        upscaler = SuperResolutionRun.open(super_resolution) if super_resolution else None
        if upscaler is not None:
            require(
                upscaler.tokenizer == own,
                f"--super_resolution={super_resolution} was trained on pictures of the tokenizer "
                f"{upscaler.tokenizer} and {workdir} draws with {own}; name one of the same",
            )
        return cls(
            generator=generator,
            tokenizer=tokenizer,
            params={"generator": state["params"], "tokenizer": tokenizer_params},
            vocabulary=Vocabulary(folder.vocabulary_file),
            defaults=build(SamplingConfig, config["sampling"], "config.sampling"),
            step=step,
            super_resolution=upscaler,
        )

    def sample(
        self,
        prompts: Sequence[str],
        num: int = 1,
        seed: int = 0,
        settings: SamplingConfig | None = None,
        batch_size: int = 16,
    ) -> Iterator[Picture]:
        """Draws `num` pictures of each prompt, in order.

        Args:
          prompts: an empty one draws without condition; one longer than the model reads is cut
            (`too_long` tells).
          num: pictures per prompt, with seeds seed, seed + 1, ...
          seed: of the first picture of each prompt, at least 0.
          settings: None for the run's own.
          batch_size: pictures at a time, at least 1; changes none of them beyond rounding.
        """
        require(batch_size >= 1, f"batch_size is {batch_size}; at least 1 is needed")
        settings = settings or self.defaults
        asked = [(prompt, seed + i) for prompt in prompts for i in range(num)]
        for start in range(0, len(asked), batch_size):
            batch = asked[start : start + batch_size]
            images = self._draw([p for p, _ in batch], [s for _, s in batch], settings)
            for (prompt, own_seed), image in zip(batch, images, strict=True):
                yield Picture(prompt, own_seed, image)

    def too_long(self, prompts: Sequence[str]) -> list[tuple[str, int]]:
        """Prompts of more tokens than the model reads, each with its number of tokens."""
        lengths = self.vocabulary.lengths(list(prompts))
        limit = self.generator.config.text_length
        return [(p, n) for p, n in zip(prompts, lengths, strict=True) if n > limit]

    def _draw(self, prompts: list[str], seeds: list[int], settings: SamplingConfig) -> np.ndarray:
        count = len(prompts)
        size = next((b for b in BUCKETS if b >= count), count)
        rows = np.arange(size) % count
        text = self.vocabulary.encode(prompts, self.generator.config.text_length)[rows]
        keys_B = jax.vmap(jax.random.key)(np.asarray(seeds)[rows])
        images = self._program(self.params, text, keys_B, Settings.of(settings))
        if self.super_resolution is not None:
            images = self.super_resolution.upscale(images)
        return to_uint8(np.asarray(images))[:count]

    @functools.cached_property
    def _program(self):
        def draw(params, text_BS, keys_B, settings):
            tokens_BT = decode(self.generator, params["generator"], text_BS, keys_B, settings)
            return self.tokenizer.decode(params["tokenizer"], tokens_BT)

        return jax.jit(draw)
