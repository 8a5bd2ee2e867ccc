"""How well drawn pictures agree with the texts that they were drawn from, as CLIP sees it."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from babeldraw.config import require_positive
from babeldraw.data.pipeline import fingerprint
from babeldraw.data.text import caption_at
from babeldraw.drawing.clip_judge import CLIPJudge
from babeldraw.evaluation.base import Context, HeldOut, Value, of_split, open_held_out
from babeldraw.evaluation.drawn import Drawn
from babeldraw.evaluation.feature_sets import sha256
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import Speed, guidance_of, of_drawing
from babeldraw.models.condition import Asked
from babeldraw.objectives.base import TrainState

PATH = "config.evaluators.clip_score"
FORMULA = "100 max(cos, 0), mean over pictures; Hessel et al. 2021, equation 1, has 2.5 for 100"


@dataclasses.dataclass(frozen=True)
class ClipScoreConfig:
    """Attributes:
    file: weights that `babeldraw import --kind=clip_b32`, or another size's, wrote, CLIP's words
      beside it (`data.clip_words`); empty leaves the evaluator out.
    num_examples: captions, at most, a picture of each.
    batch_size: pictures at a time.
    split: of the data the captions are of; empty: `data.eval_split`.
    sampling: fields of `config.sampling` that are others here.
    """

    file: str = ""
    num_examples: int = 1000
    batch_size: int = 64
    split: str = ""
    sampling: Any = None

    def __post_init__(self):
        require_positive(self, PATH, "num_examples", "batch_size")

    def tiny(self) -> "ClipScoreConfig":
        """The same for a first run, of which no file is asked."""
        return dataclasses.replace(self, file="")


class ClipScore(HeldOut):
    """`clip_score`, of pictures of held-out captions; with guidance also without it.

    One picture of each caption, with the seeds 0 to N - 1: 100 max(cos, 0) of the embeddings of
    picture and caption, as torchmetrics and others print it, with no words before the caption.
    CLIPScore itself (Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image
    Captioning", 2021) is this / 40, and reads "A photo depicts" before each.
    """

    def __init__(self, generate: Callable, config: ClipScoreConfig, context: Context):
        self._drawn = Drawn(generate, context)
        self._config, self._context = config, of_split(context, config.split)
        self._judge = CLIPJudge.open(config.file, f"{PATH}.file")

    def check(self) -> None:
        self._judge.check(self._context.condition, self._context.lexicon)
        super().check()

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        self.check()
        sampling, words = self._config.sampling, self._words()
        yield "guidance", sampling.guidance
        yield "clip_score", mean_figure(self._scores(state, words, sampling))
        if sampling.guidance != 1:
            plain = dataclasses.replace(sampling, guidance=1.0)
            scores = self._scores(state, words, plain)
            yield "clip_score_without_guidance", mean_figure(scores)

    def protocol(self) -> dict[str, Any]:
        config, source = self._config, open_held_out(self._context)
        split = self._context.data.eval_split
        words, sampling = self._words(), config.sampling
        return {
            "captions": {"source": source.name, "split": split, "fingerprint": fingerprint(source)},
            "drawn": of_drawing(words, sampling, guidance_of(sampling)),
            "clip": {"kind": self._judge.kind, "sha256": sha256(config.file), "score": FORMULA},
        }

    @property
    def speed(self) -> Speed:
        return self._drawn.speed

    def _words(self) -> list[Any]:
        """What each picture is drawn of."""
        source = open_held_out(self._context)
        num = min(self._config.num_examples, len(source))
        captions = [caption_at(c, 0) for c in itertools.islice(source.captions(), num)]
        return self._context.condition.first(num, captions)

    def _scores(self, state: TrainState, words: Sequence[Any], sampling: Any) -> np.ndarray:
        """float32 [N]."""
        asked = [self._context.condition.ask(word, self._context.lexicon) for word in words]
        images = self._drawn.draw(state, words, sampling, self._config.batch_size)
        return clip_scores(self._judge, images, asked)


def clip_scores(judge: CLIPJudge, images: np.ndarray, asked: Sequence[Asked]) -> np.ndarray:
    """float32 [B], 100 max(cos, 0); see `Judge.score`."""
    return 100 * np.maximum(judge.score(images, asked), 0)
