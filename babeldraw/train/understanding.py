"""What a trained VIM has understood: features of its blocks, and the linear probe of them."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import center_crop
from babeldraw.errors import UserError
from babeldraw.evaluation.linear_probe import LinearProbe, LinearProbeConfig
from babeldraw.runs.folder import RunFolder
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.layout import use
from babeldraw.train.evaluation import TrainedRun

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class FeaturesRun:
    """Features of pictures for search, clustering and classification.

    Attributes:
      run: of class_to_image.
    """

    run: TrainedRun

    @classmethod
    def open(cls, workdir: str) -> "FeaturesRun":
        """Reads a run folder. Raises `UserError` when it is none of class_to_image."""
        return cls(open_vim(workdir))

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self.run.experiment.model.decoder.blocks

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
    """The linear probe of a run of class_to_image; the curve over blocks goes to its `samples/`.

    Raises:
      UserError: no classes in the run's data, or a block that there is not.
    """
    features = run.objective.predict_fns()["features"]
    blocks = run.experiment.model.decoder.blocks
    probe = LinearProbe(features, config, run.context, blocks)
    return {"step": run.step, **run.run("linear_probe", probe)}


def what_saw_labels(workdir: str) -> list[str]:
    """Sentences on what makes a probe of a run less than unsupervised; empty where nothing does."""
    config, found = RunFolder.of(workdir).read_config(), []
    if config["model"]["num_classes"]:
        found.append(
            f"{workdir} was trained with classes, so its features are not unsupervised ones; "
            "config.model.num_classes=0 trains without"
        )
    tokenizer = RunFolder.of(config["tokenizer_run"])
    if not config["tokenizer_run"] or not tokenizer.config_file.exists():
        found.append(
            f"the tokenizer's run {config['tokenizer_run']!r} is not there: whether it had a "
            "perceptual loss, whose network has seen labels, cannot be told"
        )
    elif tokenizer.read_config()["loss"]["perceptual"] > 0:
        found.append(
            f"the tokenizer {config['tokenizer_run']} had a perceptual loss, whose network has "
            "seen labels; the paper leaves it out for this use (config.loss.perceptual=0)"
        )
    return found


def check_block(block: int, blocks: int) -> None:
    """Refuses a block that a model of so many does not have."""
    if not 0 <= block <= blocks:
        raise UserError(
            f"block {block} is not there; the blocks are 1 to {blocks}, and 0 is what the first "
            "reads"
        )


def open_vim(workdir: str) -> TrainedRun:
    """Reads a run folder. Raises `UserError` when it is none of class_to_image."""
    config = RunFolder.of(workdir).read_config()
    if config["objective"] != "class_to_image":
        raise UserError(
            f"{workdir} is a run of {config['objective']}; features and probes need one of "
            "class_to_image"
        )
    return TrainedRun.open(workdir)
