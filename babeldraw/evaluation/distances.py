"""How far a set of pictures lies from another one, in the features of a network; float64.

Every function takes features [N, D] or their moments, so that the network is whoever's: the figure
is named after it (`fd_vgg16`), and only Inception's would be FID and KID as others print them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import linalg, special

from babeldraw.config import require
from babeldraw.evaluation.moments import Moments

# Vectors whose distances to all others are in memory at once.
ROWS = 1024


# ------------------------------------------------------------------ Fréchet distance

# Of KID, as published; of precision and recall.
SUBSET, SUBSETS = 1000, 100
NEIGHBOURS = 3


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """What a Fréchet distance knows of a set: mean [D] and covariance [D, D], float64.

    Attributes:
      num: vectors that they are of; 0: not known.
    """

    mean_D: np.ndarray
    covariance_DD: np.ndarray
    num: int = 0

    @classmethod
    def of(cls, moments: Moments, name: str = "pictures") -> "Gaussian":
        """Raises `UserError` where there are fewer vectors than features: the covariance is then
        singular whatever the pictures, and the distance says more of N than of them."""
        features = len(moments.mean_D)
        require(
            moments.num >= max(features, 2),
            f"a Fréchet distance over {features} features needs at least as many {name} and there "
            f"are {moments.num}; give more, or a network of fewer features",
        )
        return cls(moments.mean_D, moments.covariance_DD, moments.num)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), at least 0.

    Dowson and Landau, 1982; Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017.

    tr (S1 S2)^(1/2) is the sum of the singular values of S1^(1/2) S2^(1/2), each root by `eigh`
    with eigenvalues that rounding alone left above 0 set to 0. No square root of an unsymmetric
    matrix is taken (`sqrtm` of a singular product gives complex numbers or NaN), and no eigenvalue
    of the product, whose rounding a square root would enlarge from 1e-16 to 1e-8.
    """
    require(
        first.mean_D.shape == second.mean_D.shape,
        f"one set has {len(first.mean_D)} features and the other {len(second.mean_D)}: they are "
        "of two networks",
    )
    return frechet_given_root(first, second, square_root(second.covariance_DD))


def frechet_given_root(first: Gaussian, second: Gaussian, root_DD: np.ndarray) -> float:
    """The same, given the second covariance's `square_root`, for many first ones."""
    product_DD = square_root(first.covariance_DD) @ root_DD
    shared = linalg.svdvals(product_DD, check_finite=False).sum()
    traces = np.trace(first.covariance_DD) + np.trace(second.covariance_DD)
    apart = np.sum(np.square(first.mean_D - second.mean_D))
    return max(0.0, float(apart + traces - 2 * shared))


def square_root(x_DD: np.ndarray) -> np.ndarray:
    """The symmetric root of a symmetric positive semidefinite matrix."""
    values_D, vectors_DD = np.linalg.eigh((x_DD + x_DD.T) / 2)
    floor = max(values_D[-1], 0.0) * len(x_DD) * np.finfo(np.float64).eps
    values_D = np.where(values_D > floor, values_D, 0.0)
    return (vectors_DD * np.sqrt(values_D)) @ vectors_DD.T


# ------------------------------------------------------------------ kernel distance


def kernel_distance(
    first_ND: np.ndarray,
    second_MD: np.ndarray,
    subset: int = SUBSET,
    subsets: int = SUBSETS,
    seed: int = 0,
) -> tuple[float, float]:
    """KID: mean and deviation of the unbiased MMD^2 over random subsets, at 0 for equal laws.

    Bińkowski et al., "Demystifying MMD GANs", 2018: kernel (x.y / D + 1)^3. Each subset is drawn
    without repetition, and one may share pictures with another: the deviation is no standard error.

    Args:
      subset: vectors of each set in a subset, at most what there are.
      subsets: how many; 1 where they would all hold the same.
    """
    rng, most = np.random.default_rng(seed), min(len(first_ND), len(second_MD))
    size = min(subset, most)
    found = []
    for _ in range(1 if size == len(first_ND) == len(second_MD) else subsets):
        picked = [rng.choice(len(x), size, replace=False) for x in (first_ND, second_MD)]
        found.append(squared_mmd(first_ND[picked[0]], second_MD[picked[1]]))
    return float(np.mean(found)), float(np.std(found))


def kernel_distance_of_blocks(
    first_ND: np.ndarray, second_MD: np.ndarray, block: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID over disjoint blocks in a random order, and its standard error.

    Zaremba, Gretton and Blaschko, "B-tests", 2013: the blocks are independent, so their spread is
    an honest one. A last part that fills no block is left out.

    Raises:
      UserError: there are not two blocks.
    """
    blocks = min(len(first_ND), len(second_MD)) // block
    require(
        blocks >= 2,
        f"{len(first_ND)} and {len(second_MD)} pictures make no two blocks of {block}; choose "
        "smaller ones",
    )
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(x))[: blocks * block] for x in (first_ND, second_MD)]
    pairs = zip(*(order.reshape(blocks, block) for order in orders), strict=True)
    found = [squared_mmd(first_ND[own], second_MD[other]) for own, other in pairs]
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(blocks))


def squared_mmd(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    """The unbiased estimate with the polynomial kernel of degree 3; may be below 0.

    Gretton et al., "A Kernel Two-Sample Test", 2012, equation 3.

    Raises:
      UserError: fewer than two vectors on a side.
    """
    n, m = len(x_ND), len(y_MD)
    require(min(n, m) >= 2, f"a kernel distance needs 2 pictures a side; there are {n} and {m}")
    x_ND, y_MD = np.asarray(x_ND, np.float64), np.asarray(y_MD, np.float64)
    within = [(k.sum() - np.trace(k)) for k in (_kernel(x_ND, x_ND), _kernel(y_MD, y_MD))]
    own, other = within[0] / (n * (n - 1)), within[1] / (m * (m - 1))
    return float(own + other - 2 * _kernel(x_ND, y_MD).mean())


def _kernel(x_ND: np.ndarray, y_MD: np.ndarray) -> np.ndarray:
    return (x_ND @ y_MD.T / x_ND.shape[1] + 1) ** 3


# ------------------------------------------------------------------ precision and recall


def inside(
    x_ND: np.ndarray, set_MD: np.ndarray, neighbours: int = NEIGHBOURS, half: bool = False
) -> np.ndarray:
    """bool [N]: whether each vector lies in the manifold of a set.

    Kynkäänniemi et al., "Improved Precision and Recall Metric", 2019: the manifold is the union of
    balls about the set's vectors, each reaching to its k-th nearest other one. The mean over drawn
    pictures in that of true ones is precision, the other way round recall.

    Args:
      half: distances as ADM's evaluator has them, of vectors in float16; see `_half_distances`.

    Raises:
      UserError: the set has no more than `neighbours` vectors.
    """
    require(
        len(set_MD) > neighbours,
        f"precision and recall with k={neighbours} need more than {neighbours} pictures a side; "
        f"there are {len(set_MD)}",
    )
    squares = _half_distances if half else _squared_distances
    radius_M = _radii(set_MD, neighbours, squares)
    found = []
    for start in range(0, len(x_ND), ROWS):
        squared = squares(x_ND[start : start + ROWS], set_MD)
        found.append((squared <= radius_M).any(axis=1))
    return np.concatenate(found)


def _radii(set_MD: np.ndarray, neighbours: int, squares: Callable) -> np.ndarray:
    """The squared distance of each vector to its k-th nearest other one, [M]."""
    found = []
    for start in range(0, len(set_MD), ROWS):
        squared = squares(set_MD[start : start + ROWS], set_MD)
        # Its own distance is the first, whatever rounding made of 0.
        squared[np.arange(len(squared)), np.arange(start, start + len(squared))] = -1.0
        found.append(np.partition(squared, neighbours, axis=1)[:, neighbours])
    return np.concatenate(found)


def _squared_distances(x_ND: np.ndarray, y_MD: np.ndarray) -> np.ndarray:
    """float64 [N, M], at least 0."""
    x_ND, y_MD = np.asarray(x_ND, np.float64), np.asarray(y_MD, np.float64)
    squares = np.square(x_ND).sum(1)[:, None] + np.square(y_MD).sum(1)
    return np.maximum(squares - 2 * x_ND @ y_MD.T, 0.0)


def _half_distances(x_ND: np.ndarray, y_MD: np.ndarray) -> np.ndarray:
    """float32 [N, M], each step rounded to float16, as in the evaluator of ADM (2021).

    Sums are taken in float32 and rounded once. Where one is beyond float16 all are float32's; ADM
    decides so for 10,000 rows and columns at once, here for those of a call.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        own_ND, other_MD = (np.asarray(z).astype(np.float16) for z in (x_ND, y_MD))
        x_N, y_M = (
            np.square(z).sum(1, dtype=np.float32).astype(np.float16) for z in (own_ND, other_MD)
        )
        product = (own_ND.astype(np.float32) @ other_MD.astype(np.float32).T).astype(np.float16)
        found = np.maximum(x_N[:, None] - np.float16(2) * product + y_M, np.float16(0))
    if np.isfinite(found).all():
        return found.astype(np.float32)
    return _squared_distances(x_ND, y_MD).astype(np.float32)


# ------------------------------------------------------------------ classes

# Of the Inception Score in ADM's evaluator.
SPLIT = 5000


def inception_score(x_ND: np.ndarray, classes_DV: np.ndarray, split: int = SPLIT) -> float:
    """exp of the mean divergence of each picture's classes from those of all; at least 1.

    Salimans et al., "Improved Techniques for Training GANs", 2016; as ADM's evaluator has it: the
    softmax of the features times a matrix without its bias, the mean over splits in order, of which
    the last may be smaller.

    Args:
      x_ND: the features that the classes are told from.
      classes_DV: of the network.
    """
    found = []
    for start in range(0, len(x_ND), split):
        logits_NV = np.asarray(x_ND[start : start + split], np.float64) @ classes_DV
        log_NV = special.log_softmax(logits_NV, axis=1)
        # By logarithms, so that a class that is never seen is 0 and no NaN.
        log_all_V = special.logsumexp(log_NV, axis=0) - np.log(len(log_NV))
        found.append(np.exp(np.mean(np.sum(np.exp(log_NV) * (log_NV - log_all_V), axis=1))))
    return float(np.mean(found))
