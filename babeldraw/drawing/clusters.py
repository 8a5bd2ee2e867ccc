"""The clusters of a run's codes, as a file of its folder; `tokenizers.clusters` finds them."""

import io

import numpy as np

from babeldraw.config import require
from babeldraw.data.image import write_whole
from babeldraw.models.base import Generator
from babeldraw.runs.folder import RunFolder


def check_clustered(generator: Generator, what: str) -> None:
    """Raises `UserError`, beginning with `what`: no draw of the generator is of a whole code."""
    sizes = generator.factors
    require(bool(sizes), f"{what} and the run draws continuous codes, which have no clusters")
    require(
        len(sizes) == 1,
        f"{what} and the run draws codes in {len(sizes)} factors, of {', '.join(map(str, sizes))}; "
        "clusters are of codes that are drawn whole",
    )


def write_clusters(folder: RunFolder, labels_V: np.ndarray) -> None:
    """Writes the cluster of each code, int32 [V]."""
    buffer = io.BytesIO()
    np.save(buffer, labels_V)
    write_whole(folder.clusters_file, buffer.getvalue())


def read_clusters(folder: RunFolder, vocab: tuple[int, ...]) -> np.ndarray | None:
    """The cluster of each code, int32 [V]; None: the run has none.

    Whole numbers of any type are read: CogView2's `cluster_label.npy` is int64.

    Args:
      folder: the run's.
      vocab: of its codes.

    Raises:
      UserError: the file is of other codes, or none of ours.
    """
    if not folder.clusters_file.exists():
        return None
    try:
        labels_V = np.load(io.BytesIO(folder.clusters_file.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError):
        labels_V = np.zeros(0)
    fits = labels_V.shape == vocab and labels_V.dtype.kind == "i"
    require(
        fits and 0 <= labels_V.min() and labels_V.max() < len(labels_V),
        f"{folder.clusters_file} does not hold the clusters of the run's {vocab} codes; make them "
        f"anew with `babeldraw clusters --workdir={folder.path}`",
    )
    return labels_V.astype(np.int32)
