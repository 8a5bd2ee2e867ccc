"""How well a tokenizer gives pictures back, and how much of its codebook it uses."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require, require_positive
from babeldraw.evaluation import measures
from babeldraw.evaluation.base import Context, HeldOut, Value
from babeldraw.evaluation.pictures import (
    Distance,
    masked_sums,
    mean_figures,
    open_pictures,
    pairs_grid,
    picture_batches,
    picture_measures,
    picture_pairs,
    place_pictures,
)
from babeldraw.objectives.base import Batch, TrainState
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
    """

    num_examples: int = 1024
    batch_size: int = 256
    usage_batch: int = 256
    num_shown: int = 16

    def __post_init__(self):
        path = "config.evaluators.reconstruction"
        require_positive(self, path)
        require(
            self.usage_batch % self.batch_size == 0,
            f"{path}.usage_batch is {self.usage_batch}, which batch_size={self.batch_size} does "
            "not divide; choose a batch_size that does",
        )

    def tiny(self) -> "ReconstructionConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_examples=8, batch_size=8)


@flax.struct.dataclass
class _Totals:
    """What is added up over batches, on the devices.

    Attributes:
      sums: of each measure, over pictures; `pictures` is their number.
      counts_V: int32, how often each code occurred.
      group_V, group_pictures: the same of the pictures over which usage is being counted.
    """

    sums: dict[str, jax.Array]
    pictures: jax.Array
    counts_V: jax.Array
    group_V: jax.Array
    group_pictures: jax.Array


class Reconstruction(HeldOut):
    """psnr_db, ssim, l1, l2, lpips, codebook use and the grid `reconstructions`.

    psnr_db is that of the mean squared error over all pictures; ssim is left out where pictures are
    smaller than its window of 11 pixels, lpips where no perceptual network is given.

    codebook_usage is the paper's: the share of the codes that occur in a batch of `usage_batch`
    held-out pictures, averaged over the batches; a shorter last batch is left out, unless it is
    the only one. codebook_usage_pictures says how many pictures there really were in a batch.
    perplexity is exp of the entropy of the codes over all pictures, at most the codebook's size.
    Continuous codes have neither.

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
        self._add = jax.jit(self._add_batch)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        source = open_pictures(self._context)
        total = min(self._config.num_examples, len(source))
        totals, usages, shown = self._nothing(), [], []
        ends = itertools.count(self._config.batch_size, self._config.batch_size)
        for end, batch in zip(
            ends, picture_batches(source, self._config, self._context), strict=False
        ):
            before, placed = totals, place_pictures(batch, self._context)
            totals, images = self._add(state, placed, totals, self._distances)
            # One batch at a time is under way: the host may read faster than a device measures.
            jax.block_until_ready(before)
            if len(shown) < self._config.num_shown:
                shown += picture_pairs(placed, images)
            at_end = end % self._config.usage_batch == 0
            if at_end or end >= total:
                usages.append((at_end and end <= total, totals.group_V, totals.group_pictures))
                totals = self._next_group(totals)
        pictures = int(totals.pictures)
        require(pictures > 0, f"no held-out record of {source.name} could be read")
        yield from mean_figures(totals.sums, pictures)
        if self._codes.vocab:
            yield from _usage(usages)
            # Of codes with several factors, the geometric mean of those of the factors.
            found = measures.perplexity(np.asarray(totals.counts_V))
            yield "perplexity", found / len(self._codes.vocab)
        yield "reconstructions", pairs_grid(shown[: self._config.num_shown])

    def _add_batch(
        self, state: TrainState, batch: Batch, totals: _Totals, distances: dict[str, Distance]
    ) -> tuple[_Totals, jax.Array]:
        images, ids = self._reconstruct(state, batch)
        originals, mask = to_float(batch["image"]), batch["mask"]
        counts_V = jnp.zeros(0, jnp.int32)
        if self._codes.vocab:
            numbered = self._codes.numbered(ids)
            counts_V = measures.code_counts(numbered, mask, self._codes.entries)
        pictures = jnp.sum(mask.astype(jnp.int32))
        of = picture_measures(self._context.image_size, distances)
        sums = masked_sums(of, state, images, originals, mask)
        totals = _Totals(
            sums=jax.tree.map(jnp.add, totals.sums, sums),
            pictures=totals.pictures + pictures,
            counts_V=totals.counts_V + counts_V,
            group_V=totals.group_V + counts_V,
            group_pictures=totals.group_pictures + pictures,
        )
        return totals, images[: self._config.num_shown]

    def _nothing(self) -> _Totals:
        zeros_V = jnp.zeros(self._codes.entries, jnp.int32)
        zero = jnp.zeros((), jnp.int32)
        names = picture_measures(self._context.image_size, self._distances)
        sums = {name: jnp.zeros((), jnp.float32) for name in names}
        return _Totals(sums, zero, zeros_V, zeros_V, zero)

    def _next_group(self, totals: _Totals) -> _Totals:
        nothing = self._nothing()
        return totals.replace(group_V=nothing.group_V, group_pictures=nothing.group_pictures)


def _usage(groups: list[tuple[bool, jax.Array, jax.Array]]) -> Iterator[tuple[str, float]]:
    """Mean share of the codes in use over whole groups, or over the only group there is."""
    counted = [group for group in groups if group[0]] or groups[:1]
    yield "codebook_usage", float(np.mean([np.mean(np.asarray(g) > 0) for _, g, _ in counted]))
    yield "codebook_usage_pictures", float(np.mean([int(n) for _, _, n in counted]))
