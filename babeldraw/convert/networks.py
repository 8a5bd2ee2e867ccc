"""Whole networks that others publish and a config of ours describes: a new one is a line here."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from babeldraw.config import require
from babeldraw.convert import autoencoder_kl, llama, maskgit, swiss_army, vqgan
from babeldraw.convert.dit import dit
from babeldraw.convert.files import read_arrays
from babeldraw.convert.hub import Describe, describe_masked, describe_maskgen, describe_titok
from babeldraw.convert.icetk import icetk_image
from babeldraw.convert.maskgen import maskgen
from babeldraw.convert.names import unwrapped
from babeldraw.convert.partitions import Partitions, read_partitions
from babeldraw.convert.rar import rar
from babeldraw.convert.table import Table, left_out, read, read_buffers, write
from babeldraw.convert.titok import titok
from babeldraw.convert.uvit import uvit
from babeldraw.runs.weights import check_finite, flatten


class Need(NamedTuple):
    """A field of a config that tells one network from others of its kind.

    Attributes:
      path: without `config.`.
      holds: whether a value of it will do; of a field that is not there None is asked.
      words: what would do.
    """

    path: str
    holds: Callable[[Any], bool]
    words: str

    def check(self, experiment: Any) -> None:
        """Raises `UserError`: it does not hold."""
        value = functools.reduce(_part, self.path.split("."), experiment)
        require(
            self.holds(value),
            f"config.{self.path} is {value!r}, whose weights these are not; they are of "
            f"{self.words}",
        )


def _part(section: Any, name: str) -> Any:
    return getattr(section, name, None)


def one_of(path: str, *values: Any) -> Need:
    """A field that has one of these values."""
    return Need(path, lambda value: value in values, " or ".join(map(repr, values)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which others keep the network.

    Attributes:
      about: whose it is, for the help of its flag.
      table: their tensors and our parameters, of the config's section.
      inside: the key under which a file may keep its tensors, as `read_arrays` takes it.
      partitions: how several files hold it, of which the first is named; None: one file does.
      needs: what a config is asked beside the network's own.
    """

    about: str
    table: Callable[[Any], Table]
    inside: str = ""
    partitions: Partitions | None = None
    needs: tuple[Need, ...] = ()

    def read(self, file: str, flag: str) -> Mapping[str, np.ndarray]:
        """The tensors of a file, and of those beside it that hold the rest, by their own names."""
        if self.partitions is None:
            return unwrapped(read_arrays(file, flag, self.inside))
        return read_partitions(self.partitions, file, flag, self.inside)


class Found(NamedTuple):
    """Attributes:
    params: ours, a tree of NumPy arrays.
    left: {why: names} of the tensors that are left out.
    buffers: what a run keeps beside its parameters, by name.
    """

    params: Any
    left: dict[str, list[str]]
    buffers: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Network:
    """Attributes:
    section: of a config, which describes the network.
    kind: of that section.
    layouts: by the flag that names a file, without its dashes.
    hub: what the config.json beside such a file says, of a whole config; None: none lies there.
    needs: by what a config tells it from others of that kind.
    """

    section: str
    kind: str
    layouts: Mapping[str, Layout]
    hub: Describe | None = None
    needs: tuple[Need, ...] = ()

    @property
    def flags(self) -> Mapping[str, Layout]:
        """As of `kinds.Kind`."""
        return self.layouts

    def of(self, experiment: Any, flag: str) -> Any:
        """The section of a config.

        Args:
          experiment: the config.
          flag: of a layout.

        Raises:
          UserError: it is of another kind, or another network of that kind.
        """
        own = one_of(f"{self.section}.kind", self.kind)
        for need in (own, *self.needs, *self.layouts[flag].needs):
            need.check(experiment)
        return getattr(experiment, self.section)

    def read(self, flag: str, file: str, section: Any, abstract: Any) -> Found:
        """Our parameters, and what stands beside them, of one of their files.

        Args:
          flag: of the layout.
          file: its path.
          section: the config's.
          abstract: shapes and types of our parameters, a tree of dicts without boxes.

        Raises:
          UserError: the file is none, of another network, or a value in it is not finite.
        """
        layout, name = self.layouts[flag], f"--{flag}={file}"
        tensors = layout.read(file, f"--{flag}")
        table = layout.table(section)
        params, buffers = read(table, tensors, abstract, name), read_buffers(table, tensors, name)
        check_finite(flatten(params) | buffers, name)
        return Found(params, left_out(table, tensors, abstract), buffers)

    def write(
        self, flag: str, section: Any, params: Any, buffers: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Their tensors, float32, of our parameters and what a run keeps beside them."""
        return write(self.layouts[flag].table(section), params, buffers=buffers)


PLAIN_VQ = (
    one_of("tokenizer.quantizer.kind", "vq"),
    one_of("tokenizer.quantizer.l2_normalized", False),
)
BY_CLASS = (one_of("condition.kind", "class"),)
WHOLE_CODES = one_of("model.factors", ())
# What no tensor tells: the same arrays compute something else.
CENTRED, RAW = (one_of("tokenizer.centred", value) for value in (True, False))
ZEROS = one_of("model.prefix", "zeros")

NETWORKS: dict[str, Network] = {
    "maskgit_vqgan": Network(
        "tokenizer",
        "vqgan",
        {
            "torch": Layout("the port in 1d-tokenizer", vqgan.maskgit_torch),
            "flax": Layout("Google's checkpoint, named .msgpack", vqgan.maskgit_flax, "params"),
        },
        needs=(*PLAIN_VQ, RAW),
    ),
    "llamagen_vq": Network(
        "tokenizer",
        "vqgan",
        {
            "torch": Layout("LlamaGen's", vqgan.llamagen, "model"),
            "ema": Layout("its average, of such a file", vqgan.llamagen, "ema"),
        },
        needs=(
            one_of("tokenizer.quantizer.kind", "vq"),
            one_of("tokenizer.quantizer.l2_normalized", True),
            CENTRED,
        ),
    ),
    "taming_vqgan": Network(
        "tokenizer",
        "vqgan",
        {
            "torch": Layout("taming-transformers' .ckpt", vqgan.taming, "state_dict"),
            "ema": Layout("its average, of such a file", vqgan.taming_average, "state_dict"),
        },
        needs=(*PLAIN_VQ, CENTRED),
    ),
    "ibq": Network(
        "tokenizer",
        "vqgan",
        {
            "torch": Layout("SEED-Voken's .ckpt of IBQ", vqgan.taming, "state_dict"),
            "ema": Layout("its average, of such a file", vqgan.taming_average, "state_dict"),
        },
        needs=(one_of("tokenizer.quantizer.kind", "ibq"), CENTRED),
    ),
    "open_magvit2": Network(
        "tokenizer",
        "vqgan",
        {
            "torch": Layout("SEED-Voken's .ckpt of it", vqgan.open_magvit2, "state_dict"),
            "ema": Layout("its average, of such a file", vqgan.open_magvit2_average, "state_dict"),
        },
        needs=(one_of("tokenizer.quantizer.kind", "lfq"), CENTRED),
    ),
    "autoencoder_kl": Network(
        "tokenizer",
        "vqgan",
        {
            "diffusers": Layout("diffusers' AutoencoderKL", autoencoder_kl.diffusers),
            "first": Layout(
                "the same as Stable Diffusion's were published, with `attentions.0.query`",
                autoencoder_kl.diffusers_first,
            ),
            "torch": Layout("latent-diffusion's own .ckpt", autoencoder_kl.compvis, "state_dict"),
        },
    ),
    "icetk_image": Network(
        "tokenizer", "hierarchy", {"torch": Layout("icetk's ice_image.pt", icetk_image, "module")}
    ),
    "coglm": Network(
        "model",
        "coglm",
        {
            "torch": Layout(
                "SwissArmyTransformer's mp_rank_00_model_states.pt",
                swiss_army.coglm,
                "module",
                swiss_army.PARTITIONS,
            )
        },
    ),
    "cogview2_direct": Network(
        "model",
        "enlarger",
        {
            "torch": Layout(
                "the same of its direct super-resolution",
                swiss_army.direct,
                "module",
                swiss_army.PARTITIONS,
            )
        },
    ),
    "cogview2_iterative": Network(
        "model",
        "refiner",
        {
            "torch": Layout(
                "the same of its iterative super-resolution",
                swiss_army.iterative,
                "module",
                swiss_army.PARTITIONS,
            )
        },
    ),
    "dit": Network("model", "dit", {"torch": Layout("DiT's .pt", dit, "ema")}),
    "maskgit": Network(
        "model",
        "maskgit",
        {
            "torch": Layout("TiTok's L-32 and B-64", maskgit.titok),
            "flax": Layout("Google's checkpoint, named .msgpack", maskgit.google, "params"),
        },
        describe_masked,
    ),
    "uvit": Network("model", "uvit", {"torch": Layout("TiTok's S-128", uvit)}, describe_masked),
    "maskgen": Network(
        "model",
        "maskgen",
        {"torch": Layout("MaskGen's on discrete codes", maskgen)},
        describe_maskgen,
    ),
    "llamagen": Network(
        "model",
        "llama",
        {
            "torch": Layout("LlamaGen's by classes", llama.llamagen, "model", needs=BY_CLASS),
            "ema": Layout("their average, of such a file", llama.llamagen, "ema", needs=BY_CLASS),
            "text": Layout(
                "LlamaGen's by texts",
                llama.llamagen_text,
                "model",
                needs=(one_of("condition.kind", "features", "t5"),),
            ),
        },
        needs=(one_of("model.adaptive", False), WHOLE_CODES, ZEROS),
    ),
    "ibq_generator": Network(
        "model",
        "llama",
        {
            "torch": Layout("SEED-Voken's .ckpt of IBQ's", llama.ibq_lightning, "state_dict"),
            "bare": Layout("the network alone", llama.ibq),
        },
        needs=(one_of("model.adaptive", True), WHOLE_CODES, ZEROS, *BY_CLASS),
    ),
    "open_magvit2_generator": Network(
        "model",
        "llama",
        {
            "torch": Layout("SEED-Voken's .ckpt of it", llama.open_magvit2_lightning, "state_dict"),
            "bare": Layout("the network alone", llama.open_magvit2),
        },
        needs=(
            one_of("model.adaptive", False),
            Need("model.intra", bool, "some blocks, and model.factors two sizes"),
            ZEROS,
            *BY_CLASS,
        ),
    ),
    "rar": Network("model", "rar", {"torch": Layout("1d-tokenizer's RAR", rar)}),
    "titok": Network(
        "tokenizer", "titok", {"torch": Layout("1d-tokenizer's", titok)}, describe_titok
    ),
}
