"""Two sets of pictures in the features of a network: gathered as they come, then compared."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.errors import UserError
from babeldraw.evaluation.arrays import read_arrays, write_arrays
from babeldraw.evaluation.base import HalfDone
from babeldraw.evaluation.distances import (
    NEIGHBOURS,
    SPLIT,
    SUBSET,
    SUBSETS,
    Gaussian,
    frechet_distance,
    inception_score,
    inside,
)
from babeldraw.evaluation.intervals import Figure, frechet_figure, kernel_figure, mean_figure
from babeldraw.evaluation.moments import Moments
from babeldraw.evaluation.protocols import check_number, check_size, fixed_fields, named
from babeldraw.evaluation.references import Reference, read_reference
from babeldraw.judges.features import NETWORKS, Features, network
from babeldraw.say import say

# Seconds between two writings of what is gathered.
SAVE_EVERY = 60.0


@dataclasses.dataclass(frozen=True)
class SetsConfig:
    """How two sets of pictures are compared.

    Attributes:
    network: whose features; figures bear its name.
    file: its weights, which `babeldraw import` wrote; empty leaves the evaluator out.
    num_examples: pictures of a set, at most; at least as many as the network has features.
    batch_size: pictures at a time.
    split: of the data the true pictures are; empty: `data.eval_split`. Of seen pictures, where
      those held out are fewer than features.
    keep: pictures whose features stay in memory. Of more there is the Fréchet distance alone,
      without interval, from running sums.
    resamples: of the interval of a Fréchet distance; 0: none.
    reference: .npz of true pictures, to compare with in place of the held-out ones; see
      `evaluation.references`. KID, precision and recall need pictures and are left out.
    write_reference: an .npz to write of the held-out pictures; empty: none.
    half_distances: whether precision and recall are told by distances in float16, as ADM's are.
    protocol: of `protocols.PROTOCOLS`, which fixes fields that are not set here; empty: none.
    """

    network: str = "vgg16"
    file: str = ""
    num_examples: int = 10_000
    batch_size: int = 64
    split: str = ""
    keep: int = 50_000
    resamples: int = 100
    reference: str = ""
    write_reference: str = ""
    half_distances: bool = False
    protocol: str = ""

    # Of the section, for messages; a subclass says it.
    path = "config.evaluators"

    def __post_init__(self):
        for name, value in fixed_fields(self).items():
            object.__setattr__(self, name, value)
        for name, least in (("num_examples", 2), ("batch_size", 1), ("keep", 0), ("resamples", 0)):
            value = getattr(self, name)
            require(value >= least, f"{self.path}.{name} is {value}; at least {least} is needed")
        require(
            not (self.reference and self.write_reference),
            f"{self.path}.reference and write_reference are both set; true pictures are read for "
            "the second alone, leave one empty",
        )

    def tiny(self) -> "SetsConfig":
        """The same for a first run, of which no file is asked."""
        return dataclasses.replace(self, file="", protocol="")


class FeatureSet:
    """Features of pictures as they come.

    Args:
      name: which pictures they are, for messages.
      dim: features of each.
      keep: pictures whose features stay in memory; of the others the moments do.
      spatial: features of places that come behind the others; of these there are moments alone.
    """

    def __init__(self, name: str, dim: int, keep: int, spatial: int = 0):
        self._name, self._keep, self._dim = name, keep, dim
        self._moments, self._of_places = Moments.none(dim), Moments.none(spatial)
        self._kept = np.zeros((0, dim), np.float32)
        self._new: list[np.ndarray] = []

    def add(self, x_bD: np.ndarray) -> None:
        """Raises `UserError` where a feature is not finite."""
        x_bD, places_bS = np.split(x_bD, [self._dim], axis=1)
        self._moments += Moments.of(x_bD)
        if self._of_places.mean_D.size:
            self._of_places += Moments.of(places_bS)
        room = self._keep - len(self._kept) - sum(map(len, self._new))
        if room > 0:
            self._new.append(x_bD[:room])

    @property
    def pooled(self) -> Gaussian:
        """Raises `UserError` for fewer pictures than features."""
        return Gaussian.of(self._moments, self._name)

    @property
    def spatial(self) -> Gaussian | None:
        """Of the features of places; None where there are none. Raises as `pooled`."""
        if not self._of_places.mean_D.size:
            return None
        return Gaussian.of(self._of_places, self._name)

    @property
    def features(self) -> np.ndarray | None:
        """float32 [N, D] of all pictures in order; None where some were not kept."""
        kept = self._all_kept()
        return kept if len(kept) == self._moments.num else None

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, to go on from."""
        places = {f"places_{name}": array for name, array in self._of_places.arrays().items()}
        return self._moments.arrays() | places | {"kept": self._all_kept()}

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `arrays` gave."""
        self._moments = Moments.of_arrays(arrays)
        self._of_places = Moments.of_arrays(
            {name: arrays[f"places_{name}"] for name in ("num", "mean", "scatter")}
        )
        self._kept, self._new = arrays["kept"], []

    def _all_kept(self) -> np.ndarray:
        self._kept = np.concatenate([self._kept, *self._new])
        self._new = []
        return self._kept


class Progress:
    """Keeps gathered features in a file, so that an evaluation that was killed goes on.

    On one host; of several, each would have to read the same file at the same moment.

    Args:
      half_done: of the context.
      sets: what is gathered, side by side.
      name: of the evaluator and its part.
      of: what the features depend on beside the weights: the config, the data.

    Attributes:
      done: batches that are in the sets.
      file: where they are kept; None: nowhere.
    """

    def __init__(
        self, half_done: HalfDone | None, sets: Sequence[FeatureSet], name: str, of: Sequence[Any]
    ):
        self._sets, self.file, self._last = sets, None, time.monotonic()
        self.done = 0
        if half_done is not None and jax.process_count() == 1:
            text = json.dumps([half_done.identity, name, *of], sort_keys=True, default=str)
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            self.file = half_done.folder / f"{name}_{digest}.npz"
        if self.file is not None and self.file.exists():
            self._resume()

    def batch_done(self) -> None:
        """A batch is in every set."""
        self.done += 1
        if time.monotonic() - self._last >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        if self.file is not None:
            arrays = {"done": np.int64(self.done)}
            for index, own in enumerate(self._sets):
                arrays |= {f"{name}_{index}": array for name, array in own.arrays().items()}
            write_arrays(self.file, arrays)
        self._last = time.monotonic()

    def finish(self) -> None:
        """Removes the file: the figures are there."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def _resume(self) -> None:
        moments = ("num", "mean", "scatter")
        parts = (*moments, *(f"places_{name}" for name in moments), "kept")
        numbers = range(len(self._sets))
        try:
            names = [f"{part}_{index}" for index in numbers for part in parts]
            found = read_arrays(self.file, ("done", *names))
        except UserError as error:
            say(f"begins anew: {error}")
            return
        for index, own in enumerate(self._sets):
            own.take({part: found[f"{part}_{index}"] for part in parts})
        self.done = int(found["done"])
        say(f"goes on after {self.done} batches, from {self.file}")


def open_features(config: SetsConfig) -> Features:
    """The network that the section names.

    Raises:
      UserError: there is no such network, or the file cannot be read or is of another one.
    """
    try:
        return network(config.network, config.file)
    except UserError as error:
        raise UserError(f"{config.path}: {error}") from error


def dims_of(config: SetsConfig, features: Features, size: tuple[int, int]) -> tuple[int, int]:
    """How many features a picture of (height, width) has, and how many of places behind them."""
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    both = jax.eval_shape(lambda f, x: f(x), features, image).shape[1]
    spatial = NETWORKS[config.network].spatial if config.network in NETWORKS else 0
    return both - spatial, spatial


def open_reference(config: SetsConfig, dim: int, size: tuple[int, int]) -> Reference | None:
    """What true pictures are known by, where the config names a file.

    Raises:
      UserError: it cannot be read or is of another network.
    """
    if not config.reference:
        return None
    try:
        return read_reference(config.reference, config.network, dim, size)
    except UserError as error:
        raise UserError(f"{config.path}.reference: {error}") from error


def check_enough(config: SetsConfig, dim: int, available: Sequence[int]) -> None:
    """Raises `UserError` where a set would have fewer pictures than features, before any work."""
    there = min(available)
    num = min(config.num_examples, there)
    more = f"there are {there}; give data with more, such as another split"
    require(
        num >= dim,
        f"{config.path} compares {num} pictures by {config.network}, which has {dim} features: a "
        f"Fréchet distance needs at least {dim} pictures; "
        f"{'raise num_examples' if there >= dim else more}",
    )
    check_number(config.protocol, config.path, num)


def of_network(config: SetsConfig) -> dict[str, Any]:
    """What the protocol says of the network and of the true statistics."""
    known = NETWORKS.get(config.network)
    preprocessing = None if known is None else dataclasses.asdict(known.preprocessing)
    found: dict[str, Any] = {
        "network": {
            "name": config.network,
            "sha256": sha256(config.file),
            "features": None if known is None else known.title,
            "preprocessing": preprocessing,
        }
    }
    found["statistics"] = {
        "frechet": {"resamples": config.resamples},
        "kid": {"kernel": "(x y / D + 1)^3", "subsets": SUBSETS, "subset": SUBSET},
        "manifold": {
            "neighbours": NEIGHBOURS,
            "distances": "float16" if config.half_distances else "float64",
        },
        "covariances": "float64",
        "root": "singular values of S1^(1/2) S2^(1/2), each root by eigh",
        "intervals": "95 %",
    }
    if config.protocol:
        found["named"] = named(config.protocol)
    if known is not None and known.classes is not None:
        found["statistics"]["inception_score"] = {"split": SPLIT, "bias": False}
    if config.reference:
        found["reference"] = {"file": config.reference, "sha256": sha256(config.reference)}
    return found


def sha256(file: str) -> str:
    """Of a file, '' where there is none by that name."""
    path = Path(file).expanduser()
    if not path.is_file():
        return ""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def compared(
    config: SetsConfig,
    judged: FeatureSet,
    true: FeatureSet | Reference,
    paired: bool = False,
    features: Features | None = None,
) -> Iterator[tuple[str, Figure]]:
    """`fd_NETWORK`, then `kid_`, `precision_` and `recall_NETWORK` where features were kept.

    Of Inception they are called `fid`, `kid`, `precision` and `recall`, and there are `sfid`, and
    `inception_score` of the judged pictures alone, where the network has what they need.

    Precision is the share of judged pictures in the manifold of the true ones, recall the other way
    round. Their intervals draw the pictures again and leave the manifold as it is.

    Args:
      paired: judged picture n is made of true picture n.
      features: the network's function, which knows the classes of the Inception Score.
    """
    known, x_ND, y_ND = NETWORKS.get(config.network), judged.features, true.features
    half, pooled = config.half_distances, true.pooled
    if x_ND is None or not config.resamples or (paired and y_ND is None):
        distance = frechet_distance(judged.pooled, pooled)
        yield _called("fd", config), Figure(distance, None, judged.pooled.num)
    else:
        second = y_ND if paired else pooled
        yield _called("fd", config), frechet_figure(x_ND, second, paired, config.resamples)
    if judged.spatial is not None and true.spatial is not None:
        distance = frechet_distance(judged.spatial, true.spatial)
        yield _called("sfd", config), Figure(distance, None, judged.spatial.num)
    classes = None if known is None or features is None else known.classes
    if classes is not None and x_ND is not None:
        score = inception_score(x_ND, classes(features))
        yield "inception_score", Figure(score, None, len(x_ND))
    if x_ND is not None and y_ND is not None:
        yield _called("kid", config), kernel_figure(x_ND, y_ND)
        yield _called("precision", config), mean_figure(inside(x_ND, y_ND, half=half))
        yield _called("recall", config), mean_figure(inside(y_ND, x_ND, half=half))


def _called(kind: str, config: SetsConfig) -> str:
    """A figure bears its network's name; Inception's are what others print without one."""
    known = NETWORKS.get(config.network)
    if known is None or not known.is_fid:
        return f"{kind}_{config.network}"
    return kind.replace("fd", "fid")


def check_protocol(config: SetsConfig, size: tuple[int, int]) -> None:
    """Raises `UserError` where the section's protocol is of pictures of another size."""
    check_size(config.protocol, config.path, size)


def write_reference(config: SetsConfig, true: FeatureSet, size: tuple[int, int]) -> None:
    """Writes the statistics of true pictures of (height, width) where the config asks for it."""
    if config.write_reference and jax.process_index() == 0:
        reference = Reference(config.network, true.pooled, true.spatial, size)
        reference.save(config.write_reference)
