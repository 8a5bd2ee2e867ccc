"""A judge without rules for the emoji world: which true picture of all is the nearest.

The nearest in the features of a network that no training has seen says which concept, in whose
style, was drawn.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require, require_positive
from babeldraw.data.emoji import SEEN, UNSEEN_PAIRS, Entry, read_entries
from babeldraw.data.image import center_crop, decode, to_grid
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context, Value
from babeldraw.evaluation.drawn import Drawn
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import Speed, guidance_of, of_drawing
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.layers.linear import l2_normalize
from babeldraw.objectives.base import TrainState

SPLITS = {"seen": SEEN, "unseen": UNSEEN_PAIRS}
# Of the network's five maps the last three: the first two tell strokes rather than things.
FIRST_MAP = 2
# Pictures are brought to this side before the network sees them, whatever their own.
SIDE = 64
NEAREST = 5
BATCH = 128
NOISE = 64


@dataclasses.dataclass(frozen=True)
class ConceptsConfig:
    """Attributes:
    file: safetensors file that `babeldraw import --kind=alexnet_lpips` wrote.
    path: folder of `babeldraw emoji`; empty for `config.data.path`. A run on stored tokens names
        the one that they were made of.
    num_prompts: of each kind, seen and unseen, at most.
    batch_size: pictures drawn at a time.
    sampling: fields of `config.sampling` that are others here.
    num_shown: pictures in the grid.
    """

    file: str = ""
    path: str = ""
    num_prompts: int = 256
    batch_size: int = 64
    sampling: Any = None
    num_shown: int = 16

    def __post_init__(self):
        path = "config.evaluators.concepts"
        require_positive(self, path, "num_prompts", "batch_size", "num_shown")

    def tiny(self) -> "ConceptsConfig":
        return dataclasses.replace(self, num_prompts=8, batch_size=8)


class Concepts:
    """Of drawn pictures, for prompts of pairs that training saw and of pairs it did not:

    `concept_seen`, `concept_top5_seen`: shares whose nearest picture, or one of the five nearest,
    is of the concept asked for, in any style; `style_seen`: whose nearest is in the style asked
    for; `both_seen`: whose nearest is the very picture; `..._unseen` likewise, and
    `concept_seen_without_guidance`.

    So that these mean something: `chance`, of a concept drawn at random; `true_concept`: of true
    held-out pictures, how often the nearest other picture is of the same concept; `noise_concept`:
    the share of noise whose nearest is of the concept of the picture beside it.
    """

    def __init__(self, generate: Callable, config: ConceptsConfig, context: Context):
        self._drawn = Drawn(generate, context)
        self._config, self._context = config, context
        self._seen_before: Gallery | None = None

    def check(self) -> None:
        """Raises what drawing would find out late."""
        require(
            bool(self._config.file),
            "config.evaluators.concepts.file is empty; name a file that `babeldraw import "
            "--kind=alexnet_lpips` wrote, or leave the evaluator out",
        )
        _load(self._config.file)
        read_entries(self._folder)

    @property
    def _folder(self) -> Path:
        return Path(self._config.path or self._context.data.path)

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        gallery, sampling = self._gallery(), self._config.sampling
        yield "guidance", sampling.guidance
        yield "chance", 1 / len({entry.concept for entry in gallery.entries})
        held_out = gallery.of(UNSEEN_PAIRS)
        if len(held_out):
            yield "true_concept", mean_figure(gallery.found_again(held_out))
        yield "noise_concept", mean_figure(gallery.noise())
        for kind, split in SPLITS.items():
            asked = self._asked(gallery, split)
            if not len(asked):
                # Of one style alone no pair can be held out.
                continue
            images = self._draw(state, gallery, asked, sampling)
            for name, right_N in gallery.judge(images, asked).items():
                yield f"{name}_{kind}", mean_figure(right_N)
            yield f"samples_{kind}", _beside(images, gallery.images[asked], self._config.num_shown)
            if sampling.guidance != 1:
                plain = dataclasses.replace(sampling, guidance=1.0)
                images = self._draw(state, gallery, asked, plain)
                right_N = gallery.judge(images, asked)["concept"]
                yield f"concept_{kind}_without_guidance", mean_figure(right_N)

    def protocol(self) -> dict[str, Any]:
        gallery, sampling = self._gallery(), self._config.sampling
        return {
            kind: of_drawing(
                self._words(gallery, self._asked(gallery, split)), sampling, guidance_of(sampling)
            )
            for kind, split in SPLITS.items()
        }

    @property
    def speed(self) -> Speed:
        return self._drawn.speed

    def _gallery(self) -> "Gallery":
        if self._seen_before is None:
            self._seen_before = Gallery.read(self._folder, self._config.file)
        return self._seen_before

    def _asked(self, gallery: "Gallery", split: str) -> np.ndarray:
        """Which pictures are asked for: always the same."""
        those = gallery.of(split)
        rng = np.random.default_rng(self._context.seed)
        return np.sort(rng.permutation(those)[: self._config.num_prompts])

    def _draw(
        self, state: TrainState, gallery: "Gallery", asked: np.ndarray, sampling: Any
    ) -> np.ndarray:
        words = self._words(gallery, asked)
        return self._drawn.draw(state, words, sampling, self._config.batch_size)

    @staticmethod
    def _words(gallery: "Gallery", asked: np.ndarray) -> list[str]:
        return [gallery.entries[index].caption[0] for index in asked]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """All true pictures: `images` uint8 [N, height, width, 3], `features_ND` float16."""

    entries: list[Entry]
    images: np.ndarray
    features_ND: np.ndarray
    features_of: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def read(cls, folder: Path, file: str) -> "Gallery":
        entries, of = read_entries(folder), make_features(file)
        images = np.stack([decode(folder / entry.file) for entry in entries])
        return cls(entries, images, of(images), of)

    def of(self, split: str) -> np.ndarray:
        """The indices of a split's pictures."""
        return np.flatnonzero([entry.split == split for entry in self.entries])

    def judge(self, images: np.ndarray, asked: np.ndarray) -> dict[str, np.ndarray]:
        """What is right of drawn pictures: bool [N] each. `asked`: the true ones' indices."""
        near_NK = nearest(self.features_of(images), self.features_ND, NEAREST)
        concepts, styles = self._names()
        same_NK = concepts[near_NK] == concepts[asked][:, None]
        return {
            "concept": same_NK[:, 0],
            "concept_top5": same_NK.any(axis=1),
            "style": styles[near_NK[:, 0]] == styles[asked],
            "both": near_NK[:, 0] == asked,
        }

    def found_again(self, asked: np.ndarray) -> np.ndarray:
        """Whether the nearest other picture of each is of its concept: bool [N]."""
        near_NK = nearest(self.features_ND[asked], self.features_ND, 2)
        other_N = np.where(near_NK[:, 0] == asked, near_NK[:, 1], near_NK[:, 0])
        concepts, _ = self._names()
        return concepts[other_N] == concepts[asked]

    def noise(self) -> np.ndarray:
        """Whether noise is taken for the first pictures' concepts: bool [NOISE]."""
        rng = np.random.default_rng(0)
        asked = np.arange(min(NOISE, len(self.entries)))
        noise = rng.integers(0, 256, (len(asked), *self.images.shape[1:]), np.uint8)
        return self.judge(noise, asked)["concept"]

    def _names(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.array([entry.concept for entry in self.entries]),
            np.array([entry.style for entry in self.entries]),
        )


def make_features(file: str) -> Callable[[np.ndarray], np.ndarray]:
    """What pictures are compared by: uint8 [N, height, width, 3] -> float16 [N, D].

    The last three maps of AlexNet, of length 1 at every place as in LPIPS, each map of weight 1.

    Raises:
        UserError: the file cannot be read.
    """
    network, params = _load(file)

    @jax.jit
    def features(params: Any, images: jax.Array) -> jax.Array:
        x_BhwC = images.astype(jnp.float32) / 255
        x_BhwC = jax.image.resize(x_BhwC, (len(x_BhwC), SIDE, SIDE, 3), "bilinear")
        parts = []
        for map_BhwC in network.maps(params, x_BhwC)[FIRST_MAP:]:
            places = map_BhwC.shape[1] * map_BhwC.shape[2]
            part_BhwC = l2_normalize(map_BhwC, 1e-10) / places**0.5
            parts.append(part_BhwC.reshape(len(x_BhwC), -1))
        return jnp.concatenate(parts, axis=1).astype(jnp.float16)

    def of(images: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            # The last batch is padded: another shape would be another compilation.
            padded = np.concatenate(
                [part, np.zeros((BATCH - len(part), *part.shape[1:]), np.uint8)]
            )
            found.append(np.asarray(features(params, padded))[: len(part)])
        return np.concatenate(found)

    return of


def nearest(x_ND: np.ndarray, set_MD: np.ndarray, count: int) -> np.ndarray:
    """The `count` rows of a set nearest to each of x, the nearest first: int [N, count]."""
    set_MD = set_MD.astype(np.float32)
    squares_M = np.sum(np.square(set_MD), axis=1)
    distance_NM = squares_M - 2 * (x_ND.astype(np.float32) @ set_MD.T)
    return np.argsort(distance_NM, axis=1, kind="stable")[:, :count]


def _load(file: str) -> tuple[PerceptualNetwork, Any]:
    network = PerceptualNetwork(PerceptualConfig(file=file, network="alexnet"))
    try:
        return network, network.load()
    except UserError as error:
        told = str(error).replace("config.perceptual.file", "config.evaluators.concepts.file")
        raise UserError(told) from error


def _beside(images: np.ndarray, originals: np.ndarray, count: int) -> np.ndarray:
    """Rows that alternate drawn pictures and true ones, eight side by side."""
    columns = min(8, count, len(images))
    count = min(count, len(images)) // columns * columns
    # The folder's pictures may be of another size than those that are drawn.
    beside = np.stack([center_crop(original, images.shape[1:3]) for original in originals[:count]])
    pairs = zip(
        images[:count].reshape(-1, columns, *images.shape[1:]),
        beside.reshape(-1, columns, *images.shape[1:]),
        strict=True,
    )
    return to_grid(np.concatenate([row for pair in pairs for row in pair]), columns)
