"""How well a tokenizer gives pictures back, and how much of its codebook it uses."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

import jax

from babeldraw.config import require, require_positive
from babeldraw.evaluation.base import Context, HeldOut, Value
from babeldraw.evaluation.code_use import CodeUse
from babeldraw.evaluation.pictures import (
    Distance,
    Measured,
    measured,
    open_pictures,
    pairs_grid,
    picture_batches,
    picture_measures,
    picture_pairs,
    place_pictures,
)
from babeldraw.objectives.base import Batch, TrainState
from babeldraw.sharding.batch import whole
from babeldraw.tokenizers.base import Codes
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Attributes:
    num_examples: held-out pictures, at most.
    batch_size: pictures at a time.
    usage_batch: pictures over which codebook usage is counted, a multiple of `batch_size`; 256 in
      the ViT-VQGAN paper (Table 4).
    num_shown: pictures in the grid.
    lpips: file of `babeldraw import --kind=vgg_lpips`, for the figure `lpips` where the run's own
      `perceptual.file` is empty.
    """

    num_examples: int = 1024
    batch_size: int = 256
    usage_batch: int = 256
    num_shown: int = 16
    lpips: str = ""

    def __post_init__(self):
        path = "config.evaluators.reconstruction"
        require_positive(self, path, "num_examples", "batch_size", "usage_batch", "num_shown")
        require(
            self.usage_batch % self.batch_size == 0,
            f"{path}.usage_batch is {self.usage_batch}, which batch_size={self.batch_size} does "
            "not divide; choose a batch_size that does",
        )

    def tiny(self) -> "ReconstructionConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_examples=8, batch_size=8, usage_batch=8)


class Reconstruction(HeldOut):
    """psnr_db, ssim, ms_ssim, l1, l2, lpips, codebook use and the grid `reconstructions`.

    psnr_db is that of the mean squared error over all pictures; ssim and ms_ssim are left out where
    pictures are smaller than their window of 11 pixels, lpips where no perceptual network is given.

    codebook_usage is the paper's: the share of the codes that occur in a batch of `usage_batch`
    held-out pictures, averaged over the batches; a shorter last batch is left out, unless it is
    the only one. codebook_usage_pictures says how many pictures there really were in a batch.
    codebook_usage_uniform is what as many uniform draws would reach, in expectation. Of the codes
    at each place alone, over the same pictures and over what uniform draws would reach there:
    place_usage and place_usage_least, of the mean and of the poorest place.
    perplexity is exp of the entropy of the codes over all pictures, at most the codebook's size.
    Continuous codes have none of these.

    Args:
      reconstruct: (state, batch) -> (images [B, height, width, 3] in [0, 1], codes).
      codes: what the tokenizer makes of pictures.
      distances: perceptual distances of each picture from its original, by name; None for none.
    """

    def __init__(
        self,
        reconstruct: Callable,
        config: ReconstructionConfig,
        context: Context,
        codes: Codes,
        distances: Mapping[str, Distance] | None = None,
    ):
        self._reconstruct = reconstruct
        self._config, self._context = config, context
        self._codes = codes
        self._distances = dict(distances or {})
        self._measure = jax.jit(self._measure_batch)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        source = open_pictures(self._context)
        total = min(self._config.num_examples, len(source))
        found, use, shown = Measured(), CodeUse(self._codes) if self._codes.vocab else None, []
        ends = itertools.count(self._config.batch_size, self._config.batch_size)
        for end, batch in zip(
            ends, picture_batches(source, self._config, self._context), strict=False
        ):
            placed = place_pictures(batch, self._context)
            values, images, codes = self._measure(state, placed, self._distances)
            # The host waits here: it may read faster than a device measures.
            mask = whole(placed["mask"])
            found.add(values, mask)
            if len(shown) < self._config.num_shown:
                shown += picture_pairs(placed, images)
            if use is not None:
                use.add(whole(codes)[mask])
                at_end = end % self._config.usage_batch == 0
                if at_end or end >= total:
                    use.close(at_end and end <= total)
        require(len(found) > 0, f"no held-out record of {source.name} could be read")
        yield from found.figures()
        if use is not None:
            yield from use.figures()
        yield "reconstructions", pairs_grid(shown[: self._config.num_shown])

    def _measure_batch(
        self, state: TrainState, batch: Batch, distances: dict[str, Distance]
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """The measures, float32 [B]; the pictures to show; the codes."""
        images, codes = self._reconstruct(state, batch)
        of = picture_measures(self._context.image_size, distances)
        values = measured(of, state, images, to_float(batch["image"]))
        return values, images[: self._config.num_shown], codes
