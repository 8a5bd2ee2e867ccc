"""Statistics of a set of true pictures in a file, to compare others with without its pictures.

The layouts are those of others: pytorch-fid's (`mu`, `sigma`) and that of ADM's evaluator, which
has `mu_s` and `sigma_s` of spatial features besides. Ours adds the
network's `network`, the `num` and the `size` of the pictures.
"""

import dataclasses
import os

import numpy as np

from babeldraw.config import require
from babeldraw.evaluation.arrays import read_arrays, write_arrays
from babeldraw.evaluation.distances import Gaussian
from babeldraw.say import say


@dataclasses.dataclass(frozen=True)
class Reference:
    """Attributes:
    network: whose features; empty where the file names none.
    pooled: of the pooled features.
    spatial: of spatial ones, of which sFID is made; None where the file has none.
    size: (height, width) of the pictures; empty where the file does not say.
    features: float32 [N, D] of pictures that stand for the set; None where there are none. ADM's
      references hold 10,000 pictures beside the statistics of all, for precision and recall.
    """

    network: str
    pooled: Gaussian
    spatial: Gaussian | None = None
    size: tuple[int, ...] = ()
    features: np.ndarray | None = None

    def save(self, file: str | os.PathLike) -> None:
        """Writes an .npz that pytorch-fid reads, and ADM's evaluator where `spatial` is there."""
        arrays = {"mu": self.pooled.mean_D, "sigma": self.pooled.covariance_DD}
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean_D, "sigma_s": self.spatial.covariance_DD}
        named = {"network": np.str_(self.network), "num": np.int64(self.pooled.num)}
        if self.size:
            named["size"] = np.array(self.size, np.int64)
        write_arrays(file, arrays | named)


def read_reference(
    file: str | os.PathLike, network: str, features: int, size: tuple[int, int] | None = None
) -> Reference:
    """Statistics to compare with.

    Args:
      file: an .npz of either layout.
      network: whose features are to be compared.
      features: how many it has.
      size: (height, width) of the pictures to be compared; None: any.

    Raises:
      UserError: the file cannot be read, holds objects, values that are not finite or no mean and
        covariance of one size, or is of another network or of pictures of another size.
    """
    found = read_arrays(file, ("mu", "sigma"), ("mu_s", "sigma_s", "network", "num", "size"))
    named = str(found["network"]) if "network" in found else ""
    require(
        named in ("", network),
        f"{file} holds statistics of {named} and those of {network} are needed; write them anew",
    )
    held = tuple(int(side) for side in found["size"].reshape(-1)) if "size" in found else ()
    require(
        size is None or held in ((), tuple(size)),
        f"{file} holds statistics of pictures of {held} and these are of {size}; write them anew "
        "from pictures of that size",
    )
    num = int(found["num"]) if "num" in found and found["num"].shape == () else 0
    pooled = _gaussian(found["mu"], found["sigma"], num, f"{file}: mu and sigma")
    require(
        len(pooled.mean_D) == features,
        f"{file} holds statistics of {len(pooled.mean_D)} features and {network} has {features}: "
        "they are of another network",
    )
    if not named:
        say(f"{file} names no network; its {features} features are taken for {network}'s")
    spatial = None
    if "mu_s" in found and "sigma_s" in found:
        name = f"{file}: mu_s and sigma_s"
        spatial = _gaussian(found["mu_s"], found["sigma_s"], num, name)
    return Reference(named, pooled, spatial, held)


def _gaussian(mean: np.ndarray, covariance: np.ndarray, num: int, name: str) -> Gaussian:
    require(
        mean.ndim == 1 and covariance.shape == 2 * mean.shape,
        f"{name} have the shapes {mean.shape} and {covariance.shape}; (D,) and (D, D) are needed",
    )
    for array in (mean, covariance):
        require(
            array.dtype.kind in "fiu" and bool(np.isfinite(array).all()),
            f"{name} hold values that are no finite numbers",
        )
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    require(
        bool(np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6)),
        f"{name}: the second is no covariance, it is not symmetric",
    )
    require(
        num == 0 or num >= len(mean),
        f"{name} are of {num} pictures, fewer than the {len(mean)} features; write them of more",
    )
    least, largest = np.linalg.eigvalsh(covariance)[[0, -1]]
    require(
        least >= -1e-6 * max(largest, 0.0) and largest > 0,
        f"{name}: the second is no covariance, it has an eigenvalue of {least:.3g}",
    )
    return Gaussian(mean, covariance, num)
