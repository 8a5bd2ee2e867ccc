"""The convolutional encoder and decoder of VQGAN and those after it: one network, many settings.

Esser et al., "Taming Transformers", 2021, whose layers are those of DDPM (Ho et al., 2020):
residual blocks, halving between levels, a few blocks at the bottom. MaskGIT, LlamaGen and IBQ
differ from it in the fields of `ConvolutionalConfig`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, to_dict
from babeldraw.layers.attention import Attention
from babeldraw.layers.block import DTYPES, ComputeConfig, without_compute
from babeldraw.layers.convolution import Conv
from babeldraw.layers.linear import Einsum
from babeldraw.layers.norms import GroupNorm
from babeldraw.layers.pictures import depth_to_space, downsample, enlarge, space_to_depth
from babeldraw.layers.stack import recomputed

# What the 1 x 1 shortcut of a residual block that changes its width reads: the block's input, or,
# in MaskGIT, what its two convolutions give.
SHORTCUTS = ("input", "output")
# How a level halves the picture: the mean of each 2 x 2, or a 3 x 3 convolution of stride 2 that
# taming pads below and to the right alone, and Open-MAGVIT2 on all sides.
DOWNS = {"average": None, "convolution": ((0, 1), (0, 1)), "centred": ((1, 1), (1, 1))}
# How it doubles: nearest before a 3 x 3 convolution, or that one's channels to places behind it.
UPS = ("nearest", "depth_to_space")

# The fields that make no codes.
DECODER_FIELDS = ("decoder_blocks", "up", "adaptive")


@dataclasses.dataclass(frozen=True)
class ConvolutionalConfig:
    """An encoder and its decoder. The defaults are MaskGIT's, taming's stand beside them.

    Attributes:
      channels: C at full size.
      multipliers: of C, for each level from full size on; each level but the last halves.
      encoder_blocks, decoder_blocks: residual blocks of a level, 2 and 2; 2 and 3 in taming and
        LlamaGen, 4 and 5 in IBQ, 2 and 1 in icetk.
      middle_blocks: residual blocks between the last level and the latents.
      latent_channels: of the latents.
      latent_kernel: side of the encoder's last filter, 1; 3 in taming.
      attention: whether attention of one head stands behind each block of the last level, and
        between those of the middle; not in MaskGIT, in taming.
      middle_attention_alone: the last level has none of it, as in latent diffusion's at 8 pixels.
      shortcut: of SHORTCUTS, `output`; `input` in taming.
      bias: of the residual blocks' convolutions and the encoder's first, without; with in taming.
      down: of DOWNS, `average`; `convolution` in taming, `centred` in Open-MAGVIT2.
      up: of UPS, `nearest`; `depth_to_space` in Open-MAGVIT2.
      adaptive: whether the decoder's levels begin with a norm by the codes; see `AdaptiveNorm`.
      patch_size: side of the squares of pixels that are one place of the first level, their colours
        its channels, and are put together again behind the last convolution; 1, each pixel its own,
        in all of the above. Small filters over many pixels are the slowest part of a network.
      groups, epsilon: of the norms.
      compute: how it is computed. `dtype` is that of the convolutions and of what goes from block
        to block; `remat`, but for none, has each block computed again in the backward pass.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    encoder_blocks: int = 2
    decoder_blocks: int = 2
    middle_blocks: int = 2
    latent_channels: int = 256
    latent_kernel: int = 1
    attention: bool = False
    middle_attention_alone: bool = False
    shortcut: str = "output"
    bias: bool = False
    down: str = "average"
    groups: int = 32
    epsilon: float = 1e-6
    up: str = "nearest"
    adaptive: bool = False
    patch_size: int = 1
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self):
        path = "tokenizer.network"
        counts = "channels encoder_blocks middle_blocks latent_channels groups patch_size"
        for name in counts.split():
            value = getattr(self, name)
            require(value >= 1, f"{path}.{name} is {value}; at least 1 is needed")
        require(
            self.decoder_blocks >= 0,
            f"{path}.decoder_blocks is {self.decoder_blocks}; at least 0 is needed",
        )
        require(
            len(self.multipliers) >= 1 and min(self.multipliers) >= 1,
            f"{path}.multipliers is {self.multipliers}; one of at least 1 for each level is needed",
        )
        require(
            self.channels % self.groups == 0,
            f"{path}.channels is {self.channels}, which groups={self.groups} does not divide; "
            "choose a multiple",
        )
        require(
            self.latent_kernel in (1, 3),
            f"{path}.latent_kernel is {self.latent_kernel}; the choices are 1, 3",
        )
        for name, valid in {"shortcut": SHORTCUTS, "down": DOWNS, "up": UPS}.items():
            value = getattr(self, name)
            require(
                value in valid, f"{path}.{name} is {value!r}; the choices are {', '.join(valid)}"
            )
        require(self.epsilon > 0, f"{path}.epsilon is {self.epsilon}; more than 0 is needed")
        self._check_compute(f"{path}.compute")

    def _check_compute(self, path: str) -> None:
        require(
            self.compute.kernel == "auto",
            f"{path}.kernel is {self.compute.kernel!r}; its one head is too wide for kernels, so "
            "auto is needed",
        )
        require(
            self.compute.scan,
            f"{path}.scan is False; blocks of differing widths are written out always: leave it",
        )

    def tiny(self) -> "ConvolutionalConfig":
        """The same for a first run."""
        few = {"encoder_blocks": 1, "decoder_blocks": 1, "middle_blocks": 1}
        # The lowest levels, so that attention is there where it is.
        small = {"channels": 8, "groups": 4, "latent_channels": 8}
        return dataclasses.replace(self, multipliers=self.multipliers[-3:], **few, **small)

    @property
    def stride(self) -> int:
        """Pixels to a latent, in each direction."""
        return self.patch_size * 2 ** (len(self.multipliers) - 1)

    def width(self, level: int) -> int:
        """Channels of a level, 0 being that of the first convolution."""
        return self.channels * self.multipliers[level]

    def changes(self, side: str) -> set[str]:
        """The blocks of an `encoder` or a `decoder` that change the width, by name."""
        widths = [self.width(level) for level in range(len(self.multipliers))]
        from_here = [self.channels, *widths] if side == "encoder" else [*widths[1:], widths[-1]]
        pairs = enumerate(zip(from_here, widths, strict=False))
        return {f"level_{level}/block_0" for level, (before, own) in pairs if before != own}

    @property
    def dtype(self) -> jnp.dtype:
        return DTYPES[self.compute.dtype]


def _normed(config: ConvolutionalConfig, x_BhwC: jax.Array, name: str) -> jax.Array:
    """silu(norm(x)) in the type of the convolutions, by a norm of that name of the caller."""
    y_BhwC = nn.silu(GroupNorm(config.groups, config.epsilon, name=name)(x_BhwC))
    return y_BhwC.astype(config.dtype)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a shortcut where the width changes.

    With `shortcut=output` the sum is y + shortcut(y), y being what the convolutions give: MaskGIT's
    code puts that in the place of the input, and its weights are trained so.
    """

    features: int
    config: ConvolutionalConfig

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        config = self.config
        options = {"bias": config.bias, "dtype": config.dtype}
        y_BhwC = Conv(self.features, name="conv_1", **options)(_normed(config, x_BhwC, "norm_1"))
        y_BhwC = Conv(self.features, name="conv_2", **options)(_normed(config, y_BhwC, "norm_2"))
        if x_BhwC.shape[-1] == self.features:
            return x_BhwC + y_BhwC
        read_BhwC = x_BhwC if config.shortcut == "input" else y_BhwC
        return y_BhwC + Conv(self.features, (1, 1), name="shortcut", **options)(read_BhwC)


class PlaceAttention(nn.Module):
    """x + attention of each place to all, one head as wide as x."""

    config: ConvolutionalConfig

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        config, (b, h, w, c) = self.config, x_BhwC.shape
        y_BhwC = GroupNorm(config.groups, config.epsilon, name="norm")(x_BhwC)
        attention = Attention(1, c, c, config.dtype, bias=True, name="attention")
        y_BTC = attention(y_BhwC.reshape(b, h * w, c), None, None)
        return x_BhwC + y_BTC.reshape(x_BhwC.shape).astype(x_BhwC.dtype)


class Blocks(nn.Module):
    """Residual blocks of one width, attention behind each, or behind each but the last.

    Attributes:
      features, count: their width and number.
      config: of the network.
      attention: behind how many of the blocks, from the first on, attention stands.
    """

    features: int
    count: int
    config: ConvolutionalConfig
    attention: int = 0

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        block = recomputed(ResidualBlock, self.config.compute.remat)
        attention = recomputed(PlaceAttention, self.config.compute.remat)
        for i in range(self.count):
            x_BhwC = block(self.features, self.config, name=f"block_{i}")(x_BhwC)
            if i < self.attention:
                x_BhwC = attention(self.config, name=f"attention_{i}")(x_BhwC)
        return x_BhwC


def _level(config: ConvolutionalConfig, level: int, count: int) -> Blocks:
    last = level == len(config.multipliers) - 1
    attends = config.attention and not config.middle_attention_alone
    attention = count if attends and last else 0
    return Blocks(config.width(level), count, config, attention, name=f"level_{level}")


def _middle(config: ConvolutionalConfig) -> Blocks:
    count = config.middle_blocks
    attention = count - 1 if config.attention else 0
    return Blocks(config.width(-1), count, config, attention, name="middle")


def descend(config: ConvolutionalConfig, x_BHWC: jax.Array, levels: int) -> list[jax.Array]:
    """Pictures to what so many levels give: [B, H / 2^i, W / 2^i, width i], H by `patch_size`.

    The layers are the caller's.
    """
    x_BhwC = space_to_depth(x_BHWC, config.patch_size)
    x_BhwC = Conv(config.channels, bias=config.bias, dtype=config.dtype, name="first")(x_BhwC)
    found = []
    for level in range(levels):
        x_BhwC = _halved(config, x_BhwC, level - 1) if level > 0 else x_BhwC
        x_BhwC = _level(config, level, config.encoder_blocks)(x_BhwC)
        found.append(x_BhwC)
    return found


def _halved(config: ConvolutionalConfig, x_BhwC: jax.Array, level: int) -> jax.Array:
    if config.down == "average":
        return downsample(x_BhwC, 2)
    padding, width = DOWNS[config.down], x_BhwC.shape[-1]
    down = Conv(width, stride=2, padding=padding, dtype=config.dtype, name=f"down_{level}")
    return down(x_BhwC)


def ascend(config: ConvolutionalConfig, x_BhwC: jax.Array, level: int) -> jax.Array:
    """Through a level of the decoder, to twice the size but at full size; layers of the caller."""
    x_BhwC = _level(config, level, config.decoder_blocks)(x_BhwC)
    if level == 0:
        return x_BhwC
    width, nearest = config.width(level), config.up == "nearest"
    up = Conv(width if nearest else 4 * width, dtype=config.dtype, name=f"up_{level}")
    return up(enlarge(x_BhwC, 2)) if nearest else depth_to_space(up(x_BhwC), 2)


def fields_of_codes(config: ConvolutionalConfig) -> dict[str, Any]:
    """The fields that make codes; defaults are left out: a new field changes no identity."""
    network = without_compute(to_dict(config, defaults=False))
    return {name: network[name] for name in network if name not in DECODER_FIELDS}


def to_latents(config: ConvolutionalConfig, x_BhwC: jax.Array) -> jax.Array:
    """From the last level, or what is as wide, float32 [B, h, w, latents]; layers of the caller."""
    x_BhwC = _normed(config, _middle(config)(x_BhwC), "norm")
    kernel = (config.latent_kernel,) * 2
    last = Conv(config.latent_channels, kernel, dtype=config.dtype, name="last")
    return last(x_BhwC).astype(jnp.float32)


class ToLatents(nn.Module):
    """`to_latents` as layers of its own, [B, h, w, C] -> float32 [B, h, w, latents]."""

    config: ConvolutionalConfig

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        return to_latents(self.config, x_BhwC)


def from_latents(config: ConvolutionalConfig, z_BhwC: jax.Array) -> jax.Array:
    """The way back, to what is as wide as the last level; layers of the caller."""
    x_BhwC = Conv(config.width(-1), dtype=config.dtype, name="first")(z_BhwC)
    return _middle(config)(x_BhwC)


def to_values(config: ConvolutionalConfig, x_BhwC: jax.Array, values: int) -> jax.Array:
    """What the decoder gives at full size, float32 [B, H, W, values]; layers of the caller."""
    x_BhwC = _normed(config, x_BhwC, "norm")
    last = Conv(values * config.patch_size**2, dtype=config.dtype, name="last")
    return depth_to_space(last(x_BhwC), config.patch_size).astype(jnp.float32)


class ConvolutionalEncoder(nn.Module):
    """Pictures to latents."""

    config: ConvolutionalConfig

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """float32 [B, H, W, 3] -> float32 [B, h, w, C]; `stride` divides H and W."""
        *_, x_BhwC = descend(self.config, x_BHWC, len(self.config.multipliers))
        return to_latents(self.config, x_BhwC)


class AdaptiveNorm(nn.Module):
    """Group norm, its scale and bias by the codes of the picture (Open-MAGVIT2's code).

    The scale is a product of each channel's deviation over the places of the codes, the bias one of
    its mean.
    """

    config: ConvolutionalConfig

    @nn.compact
    def __call__(self, x_BhwC: jax.Array, z_BhwC: jax.Array) -> jax.Array:
        """[B, h, w, D] and the codes, float32 [B, h', w', C] -> as x."""
        config, dim, width = self.config, z_BhwC.shape[-1], x_BhwC.shape[-1]
        # Of a sample, as theirs; a single place has none.
        few = 1 if z_BhwC.shape[1] * z_BhwC.shape[2] > 1 else 0
        deviation_BC = jnp.sqrt(jnp.var(z_BhwC, axis=(1, 2), ddof=few) + config.epsilon)
        scale_BD, bias_BD = (
            Einsum("BC,CD->BD", (dim, width), (None, "embed"), bias=True, name=name)(values_BC)
            for name, values_BC in (
                ("scale", deviation_BC),
                ("bias", jnp.mean(z_BhwC, axis=(1, 2))),
            )
        )
        y_BhwD = GroupNorm(config.groups, config.epsilon, affine=False)(x_BhwC)
        y_BhwD = y_BhwD * scale_BD[:, None, None] + bias_BD[:, None, None]
        return y_BhwD.astype(x_BhwC.dtype)


class ConvolutionalDecoder(nn.Module):
    """Latents to pictures.

    Attributes:
      config: of the network.
      values: channels of the output, such as 3 of colours.
    """

    config: ConvolutionalConfig
    values: int = 3

    @nn.compact
    def __call__(self, z_BhwC: jax.Array) -> jax.Array:
        """float32 [B, h, w, C] -> float32 [B, H, W, values], raw: nothing bounds them."""
        config = self.config
        x_BhwC = from_latents(config, z_BhwC)
        for level in reversed(range(len(config.multipliers))):
            if config.adaptive:
                x_BhwC = AdaptiveNorm(config, name=f"adaptive_{level}")(x_BhwC, z_BhwC)
            x_BhwC = ascend(config, x_BhwC, level)
        return to_values(config, x_BhwC, self.values)
