"""Rejection sampling: more pictures are drawn than are asked for, a classifier keeps the likeliest.

Razavi et al., "Generating Diverse High-Fidelity Images with VQ-VAE-2", 2019, section 3.4; ViT-VQGAN
(2022, section 5.2) with an acceptance of 0.5.
"""

import math

import numpy as np

from babeldraw.config import require


def drawn_for(num: int, acceptance: float) -> int:
    """How many pictures of a class are drawn so that `num` of them are accepted.

    Raises:
      UserError: the acceptance is not in (0, 1].
    """
    require(0 < acceptance <= 1, f"acceptance is {acceptance}; a share in (0, 1] is needed")
    return math.ceil(round(num / acceptance, 9))


def most_likely(score_N: np.ndarray, num: int) -> np.ndarray:
    """Indices of the `num` highest scores, in their own order; of equal ones the earlier."""
    return np.sort(np.argsort(-score_N, kind="stable")[:num])
