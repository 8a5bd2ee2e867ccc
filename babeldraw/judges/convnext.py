"""ConvNeXt: Liu et al., "A ConvNet for the 2020s", 2022, whose logits compare pictures in TiTok.

The layers and their order are those of torchvision's `convnext_small`, which was trained on
ImageNet; 50.2M parameters.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.judges.backbones import standardized
from babeldraw.layers.convolution import Conv, DepthwiseConv
from babeldraw.layers.feed_forward import FeedForward
from babeldraw.layers.linear import Einsum, LayerNorm
from babeldraw.layers.stack import Stack

# Of `convnext_small`: blocks and channels of the four stages.
DEPTHS, WIDTHS = (3, 3, 27, 3), (96, 192, 384, 768)
CLASSES = 1000
# Height and width that pictures are brought to, as the network was trained with.
SIDE = 224


class ConvNeXtBlock(nn.Module):
    """x + scale * feed_forward(norm(7 x 7 depthwise convolution of x))."""

    width: int

    @nn.compact
    def __call__(self, x_BhwC: jax.Array, context: None, keys: None = None) -> jax.Array:
        b, h, w, c = x_BhwC.shape
        y_BhwC = LayerNorm(1e-6, name="norm")(DepthwiseConv((7, 7), name="depthwise")(x_BhwC))
        ffn = FeedForward(c, 4 * c, "gelu_exact", True, name="ffn")
        y_BhwC = ffn(y_BhwC.reshape(b, h * w, c)).reshape(x_BhwC.shape)
        # torchvision's initial value: each block begins as next to nothing.
        init = nn.with_logical_partitioning(nn.initializers.constant(1e-6), ("embed",))
        scale_C = self.param("scale", init, (self.width,))
        return x_BhwC + jnp.broadcast_to(scale_C, y_BhwC.shape) * y_BhwC


class ConvNeXt(nn.Module):
    """Pictures to the logits of classes.

    Attributes:
      depths, widths: blocks and channels of each stage; the first has a quarter of the picture's
        height and width, each next one half of the last one's.
      classes: how many.
    """

    depths: tuple[int, ...] = DEPTHS
    widths: tuple[int, ...] = WIDTHS
    classes: int = CLASSES

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> float32 [B, classes]; 4 divides the sides."""
        x_BhwC = standardized(images)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            x_BhwC = self._entered(x_BhwC, stage, width)
            make_block = functools.partial(ConvNeXtBlock, width)
            x_BhwC = Stack(make_block, depth, name=f"stage_{stage}")(x_BhwC)
        x_BC = LayerNorm(1e-6, name="norm")(jnp.mean(x_BhwC, axis=(1, 2)))
        shape = (self.widths[-1], self.classes)
        return Einsum("BC,CV->BV", shape, ("embed", None), bias=True, name="logits")(x_BC)

    def _entered(self, x_BhwC: jax.Array, stage: int, width: int) -> jax.Array:
        """What a stage begins from: patches of pixels, or the last stage's map halved."""
        if stage:
            x_BhwC = LayerNorm(1e-6, name=f"norm_{stage}")(x_BhwC)
        side = 2 if stage else 4
        conv = Conv(width, (side, side), side, "VALID", name=f"enter_{stage}")
        x_BhwC = conv(x_BhwC)
        return x_BhwC if stage else LayerNorm(1e-6, name="norm_0")(x_BhwC)


def resized(images: jax.Array) -> jax.Array:
    """[B, height, width, C] to SIDE x SIDE, bilinear, smaller ones without aliasing."""
    shape = (images.shape[0], SIDE, SIDE, images.shape[-1])
    return jax.image.resize(images, shape, "linear", antialias=True)
