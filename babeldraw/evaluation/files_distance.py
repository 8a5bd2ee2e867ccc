"""How far pictures in a file lie, as a set, from a reference: no run is asked.

    babeldraw evaluate --samples=drawn.npz --reference=VIRTUAL_imagenet256_labeled.npz \\
      --set=files.file=inception.safetensors,files.protocol=adm_imagenet_256
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.evaluation import protocol
from babeldraw.evaluation.feature_sets import (
    FeatureSet,
    SetsConfig,
    check_enough,
    check_protocol,
    compared,
    dims_of,
    of_network,
    open_features,
    open_reference,
    sha256,
)
from babeldraw.evaluation.picture_sets import PICTURES, PictureSet, arrays_in
from babeldraw.evaluation.protocols import check_number
from babeldraw.evaluation.references import Reference
from babeldraw.say import ProgressReport

# Pictures; more than any file holds.
ALL = 10**9


@dataclasses.dataclass(frozen=True)
class FilesDistanceConfig(SetsConfig):
    """See `SetsConfig`.

    Attributes:
    network: Inception, as ADM's evaluator has it.
    num_examples: pictures of the set, at most.
    samples: pictures to judge, an .npz as ADM's evaluator takes it or a folder.
    reference: true ones: the same, or an .npz of statistics, with pictures or without.
    """

    network: str = "inception"
    num_examples: int = ALL
    samples: str = ""

    path = "files"


def compare_files(config: FilesDistanceConfig) -> dict[str, Any]:
    """A record of figures with how they came about, as those of runs in `evaluations/`.

    Raises:
      UserError: a file is missing, or none of its kind; pictures are fewer than features, of mixed
        sizes, or of another size or number than the protocol's.
    """
    for name in ("samples", "reference", "file"):
        require(bool(getattr(config, name)), f"{config.path}.{name} is empty; name a file")
    require(
        not config.split,
        f"{config.path}.split is {config.split!r}, which is of a run's data; leave it out",
    )
    judged, features = PictureSet.open(config.samples), open_features(config)
    check_protocol(config, judged.size)
    dims = dims_of(config, features, judged.size)
    check_enough(config, dims[0], [judged.num])
    check_number(config.protocol, config.path, judged.num)
    speed = protocol.Speed()
    seen = jax.jit(lambda features, images: features(images))

    def gathered(pictures: PictureSet, name: str, most: int) -> FeatureSet:
        pictures = dataclasses.replace(pictures, num=min(most, pictures.num))
        return _gathered(pictures, FeatureSet(name, dims[0], config.keep, dims[1]), config, run)

    def run(images: np.ndarray) -> np.ndarray:
        with speed.batch(len(images)):
            return np.asarray(seen(features, images))

    true, told = _true(config, dims[0], gathered)
    samples = gathered(judged, "pictures of the samples", config.num_examples)
    figures = dict(compared(config, samples, true, features=features))
    own = {"file": config.samples, "sha256": sha256(config.samples), "n": judged.num}
    return {
        "evaluator": "files",
        "figures": protocol.figures_json(figures),
        "protocol": {
            "samples": {**own, "size": list(judged.size), "range": [0, 255]},
            "true": told,
            **of_network(config),
        },
        "pictures_per_second": speed.per_second,
        "machine": protocol.machine(),
        "versions": protocol.versions(),
    }


def _true(
    config: FilesDistanceConfig, dim: int, gathered: Callable[[PictureSet, str, int], FeatureSet]
) -> tuple[FeatureSet | Reference, dict[str, Any]]:
    """What true pictures are known by, and what is to be told of it."""
    arrays = arrays_in(config.reference)
    if not arrays and not Path(config.reference).expanduser().is_dir():
        # Raises what is wrong with it, in the words that runs get.
        open_reference(config, dim, None)
    if "mu" not in arrays:
        pictures = PictureSet.open(config.reference)
        require(
            pictures.num >= dim,
            f"{config.path}.reference: {config.reference} holds {pictures.num} pictures and "
            f"{config.network} has {dim} features: a Fréchet distance needs at least {dim}",
        )
        found = gathered(pictures, "pictures of the reference", ALL)
        return found, {"n": pictures.num, "size": list(pictures.size)}
    found = open_reference(config, dim, None)
    told = {"statistics": True, "n": found.pooled.num or None}
    if PICTURES in arrays:
        pictures = PictureSet.open(config.reference)
        held = gathered(pictures, "pictures of the reference", ALL)
        found = dataclasses.replace(found, features=held.features)
        told |= {"pictures": pictures.num, "size": list(pictures.size)}
    return found, told


def _gathered(
    pictures: PictureSet,
    into: FeatureSet,
    config: FilesDistanceConfig,
    run: Callable[[np.ndarray], np.ndarray],
) -> FeatureSet:
    report, done = ProgressReport("features", pictures.num, unit="pictures"), 0
    for images in pictures.batches(config.batch_size):
        # Padded, so that one program serves all.
        padded = np.zeros((config.batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        into.add(run(padded)[: len(images)])
        done += len(images)
        report.update(done)
    report.close()
    return into
