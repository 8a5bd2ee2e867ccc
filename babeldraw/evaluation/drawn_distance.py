"""How far the pictures that a generator draws lie, as a set, from true ones."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import to_uint8
from babeldraw.data.pipeline import fingerprint
from babeldraw.data.records import Source
from babeldraw.data.text import caption_at
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context, HeldOut, Value, of_split, open_held_out
from babeldraw.evaluation.drawn import Drawn
from babeldraw.evaluation.feature_sets import (
    FeatureSet,
    Progress,
    SetsConfig,
    check_enough,
    check_protocol,
    compared,
    dims_of,
    of_network,
    open_reference,
    sha256,
    write_reference,
)
from babeldraw.evaluation.picture_sets import PICTURES, PictureSet, PicturesWriter, arrays_in
from babeldraw.evaluation.pictures import picture_batches, place_pictures
from babeldraw.evaluation.protocol import Speed, guidance_of, of_drawing
from babeldraw.evaluation.protocols import check_drawing
from babeldraw.evaluation.references import Reference
from babeldraw.judges.features import Features
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import place_batch, whole
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class DrawnDistanceConfig(SetsConfig):
    """See `SetsConfig`.

    Attributes:
    sampling: fields of `config.sampling` that are others here.
    num_drawn: pictures that are drawn; 0: as many as there are true ones.
    write_samples: an .npz to write of the drawn pictures, as ADM's evaluator takes them, with the
      run's guidance; empty: none.
    """

    sampling: Any = None
    num_drawn: int = 0
    write_samples: str = ""

    path = "config.evaluators.fd"

    def __post_init__(self):
        super().__post_init__()
        require(
            self.num_drawn == 0 or self.num_drawn >= 2,
            f"{self.path}.num_drawn is {self.num_drawn}; at least 2 is needed, or 0",
        )
        require(
            not self.write_samples or self.write_samples.endswith(".npz"),
            f"{self.path}.write_samples is {self.write_samples!r}; its name must end in .npz",
        )


class DrawnDistance(HeldOut):
    """`fd_NETWORK`, `kid_NETWORK`, `precision_NETWORK`, `recall_NETWORK`; and without guidance.

    Drawn of the captions of the held-out pictures, one each; of classes, each as often as the
    others; with the seeds 0 to N - 1. With a guidance other than 1 the same is measured without it
    (`fd_NETWORK_without_guidance`, ...). Pictures are rounded to 8 bits. Of Inception the figures
    are `fid`, `sfid`, `inception_score`, `kid`, `precision` and `recall`.

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
        self._dim, self._spatial = dims_of(config, features, context.image_size)
        self._features_of = jax.jit(lambda features, images: features(to_float(images)))

    def check(self) -> None:
        super().check()
        available = [] if self._config.reference else [len(self._source)]
        config, words = self._config, self._words()
        check_protocol(config, self._context.image_size)
        check_enough(config, self._dim, available or [config.num_examples])
        require(
            len(words) >= self._dim,
            f"{config.path}.num_drawn is {config.num_drawn}; {config.network} has {self._dim} "
            "features, and at least as many pictures are needed",
        )
        kind = self._context.condition.kind
        check_drawing(config.protocol, config.path, config.sampling.guidance, words, kind)
        open_reference(config, self._dim, self._context.image_size)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        self.check()
        config, size = self._config, self._context.image_size
        yield "guidance", config.sampling.guidance
        settings = {"": config.sampling}
        if config.sampling.guidance != 1:
            settings["_without_guidance"] = dataclasses.replace(config.sampling, guidance=1.0)
        true, underway = self._reference(), []
        if true is None:
            true = FeatureSet("true pictures", self._dim, config.keep, self._spatial)
            underway.append(self._gather_true(true))
            write_reference(config, true, size)
        for suffix, sampling in settings.items():
            drawn = FeatureSet("drawn pictures", self._dim, config.keep, self._spatial)
            underway.append(self._gather_drawn(drawn, state, sampling, suffix))
            for name, value in compared(config, drawn, true, features=self._features):
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

    def _reference(self) -> Reference | None:
        """What true pictures are known by; those that a file holds beside statistics are seen."""
        config, size = self._config, self._context.image_size
        found = open_reference(config, self._dim, size)
        if found is None or PICTURES not in arrays_in(config.reference):
            return found
        held = FeatureSet("pictures of the reference", self._dim, config.keep, self._spatial)
        for images in PictureSet.open(config.reference).batches(config.batch_size):
            held.add(self._features_of_drawn(images))
        return dataclasses.replace(found, features=held.features)

    def _words(self) -> list[Any]:
        """What each picture is drawn of."""
        num, captions = self._config.num_examples, []
        if not self._config.reference:
            num = min(num, len(self._source))
        captioned, num = num, self._config.num_drawn or num
        if self._context.text_length > 0:
            captions = [
                caption_at(c, 0) for c in itertools.islice(self._source.captions(), captioned)
            ]
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
        writer = None if suffix else self._writer(len(words), progress.done)
        if writer is not None and progress.done and not writer.begun:
            raise UserError(
                f"{self._config.path}.write_samples={self._config.write_samples}: pictures of an "
                "evaluation that was broken off are no longer there; remove "
                f"{progress.file} to draw them anew, or leave write_samples out"
            )
        for images in self._drawn.batches(state, words, sampling, size, progress.done):
            drawn.add(self._features_of_drawn(images))
            if writer is not None:
                writer.put(progress.done * size, to_uint8(images))
            progress.batch_done()
        progress.save()
        if writer is not None:
            writer.finish()
        return progress

    def _writer(self, num: int, done: int) -> PicturesWriter | None:
        """Of the first host alone, for each has all pictures; None where they are written."""
        file, batches = self._config.write_samples, -(-num // self._config.batch_size)
        if not file or jax.process_index() or (done == batches and Path(file).exists()):
            return None
        return PicturesWriter(file, num, self._context.image_size)

    def _progress(self, gathered: FeatureSet, name: str, of: list[Any]) -> Progress:
        of = [
            dataclasses.asdict(self._config),
            sha256(self._config.file),
            fingerprint(self._source),
            *of,
        ]
        return Progress(self._context.half_done, [gathered], name, of)

    def _features_of_drawn(self, images: np.ndarray) -> np.ndarray:
        """[b, height, width, 3], uint8 or float32, on every host, -> float32 [b, D + S]."""
        lost = np.count_nonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        require(lost == 0, f"{lost} of {len(images)} drawn pictures have NaN or infinite pixels")
        # Padded, so that one program serves all; each host gives its rows.
        padded = np.zeros((self._config.batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images if images.dtype == np.uint8 else to_uint8(images)
        rows = np.split(padded, jax.process_count())[jax.process_index()]
        placed = place_batch({"image": rows}, self._context.mesh)["image"]
        return whole(self._features_of(self._features, placed))[: len(images)]
