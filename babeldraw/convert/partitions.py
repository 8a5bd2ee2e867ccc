"""Tensors that several files hold, a file for each rank of a model-parallel run.

Megatron's layers: of some products each rank has a share of the outputs, of others one of the
inputs; what is not shared every rank has whole.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from babeldraw.config import require
from babeldraw.convert.files import read_arrays
from babeldraw.runs.weights import few

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Partitions:
    """Attributes:
    name: regular expression of a file's name, whose group is the rank.
    shared: of what ranks share, (regular expression of whole names, axis, groups): along that axis
      a rank's tensor has its share of each group, one group behind the other.
    """

    name: str
    shared: tuple[tuple[str, int, int], ...]

    def merged(
        self, parts: Sequence[Arrays], name: str = "the state dict"
    ) -> dict[str, np.ndarray]:
        """The whole tensors, of those of each rank in order; what all have is the first one's.

        Raises:
          UserError: ranks hold different names, or what each holds whole differs.
        """
        for rank, part in enumerate(parts):
            differing = sorted(set(part) ^ set(parts[0]))
            require(not differing, f"{name}: ranks 0 and {rank} differ by {few(differing)}")
        return {key: self._merged(key, [part[key] for part in parts], name) for key in parts[0]}

    def split(self, tensors: Arrays, ranks: int) -> list[dict[str, np.ndarray]]:
        """What each of so many ranks holds: the inverse of `merged`.

        Raises:
          ValueError: a share is no whole number.
        """
        found: list[dict[str, np.ndarray]] = [{} for _ in range(ranks)]
        for key, array in tensors.items():
            how = self._how(key)
            shares = [array] * ranks if how is None else _shares(array, *how, ranks)
            for part, share in zip(found, shares, strict=True):
                part[key] = share
        return found

    def _how(self, key: str) -> tuple[int, int] | None:
        for pattern, axis, groups in self.shared:
            if re.fullmatch(pattern, key):
                return axis, groups
        return None

    def _merged(self, key: str, arrays: list[np.ndarray], name: str) -> np.ndarray:
        how = self._how(key)
        if how is None or len(arrays) == 1:
            same = all(np.array_equal(array, arrays[0]) for array in arrays[1:])
            require(same, f"{name}: ranks hold different {key}, which all of them have whole")
            return arrays[0]
        axis, groups = how
        shapes = [array.shape for array in arrays]
        fits = axis < arrays[0].ndim and not any(shape[axis] % groups for shape in shapes)
        require(
            len(set(shapes)) == 1 and fits,
            f"{name}: ranks hold {key} of the shapes {', '.join(map(str, shapes))}; equal shares "
            f"are needed, of {groups} groups along axis {axis}",
        )
        pieces = [np.split(array, groups, axis) for array in arrays]
        in_order = [pieces[rank][group] for group in range(groups) for rank in range(len(arrays))]
        return np.concatenate(in_order, axis)


def _shares(array: np.ndarray, axis: int, groups: int, ranks: int) -> list[np.ndarray]:
    pieces = np.split(array, groups * ranks, axis)
    return [np.concatenate(pieces[rank::ranks], axis) for rank in range(ranks)]


def read_partitions(
    partitions: Partitions, file: str, flag: str, inside: str = ""
) -> dict[str, np.ndarray]:
    """The whole tensors of a file and of the other ranks' files beside it.

    A file that is not named as a rank's is read alone.

    Args:
      partitions: how they are shared.
      file: that of the first rank.
      flag, inside: as of `read_arrays`.

    Raises:
      UserError: a file cannot be read, is not the first, or one between is missing.
    """
    path = Path(file)
    named = re.fullmatch(partitions.name, path.name)
    if named is None or not path.is_file():
        return dict(read_arrays(file, flag, inside))
    require(int(named[1]) == 0, f"{flag}={file} is that of rank {int(named[1])}; name rank 0's")
    beside = {
        int(found[1]): other
        for other in path.parent.iterdir()
        if (found := re.fullmatch(partitions.name, other.name))
    }
    missing = sorted(set(range(max(beside) + 1)) - set(beside))
    require(
        not missing,
        f"{flag}={file} has files of {len(beside)} ranks beside it, and none of rank "
        f"{missing[:1]}; put them all there",
    )
    parts = [read_arrays(str(beside[rank]), flag, inside) for rank in sorted(beside)]
    return partitions.merged(parts, f"{flag}={file}")
