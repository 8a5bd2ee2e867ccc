"""CLIP: how well a picture and a text agree, and features of pictures.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, as
OpenAI published it: QuickGELU, pre-norm, a text read at its end. `babeldraw import --kind=clip_b32`
and the like make the file of weights; other trainings of the same sizes (OpenCLIP's on LAION) have
another activation and are other networks, which no tensor tells.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.judges.backbones import standardized
from babeldraw.judges.pillow import cropped
from babeldraw.judges.vit import PLAIN, ViT, ViTConfig
from babeldraw.layers.block import TransformerConfig, encoder_parts, make_stack
from babeldraw.layers.linear import Einsum, Embedding, LayerNorm
from babeldraw.layers.masks import Causal
from babeldraw.layers.positions import LearnedPositions

EPSILON = 1e-5
# Of the pictures that it was trained on, in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Attributes:
    image: of the tower of pictures.
    text: blocks of that of texts.
    dim: E, of both embeddings.
    words: entries of the table of tokens; the last is a text's end.
    length: tokens of a text, its start and end among them.
    """

    image: ViTConfig
    text: TransformerConfig
    dim: int
    words: int = 49_408
    length: int = 77


class ImageTower(nn.Module):
    """float32 [B, side, side, 3], standardized -> float32 [B, E], of any length."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x_BD = ViT(self.config.image, name="vit")(images)
        return _projection(x_BD, self.config.dim)


class TextTower(nn.Module):
    """int32 [B, length], from a text's start to its end and then 0 -> float32 [B, E]."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, ids_BS: jax.Array) -> jax.Array:
        config, stack = self.config, self.config.text
        x_BSD = Embedding(config.words, stack.dim, name="words")(ids_BS)
        positions_SD = LearnedPositions(config.length, stack.dim, name="positions")()
        x_BSD = x_BSD + jnp.broadcast_to(positions_SD[None], x_BSD.shape)
        norm = functools.partial(LayerNorm, EPSILON)
        parts = encoder_parts(stack, Causal(), norm, bias=True)
        x_BSD = norm(name="norm")(make_stack(parts, stack, "stack")(x_BSD))
        # The end is the highest of all tokens, and what stands behind it is seen by none.
        end_B11 = jnp.argmax(ids_BS, axis=1)[:, None, None]
        return _projection(jnp.take_along_axis(x_BSD, end_B11, axis=1)[:, 0], config.dim)


class CLIP(nn.Module):
    """Both towers."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, images: jax.Array, ids_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The embeddings of B pictures and B texts, float32 [B, E] each, of any length."""
        return (
            ImageTower(self.config, name="image")(images),
            TextTower(self.config, name="text")(ids_BS),
        )


def _projection(x_BD: jax.Array, dim: int) -> jax.Array:
    shape = (x_BD.shape[-1], dim)
    return Einsum("BD,DE->BE", shape, ("embed", None), name="projection")(x_BD)


def prepared(images: jax.Array) -> jax.Array:
    """[B, height, width, 3], uint8 or float32 in [0, 1], to float32 [B, 224, 224, 3]."""
    return standardized(cropped(images), MEAN, DEVIATION)


def clip_shapes(config: CLIPConfig) -> dict[str, Any]:
    """The parameters without their numbers, under `clip`."""
    side = config.image.side
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, config.length), jnp.int32)
    return {
        "clip": nn.unbox(jax.eval_shape(CLIP(config).init, jax.random.key(0), images, ids))[
            "params"
        ]
    }


def _stack(blocks: int, dim: int) -> TransformerConfig:
    """Heads are of 64 dimensions."""
    return TransformerConfig(blocks, dim // 64, dim, 4 * dim, 0.0, "gelu_quick", True, PLAIN)


def _clip(patch_size: int, image: TransformerConfig, text_dim: int, dim: int) -> CLIPConfig:
    return CLIPConfig(ViTConfig(image, patch_size, EPSILON, before=True), _stack(12, text_dim), dim)


# By the kind of the weights; all see pictures of 224 px.
CLIPS: dict[str, CLIPConfig] = {
    "clip_b32": _clip(32, _stack(12, 768), 512, 512),
    "clip_b16": _clip(16, _stack(12, 768), 512, 512),
    "clip_l14": _clip(14, _stack(24, 1024), 768, 768),
}
