"""What a trained generator has understood: features of its blocks, and the linear probe of them."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import center_crop
from babeldraw.errors import UserError
from babeldraw.evaluation.linear_probe import LinearProbe, LinearProbeConfig
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.layout import use
from babeldraw.train.evaluation import TrainedRun

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class FeaturesRun:
    """Features of pictures for search, clustering and classification.

    Attributes:
      run: of a generator whose network has features.
    """

    run: TrainedRun

    @classmethod
    def open(cls, workdir: str) -> "FeaturesRun":
        """Reads a run folder. Raises `UserError`: its network has none."""
        return cls(open_with_features(workdir))

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self.run.experiment.generator.feature_blocks

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures that `features` takes as they are."""
        return self.run.experiment.image_size

    def features(self, images: np.ndarray, block: int, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """What a block makes of pictures: its output, the mean over their tokens.

        Args:
          images: [N, h, w, 3], uint8 or float32 in [0, 1]; those of another size than the run's are
            cropped and resized, uint8 only.
          block: 1 to `blocks`; near the middle is best (ViT-VQGAN, section 5.3). 0 is what the
            first block reads.
          batch_size: pictures at a time.

        Returns:
          float32 [N, D].

        Raises:
          UserError: a block that there is not, or pictures that are none.
        """
        check_block(block, self.blocks)
        shape = np.shape(images)
        require(
            len(shape) == 4 and shape[-1] == 3 and shape[0] > 0,
            f"images have the shape {shape}; (number, height, width, 3) is needed",
        )
        return np.concatenate([*self._batches(np.asarray(images), block, batch_size)])

    def _batches(self, images: np.ndarray, block: int, size: int) -> Iterator[np.ndarray]:
        if images.shape[1:3] != self.image_size:
            require(
                images.dtype == np.uint8,
                f"images are {images.dtype} of {images.shape[1:3]} pixels; give uint8, or "
                f"{self.image_size} pixels",
            )
            images = np.stack([center_crop(image, self.image_size) for image in images])
        with use(self.run.layout.without_pipeline()):
            for start in range(0, len(images), size):
                # The last batch is padded: another shape would be another compilation.
                rows = np.arange(start, start + size) % len(images)
                batch = place_batch({"image": images[rows]}, self.run.layout.mesh)
                found_BLD = self._program(self.run.state, batch)
                yield np.asarray(found_BLD)[: len(images) - start, block]

    @functools.cached_property
    def _program(self):
        return jax.jit(self.run.objective.predict_fns()["features"])


def probe_run(run: TrainedRun, config: LinearProbeConfig) -> dict[str, float]:
    """The linear probe of a generator's run; the curve over blocks goes to its `samples/`.

    Raises:
      UserError: no classes in the run's data, or a block that there is not.
    """
    features = run.objective.predict_fns()["features"]
    blocks = run.experiment.generator.feature_blocks
    probe = LinearProbe(features, config, run.context, blocks)
    return {"step": run.step, **run.run("linear_probe", probe).flat}


def check_block(block: int, blocks: int) -> None:
    """Refuses a block that a model of so many does not have."""
    if not 0 <= block <= blocks:
        raise UserError(
            f"block {block} is not there; the blocks are 1 to {blocks}, and 0 is what the first "
            "reads"
        )


def open_with_features(workdir: str) -> TrainedRun:
    """Reads a run folder. Raises `UserError`: its network has no features of its blocks."""
    run = TrainedRun.open(workdir)
    if "features" not in run.objective.predict_fns():
        raise UserError(
            f"{workdir} is a run of {run.experiment.objective} whose network has no features of "
            "its blocks; name a generator's with config.model.kind=vim"
        )
    return run
