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
    stddev: of the tokens' vectors before training.
    """

    image: ViTConfig
    text: TransformerConfig
    dim: int
    words: int = 49_408
    length: int = 77
    stddev: float = 0.02


class ImageTower(nn.Module):
    """float32 [B, side, side, 3], standardized -> float32 [B, E], of any length."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x_BD = ViT(self.config.image, name="vit")(images)
        return _projection(x_BD, self.config.dim)


class TextTower(nn.Module):
    """int32 [B, S], from a text's start to its end and then 0, S up to `length`."""

    config: CLIPConfig

    def setup(self):
        config, stack = self.config, self.config.text
        norm = functools.partial(LayerNorm, EPSILON)
        self.words = Embedding(config.words, stack.dim, stddev=config.stddev)
        self.positions = LearnedPositions(config.length, stack.dim)
        self.stack = make_stack(encoder_parts(stack, Causal(), norm, bias=True), stack)
        self.norm = norm()
        self.projection = Einsum("BD,DE->BE", (stack.dim, config.dim), ("embed", None))

    def __call__(self, ids_BS: jax.Array) -> jax.Array:
        """The embedding, float32 [B, E]."""
        return self._pooled(ids_BS, self.norm(self.stack(self._embedded(ids_BS))))

    def states(self, ids_BS: jax.Array) -> dict[str, jax.Array]:
        """What is made of each token, float32 [B, S, D], and of the whole.

        `states` are the output of the last block but one, without norm; `last` that of all blocks,
        normed; `pooled` is the embedding, [B, E].
        """
        x_BSD, block = self._embedded(ids_BS).astype(self.stack.dtype), self.stack.block
        before_BSD = x_BSD
        for params in self.stack.layers():
            before_BSD, x_BSD = x_BSD, block.apply({"params": params}, x_BSD)
        last_BSD = self.norm(x_BSD)
        found = {"states": before_BSD, "last": last_BSD, "pooled": self._pooled(ids_BS, last_BSD)}
        return {name: array.astype(jnp.float32) for name, array in found.items()}

    def _embedded(self, ids_BS: jax.Array) -> jax.Array:
        x_BSD = self.words(ids_BS)
        positions_SD = self.positions()[: ids_BS.shape[1]]
        return x_BSD + jnp.broadcast_to(positions_SD[None], x_BSD.shape)

    def _pooled(self, ids_BS: jax.Array, x_BSD: jax.Array) -> jax.Array:
        # The end is the highest of all tokens, and what stands behind it is seen by none.
        end_B11 = jnp.argmax(ids_BS, axis=1)[:, None, None]
        return self.projection(jnp.take_along_axis(x_BSD, end_B11, axis=1)[:, 0])


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
# Of which the tower of texts alone is read, by the kind of the weights: that of the L/14 which was
# trained on for pictures of 336 px, by whose states TA-TiTok and MaskGen were trained.
TEXT_ALONE: dict[str, CLIPConfig] = {"clip_l14_336_text": CLIPS["clip_l14"]}
# A small tower that nothing was learned by, of random weights: for first runs, without any file.
# Words weigh more than their places, so that each is told from the others.
UNTRAINED = CLIPConfig(
    CLIPS["clip_b32"].image, dataclasses.replace(_stack(2, 64), heads=2, dim=32), 32, 1024, 77, 1.0
)


def text_shapes(config: CLIPConfig) -> dict[str, Any]:
    """Of the parameters of the tower of texts, as `clip_shapes`."""
    return {"clip": {"text": clip_shapes(config)["clip"]["text"]}}
