"""A regressor that reads a caption's pieces and tells how complex its picture is: no endpoint.

Ridge regression on which pieces a caption has. It is trained on errors that a tokenizer really
makes (`measured`), so its scores are of that tokenizer's eyes; the article's are of a language
model's. Pieces, not states of a text encoder: they need no other run, and fit in closed form.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.complexity.base import LEAST, MOST, NO_SCORE, Score
from babeldraw.config import build, require_positive, to_dict
from babeldraw.data.records import Record
from babeldraw.data.text import Vocabulary, VocabularyConfig, train_vocabulary
from babeldraw.data.vocabularies import vocabulary_of
from babeldraw.errors import UserError
from babeldraw.runs.opened import open_part, write_run

OBJECTIVE = "complexity"
# Weights of the penalty that are tried; the best by leaving one out is taken.
PENALTIES = tuple(10.0**power for power in np.arange(-1, 4.5, 0.5))
# Ends of the parts of equal count that the article's scale is cut into.
QUANTILES = 257
MIN_CAPTIONS = 20
# Directions of less are rounding's: of float64 products, squared.
RANK = 1e-12


@dataclass(frozen=True)
class RegressorConfig:
    """Attributes:
    vocabulary_size: pieces, at most; fewer where the captions carry no more.
    length: pieces of a caption that are read.
    """

    vocabulary_size: int = 2000
    length: int = 128

    def __post_init__(self):
        require_positive(self, "config.regressor")


@dataclass(frozen=True)
class Regressor:
    """The function; letters: V pieces, R ranks or quantiles."""

    config: RegressorConfig

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        """Parameters: a weight for each piece, what all have in common, and the scale."""
        del key
        return {
            "weight": jnp.zeros((self.config.vocabulary_size,), jnp.float32),
            "bias": jnp.zeros((), jnp.float32),
            "quantiles": jnp.zeros((QUANTILES,), jnp.float32),
        }


@dataclass(frozen=True)
class RegressorRun:
    """See `ComplexityScorer`. A caption without a piece, or of unknown letters, has no score.

    Attributes:
        config: of the regressor.
        params: NumPy arrays, as `Regressor.init` has them.
        vocabulary: of the captions that it was trained on.
    """

    config: RegressorConfig
    params: Mapping[str, np.ndarray]
    vocabulary: Vocabulary
    reads_pictures = False

    @classmethod
    def open(cls, workdir: str) -> "RegressorRun":
        """Reads a run folder. Raises `UserError` where it is none of `babeldraw score train`."""

        def make(config: Mapping[str, Any]) -> Regressor:
            return Regressor(build(RegressorConfig, config["regressor"], "config.regressor"))

        opened = open_part(workdir, (OBJECTIVE,), make)
        config = opened.part.config
        vocabulary = vocabulary_of(opened.folder, config.vocabulary_size)
        return cls(config, jax.device_get(opened.params), vocabulary)

    @property
    def identity(self) -> str:
        arrays = b"".join(np.asarray(self.params[name]).tobytes() for name in sorted(self.params))
        return f"regressor:{hashlib.sha256(arrays).hexdigest()[:16]}"

    def score(self, records: Sequence[Record]) -> Iterator[Score]:
        captions = [record.caption for record in records]
        x_NV = pieces_of(self.vocabulary, captions, self.config)
        found_N = x_NV @ self.params["weight"] + self.params["bias"]
        # What it has no piece for says nothing, such as a caption in another language.
        known_N = np.array([self.vocabulary.knows(caption) for caption in captions], bool)
        told_N = x_NV.any(axis=1) & known_N
        for value, told in zip(found_N, told_N, strict=True):
            yield Score(on_scale(value, self.params["quantiles"])) if told else NO_SCORE


def train_regressor(
    captions: Sequence[str], target_N: np.ndarray, config: RegressorConfig, workdir: str, data: str
) -> float:
    """Trains a regressor and writes its run folder.

    Args:
        captions: one of each picture.
        target_N: what is to be told of it, more for more complex.
        config: its sizes.
        workdir: a folder that is not there, or empty.
        data: of what the captions are, for people.

    Returns:
        The share of the variance of captions' mean targets, a caption weighing as its pictures do,
        that it tells of one left out of its training.

    Raises:
        UserError: too few captions, or the folder holds something.
    """
    if len(captions) < MIN_CAPTIONS:
        raise UserError(
            f"{len(captions)} captions are too few to train on; {MIN_CAPTIONS} at least"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.model"
        size = train_vocabulary(captions, file, VocabularyConfig(config.vocabulary_size))
        model, vocabulary = file.read_bytes(), Vocabulary(file)
    config = RegressorConfig(size, config.length)
    # What is said of many pictures is one caption, which is left out with all of them.
    distinct, which_N, count_M = np.unique(captions, return_inverse=True, return_counts=True)
    x_MV = pieces_of(vocabulary, distinct.tolist(), config)
    mean_M = np.bincount(which_N, np.asarray(target_N, np.float64)) / count_M
    weight_V, bias, share = ridge(x_MV, mean_M, count_M)
    # The scale is of what it says, which spreads less than the truth.
    said_N = (x_MV @ weight_V + bias)[which_N]
    params = {
        "weight": weight_V.astype(np.float32),
        "bias": np.asarray(bias, np.float32),
        "quantiles": np.quantile(said_N, np.linspace(0, 1, QUANTILES)).astype(np.float32),
    }
    whole = {"objective": OBJECTIVE, "train": {}, "regressor": to_dict(config), "data": data}
    write_run(workdir, whole, params, source=data, vocabulary=model)
    return share


def pieces_of(
    vocabulary: Vocabulary, captions: Sequence[str], config: RegressorConfig
) -> np.ndarray:
    """Which pieces a caption has, float32 [N, V], 0 or 1; padding is none."""
    ids_NS = vocabulary.encode(captions, config.length)
    x_NV = np.zeros((len(captions), config.vocabulary_size), np.float32)
    x_NV[np.arange(len(captions))[:, None], ids_NS] = 1
    x_NV[:, 0] = 0
    return x_NV


def ridge(
    x_NV: np.ndarray, y_N: np.ndarray, count_N: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Weights, bias and the share of variance told of what is left out, of the best penalty.

    min sum n (y - X w - b)^2 + a |w|^2, the bias free of a penalty, n of `count_N`: how often an
    example is there. The error of each by a fit to all others is its error by the fit to all over
    1 - h, where h is its entry on the diagonal of the matrix that makes fits of targets (Allen's
    PRESS): one decomposition serves all penalties.
    """
    share_N = count_N / count_N.sum()
    root_N = np.sqrt(count_N)
    mean_V, mean = share_N @ x_NV, share_N @ y_N
    centred_NV, y_N = root_N[:, None] * (x_NV - mean_V), root_N * (y_N - mean)
    square_R, v_VR = np.linalg.eigh(centred_NV.T @ centred_NV)
    there_R = square_R > RANK * max(square_R.max(), 1e-30)
    square_R, v_VR = square_R[there_R], v_VR[:, there_R]
    u_NR = centred_NV @ v_VR / np.sqrt(square_R)
    seen_R, best = u_NR.T @ y_N, (np.inf, 0.0)
    for penalty in PENALTIES:
        kept_R = square_R / (square_R + penalty)
        hat_N = np.square(u_NR) @ kept_R + share_N
        left_N = (y_N - u_NR @ (kept_R * seen_R)) / np.maximum(1 - hat_N, 1e-9)
        best = min(best, (float(np.square(left_N).sum() / count_N.sum()), penalty))
    error, penalty = best
    weight_V = v_VR @ (np.sqrt(square_R) / (square_R + penalty) * seen_R)
    variance = float(np.square(y_N).sum() / count_N.sum())
    share = 1 - error / variance if variance else 0.0
    return weight_V, float(mean - mean_V @ weight_V), share


def on_scale(value: float, quantiles_R: np.ndarray) -> float:
    """A value by its rank among those of training, 1 to 9, each ninth as frequent."""
    places = np.linspace(LEAST, MOST, len(quantiles_R))
    return float(np.interp(value, quantiles_R, places))
