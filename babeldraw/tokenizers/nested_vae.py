"""A nested VAE: one convolutional network whose latents are taken at 8, 16 or 32 pixels each.

Shen et al., "CAT: Content-Adaptive Image Tokenization", 2025: the encoder's intermediate outputs
are routed past what lies deeper, by skips that match their channels, and one set of weights serves
all levels. No code is public. What the skips are, which layers are shared and the channels of a
latent are not told in what we read; here a skip is a 1 x 1 convolution, and the blocks next to the
latents, the projections to them and from them are the same for all levels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, to_dict
from babeldraw.layers.convolution import Conv
from babeldraw.layers.pictures import depth_to_space, space_to_depth
from babeldraw.tokenizers.base import Codes, Reconstruction, Tokenizer
from babeldraw.tokenizers.convolutional import (
    ConvolutionalConfig,
    ToLatents,
    ascend,
    descend,
    fields_of_codes,
    from_latents,
    to_values,
)
from babeldraw.tokenizers.gaussian import Drawn, Gaussian
from babeldraw.tokenizers.pixels import CHANNELS, to_images

# Who says which level a picture goes through in training.
ROUTINGS = ("drawn", "data")
# Latent diffusion's at 8 pixels (`configs/autoencoder_kl.py`), and two levels below it.
NETWORK = ConvolutionalConfig(
    multipliers=(1, 2, 4, 4, 4, 4),
    decoder_blocks=3,
    latent_channels=16,
    latent_kernel=3,
    attention=True,
    middle_attention_alone=True,
    shortcut="input",
    bias=True,
    down="convolution",
)


@dataclasses.dataclass(frozen=True)
class NestedVAEConfig:
    """Attributes:
    network: the encoder and the decoder, as deep as the last of `strides`, its `patch_size` at most
      the first. Its `latent_channels` are those of a code at every level, so that one generator
      may draw into any.
    strides: pixels to a code in each direction, ascending; each is a level of the tokenizer. The
      widths of the network at these levels do not fall: a skip leads to the widest of them, which
      the layers next to the latents have, and no skip narrows what a level found.
    image_size: (height, width) in pixels, multiples of the last stride.
    linear_shortcut: whether each level has a way of its own beside the network, of one product in
      either direction: the pixels that are a code's to its means, and codes to those pixels. Short
      trainings gain by it (docs/cat.md). In spirit DC-AE's residual autoencoding (Chen et al.,
      2024), whose shortcuts have no weights.
    routing: which level each picture goes through in training: `drawn` for it, all as likely, or
      that of the `data`, by their column `level`, as the article has it of captions. There a
      picture without one has it drawn.
    """

    network: ConvolutionalConfig = NETWORK
    strides: tuple[int, ...] = (8, 16, 32)
    image_size: tuple[int, int] = (256, 256)
    linear_shortcut: bool = False
    routing: str = "drawn"
    kind: str = "nested_vae"

    def __post_init__(self):
        depth = len(self.network.multipliers)
        there = [self.network.patch_size * 2**level for level in range(depth)]
        require(
            bool(self.strides)
            and list(self.strides) == sorted({*self.strides} & {*there})
            and self.strides[-1] == there[-1],
            f"tokenizer.strides is {self.strides}; ascending ones of {there} are needed, the last "
            f"of them {there[-1]}, by the {depth} levels of tokenizer.network.multipliers and its "
            f"patch_size of {self.network.patch_size}",
        )
        widths = [self.network.width(self.depth(stride) - 1) for stride in self.strides]
        require(
            widths == sorted(widths),
            f"tokenizer.network.multipliers is {self.network.multipliers}: {widths} channels at "
            f"strides {self.strides} do not nest; choose widths that do not fall with the stride",
        )
        require(
            min(self.image_size) > 0 and not any(side % there[-1] for side in self.image_size),
            f"tokenizer.image_size is {self.image_size}, which the last of strides, {there[-1]}, "
            f"does not divide; choose multiples of {there[-1]}",
        )
        require(
            self.routing in ROUTINGS,
            f"tokenizer.routing is {self.routing!r}; choose one of {', '.join(ROUTINGS)}",
        )
        require(
            not self.network.adaptive,
            "tokenizer.network.adaptive is True, norms by the codes of one size; a nested VAE has "
            "several: set it to False",
        )

    def depth(self, stride: int) -> int:
        """Levels of the network from the first to this stride."""
        return (stride // self.network.patch_size).bit_length()

    def tiny(self) -> "NestedVAEConfig":
        """The same network, small."""
        network = self.network.tiny()
        network = dataclasses.replace(network, multipliers=self.network.multipliers)
        # At least the 32 px that the world of shapes needs.
        side = -(-32 // network.stride) * network.stride
        return dataclasses.replace(self, network=network, image_size=(side, side))


class _FromLatents(nn.Module):
    """`from_latents` as one set of weights for all levels."""

    config: ConvolutionalConfig

    @nn.compact
    def __call__(self, z_BhwC: jax.Array) -> jax.Array:
        return from_latents(self.config, z_BhwC)


def _matched(config: ConvolutionalConfig, x_BhwC: jax.Array, width: int, name: str) -> jax.Array:
    """As wide as asked, by a 1 x 1 convolution of the caller where it is not so already."""
    if x_BhwC.shape[-1] == width:
        return x_BhwC
    return Conv(width, (1, 1), dtype=config.dtype, name=name)(x_BhwC)


class NestedEncoder(nn.Module):
    """Pictures to the means and log-variances of levels; see `NestedVAEConfig`."""

    config: NestedVAEConfig

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, strides: tuple[int, ...]) -> dict[int, jax.Array]:
        """float32 [B, H, W, 3] -> by stride, float32 [B, H / stride, W / stride, 2 C].

        Nothing deeper than the last of the strides is computed.
        """
        network = self.config.network
        latents = dataclasses.replace(network, latent_channels=2 * network.latent_channels)
        shared = ToLatents(latents, name="to_latents")
        maps = descend(network, x_BHWC, self.config.depth(strides[-1]))
        found = {}
        for stride in strides:
            x_BhwC = maps[self.config.depth(stride) - 1]
            matched_BhwC = _matched(network, x_BhwC, network.width(-1), f"match_{stride}")
            found[stride] = shared(matched_BhwC) + self._by_pixels(x_BHWC, stride)
        return found

    def _by_pixels(self, x_BHWC: jax.Array, stride: int) -> jax.Array | float:
        """The linear shortcut's part, to the means alone."""
        if not self.config.linear_shortcut:
            return 0.0
        network = self.config.network
        product = Conv(network.latent_channels, (1, 1), bias=False, name=f"linear_{stride}")
        means_BhwC = product(space_to_depth(x_BHWC, stride))
        return jnp.concatenate([means_BhwC, jnp.zeros_like(means_BhwC)], axis=-1)


class NestedDecoder(nn.Module):
    """Codes of a level, or of one for each picture, to pictures; see `NestedVAEConfig`."""

    config: NestedVAEConfig

    @nn.compact
    def __call__(
        self, codes: Mapping[int, jax.Array], stride_B: jax.Array | None = None
    ) -> jax.Array:
        """float32 [B, h, w, C] by stride -> float32 [B, H, W, 3], raw: nothing bounds them.

        Args:
          codes: of one stride; of several, where `stride_B` is there.
          stride_B: int32, the stride of the codes that each picture is drawn from; the others are
            not seen. The way from small to large is walked once for all: a picture enters it where
            its codes are.
        """
        network, x_BhwC = self.config.network, None
        shared = _FromLatents(network, name="from_latents")
        for level in reversed(range(self.config.depth(max(codes)))):
            stride = network.patch_size * 2**level
            if stride in codes:
                entering_BhwC = _matched(
                    network, shared(codes[stride]), self._arriving(level), f"match_{stride}"
                )
                x_BhwC = (
                    entering_BhwC
                    if x_BhwC is None
                    else jnp.where(_of_pictures(stride_B == stride), entering_BhwC, x_BhwC)
                )
            x_BhwC = ascend(network, x_BhwC, level)
        return to_values(network, x_BhwC, CHANNELS) + self._by_codes(codes, stride_B)

    def _by_codes(
        self, codes: Mapping[int, jax.Array], stride_B: jax.Array | None
    ) -> jax.Array | float:
        """The linear shortcut's part."""
        found: jax.Array | float = 0.0
        for stride, own_BhwC in codes.items() if self.config.linear_shortcut else ():
            # Little at first, for the network's part is of a picture's size already.
            product = Conv(CHANNELS * stride**2, (1, 1), scale=0.1, name=f"linear_{stride}")
            values_BHWC = depth_to_space(product(own_BhwC), stride)
            if stride_B is not None:
                values_BHWC = jnp.where(_of_pictures(stride_B == stride), values_BHWC, 0.0)
            found = found + values_BHWC
        return found

    def _arriving(self, level: int) -> int:
        """Channels of what comes to a level from the smaller ones."""
        network = self.config.network
        return network.width(min(level + 1, len(network.multipliers) - 1))


def _of_pictures(values_B: jax.Array) -> jax.Array:
    return values_B[:, None, None, None]


class NestedVAE(nn.Module):
    """The network; `NestedVAETokenizer` is what others see of it."""

    config: NestedVAEConfig

    def setup(self):
        self.encoder = NestedEncoder(self.config)
        self.bottleneck = Gaussian()
        self.decoder = NestedDecoder(self.config)

    def __call__(self, images: jax.Array, stride: int) -> Reconstruction:
        """float32 [B, height, width, 3] in [0, 1], through the codes of a level and back."""
        found = self.found(images, stride)
        return _reconstruction(self.decoder({stride: found.codes}), found.ids, found.terms["kl"])

    def routed(
        self, images: jax.Array, stride: int, levels_B: jax.Array | None = None
    ) -> Reconstruction:
        """The same in training, each picture through a level of its own.

        Levels are of each picture, not of each step: the batch is one program, and every
        step has a gradient of every level. What that costs is the small maps alone; those at full
        size are computed once. Needs a key of the name `levels`.

        Args:
          images: as above.
          stride: the level whose codes are told.
          levels_B: int32, the stride of each picture's level; where it is none of them, and of
            None, one is drawn, all as likely.
        """
        strides = self.config.strides
        choice_B = jax.random.randint(
            self.make_rng("levels"), images.shape[:1], 0, len(strides), jnp.int32
        )
        stride_B = jnp.asarray(strides, jnp.int32)[choice_B]
        if levels_B is not None:
            stride_B = jnp.where(jnp.isin(levels_B, jnp.asarray(strides)), levels_B, stride_B)
        latents, codes, divergence = self.latents(images, strides), {}, 0.0
        for own, z_BhwC in latents.items():
            # A picture that is not drawn from these codes has a standard normal, which costs
            # nothing, in their place.
            kept = jnp.where(_of_pictures(stride_B == own), z_BhwC, 0.0)
            drawn = self.bottleneck(kept)
            codes[own], divergence = drawn.codes, divergence + drawn.terms["kl"]
        means = jnp.split(latents[stride], 2, axis=-1)[0]
        return _reconstruction(self.decoder(codes, stride_B), means, divergence)

    def latents(self, images: jax.Array, strides: tuple[int, ...]) -> dict[int, jax.Array]:
        """Means and log-variances by stride. The network sees pixels in [-1, 1]."""
        return self.encoder(2 * images - 1, strides)

    def found(self, images: jax.Array, stride: int) -> Drawn:
        """Of a level: `ids`, the means, are its codes; `codes` are drawn where there is a key."""
        return self.bottleneck(self.latents(images, (stride,))[stride])

    def decode(self, codes: jax.Array, stride: int) -> jax.Array:
        """Codes of a level -> float32 [B, height, width, 3] in [0, 1]."""
        return jnp.clip(to_images(self.decoder({stride: codes}), "rgb"), 0.0, 1.0)


def _reconstruction(raw: jax.Array, means: jax.Array, divergence: jax.Array) -> Reconstruction:
    return Reconstruction(to_images(raw, "rgb"), raw, means, {"kl": divergence})


@dataclasses.dataclass(frozen=True)
class NestedVAETokenizer(Tokenizer):
    """`Tokenizer` of a nested VAE. Its first level trains all of them, another one itself alone."""

    config: NestedVAEConfig
    level: str = ""
    last = ("decoder", "last", "weight")
    free_fields = ("routing",)

    @property
    def network(self) -> NestedVAE:
        return NestedVAE(self.config)

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(map(str, self.config.strides))

    @property
    def stride(self) -> int:
        """Pixels to a code, at this level."""
        return int(self.level or self.config.strides[0])

    @property
    def reads_levels(self) -> bool:
        return self.config.routing == "data"

    @property
    def codes(self) -> Codes:
        height, width = (side // self.stride for side in self.image_size)
        return Codes((height, width), (), self.config.network.latent_channels)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.image_size

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        return {"encoder": ("encoder",), "quantizer": (), "decoder": ("decoder",)}

    @property
    def code_fields(self) -> dict[str, Any]:
        return {
            "network": fields_of_codes(self.config.network),
            "strides": to_dict(self.config.strides),
            "image_size": to_dict(self.config.image_size),
            # Left out where there is none: a new field changes no identity.
            **({"linear_shortcut": True} if self.config.linear_shortcut else {}),
        }

    def init(self, key: jax.Array) -> Any:
        images = jnp.zeros((1, *self.image_size, CHANNELS), jnp.float32)
        keys = dict(zip(("params", "levels", "codes"), jax.random.split(key, 3), strict=True))
        return self.network.init(keys, images, self.stride, method="routed")["params"]

    def encode(self, params: Any, images: jax.Array) -> jax.Array:
        return self._apply(params, images, method="found").ids

    def sampled(self, params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        return self._apply(params, images, method="found", rngs={"codes": key}).codes

    def decode(
        self, params: Any, codes: jax.Array, condition: jax.Array | None = None
    ) -> jax.Array:
        self.check_condition(condition)
        return self._apply(params, codes, method="decode")

    def forward(
        self,
        params: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        frozen: Mapping[str, Any] | None = None,
        terms: tuple[str, ...] = (),
        levels: jax.Array | None = None,
    ) -> Reconstruction:
        del frozen, terms
        if key is None:
            return self._apply(params, images)
        rngs = {"codes": key, "levels": jax.random.fold_in(key, 1)}
        if self.level not in ("", self.levels[0]):
            return self._apply(params, images, rngs=rngs)
        return self._apply(params, images, levels, method="routed", rngs=rngs)

    def to_images(self, raw: jax.Array) -> jax.Array:
        return to_images(raw, "rgb")

    def _apply(self, params: Any, inputs: jax.Array, *more: Any, **options: Any) -> Any:
        return self.network.apply({"params": params}, inputs, self.stride, *more, **options)
