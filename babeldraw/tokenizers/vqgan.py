"""VQGAN and its descendants: a convolutional network on each side of a codebook, or of a Gaussian.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021. MaskGIT's (Chang et
al., "MaskGIT: Masked Generative Image Transformer", 2022, section 3.1 and its code) by default.
With a Gaussian at each place it is latent diffusion's autoencoder (Rombach et al., "High-Resolution
Image Synthesis with Latent Diffusion Models", 2022).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, to_dict
from babeldraw.layers.convolution import Conv
from babeldraw.tokenizers.base import Reconstruction
from babeldraw.tokenizers.convolutional import (
    ConvolutionalConfig,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    fields_of_codes,
)
from babeldraw.tokenizers.gaussian import BottleneckConfig
from babeldraw.tokenizers.grid import GridTokenizer
from babeldraw.tokenizers.pixels import CHANNELS, to_images
from babeldraw.tokenizers.quantizers import VQConfig


@dataclasses.dataclass(frozen=True)
class VQGANConfig:
    """Attributes:
    network: the encoder and the decoder.
    image_size: (height, width) in pixels; the same weights serve any that the network's stride
      divides.
    quantizer: what makes codes of latents, 1024 x 256 in MaskGIT; `gaussian` for continuous ones,
      whose encoder ends in two values, a mean and a log-variance, for each of `latent_channels`.
    projected: 1 x 1 convolutions lead from latents to what is quantized and back, as in taming,
      LlamaGen and IBQ; in MaskGIT nothing does, and the two are as wide.
    centred: the network sees and draws pixels in [-1, 1], as in taming, LlamaGen and IBQ, in place
      of MaskGIT's [0, 1]; pictures are in [0, 1] outside.
    """

    network: ConvolutionalConfig = ConvolutionalConfig()
    image_size: tuple[int, int] = (256, 256)
    quantizer: BottleneckConfig = VQConfig(1024, 256, l2_normalized=False, code_init="fan_in")
    projected: bool = False
    centred: bool = False
    kind: str = "vqgan"

    def __post_init__(self):
        stride = self.network.stride
        require(
            min(self.image_size) > 0 and not any(side % stride for side in self.image_size),
            f"tokenizer.image_size is {self.image_size}, which the network's stride of {stride} "
            f"does not divide; choose multiples of {stride}",
        )
        width, dim = self.network.latent_channels, self.quantizer.code_dim
        require(
            self.projected or width == dim,
            f"codes of tokenizer.quantizer.kind={self.quantizer.kind} have {dim} values and "
            f"tokenizer.network.latent_channels is {width}; they are the same, or projected=true",
        )

    def tiny(self) -> "VQGANConfig":
        """The same network, small."""
        network = self.network.tiny()
        # As the world of shapes needs, and a multiple of any small stride.
        side, quantizer = 32, self.quantizer.tiny()
        return dataclasses.replace(
            self, network=network, image_size=(side, side), quantizer=quantizer
        )

    @property
    def grid(self) -> tuple[int, int]:
        height, width = self.image_size
        return height // self.network.stride, width // self.network.stride

    @property
    def encoder(self) -> ConvolutionalConfig:
        """The network as the encoder has it: as many values to a place as make its code."""
        values = self.quantizer.latent_dim // self.quantizer.code_dim
        return dataclasses.replace(
            self.network, latent_channels=values * self.network.latent_channels
        )


class VQGAN(nn.Module):
    """The network; `VQGANTokenizer` is what others see of it."""

    config: VQGANConfig

    def setup(self):
        config = self.config
        self.encoder = ConvolutionalEncoder(config.encoder)
        if config.projected:
            self.to_code = Conv(config.quantizer.latent_dim, (1, 1))
            self.from_code = Conv(config.network.latent_channels, (1, 1))
        self.codebook = config.quantizer.make()
        self.decoder = ConvolutionalDecoder(config.network, CHANNELS)

    def __call__(self, images: jax.Array, terms: tuple[str, ...] = ()) -> Reconstruction:
        """float32 [B, height, width, 3] in [0, 1], through the codes and back."""
        quantized = self.codebook(self.latents(images), "entropy" in terms)
        raw = self.raw(quantized.codes)
        codes = self._placed(quantized.ids)
        return Reconstruction(self.to_images(raw), raw, codes, quantized.terms, quantized)

    def latents(self, images: jax.Array) -> jax.Array:
        """float32 [B, T, Q], before the lookup."""
        z_BhwQ = self.encoder(2 * images - 1 if self.config.centred else images)
        z_BhwQ = self.to_code(z_BhwQ) if self.config.projected else z_BhwQ
        return z_BhwQ.reshape(z_BhwQ.shape[0], -1, z_BhwQ.shape[-1])

    def raw(self, codes_BTQ: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3]; raw values, no activation at the output."""
        b, *_, q = codes_BTQ.shape
        z_BhwQ = codes_BTQ.reshape(b, *self.config.grid, q)
        return self.decoder(self.from_code(z_BhwQ) if self.config.projected else z_BhwQ)

    def raw_of_mean(self, weights_BTV: jax.Array) -> jax.Array:
        """As `raw`, of a mean of the codes at each place."""
        return self.raw(jnp.einsum("BTV,VQ->BTQ", weights_BTV, self.codebook.codes()))

    def encode(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> codes, as `Codes` says."""
        return self._placed(self.codebook(self.latents(images)).ids)

    def sampled(self, images: jax.Array) -> jax.Array:
        """The same of continuous codes, drawn where there is a key of the name `codes`."""
        return self._placed(self.codebook(self.latents(images)).codes)

    def _placed(self, ids: jax.Array) -> jax.Array:
        """Continuous codes lie on their grid, discrete ones in raster order."""
        if self.config.quantizer.vocab:
            return ids
        return ids.reshape(ids.shape[0], *self.config.grid, -1)

    def decode(self, ids: jax.Array) -> jax.Array:
        """Codes -> float32 [B, height, width, 3] in [0, 1]."""
        return jnp.clip(self.to_images(self.raw(self.codebook.lookup(ids))), 0.0, 1.0)

    def to_images(self, raw_BHWC: jax.Array) -> jax.Array:
        """The decoder's values to pictures, near [0, 1] but not clipped."""
        return to_images(raw_BHWC, "rgb") if self.config.centred else raw_BHWC


@dataclasses.dataclass(frozen=True)
class VQGANTokenizer(GridTokenizer):
    """`Tokenizer` of a VQGAN."""

    config: VQGANConfig
    last = ("decoder", "last", "weight")

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        to_code, from_code = (("to_code",), ("from_code",)) if self.config.projected else ((), ())
        return {
            "encoder": ("encoder", *to_code),
            "quantizer": self.codebook,
            "decoder": (*from_code, "decoder"),
        }

    @property
    def network(self) -> VQGAN:
        return VQGAN(self.config)

    @property
    def code_fields(self) -> dict[str, Any]:
        # Widths stand in the arrays.
        set_here = to_dict(self.config, defaults=False)
        return {
            "network": fields_of_codes(self.config.network),
            "quantizer": self.config.quantizer.code_fields,
            "image_size": to_dict(self.config.image_size),
            **{name: set_here[name] for name in ("projected", "centred") if name in set_here},
        }

    def forward(
        self,
        params: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        frozen: Mapping[str, Any] | None = None,
        terms: tuple[str, ...] = (),
    ) -> Reconstruction:
        del frozen
        rngs = None if key is None else {"codes": key}
        return self.network.apply({"params": params}, images, terms, rngs=rngs)

    def sampled(self, params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        rngs = {"codes": key}
        return self.network.apply({"params": params}, images, method="sampled", rngs=rngs)

    def to_images(self, raw: jax.Array) -> jax.Array:
        return self.network.to_images(raw)
