"""How far the pictures that a generator draws lie, as a set, from true ones."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import to_uint8
from babeldraw.data.pipeline import fingerprint
from babeldraw.data.records import Source
from babeldraw.data.text import caption_at
from babeldraw.evaluation.base import Context, HeldOut, Value, of_split, open_held_out
from babeldraw.evaluation.drawn import Drawn
from babeldraw.evaluation.feature_sets import (
    FeatureSet,
    Progress,
    SetsConfig,
    check_enough,
    compared,
    dim_of,
    of_network,
    open_reference,
    sha256,
    write_reference,
)
from babeldraw.evaluation.pictures import picture_batches, place_pictures
from babeldraw.evaluation.protocol import Speed, guidance_of, of_drawing
from babeldraw.judges.features import Features
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import place_batch, whole
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class DrawnDistanceConfig(SetsConfig):
    """As many pictures as there are true ones; see `SetsConfig`.

    Attributes:
    sampling: fields of `config.sampling` that are others here.
    """

    sampling: Any = None

    path = "config.evaluators.fd"


class DrawnDistance(HeldOut):
    """`fd_NETWORK`, `kid_NETWORK`, `precision_NETWORK`, `recall_NETWORK`; and without guidance.

    Drawn of the captions of the held-out pictures, one each; of classes, each as often as the
    others; with the seeds 0 to N - 1. With a guidance other than 1 the same is measured without it
    (`fd_NETWORK_without_guidance`, ...). Pictures are rounded to 8 bits.

    Args:
      generate: of the objective's `predict_fns`.
      features: of the network that the config names.
    """

    def __init__(
        self,
        generate: Callable,
        config: DrawnDistanceConfig,
        context: Context,
        features: Features,
    ):
        self._drawn, self._features = Drawn(generate, context), features
        self._config, self._context = config, of_split(context, config.split)
        self._dim = dim_of(features, context.image_size)
        self._features_of = jax.jit(lambda features, images: features(to_float(images)))

    def check(self) -> None:
        super().check()
        available = [] if self._config.reference else [len(self._source)]
        check_enough(self._config, self._dim, available or [self._config.num_examples])
        open_reference(self._config, self._dim, self._context.image_size)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        self.check()
        config, size = self._config, self._context.image_size
        yield "guidance", config.sampling.guidance
        settings = {"": config.sampling}
        if config.sampling.guidance != 1:
            settings["_without_guidance"] = dataclasses.replace(config.sampling, guidance=1.0)
        true, underway = open_reference(config, self._dim, size), []
        if true is None:
            true = FeatureSet("true pictures", self._dim, config.keep)
            underway.append(self._gather_true(true))
            write_reference(config, true, size)
        for suffix, sampling in settings.items():
            drawn = FeatureSet("drawn pictures", self._dim, config.keep)
            underway.append(self._gather_drawn(drawn, state, sampling, suffix))
            for name, value in compared(config, drawn, true):
                yield f"{name}{suffix}", value
        for progress in underway:
            progress.finish()

    def protocol(self) -> dict[str, Any]:
        sampling = self._config.sampling
        drawing = of_drawing(self._words(), sampling, guidance_of(sampling))
        true = {} if self._config.reference else super().protocol()
        return {**true, "drawn": drawing, **of_network(self._config)}

    @property
    def speed(self) -> Speed:
        return self._drawn.speed

    @property
    def _source(self) -> Source:
        return open_held_out(self._context)

    def _words(self) -> list[Any]:
        """What each picture is drawn of."""
        num, captions = self._config.num_examples, []
        if not self._config.reference:
            num = min(num, len(self._source))
        if self._context.text_length > 0:
            captions = [caption_at(c, 0) for c in itertools.islice(self._source.captions(), num)]
        words = self._context.condition.first(num, captions)
        return [words[index % len(words)] for index in range(num)]

    def _gather_true(self, true: FeatureSet) -> Progress:
        progress = self._progress(true, "fd_true", [])
        for batch in picture_batches(self._source, self._config, self._context, progress.done):
            placed = place_pictures(batch, self._context)
            x_BD = whole(self._features_of(self._features, placed["image"]))
            true.add(x_BD[whole(placed["mask"])])
            progress.batch_done()
        progress.save()
        return progress

    def _gather_drawn(
        self, drawn: FeatureSet, state: TrainState, sampling: Any, suffix: str
    ) -> Progress:
        words, size = self._words(), self._config.batch_size
        progress = self._progress(drawn, f"fd{suffix}", [repr(sampling), words])
        for images in self._drawn.batches(state, words, sampling, size, progress.done):
            drawn.add(self._features_of_drawn(images))
            progress.batch_done()
        progress.save()
        return progress

    def _progress(self, gathered: FeatureSet, name: str, of: list[Any]) -> Progress:
        of = [
            dataclasses.asdict(self._config),
            sha256(self._config.file),
            fingerprint(self._source),
            *of,
        ]
        return Progress(self._context.half_done, [gathered], name, of)

    def _features_of_drawn(self, images: np.ndarray) -> np.ndarray:
        """float32 [b, height, width, 3], on every host, -> float32 [b, D]."""
        lost = np.count_nonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        require(lost == 0, f"{lost} of {len(images)} drawn pictures have NaN or infinite pixels")
        # Padded, so that one program serves all; each host gives its rows.
        padded = np.zeros((self._config.batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = to_uint8(images)
        rows = np.split(padded, jax.process_count())[jax.process_index()]
        placed = place_batch({"image": rows}, self._context.mesh)["image"]
        return whole(self._features_of(self._features, placed))[: len(images)]
