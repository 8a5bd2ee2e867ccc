"""How much better super-resolution is than bicubic interpolation of the tokenizer's pictures."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require, require_positive
from babeldraw.data.image import to_grid, to_uint8
from babeldraw.evaluation.base import Context, HeldOut, Value
from babeldraw.evaluation.pictures import (
    Distance,
    Measured,
    measured,
    open_pictures,
    picture_batches,
    picture_measures,
    place_pictures,
)
from babeldraw.objectives.base import Batch, TrainState
from babeldraw.sharding.batch import whole
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class UpscalingConfig:
    """Attributes:
    num_examples: held-out pictures, at most.
    batch_size: pictures at a time.
    num_shown: pictures in the grid.
    """

    num_examples: int = 256
    batch_size: int = 16
    num_shown: int = 4

    def __post_init__(self):
        require_positive(self, "config.evaluators.upscaling")

    def tiny(self) -> "UpscalingConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_examples=8, batch_size=8)


class Upscaling(HeldOut):
    """psnr_db, ssim, l1, l2, lpips of the large pictures, and the grid `upscaled`.

    `bicubic_*` are the same figures of the bicubic interpolation of the same small pictures: what a
    network must beat. A row of the grid is bicubic, network, original.

    Args:
      upscale: (state, batch) -> (large pictures, the small ones they come from), in [0, 1].
      distances: perceptual distances of each picture from its original, by name; None for none.
    """

    def __init__(
        self,
        upscale: Callable,
        config: UpscalingConfig,
        context: Context,
        distances: Mapping[str, Distance] | None = None,
    ):
        self._upscale = upscale
        self._config, self._context = config, context
        self._distances = dict(distances or {})
        self._measure = jax.jit(self._measure_batch)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        source = open_pictures(self._context)
        found, shown = {"network": Measured(), "bicubic": Measured()}, []
        for batch in picture_batches(source, self._config, self._context):
            placed = place_pictures(batch, self._context)
            values, rows = self._measure(state, placed, self._distances)
            mask = whole(placed["mask"])
            for name, own in found.items():
                own.add(values[name], mask)
            if len(shown) < self._config.num_shown:
                there = mask[: self._config.num_shown]
                shown += list(to_uint8(whole(rows))[there])
        require(len(found["network"]) > 0, f"no held-out record of {source.name} could be read")
        yield from found["network"].figures()
        for name, value in found["bicubic"].figures():
            yield f"bicubic_{name}", value
        rows = np.stack(shown[: self._config.num_shown])
        yield "upscaled", to_grid(rows.reshape(-1, *rows.shape[2:]), rows.shape[1])

    def _measure_batch(
        self, state: TrainState, batch: Batch, distances: dict[str, Distance]
    ) -> tuple[dict, jax.Array]:
        """The measures, float32 [B]; and the rows of the grid, [n, 3, height, width, 3]."""
        originals = to_float(batch["image"])
        large, small = self._upscale(state, batch)
        bicubic = jnp.clip(jax.image.resize(small, originals.shape, "cubic"), 0.0, 1.0)
        of = picture_measures(self._context.image_size, distances)
        values = {
            name: measured(of, state, images, originals)
            for name, images in (("network", large), ("bicubic", bicubic))
        }
        rows = jnp.stack([bicubic, large, originals], axis=1)
        return values, rows[: self._config.num_shown]
