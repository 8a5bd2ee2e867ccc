"""Blocks with long skips: each of the second half also reads what one of the first half gave.

U-ViT (Bao et al., "All are Worth Words: A ViT Backbone for Diffusion Models", 2023): block L - l
reads its input and the output of block l side by side, through a product.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.block import DTYPES, Block, Residual, TransformerConfig
from babeldraw.layers.dropout import fold
from babeldraw.layers.linear import Einsum
from babeldraw.layers.stack import recomputed
from babeldraw.sharding.context import arrays
from babeldraw.sharding.layout import current


class SkippingStack(nn.Module):
    """An odd number of blocks: as many go down as come up, and one in the middle.

    All are written out: they are not alike. Not for pipelines, and not for steps through caches.

    Attributes:
      parts: of each block.
      config: sizes of the stack.
    """

    parts: tuple[Residual, ...]
    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context=None, keys: jax.Array | None = None) -> jax.Array:
        """As `layers.stack.Stack`."""
        layout = current()
        require(
            layout is None or not layout.pipelined,
            f"config.mesh.stage is {layout and layout.mesh.shape['stage']} and the blocks have "
            "long skips, which reach over stages; take stage=1",
        )
        config, dim = self.config, self.config.dim
        dtype, context = DTYPES[config.compute.dtype], arrays(context)
        make = recomputed(Block, config.compute.remat)
        x_BTD, kept = x_BTD.astype(dtype), []
        for number in range(config.blocks):
            if number > config.blocks // 2:
                both = jnp.concatenate([x_BTD, kept.pop()], axis=-1)
                axes = ("embed", "activation_embed")
                join = Einsum(
                    "BTE,ED->BTD",
                    (2 * dim, dim),
                    axes,
                    bias=True,
                    dtype=dtype,
                    name=f"skip{number}",
                )
                x_BTD = join(both)
            rates = config.dropout, dim, config.attention_dropout
            block = make(self.parts, *rates, name=f"block{number}")
            x_BTD = block(x_BTD, context, fold(keys, number), number)
            if number < config.blocks // 2:
                kept.append(x_BTD)
        return x_BTD
