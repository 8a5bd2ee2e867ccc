"""The kinds of weights that `import` reads and `export` writes: a new one is a line here."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from babeldraw.convert.table import Table, left_out, read, write
from babeldraw.convert.vgg import LPIPS, VGG16
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork, check_linear
from babeldraw.runs.weights import check_finite, flatten

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class File:
    """One of the files that others' weights come in.

    Attributes:
      about: what it is, for the help of its flag.
      table: its tensors and our parameters.
      fills: regular expression of the names of those of our parameters that come from it.
      inside: the key under which a .pth file may keep its state dict; empty: it is one.
      without: the value of all of these where it is not given; None: it must be.
    """

    about: str
    table: Table
    fills: str = ".*"
    inside: str = ""
    without: float | None = None


@dataclasses.dataclass(frozen=True)
class Kind:
    """Weights of one network.

    Attributes:
      files: theirs by the flag that names each, without its dashes; import reads them, export
        writes them.
      abstract: gives shapes and types of our parameters, a tree of dicts without boxes.
      check: raises `UserError` where parameters, by name, are not what their network needs; it is
        also told what the user calls them.
    """

    files: Mapping[str, File]
    abstract: Callable[[], Any]
    check: Callable[[Arrays, str], None] = check_finite

    def read(self, tensors: Mapping[str, Arrays], names: Mapping[str, str]) -> Arrays:
        """Our parameters by name, as `runs.weights.write_weights` takes them.

        Args:
          tensors: theirs, by flag and name; a file with a value for `without` may be left out.
          names: what the user calls each, such as "--vgg=vgg16.pth".

        Raises:
          UserError: a file is of another network, or a value in it is not finite.
        """
        found: dict[str, np.ndarray] = {}
        for flag, file in self.files.items():
            wanted = self._filled_by(file)
            if flag in tensors or file.without is None:
                params = read(file.table, tensors[flag], wanted, names[flag])
                self.check(params, names[flag])
            else:
                params = {
                    key: np.full(leaf.shape, file.without, leaf.dtype)
                    for key, leaf in wanted.items()
                }
            found |= params
        return found

    def write(self, params: Arrays, flag: str) -> dict[str, np.ndarray]:
        """Their tensors of one file, float32, from our parameters by name."""
        wanted = self._filled_by(self.files[flag])
        return write(self.files[flag].table, {key: params[key] for key in wanted})

    def left_out(self, tensors: Arrays, flag: str) -> dict[str, list[str]]:
        """{why: names}: which tensors of a file are not read."""
        file = self.files[flag]
        return left_out(file.table, tensors, self._filled_by(file))

    def _filled_by(self, file: File) -> dict[str, Any]:
        leaves = flatten(self.abstract())
        return {key: leaf for key, leaf in leaves.items() if re.fullmatch(file.fills, key)}


def _check_distance(params: Arrays, name: str) -> None:
    check_finite(params, name)
    check_linear(params, name)


KINDS: dict[str, Kind] = {
    # For config.perceptual.file. Without LPIPS's weights all channels weigh the same, which is the
    # plain distance of normalised VGG features.
    "vgg_lpips": Kind(
        {
            "vgg": File("torchvision's VGG16 state dict", VGG16, r"vgg/.*"),
            "lpips": File("LPIPS's linear weights for VGG16", LPIPS, r"linear\d", without=1.0),
        },
        PerceptualNetwork(PerceptualConfig()).shapes,
        _check_distance,
    ),
}
