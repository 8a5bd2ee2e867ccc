"""How well a tokenizer gives pictures back, and how much of its codebook it uses."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import to_grid, to_uint8
from babeldraw.data.pipeline import eval_batches
from babeldraw.data.sources import open_source
from babeldraw.evaluation.base import Context, Value
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import place_batch


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Attributes:
    num_examples: held-out pictures, at most.
    batch_size: pictures at a time; also those over which codebook usage is counted (256 in the
      ViT-VQGAN paper, Table 4).
    num_shown: pictures in the grid.
    """

    num_examples: int = 1024
    batch_size: int = 256
    num_shown: int = 16

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(
                value >= 1,
                f"config.evaluators.reconstruction.{field.name} is {value}; at least 1 is needed",
            )


class Reconstruction:
    """psnr_db, l1, l2, codebook_usage, perplexity and the grid `reconstructions`.

    psnr_db is that of the mean squared error over all pictures. codebook_usage is the share of
    codes that occur in a batch, averaged over full batches. perplexity is exp of the entropy of the
    codes over all pictures, at most the size of the codebook.
    """

    def __init__(
        self,
        reconstruct: Callable,
        config: ReconstructionConfig,
        context: Context,
        codebook_size: int,
    ):
        self._reconstruct = jax.jit(reconstruct)
        self._config, self._context = config, context
        self._codebook_size = codebook_size

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        totals = {"l1": 0.0, "l2": 0.0}
        counts_V = np.zeros(self._codebook_size, np.int64)
        usages, pictures, shown = [], 0, None
        for batch in self._batches():
            placed = place_batch({"image": batch["image"]}, self._context.mesh)
            images, ids = map(np.asarray, self._reconstruct(state, placed))
            mask = batch["mask"]
            originals = batch["image"][mask].astype(np.float32) / 255
            difference = images[mask] - originals
            totals["l1"] += float(np.abs(difference).mean((1, 2, 3)).sum())
            totals["l2"] += float(np.square(difference).mean((1, 2, 3)).sum())
            batch_counts_V = np.bincount(ids[mask].ravel(), minlength=self._codebook_size)
            if mask.all() or not usages:
                usages.append(float((batch_counts_V > 0).mean()))
            counts_V += batch_counts_V
            pictures += int(mask.sum())
            if shown is None:
                shown = _pairs(originals, images[mask], self._config.num_shown)
        l2 = totals["l2"] / pictures
        yield "psnr_db", -10 * float(np.log10(l2))
        yield "l1", totals["l1"] / pictures
        yield "l2", l2
        yield "codebook_usage", float(np.mean(usages))
        yield "perplexity", _perplexity(counts_V)
        yield "reconstructions", shown

    def _batches(self) -> Iterator[dict]:
        context = self._context
        source = open_source(
            context.data,
            context.data.eval_split,
            context.image_size[0],
            context.seed,
            require_captions=False,
        )
        return eval_batches(
            source,
            batch_size=self._config.batch_size,
            image_size=context.image_size,
            num_examples=self._config.num_examples,
        )


def _perplexity(counts_V: np.ndarray) -> float:
    shares = counts_V[counts_V > 0] / counts_V.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _pairs(originals: np.ndarray, images: np.ndarray, count: int) -> np.ndarray:
    """A grid whose rows alternate originals and reconstructions."""
    count = min(count, len(originals))
    columns = min(8, count)
    rows = []
    for start in range(0, count - count % columns, columns):
        rows += [originals[start : start + columns], images[start : start + columns]]
    return to_grid(to_uint8(np.concatenate(rows)), columns)
