"""What anyone may know of a tokenizer: the codes that it makes, and the contract of its networks.

Outside a tokenizer's own file and the table `babeldraw.tokenizers.kinds` nothing names a kind.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.errors import UserError

# The parts of a tokenizer's parameters: what makes codes of images, and images of codes.
PARTS = ("encoder", "quantizer", "decoder")
MAKES_CODES = ("encoder", "quantizer")


@dataclasses.dataclass(frozen=True)
class Codes:
    """What an image, or a text, becomes: a code at each place.

    Discrete codes are int32 [B, T], or [B, T, factors] where a code has several factors. Continuous
    ones are float32 [B, *shape, channels].

    Attributes:
      shape: of the places: (h, w) for a grid, (n,) for one dimension.
      vocab: how many values each factor of a code has: (8192,), (512, 512); () for continuous ones.
      channels: of a continuous code; 0 for discrete ones.
      end: the code behind which there is nothing to be lost or drawn, as of texts; None: none.
    """

    shape: tuple[int, ...]
    vocab: tuple[int, ...] = ()
    channels: int = 0
    end: int | None = None

    def __post_init__(self):
        if bool(self.vocab) == bool(self.channels):
            raise ValueError(f"codes are discrete or continuous: {self.vocab}, {self.channels}")

    @property
    def length(self) -> int:
        """Number of places T."""
        return math.prod(self.shape)

    @property
    def vocab_size(self) -> int:
        """Of codes with one factor.

        Raises:
          UserError: they have several, or are continuous.
        """
        if len(self.vocab) != 1:
            what = f"have the factors {self.vocab}" if self.vocab else "are continuous"
            raise UserError(f"the tokenizer's codes {what}; this network predicts one number each")
        return self.vocab[0]

    @property
    def entries(self) -> int:
        """Values of all factors together; 0 of continuous codes."""
        return sum(self.vocab)

    @property
    def each(self) -> tuple[int, ...]:
        """Shape of one image's codes: (T,), (T, factors) or (*shape, channels)."""
        if not self.vocab:
            return (*self.shape, self.channels)
        return (self.length,) if len(self.vocab) == 1 else (self.length, len(self.vocab))

    @property
    def dtype(self) -> np.dtype:
        """int32, or float32 of continuous codes."""
        return np.dtype(np.int32 if self.vocab else np.float32)

    def spec(self, batch: int) -> jax.ShapeDtypeStruct:
        """Shape and type of the codes of so many images."""
        return jax.ShapeDtypeStruct((batch, *self.each), self.dtype)

    def numbered(self, codes: jax.Array) -> jax.Array:
        """Discrete codes, those of all factors numbered together: int32, below `entries`."""
        return codes if len(self.vocab) == 1 else self.numbered_first(codes)

    def numbered_first(self, factors: jax.Array) -> jax.Array:
        """The same of the first factors alone, int32 [..., f]."""
        offsets = np.cumsum((0, *self.vocab[:-1]))[: factors.shape[-1]].astype(np.int32)
        return factors + jnp.broadcast_to(offsets, factors.shape)

    def counts(self, codes: jax.Array) -> jax.Array:
        """float32 [entries]: how often each value of each factor occurs."""
        return jnp.zeros(self.entries, jnp.float32).at[self.numbered(codes).reshape(-1)].add(1.0)


@flax.struct.dataclass
class Reconstruction:
    """One pass through a tokenizer in training.

    Attributes:
      images: float32 [B, height, width, 3], near [0, 1] but not clipped; None where a kind's loss
        is on something else than pictures.
      raw: float32 [B, height, width, C], the decoder's own values, of which `images` are made.
        In training both may be [B K, ...], K of each picture side by side, such as at K rates.
      codes: of the images, as `encode` gives them.
      terms: float32 scalars, the kind's own terms of the loss, by name and without a weight.
      quantized: what the kind's `restart` wants to know of this pass.
    """

    images: jax.Array | None
    raw: jax.Array | None
    codes: jax.Array
    terms: dict[str, jax.Array]
    quantized: Any = None


class Tokenizer:
    """A stage 1 network as pure functions of its parameters: a frozen dataclass over its config.

    A kind says its codes and its parts and has the functions that raise NotImplementedError here;
    the others are as most kinds want them.

    Attributes:
      config: the section `tokenizer`.
      codes: what images become.
      image_size: (height, width) in pixels.
      groups: names at the top of the parameter tree, by part (`PARTS`).
      code_fields: the fields of the section that make codes.
      output: what the decoder gives for each colour, one of `pixels.OUTPUTS`.
      last: where the decoder's last weight lies in the parameter tree, for adaptive weights.
      needs: the frozen tokenizers that `forward` asks for, by name.
      borrowed: names at the top of the parameter tree that begin as a part of such a tokenizer of
        the run that training goes on from, with that tokenizer's name.
      free_fields: of the section, which may differ from that run's.
      draws: whether the parameters draw pictures; a kind whose loss is on something else may not.
      condition: shape of what the decoder draws beside the codes, for each picture; (): nothing.
      level: of kinds whose weights make codes of several sizes, which one this is; see `at`.
      reads_levels: of kinds with several levels, whether training takes each picture through the
        one that the data name for it, which `forward` then takes as `levels`.
      optional_terms: of the loss, which `forward` gives only where its argument `terms`, a tuple of
        names, says so; a kind that has none need not take that argument.
    """

    config: Any
    output: str = "rgb"
    last: tuple[str, ...] = ()
    needs: Mapping[str, "Tokenizer"] = MappingProxyType({})
    borrowed: Mapping[str, str] = MappingProxyType({})
    free_fields: tuple[str, ...] = ()
    draws: bool = True
    condition: tuple[int, ...] = ()
    level: str = ""
    reads_levels: bool = False
    optional_terms: tuple[str, ...] = ()
    beta_term: str = "commitment"

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the sizes that one set of weights makes codes of; most kinds have one.

        As CogView2's codebook at 20 x 20 and 60 x 60, CAT's 8, 16 and 32 pixels to a code, or the
        numbers of codes that a picture may have.
        """
        return ("",)

    def at(self, level: str) -> "Tokenizer":
        """The same weights at one of the levels; empty: the first.

        A level is a tokenizer like others: whoever holds it need not know that there are more.

        Raises:
          UserError: there is no such level.
        """
        level = level or self.levels[0]
        if level not in self.levels:
            there = ", ".join(self.levels) if self.levels != ("",) else "none by name"
            raise UserError(f"level is {level!r}; tokenizer.kind={self.config.kind} has {there}")
        return self if level == self.level else dataclasses.replace(self, level=level)

    @property
    def codes(self) -> Codes:
        raise NotImplementedError

    @property
    def image_size(self) -> tuple[int, int]:
        raise NotImplementedError

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        raise NotImplementedError

    @property
    def code_fields(self) -> Mapping[str, Any]:
        """As `config.to_dict` gives them; of equal fields and arrays are equal codes."""
        raise NotImplementedError

    @property
    def stacks(self) -> Mapping[str, Any]:
        """The transformers, by their path in the section."""
        return {}

    def init(self, key: jax.Array) -> Any:
        """Parameters, boxed with their logical axes."""
        raise NotImplementedError

    def encode(self, params: Any, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> codes, as `Codes` says."""
        raise NotImplementedError

    def sampled(self, params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        """Continuous codes drawn from the distributions of which `encode` gives the means.

        Args:
          params: of the parts that make codes, at least.
          images: as `encode` takes them.
          key: of the draw.

        Returns:
          As `encode`. Only kinds with continuous codes have it.
        """
        raise NotImplementedError

    def features(self, params: Any, images: jax.Array) -> jax.Array:
        """What probes read: the encoder's output, the mean over its places, float32 [B, D].

        Of images in [0, 1], as `encode` takes them. Not every kind has it.
        """
        raise NotImplementedError

    def decode(
        self, params: Any, codes: jax.Array, condition: jax.Array | None = None
    ) -> jax.Array:
        """Codes -> float32 [B, height, width, 3] in [0, 1].

        Args:
          params: of the quantizer and the decoder, at least.
          codes: as `Codes` says.
          condition: float32 [B, *self.condition]; None where that is ().

        Raises:
          UserError: there is no condition and one is needed, or the reverse; or nothing draws.
        """
        raise NotImplementedError

    def forward(
        self,
        params: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        frozen: Mapping[str, Any] | None = None,
        terms: tuple[str, ...] = (),
        condition: jax.Array | None = None,
        levels: jax.Array | None = None,
    ) -> Reconstruction:
        """Images through the codes and back.

        Args:
          params: of all parts.
          images: float32 [B, height, width, 3] in [0, 1].
          key: of dropout, and of what else is drawn in training alone; None: nothing is.
          frozen: parameters of the networks in `needs`.
          terms: those of `optional_terms` that are wanted.
          condition: as `decode` takes it; a kind without need not take this argument.
          levels: int32 [B], names of levels as numbers, -1 of a picture that the data name none
            for; read where there is a key. Only kinds of `reads_levels` take this argument.
        """
        raise NotImplementedError

    def to_images(self, raw: jax.Array) -> jax.Array:
        """The decoder's own values to pictures, near [0, 1] but not clipped."""
        return raw

    def check_split(self, devices: int) -> None:
        """Raises `UserError`: the parameters cannot be split over so many devices of `model`."""

    def check_condition(self, condition: jax.Array | None) -> None:
        """Raises `UserError`: the decoder draws by a text and none is given, or the reverse."""
        if self.condition and condition is None:
            raise UserError(
                f"tokenizer.text is set: the decoder draws by states of a text, {self.condition} "
                "of each picture, and none are given"
            )
        if condition is not None and not self.condition:
            raise UserError(
                f"a text is given and the decoder of tokenizer.kind={self.config.kind} draws from "
                "codes alone; leave it out"
            )

    def draw_mean(self, params: Any, weights: jax.Array) -> jax.Array:
        """The decoder's own values, of a weighted mean of the codes at each place.

        Args:
          params: of the quantizer and the decoder, at least.
          weights: float32 [B, T, V], of each code; their sum is 1.

        Returns:
          As `Reconstruction.raw`. Only kinds with a codebook of vectors have it.
        """
        raise NotImplementedError

    def code_vectors(self, params: Any) -> np.ndarray:
        """The codebook, float32 [V, Q], as the decoder reads it.

        Args:
          params: of the quantizer, at least.

        Raises:
          UserError: the codes are no one number with a vector, or the kind has no codebook.
        """
        raise UserError(f"codes of tokenizer.kind={self.config.kind} have no vectors")

    def mixes(self) -> bool:
        """Whether the kind has `draw_mean`."""
        return type(self).draw_mean is not Tokenizer.draw_mean

    def follow(self, before: Any, after: Any, out: Reconstruction) -> Any:
        """Parameters after a step, with those that follow running means and no gradients.

        Args:
          before, after: of all parts, before and after the optimizer's step.
          out: the pass just done.
        """
        raise NotImplementedError

    def follows(self) -> bool:
        """Whether there are such parameters."""
        return False

    def restart(
        self, params: Any, share: jax.Array, out: Reconstruction, below: float, key: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Moves codes that are hardly used.

        Args:
          params: of all parts.
          share: float32 [entries], how much each code was used, in units of an equal share.
          out: the pass just done.
          below: the share under which a code is moved.
          key: of what is drawn.

        Returns:
          Parameters and shares. Only kinds with a codebook of vectors have it.
        """
        raise NotImplementedError

    def restarts(self) -> bool:
        """Whether the kind has `restart`."""
        return type(self).restart is not Tokenizer.restart

    def reconstruct(
        self,
        params: Any,
        images: jax.Array,
        frozen: Mapping[str, Any] | None = None,
        condition: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """float32 images in [0, 1] through the codes and back, and the codes.

        Args:
          params: of all parts.
          images: float32 [B, height, width, 3] in [0, 1].
          frozen: parameters of the networks in `needs`, where they are at hand.
          condition: as `decode` takes it.
        """
        given = {} if condition is None else {"condition": condition}
        out = self.forward(params, images, frozen=frozen, **given)
        return jnp.clip(out.images, 0.0, 1.0), out.codes

    def part(self, params: Any, parts: tuple[str, ...]) -> dict[str, Any]:
        """Of a tree of parameters, or of what goes with them, the given parts."""
        return {name: params[name] for part in parts for name in self.groups[part]}


def identity(tokenizer: Tokenizer, params: Any) -> str:
    """16 hexadecimal digits of what makes a tokenizer's codes: arrays, and fields that none shows.

    Equal identities give equal codes; two tokenizers that differ in the decoder alone have the
    same. How a network is computed is no part of it: not even `dtype`, which can move a code only
    where two are as near.

    Args:
      tokenizer: its kind and config.
      params: of the whole tokenizer, or of the parts that make codes.
    """
    fields = {"kind": tokenizer.config.kind, **tokenizer.code_fields}
    if tokenizer.level:
        fields["level"] = tokenizer.level
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for leaf in jax.tree.leaves(tokenizer.part(params, MAKES_CODES)):
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()[:16]
