"""Codes that look alike, found once by k-means over the codebook; cluster sampling draws by them.

CogView2 has 500 clusters of its 20,000 codes; how they were found beyond "k-means" is not
published. Here seeds are drawn as in k-means++ (Arthur and Vassilvitskii, 2007).
"""

import numpy as np

from babeldraw.config import require

# Of Lloyd's algorithm; it ends sooner where no code moves.
ITERATIONS = 100


def cluster_codes(vectors_VQ: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """The cluster of each code, int32 [V] in [0, count), none of them empty.

    Args:
      vectors_VQ: the codebook, float32.
      count: clusters.
      seed: of what is drawn.

    Raises:
      UserError: there are not as many different codes.
    """
    vectors_VQ = np.asarray(vectors_VQ, np.float32)
    different = len(np.unique(vectors_VQ, axis=0))
    require(count >= 1, f"count is {count}; at least 1 cluster is needed")
    require(
        count <= different,
        f"count is {count}, of clusters, and the codebook has {different} different codes of "
        f"{len(vectors_VQ)}; take at most {different}",
    )
    centres_KQ = _seeds(vectors_VQ, count, np.random.default_rng(seed))
    labels_V = np.full(len(vectors_VQ), -1)
    for _ in range(ITERATIONS):
        before, labels_V = labels_V, _nearest(vectors_VQ, centres_KQ)
        if np.array_equal(before, labels_V):
            break
        centres_KQ = _centres(vectors_VQ, labels_V, centres_KQ)
    return labels_V.astype(np.int32)


def _seeds(vectors_VQ: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Codes that lie far from each other: the next by its squared distance to those there are."""
    chosen = [int(rng.integers(len(vectors_VQ)))]
    left_V = _distances(vectors_VQ, vectors_VQ[chosen])[:, 0]
    while len(chosen) < count:
        chosen.append(int(rng.choice(len(vectors_VQ), p=left_V / left_V.sum())))
        left_V = np.minimum(left_V, _distances(vectors_VQ, vectors_VQ[chosen[-1:]])[:, 0])
    return vectors_VQ[chosen]


def _distances(vectors_VQ: np.ndarray, centres_KQ: np.ndarray) -> np.ndarray:
    """Squared, float64 [V, K]; 0 of equal vectors."""
    # Not by the product of both: of a code that is its own seed that would leave rounding.
    if len(centres_KQ) == 1:
        return np.sum(np.square(vectors_VQ - centres_KQ, dtype=np.float64), axis=1, keepdims=True)
    lengths_V, lengths_K = (np.sum(np.square(a), axis=1) for a in (vectors_VQ, centres_KQ))
    return lengths_V[:, None] + lengths_K[None] - 2 * vectors_VQ @ centres_KQ.T


def _nearest(vectors_VQ: np.ndarray, centres_KQ: np.ndarray) -> np.ndarray:
    """Of each code; a centre that is the nearest of none takes the code that lies worst."""
    distances_VK = _distances(vectors_VQ, centres_KQ)
    labels_V = np.argmin(distances_VK, axis=1)
    own_V = np.take_along_axis(distances_VK, labels_V[:, None], axis=1)[:, 0]
    for number in np.flatnonzero(np.bincount(labels_V, minlength=len(centres_KQ)) == 0):
        # Alone in its cluster, a code would leave another empty.
        alone_V = np.bincount(labels_V, minlength=len(centres_KQ))[labels_V] == 1
        worst = int(np.argmax(np.where(alone_V, -np.inf, own_V)))
        labels_V[worst], own_V[worst] = number, 0.0
    return labels_V


def _centres(vectors_VQ: np.ndarray, labels_V: np.ndarray, like_KQ: np.ndarray) -> np.ndarray:
    """The mean of each cluster."""
    sums_KQ = np.zeros_like(like_KQ)
    np.add.at(sums_KQ, labels_V, vectors_VQ)
    return sums_KQ / np.bincount(labels_V, minlength=len(like_KQ))[:, None].astype(np.float32)
