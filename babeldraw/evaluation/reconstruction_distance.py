"""How far the reconstructions of a tokenizer lie, as a set, from their originals: rFD."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.data.pipeline import fingerprint
from babeldraw.evaluation.base import Context, HeldOut, Value, of_split
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
from babeldraw.evaluation.pictures import open_pictures, picture_batches, place_pictures
from babeldraw.judges.features import Features
from babeldraw.objectives.base import Batch, TrainState
from babeldraw.sharding.batch import whole
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class ReconstructionDistanceConfig(SetsConfig):
    """Of all held-out pictures, up to `num_examples`; see `SetsConfig`."""

    path = "config.evaluators.rfd"


class ReconstructionDistance(HeldOut):
    """`fd_NETWORK`, `kid_NETWORK`, `precision_NETWORK` and `recall_NETWORK` of reconstructions.

    Pictures are cut and resized as evaluation does; reconstructions are rounded to 8 bits, as
    files of them would be.

    Args:
      reconstruct: (state, batch) -> (images [B, height, width, 3] in [0, 1], codes).
      features: of the network that the config names.
    """

    def __init__(
        self,
        reconstruct: Callable,
        config: ReconstructionDistanceConfig,
        context: Context,
        features: Features,
    ):
        context = of_split(context, config.split)
        self._config, self._context, self._features = config, context, features
        self._dim, self._spatial = dims_of(config, features, context.image_size)

        def judge(state: TrainState, batch: Batch, features: Features):
            images, _ = reconstruct(state, batch)
            return features(rounded(images)), features(to_float(batch["image"]))

        self._judge = jax.jit(judge)

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), **of_network(self._config), "reconstructions": "8 bits"}

    def check(self) -> None:
        super().check()
        check_protocol(self._config, self._context.image_size)
        check_enough(self._config, self._dim, [len(open_pictures(self._context))])
        open_reference(self._config, self._dim, self._context.image_size)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        self.check()
        config, size = self._config, self._context.image_size
        reference, source = open_reference(config, self._dim, size), open_pictures(self._context)
        judged, true = (
            FeatureSet(name, self._dim, config.keep, self._spatial)
            for name in ("reconstructions", "originals")
        )
        of = [dataclasses.asdict(config), sha256(config.file), fingerprint(source), size]
        progress = Progress(self._context.half_done, (judged, true), "rfd", of)
        for batch in picture_batches(source, config, self._context, progress.done):
            placed = place_pictures(batch, self._context)
            found, mask = self._judge(state, placed, self._features), whole(placed["mask"])
            judged.add(whole(found[0])[mask])
            true.add(whole(found[1])[mask])
            progress.batch_done()
        progress.save()
        if reference is None:
            yield from compared(config, judged, true, True, self._features)
        else:
            yield from compared(config, judged, reference, False, self._features)
        write_reference(config, true, size)
        progress.finish()


def rounded(images: jax.Array) -> jax.Array:
    """float32 in [0, 1], as eight bits hold it; NaN stays, to be found."""
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255) / 255
