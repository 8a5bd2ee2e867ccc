"""ViT-VQGAN: a vision transformer on each side of a factorized, l2-normalised codebook.

Yu et al., "Vector-quantized Image Modeling with Improved VQGAN", ICLR 2022.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, to_dict
from babeldraw.layers.block import (
    DTYPES,
    TransformerConfig,
    encoder_parts,
    make_stack,
    without_compute,
)
from babeldraw.layers.dropout import example_keys
from babeldraw.layers.feed_forward import FeedForward
from babeldraw.layers.linear import Einsum, LayerNorm
from babeldraw.layers.positions import GridPositions
from babeldraw.tokenizers.base import Reconstruction
from babeldraw.tokenizers.grid import GridTokenizer
from babeldraw.tokenizers.pixels import (
    CHANNELS,
    OUTPUTS,
    from_patches,
    to_images,
    to_patches,
)
from babeldraw.tokenizers.quantizers import QuantizerConfig, VQConfig

# The fields beside the encoder's and the quantizer's that make codes.
CODE_FIELDS = ("image_size", "patch_size")
# Those of them that are younger than tokens that lie somewhere: named only where not as by default.
YOUNGER_CODE_FIELDS = ("encoder_head", "latent_norm")
# What stands behind each stack: the paper's two-layer network with tanh in the middle; a relu alone
# (vit-vqgan-jax, whose decoder has nothing); nothing (enhancing-transformers).
HEADS = ("tanh", "relu", "none")
# Of the latents before their lookup: nothing, as in the paper; a LayerNorm with a bias and no scale
# (vit-vqgan-jax), whose scale the l2 normalisation behind it would undo.
LATENT_NORMS = ("none", "layer")


@dataclasses.dataclass(frozen=True)
class ViTVQGANConfig:
    """Attributes:
    encoder, decoder: the two stacks; any pair of sizes.
    image_size: (height, width) in pixels.
    patch_size: side of the square patches, 8 in the paper.
    quantizer: what makes codes of latents.
    encoder_head, decoder_head: of `HEADS`.
    latent_norm: of `LATENT_NORMS`.
    kind: vit_vqgan, which says that a section is of this network.
    output: what the decoder gives for each colour: `rgb`, its raw value, or `logit_laplace`, a
      distribution of it (see `babeldraw.tokenizers.pixels`). The paper trains with the second;
      Babeldraw replaces it by the first, without which zoomed pictures show saturated pixels.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    image_size: tuple[int, int] = (256, 256)
    patch_size: int = 8
    quantizer: QuantizerConfig = VQConfig()
    output: str = "rgb"
    encoder_head: str = "tanh"
    decoder_head: str = "tanh"
    latent_norm: str = "none"
    kind: str = "vit_vqgan"

    def __post_init__(self):
        choices = {"encoder_head": HEADS, "decoder_head": HEADS, "latent_norm": LATENT_NORMS}
        for name, valid in {"output": OUTPUTS, **choices}.items():
            value = getattr(self, name)
            require(
                value in valid,
                f"tokenizer.{name} is {value!r}; the choices are {', '.join(valid)}",
            )
        require(
            self.patch_size >= 1,
            f"tokenizer.patch_size is {self.patch_size}; at least 1 is needed",
        )
        require(
            min(self.image_size) > 0 and not any(s % self.patch_size for s in self.image_size),
            f"tokenizer.image_size is {self.image_size}, which patch_size={self.patch_size} does "
            f"not divide; choose multiples of {self.patch_size}",
        )

    def tiny(self) -> "ViTVQGANConfig":
        """The same network, small."""
        # Whole patches, at least the 32 px that the world of shapes needs.
        side = -(-32 // self.patch_size) * self.patch_size
        return dataclasses.replace(
            self,
            encoder=self.encoder.tiny(),
            decoder=self.decoder.tiny(),
            image_size=(side, side),
            quantizer=self.quantizer.tiny(),
        )

    @property
    def grid(self) -> tuple[int, int]:
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class Transformer(nn.Module):
    """Positions, blocks, a final norm and a head, of `HEADS`.

    The two-layer network with tanh in the middle stands once, at the output of the stack (paper,
    section 3.1), not in every block. Its hidden width is not published; F is taken.
    """

    config: TransformerConfig
    grid: tuple[int, int]
    head: str = "tanh"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, deterministic: bool = True) -> jax.Array:
        config = self.config
        positions_TD = GridPositions(self.grid, config.dim, name="positions")()
        x_BTD = x_BTD.astype(jnp.float32) + positions_TD[None]
        stack = make_stack(encoder_parts(config), config, "stack")
        rng = None if deterministic or not config.drops else self.make_rng("dropout")
        keys = None if rng is None else example_keys(rng, x_BTD.shape[0])
        x_BTD = LayerNorm(name="norm")(stack(x_BTD, keys=keys))
        if self.head != "tanh":
            return jax.nn.relu(x_BTD) if self.head == "relu" else x_BTD
        head = FeedForward(
            config.dim, config.hidden, "tanh", True, DTYPES[config.compute.dtype], name="head"
        )
        return head(x_BTD).astype(jnp.float32)


class ViTVQGAN(nn.Module):
    """The network; `ViTVQGANTokenizer` is what others see of it."""

    config: ViTVQGANConfig

    def setup(self):
        config = self.config
        encoder, decoder = config.encoder, config.decoder
        pixels = config.patch_size**2 * CHANNELS
        self.embed = Einsum("BTP,PD->BTD", (pixels, encoder.dim), ("patch", "embed"), bias=True)
        self.encoder = Transformer(encoder, config.grid, config.encoder_head)
        code_dim = config.quantizer.code_dim
        self.to_code = Einsum(
            "BTD,DQ->BTQ",
            (encoder.dim, code_dim),
            ("embed", "code_dim"),
            bias=True,
        )
        if config.latent_norm == "layer":
            self.latent_norm = LayerNorm(axis="code_dim", scaled=False)
        self.codebook = config.quantizer.make()
        self.from_code = Einsum(
            "BTQ,QD->BTD",
            (code_dim, decoder.dim),
            ("code_dim", "embed"),
            bias=True,
        )
        self.decoder = Transformer(decoder, config.grid, config.decoder_head)
        values = config.patch_size**2 * OUTPUTS[config.output]
        self.to_pixels = Einsum("BTD,DP->BTP", (decoder.dim, values), ("embed", "patch"), bias=True)

    def __call__(
        self, images: jax.Array, deterministic: bool = True, terms: tuple[str, ...] = ()
    ) -> Reconstruction:
        """float32 [B, height, width, 3] in [0, 1], through the codes and back."""
        quantized = self.codebook(self.latents(images, deterministic), "entropy" in terms)
        raw = self.raw(quantized.codes, deterministic)
        images = to_images(raw, self.config.output)
        return Reconstruction(images, raw, quantized.ids, quantized.terms, quantized)

    def latents(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """float32 [B, T, Q], before l2 normalisation and lookup."""
        z_BTQ = self.to_code(self._seen(images, deterministic))
        return self.latent_norm(z_BTQ) if self.config.latent_norm == "layer" else z_BTQ

    def features(self, images: jax.Array) -> jax.Array:
        """float32 [B, D]; see `Tokenizer.features`."""
        return jnp.mean(self._seen(images), axis=1)

    def _seen(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        # Networks see values centred on zero; images stay in [0, 1] outside.
        x_BTD = self.embed(to_patches(2 * images - 1, self.config.patch_size))
        return self.encoder(x_BTD, deterministic)

    def raw(self, codes_BTQ: jax.Array, deterministic: bool = True) -> jax.Array:
        """float32 [B, height, width, C]; raw values, no activation at the output."""
        patches = self.to_pixels(self.decoder(self.from_code(codes_BTQ), deterministic))
        return from_patches(patches, self.config.grid, self.config.patch_size)

    def raw_of_mean(self, weights_BTV: jax.Array) -> jax.Array:
        """As `raw`, of a mean of the codes at each place."""
        return self.raw(jnp.einsum("BTV,VQ->BTQ", weights_BTV, self.codebook.codes()))

    def encode(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> int32 [B, T], or [B, T, levels]."""
        return self.codebook(self.latents(images)).ids

    def decode(self, ids: jax.Array) -> jax.Array:
        """int32 [B, T], or [B, T, levels] -> float32 [B, height, width, 3] in [0, 1]."""
        images = to_images(self.raw(self.codebook.lookup(ids)), self.config.output)
        return jnp.clip(images, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class ViTVQGANTokenizer(GridTokenizer):
    """`Tokenizer` of a ViT-VQGAN."""

    config: ViTVQGANConfig
    last = ("to_pixels", "weight")

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        norm = () if self.config.latent_norm == "none" else ("latent_norm",)
        return {
            "encoder": ("embed", "encoder", "to_code", *norm),
            "quantizer": self.codebook,
            "decoder": ("from_code", "decoder", "to_pixels"),
        }

    @property
    def network(self) -> ViTVQGAN:
        return ViTVQGAN(self.config)

    @property
    def output(self) -> str:
        return self.config.output

    @property
    def code_fields(self) -> dict[str, Any]:
        # Sizes stand in the arrays. Defaults are left out, so that a new field changes no identity.
        encoder = dataclasses.replace(self.config.encoder, dropout=0.0, attention_dropout=0.0)
        set_here = to_dict(self.config, defaults=False)
        return {
            "encoder": without_compute(to_dict(encoder, defaults=False)),
            "quantizer": self.config.quantizer.code_fields,
            **{name: to_dict(getattr(self.config, name)) for name in CODE_FIELDS},
            **{name: set_here[name] for name in YOUNGER_CODE_FIELDS if name in set_here},
        }

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"encoder": self.config.encoder, "decoder": self.config.decoder}

    def features(self, params: Any, images: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, images, method="features")

    def forward(
        self,
        params: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        frozen: Mapping[str, Any] | None = None,
        terms: tuple[str, ...] = (),
    ) -> Reconstruction:
        del frozen
        rngs = None if key is None else {"dropout": key}
        return self.network.apply({"params": params}, images, key is None, terms, rngs=rngs)

    def to_images(self, raw: jax.Array) -> jax.Array:
        return to_images(raw, self.config.output)
