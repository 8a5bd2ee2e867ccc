"""Captions of pictures: the Python interface of `babeldraw caption`."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from babeldraw.config import build, require
from babeldraw.data.text import Vocabulary
from babeldraw.data.vocabularies import vocabulary_of
from babeldraw.drawing.drawer import power_of_two
from babeldraw.drawing.teller_judge import TellerJudge
from babeldraw.models.coca import Captioner, CoCaConfig
from babeldraw.models.condition import Condition, Lexicon, stacked
from babeldraw.models.conditions import ImageCondition
from babeldraw.models.sequential import Sequential
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.prediction.next_token import NextToken
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import open_part
from babeldraw.tokenizers.base import Tokenizer

# The likeliest caption, token by token.
GREEDY = SamplingConfig(temperature=0.0)


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption of a picture.

    Attributes:
      text: what it says.
      seed: with the picture and the settings, gives the same caption again.
      score: the mean log-probability of its tokens and its end.
      tokens: int32 [S], zero behind the end.
    """

    text: str
    seed: int
    score: float
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class CaptionerRun:
    """Tells pictures in words.

        captioner = CaptionerRun.open("runs/coca")
        for caption in captioner.caption([image]):
            ...

    Attributes:
      captioner: the network.
      params: of the newest checkpoint, as decoding reads them.
      vocabulary: of the captions.
      step: the checkpoint's.
      tokenizer, tokenizer_params: make the codes of pictures where the captioner reads these; None:
        it reads pictures.
    """

    captioner: Sequential
    params: Any
    vocabulary: Vocabulary
    step: int
    tokenizer: Tokenizer | None = None
    tokenizer_params: Any = None

    @classmethod
    def open(cls, workdir: str, weights: str = "") -> "CaptionerRun":
        """Reads a run folder, of a contrastive captioner or of a generator that tells too.

        Raises:
          UserError: it is none of these.
        """
        if RunFolder.to_read(workdir).read_config()["objective"] == "generator":
            judge = TellerJudge.open(workdir, weights)
            network, tokenizer = judge.captioner, judge.params["tokenizer"]
            own = (judge.tokenizer, tokenizer)
            return cls(network, judge.params["generator"], judge.vocabulary, judge.step, *own)

        def make(config):
            return Captioner(build(CoCaConfig, config["model"], "config.model"))

        objectives = "contrastive_captioner", "generator"
        opened = open_part(workdir, objectives, make, weights=weights)
        params = opened.part.for_decoding(opened.params)
        vocabulary = vocabulary_of(opened.folder, opened.part.config.text_vocab_size)
        return cls(opened.part, params, vocabulary, opened.step)

    def caption(
        self,
        images: Sequence[np.ndarray],
        num: int = 1,
        seed: int = 0,
        settings: SamplingConfig = GREEDY,
        batch_size: int = 16,
    ) -> Iterator[Caption]:
        """Draws `num` captions of each picture, in order.

        Args:
          images: uint8 [H, W, 3]; the largest centred crop is resized to what the network reads.
          num: captions of each, with seeds seed, seed + 1, ...; of a temperature of 0 all are one.
          seed: of the first caption of each picture.
          settings: temperature and filters; there is no guidance, for pictures are never dropped.
          batch_size: captions at a time.
        """
        require(batch_size >= 1, f"batch_size is {batch_size}; at least 1 is needed")
        require(num >= 1, f"num is {num}; at least 1 is needed")
        # Seeds are 32-bit.
        require(0 <= seed <= 2**31 - num, f"seed is {seed}; 0 to {2**31 - num} is needed")
        condition = self._pictures
        condition.check_guidance(settings.guided, settings.guidance)
        rows = [condition.ask(image, Lexicon()).row for image in images]
        wanted = [(row, seed + n) for row in range(len(rows)) for n in range(num)]
        size = power_of_two(min(batch_size, len(wanted)))
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            # The last batch is padded: another shape would be another compilation.
            padded = [part[i % len(part)] for i in range(size)]
            pictures = stacked([rows[row] for row, _ in padded])
            seeds = np.array([seed for _, seed in padded], np.uint32)
            tokens, scores = self._program(
                self.params, self.tokenizer_params, pictures, seeds, settings.traced()
            )
            for (_, own), ids, score in zip(part, np.asarray(tokens), scores, strict=False):
                yield Caption(self.vocabulary.decode(ids), own, float(score), ids)

    @property
    def _pictures(self) -> Condition:
        """What the user gives."""
        if self.tokenizer is None:
            return self.captioner.condition
        return ImageCondition(self.tokenizer.image_size)

    @functools.cached_property
    def _program(self):
        prediction = NextToken()

        def draw(params, tokenizer_params, pictures, seeds_B, settings):
            if self.tokenizer is not None:
                pictures = self.tokenizer.encode(tokenizer_params, pictures)
            keys_B = jax.vmap(jax.random.key)(seeds_B)
            tokens = prediction.draw(
                self.captioner, params, pictures, keys_B, settings, guided=False
            )
            return tokens, -prediction.score(self.captioner, params, pictures, tokens)

        return jax.jit(draw)
