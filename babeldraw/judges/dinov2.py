"""DINOv2: features of pictures that were learned without labels or texts.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023; the models
without registers. `babeldraw import --kind=dinov2_l14` and the like make the file of weights.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.judges.backbones import standardized
from babeldraw.judges.pillow import squeezed
from babeldraw.judges.vit import PLAIN, ViT, ViTConfig
from babeldraw.layers.block import TransformerConfig

# Height and width of the pictures that it was trained on last.
TRAINED_SIDE = 518


def prepared(images: jax.Array) -> jax.Array:
    """[B, height, width, 3], uint8 or float32 in [0, 1], to float32 [B, 224, 224, 3]."""
    return standardized(squeezed(images))


def dinov2_shapes(config: ViTConfig) -> dict[str, Any]:
    """The parameters without their numbers, under `dinov2`."""
    images = jax.ShapeDtypeStruct((1, config.side, config.side, 3), jnp.float32)
    boxed = jax.eval_shape(ViT(config).init, jax.random.key(0), images)
    return {"dinov2": nn.unbox(boxed)["params"]}


def _dinov2(blocks: int, dim: int) -> ViTConfig:
    """Heads are of 64 dimensions."""
    stack = TransformerConfig(blocks, dim // 64, dim, 4 * dim, 0.0, "gelu_exact", True, PLAIN)
    return ViTConfig(stack, 14, 1e-6, scaled=True, trained_side=TRAINED_SIDE)


# By the kind of the weights; all see pictures of 224 px.
DINOS: dict[str, ViTConfig] = {
    "dinov2_s14": _dinov2(12, 384),
    "dinov2_b14": _dinov2(12, 768),
    "dinov2_l14": _dinov2(24, 1024),
}
