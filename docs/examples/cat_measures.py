"""What cat.py measures: errors by level, the choice of levels by words, and what that gives."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.complexity.base import ComplexityScorer
from babeldraw.complexity.comparison import spearman, spearman_figure
from babeldraw.data.complexity import levels_of, thresholds_for
from babeldraw.data.records import Record
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.evaluation.intervals import Figure, mean_figure, statistic_figure
from babeldraw.evaluation.protocol import figures_json
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork

AT_A_TIME = 16
# Flat pictures may come back to the last bit.
LEAST_ERROR = 1e-9

# Of pictures uint8 [N, ...] given back as float32 [N, ...]: float64 [N].
Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]


# ------------------------------------------------------------------ errors


def judges(lpips: str) -> dict[str, Judge]:
    """Squared error, and LPIPS where there is a file of AlexNet's weights."""

    def squared(images: np.ndarray, found: np.ndarray) -> np.ndarray:
        return np.square(found - images / np.float32(255)).mean(axis=(1, 2, 3))

    if not lpips:
        return {"squared_error": squared}
    network = PerceptualNetwork(PerceptualConfig(lpips, network="alexnet"))
    weights, distance = jax.device_put(network.load("lpips")), jax.jit(network.distance)

    def perceptual(images: np.ndarray, found: np.ndarray) -> np.ndarray:
        return np.asarray(distance(weights, found, jnp.float32(images) / 255))

    return {"squared_error": squared, "lpips": perceptual}


def errors(
    runs: Mapping[str, TokenizerRun], images: np.ndarray, by: Mapping[str, Judge]
) -> dict[str, np.ndarray]:
    """Of each picture by each run: by judge, float64 [N, runs]."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in by}
    for run in runs.values():
        parts = [images[i : i + AT_A_TIME] for i in range(0, len(images), AT_A_TIME)]
        pairs = [(part, _given_back(run, part)) for part in parts]
        for name, judge in by.items():
            each = [judge(_padded(part), back)[: len(part)] for part, back in pairs]
            found[name].append(np.concatenate(each).astype(np.float64))
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def _padded(images: np.ndarray) -> np.ndarray:
    """One shape, so that one program serves all."""
    return images[np.arange(AT_A_TIME) % len(images)]


def _given_back(run: TokenizerRun, images: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(run.reconstruct(_padded(images))[0]), 0, 1)


def log_error(error_NK: np.ndarray) -> np.ndarray:
    """The mean over levels of log error: what scorers are to tell."""
    return np.log(np.maximum(error_NK, LEAST_ERROR)).mean(axis=1)


# ------------------------------------------------------------------ levels by scores


@dataclasses.dataclass(frozen=True)
class Judged:
    """N pictures whose levels are chosen.

    Attributes:
      kind_N: of each picture.
      codes: of the K levels, descending.
      error: by judge, float64 [N, K].
      fixed: by judge, float64 [N], of a tokenizer of one level, that of the middle one.
      detailed: the kinds with much detail.
    """

    kind_N: np.ndarray
    codes: tuple[int, ...]
    error: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    detailed: Sequence[str]

    def parts(self) -> dict[str, np.ndarray]:
        """Which pictures each part of the table is of, bool [N]."""
        found = {"all": np.ones(len(self.kind_N), bool)}
        found["detailed"] = np.isin(self.kind_N, self.detailed)
        return found | {str(kind): self.kind_N == kind for kind in np.unique(self.kind_N)}

    def chosen(self, score_N: np.ndarray, target: float) -> dict[str, Any]:
        """What levels by a score give, beside the middle level for all and the fixed tokenizer."""
        thresholds = thresholds_for(score_N, self.codes, target)
        return {"thresholds": thresholds, **self._of_levels(levels_of(score_N, thresholds))}

    def best(self, target: float) -> dict[str, Any]:
        """The same of the levels with the highest mean PSNR: more than any score can give.

        By Lagrange: each picture takes the level that is best at a price of a code, which is the
        least at which the mean of codes is not above the target.
        """
        psnr_NK, codes_K = _decibels(self.error["squared_error"]), np.asarray(self.codes)

        def at(price: float) -> np.ndarray:
            return np.argmax(psnr_NK - price * codes_K, axis=1)

        low, high = 0.0, float(np.ptp(psnr_NK)) + 1
        for _ in range(60):
            price = (low + high) / 2
            low, high = (low, price) if codes_K[at(price)].mean() <= target else (price, high)
        return self._of_levels(at(high))

    def _of_levels(self, level_N: np.ndarray) -> dict[str, Any]:
        parts = {part: own_N for part, own_N in self.parts().items() if own_N.any()}
        return {
            "codes": float(np.asarray(self.codes)[level_N].mean()),
            "parts": {part: self._of_part(own_N, level_N) for part, own_N in parts.items()},
        }

    def _of_part(self, own_N: np.ndarray, level_N: np.ndarray) -> dict[str, Any]:
        figures: dict[str, Figure] = {}
        middle = len(self.codes) // 2
        for judge, error_NK in self.error.items():
            say = _decibels if judge == "squared_error" else np.asarray
            adaptive_N = say(error_NK[np.arange(len(level_N)), level_N])[own_N]
            others = {"same_network": error_NK[:, middle], "fixed": self.fixed[judge]}
            name = "psnr_db" if judge == "squared_error" else judge
            figures[name] = mean_figure(adaptive_N)
            for other, error_N in others.items():
                value_N = say(error_N)[own_N]
                figures[f"{name}_{other}"] = mean_figure(value_N)
                figures[f"{name}_less_{other}"] = mean_figure(adaptive_N - value_N)
        counts = np.bincount(level_N[own_N], minlength=len(self.codes))
        codes = float(np.asarray(self.codes)[level_N[own_N]].mean())
        return {"pictures": counts.tolist(), "codes": codes, **figures_json(figures)}


def _decibels(error_N: np.ndarray) -> np.ndarray:
    """PSNR of each picture."""
    return -10 * np.log10(np.maximum(error_N, LEAST_ERROR))


def by_level(judged: Judged, names: Sequence[str]) -> dict[str, Any]:
    """PSNR and LPIPS of all pictures at each level, by part."""
    found: dict[str, Any] = {}
    for part, own_N in judged.parts().items():
        for number, name in enumerate(names):
            figures = {
                judge if judge != "squared_error" else "psnr_db": mean_figure(
                    (_decibels if judge == "squared_error" else np.asarray)(error_NK[own_N, number])
                )
                for judge, error_NK in judged.error.items()
                if own_N.any()
            }
            found.setdefault(part, {})[name] = figures_json(figures)
    return found


# ------------------------------------------------------------------ scorers


def scores(scorer: ComplexityScorer, records: Sequence[Record]) -> np.ndarray:
    """float64 [N]."""
    return np.array([score.value for score in scorer.score(records)])


def correlations(
    score: Mapping[str, np.ndarray], log_error_N: np.ndarray, parts: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Spearman's of each scorer with the error, and by how much captions' is above JPEG size's."""
    found: dict[str, Any] = {}
    for part, own_N in parts.items():
        if own_N.sum() < 10:
            continue
        error_N = log_error_N[own_N]
        own = {name: score_N[own_N] for name, score_N in score.items()}
        figures = {name: spearman_figure(score_N, error_N) for name, score_N in own.items()}
        words_N, jpeg_N = own["caption"], own["jpeg"]

        def more(i: np.ndarray, words_N=words_N, jpeg_N=jpeg_N, error_N=error_N) -> float:
            return spearman(words_N[i], error_N[i]) - spearman(jpeg_N[i], error_N[i])

        figures["caption_less_jpeg"] = statistic_figure(more, len(error_N))
        found[part] = figures_json(figures)
    return found


def group_of(level_N: np.ndarray, levels: int, size: int = 10) -> tuple[int, ...]:
    """Of a group of so many pictures those of each level, near their shares, one at least."""
    exact = np.bincount(level_N, minlength=levels) / len(level_N) * size
    counts = np.maximum(1, np.floor(exact).astype(int))
    while counts.sum() < size:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > size:
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return tuple(int(count) for count in counts)
