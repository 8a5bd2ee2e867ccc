"""One codebook for pictures at several rates: icetk's hierarchical VQ-VAE, as CogView2 uses it.

Ding et al., "CogView2", 2022, and icetk's public code: an encoder whose low layers are shared, of
which latents are taken at 4, 8 and 16 pixels to a code; one codebook of running means for all of
them; a decoder for each rate. CogView2 draws at 8 pixels for pictures of 160 and of 480, and both
are levels of this tokenizer, since the network is one of convolutions.

Latents of the coarser rates come of further levels of the encoder, each with layers of its own to
the codebook, or, as in icetk's code, of the finest ones, halved again and again (`coarser`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, to_dict
from babeldraw.layers.convolution import Conv
from babeldraw.layers.pictures import downsample
from babeldraw.tokenizers.base import Codes, Reconstruction
from babeldraw.tokenizers.convolutional import (
    DOWNS,
    ConvolutionalConfig,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    ToLatents,
    descend,
    fields_of_codes,
)
from babeldraw.tokenizers.pixels import CHANNELS
from babeldraw.tokenizers.quantizers import QuantizerConfig, QuantizingTokenizer
from babeldraw.tokenizers.running_mean import RunningMeanConfig

# Where latents of the coarser rates come from.
COARSER = ("levels", "halved")
# icetk's widths to 4 pixels, and two levels below it.
NETWORK = ConvolutionalConfig(
    multipliers=(1, 2, 4, 4, 4),
    decoder_blocks=1,
    latent_kernel=3,
    attention=True,
    shortcut="input",
    bias=True,
    down="convolution",
)


@dataclasses.dataclass(frozen=True)
class HierarchyConfig:
    """Attributes:
    network: the encoder, as deep as the coarsest rate. Decoders are like it, but for
      `multipliers`.
    decoders: of each rate from the finest on the multipliers of its decoder, from full size on: of
      n of them a code is 2^(n - 1) pixels wide.
    image_size: (height, width) in pixels of the pictures that training sees, at all rates.
    levels: (pixels to a code, how many times as high and wide as `image_size` the pictures are) of
      each level, named "8", or "8x3" for pictures three times as large.
    quantizer: the codebook, as wide as `network.latent_channels`.
    coarser: of COARSER. `levels`: the encoder goes on, and each rate has its own layers to latents.
      `halved`, as in icetk: the encoder ends at the finest rate, and its latents are halved by the
      mean of each 2 x 2 plus a 3 x 3 convolution of stride 2; one 1 x 1 convolution of all rates
      lies before the codebook.
    attends: rates whose decoders attend in their last level, where
      `network.middle_attention_alone` has the others not; 16 in icetk.
    mean, deviation: of each colour; the network reads and gives pixels less the one, in units of
      the other. icetk has those of its pictures.
    """

    network: ConvolutionalConfig = NETWORK
    decoders: tuple[tuple[int, ...], ...] = ((1, 2, 4), (1, 1, 2, 4), (1, 1, 1, 2, 4))
    image_size: tuple[int, int] = (160, 160)
    levels: tuple[tuple[int, int], ...] = ((8, 1), (8, 3))
    quantizer: QuantizerConfig = RunningMeanConfig()
    coarser: str = "levels"
    attends: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)
    kind: str = "hierarchy"

    def __post_init__(self):
        require(
            self.coarser in COARSER,
            f"tokenizer.coarser is {self.coarser!r}; the choices are {', '.join(COARSER)}",
        )
        depth, strides = len(self.network.multipliers), self.strides
        place = -1 if self.coarser == "levels" else 0
        ends = "last" if self.coarser == "levels" else "first"
        require(
            bool(strides)
            and [*strides] == sorted({*strides})
            and strides[place] == 2 ** (depth - 1),
            f"tokenizer.decoders are for codes of {strides} pixels; ascending ones are needed, the "
            f"{ends} of them {2 ** (depth - 1)}, by the {depth} levels of "
            "tokenizer.network.multipliers",
        )
        require(
            self.network.patch_size == 1,
            f"tokenizer.network.patch_size is {self.network.patch_size}; a hierarchy has a level "
            "for each stride: set it to 1",
        )
        self._check_halved(strides)
        for stride in self.attends:
            require(
                stride in strides,
                f"tokenizer.attends has {stride} pixels to a code; tokenizer.decoders has "
                f"{', '.join(map(str, strides))}",
            )
        require(
            len(self.mean) == len(self.deviation) == CHANNELS and min(self.deviation) > 0,
            f"tokenizer.mean is {self.mean} and tokenizer.deviation {self.deviation}; each is of "
            f"{CHANNELS} colours, and deviations are more than 0",
        )
        require(
            bool(self.levels) and self.levels[0][1] == 1,
            f"tokenizer.levels is {self.levels}; the first of them is that of training, such as "
            "(8, 1)",
        )
        for stride, times in self.levels:
            require(
                stride in strides,
                f"tokenizer.levels has one of {stride} pixels to a code; tokenizer.decoders has "
                f"{', '.join(map(str, strides))}",
            )
            require(
                times >= 1,
                f"tokenizer.levels has pictures {times} times as large; at least 1 is needed",
            )
        require(
            min(self.image_size) > 0 and not any(side % strides[-1] for side in self.image_size),
            f"tokenizer.image_size is {self.image_size}, which {strides[-1]} pixels to a code do "
            f"not divide; choose multiples of {strides[-1]}",
        )
        require(
            self.network.latent_channels == self.quantizer.code_dim and bool(self.quantizer.vocab),
            f"tokenizer.quantizer.code_dim is {self.quantizer.code_dim} and "
            f"tokenizer.network.latent_channels {self.network.latent_channels}; they are the same",
        )
        require(
            not self.network.adaptive,
            "tokenizer.network.adaptive is True, norms by the codes of one size; a hierarchy has "
            "several: set it to False",
        )

    def _check_halved(self, strides: tuple[int, ...]) -> None:
        twice = zip(strides, strides[1:], strict=False)
        require(
            self.coarser == "levels" or all(coarse == 2 * fine for fine, coarse in twice),
            f"tokenizer.coarser is 'halved' and tokenizer.decoders are for codes of {strides} "
            "pixels; each must be twice the one before",
        )

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels to a code at each rate, ascending."""
        return tuple(2 ** (len(multipliers) - 1) for multipliers in self.decoders)

    def decoder(self, stride: int) -> ConvolutionalConfig:
        """The network of a rate's decoder."""
        multipliers = self.decoders[self.strides.index(stride)]
        alone = self.network.middle_attention_alone and stride not in self.attends
        return dataclasses.replace(
            self.network, multipliers=multipliers, middle_attention_alone=alone
        )

    def to_values(self, images: jax.Array) -> jax.Array:
        """Pixels in [0, 1] as the network reads them."""
        return (images - _of_colours(self.mean)) / _of_colours(self.deviation)

    def to_images(self, values: jax.Array) -> jax.Array:
        """What a decoder gives as pixels, near [0, 1] but not clipped."""
        return values * _of_colours(self.deviation) + _of_colours(self.mean)

    def tiny(self) -> "HierarchyConfig":
        """The same network, small."""
        network, quantizer = self.network.tiny(), self.quantizer.tiny()
        network = dataclasses.replace(network, multipliers=self.network.multipliers)
        # At least the 32 px that the world of shapes needs.
        side = -(-32 // self.strides[-1]) * self.strides[-1]
        return dataclasses.replace(
            self, network=network, quantizer=quantizer, image_size=(side, side)
        )


class HierarchicalEncoder(nn.Module):
    """Pictures to latents at several rates; the low layers are shared."""

    config: HierarchyConfig

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, strides: tuple[int, ...]) -> dict[int, jax.Array]:
        """float32 [B, H, W, 3] -> by stride, float32 [B, H / stride, W / stride, Q].

        Nothing deeper than the last of the strides is computed.
        """
        network = self.config.network
        maps = descend(network, x_BHWC, strides[-1].bit_length())
        return {
            stride: ToLatents(
                dataclasses.replace(
                    network, multipliers=network.multipliers[: stride.bit_length()]
                ),
                name=f"to_latents_{stride}",
            )(maps[stride.bit_length() - 1])
            for stride in strides
        }


class HalvingEncoder(nn.Module):
    """As `HierarchicalEncoder`, of latents at the finest rate that are halved; icetk's code."""

    config: HierarchyConfig

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, strides: tuple[int, ...]) -> dict[int, jax.Array]:
        network, found = self.config.network, {}
        z_BhwQ = ConvolutionalEncoder(network, name="finest")(x_BHWC)
        to_code = Conv(network.latent_channels, (1, 1), name="to_code")
        for stride in self.config.strides:
            if stride > strides[-1]:
                break
            z_BhwQ = z_BhwQ if stride == self.config.strides[0] else self._halved(z_BhwQ, stride)
            if stride in strides:
                found[stride] = to_code(z_BhwQ)
        return found

    def _halved(self, z_BhwQ: jax.Array, stride: int) -> jax.Array:
        down = Conv(
            z_BhwQ.shape[-1], stride=2, padding=DOWNS["convolution"], name=f"down_to_{stride}"
        )
        return downsample(z_BhwQ, 2) + down(z_BhwQ)


class Hierarchy(nn.Module):
    """The network; `HierarchyTokenizer` is what others see of it."""

    config: HierarchyConfig

    def setup(self):
        config = self.config
        halved = config.coarser == "halved"
        self.encoder = (HalvingEncoder if halved else HierarchicalEncoder)(config)
        self.codebook = config.quantizer.make()
        self.decoders = {
            str(stride): ConvolutionalDecoder(config.decoder(stride), CHANNELS)
            for stride in config.strides
        }

    def __call__(
        self, images: jax.Array, strides: tuple[int, ...], terms: tuple[str, ...] = ()
    ) -> Reconstruction:
        """Pictures through the codes and back at each of the strides, each with all of them.

        Args:
          images: float32 [B, height, width, 3] in [0, 1].
          strides: K rates, ascending; pictures and raw values are [B K, ...], those of one picture
            side by side, `codes` those of all rates one after another.
          terms: of the loss, those that are wanted.
        """
        latents = self.latents(images, strides)
        flat = [z_BhwQ.reshape(z_BhwQ.shape[0], -1, z_BhwQ.shape[-1]) for z_BhwQ in latents]
        # One lookup: the codebook does not know of rates.
        quantized = self.codebook(jnp.concatenate(flat, axis=1), "entropy" in terms)
        raws, begin = [], 0
        for stride, z_BhwQ in zip(strides, latents, strict=True):
            end = begin + z_BhwQ.shape[1] * z_BhwQ.shape[2]
            codes_BhwQ = quantized.codes[:, begin:end].reshape(z_BhwQ.shape)
            raws.append(self.decoders[str(stride)](codes_BhwQ))
            begin = end
        raw = jnp.stack(raws, axis=1).reshape(-1, *raws[0].shape[1:])
        images = self.config.to_images(raw)
        return Reconstruction(images, raw, quantized.ids, quantized.terms, quantized)

    def latents(self, images: jax.Array, strides: tuple[int, ...]) -> list[jax.Array]:
        """Of each rate, float32 [B, h, w, Q]."""
        return [*self.encoder(self.config.to_values(images), strides).values()]

    def encode(self, images: jax.Array, stride: int) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> int32 [B, h w]."""
        (z_BhwQ,) = self.latents(images, (stride,))
        return self.codebook(z_BhwQ.reshape(z_BhwQ.shape[0], -1, z_BhwQ.shape[-1])).ids

    def decode(self, ids: jax.Array, stride: int, grid: tuple[int, int]) -> jax.Array:
        """int32 [B, h w] on a grid -> float32 [B, height, width, 3] in [0, 1]."""
        codes_BTQ = self.codebook.lookup(ids)
        raw = self.decoders[str(stride)](codes_BTQ.reshape(ids.shape[0], *grid, -1))
        return jnp.clip(self.config.to_images(raw), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class HierarchyTokenizer(QuantizingTokenizer):
    """`Tokenizer` of a hierarchy. Its first level trains all rates, another one its own alone."""

    config: HierarchyConfig
    level: str = ""

    @property
    def network(self) -> Hierarchy:
        return Hierarchy(self.config)

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(_name(*level) for level in self.config.levels)

    @property
    def stride(self) -> int:
        """Pixels to a code, at this level."""
        return self._own[0]

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.config.image_size
        return height * self._own[1], width * self._own[1]

    @property
    def _own(self) -> tuple[int, int]:
        return self.config.levels[self.levels.index(self.level) if self.level else 0]

    @property
    def codes(self) -> Codes:
        height, width = (side // self.stride for side in self.image_size)
        return Codes((height, width), self.config.quantizer.vocab)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        decoders = tuple(f"decoders_{stride}" for stride in self.config.strides)
        return {"encoder": ("encoder",), "quantizer": self.codebook, "decoder": decoders}

    @property
    def code_fields(self) -> dict[str, Any]:
        own = to_dict(self.config, defaults=False)
        return {
            "network": fields_of_codes(self.config.network),
            "quantizer": self.config.quantizer.code_fields,
            "image_size": to_dict(self.image_size),
            "stride": self.stride,
            **{name: own[name] for name in ("coarser", "mean", "deviation") if name in own},
        }

    def init(self, key: jax.Array) -> Any:
        images = jnp.zeros((1, *self.config.image_size, CHANNELS), jnp.float32)
        return self.network.init(key, images, self.config.strides)["params"]

    def encode(self, params: Any, images: jax.Array) -> jax.Array:
        return self._apply(params, images, self.stride, method="encode")

    def decode(
        self, params: Any, codes: jax.Array, condition: jax.Array | None = None
    ) -> jax.Array:
        self.check_condition(condition)
        return self._apply(params, codes, self.stride, self.codes.shape, method="decode")

    def forward(
        self,
        params: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        frozen: Mapping[str, Any] | None = None,
        terms: tuple[str, ...] = (),
    ) -> Reconstruction:
        """With a key, as in training, the first level draws each picture at all rates."""
        del frozen
        all_rates = key is not None and self.level in ("", self.levels[0])
        strides = self.config.strides if all_rates else (self.stride,)
        return self._apply(params, images, strides, terms)

    def to_images(self, raw: jax.Array) -> jax.Array:
        return self.config.to_images(raw)

    def mixes(self) -> bool:
        return False

    def _apply(self, params: Any, *inputs: Any, **options: Any) -> Any:
        return self.network.apply({"params": params}, *inputs, **options)


def _name(stride: int, times: int) -> str:
    return str(stride) if times == 1 else f"{stride}x{times}"


def _of_colours(values: tuple[float, ...]) -> jax.Array:
    """float32 [1, 1, 1, 3]."""
    return jnp.asarray(values, jnp.float32)[None, None, None]
