"""Mean and covariance of features as they come, in float64 on the host.

Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1982: sums of squares about the mean, which are merged without the loss of digits that
E[x x^T] - E[x] E[x]^T has.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from babeldraw.config import require


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of N vectors of D features.

    Attributes:
      num: N.
      mean_D: float64.
      scatter_DD: float64, the sum of (x - mean)(x - mean)^T.
    """

    num: int
    mean_D: np.ndarray
    scatter_DD: np.ndarray

    @classmethod
    def none(cls, features: int) -> "Moments":
        """Of no vector yet."""
        return cls(0, np.zeros(features), np.zeros((features, features)))

    @classmethod
    def of(cls, x_ND: np.ndarray, weight_N: np.ndarray | None = None) -> "Moments":
        """Of the rows of an array, of any type of float.

        Args:
          x_ND: the features.
          weight_N: int, how often each row counts; None: once.

        Raises:
          UserError: a value is not finite.
        """
        x_ND = np.asarray(x_ND, np.float64)
        finite_N = np.isfinite(x_ND).all(axis=1)
        require(
            bool(finite_N.all()),
            f"features of {np.sum(~finite_N)} of {len(x_ND)} pictures are not finite: the pictures "
            "hold NaN or infinite pixels, or the network's weights do",
        )
        if not len(x_ND):
            return cls.none(x_ND.shape[1])
        weight_N = np.ones(len(x_ND)) if weight_N is None else np.asarray(weight_N, np.float64)
        num = int(weight_N.sum())
        mean_D = weight_N @ x_ND / num
        apart_ND = x_ND - mean_D
        return cls(num, mean_D, (apart_ND * weight_N[:, None]).T @ apart_ND)

    def __add__(self, other: "Moments") -> "Moments":
        """Of both sets together."""
        num = self.num + other.num
        if not (self.num and other.num):
            return self if self.num else other
        apart_D = other.mean_D - self.mean_D
        mean_D = self.mean_D + apart_D * (other.num / num)
        between_DD = np.outer(apart_D, apart_D) * (self.num * other.num / num)
        return Moments(num, mean_D, self.scatter_DD + other.scatter_DD + between_DD)

    @property
    def covariance_DD(self) -> np.ndarray:
        """Over N - 1, as NumPy's `cov`. Raises `UserError` for fewer than two vectors."""
        require(self.num > 1, f"{self.num} pictures have no covariance; at least 2 are needed")
        return self.scatter_DD / (self.num - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for an .npz to go on from; see `evaluation.arrays`."""
        return {"num": np.int64(self.num), "mean": self.mean_D, "scatter": self.scatter_DD}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Moments":
        """What `arrays` gave."""
        return cls(int(arrays["num"]), arrays["mean"], arrays["scatter"])
