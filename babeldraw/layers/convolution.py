"""Convolution over pictures and feature maps, and the fixed blur of StyleGAN2."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from babeldraw.sharding.layout import on_one_cpu

Padding = str | tuple[tuple[int, int], tuple[int, int]]
# The binomial filter of StyleGAN2 (Karras et al., 2020), one dimension of it; sums to one.
BLUR = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def convolve(
    x_BhwC: jax.Array, weight: jax.Array, stride: int = 1, padding: Padding = "SAME"
) -> jax.Array:
    """Cross-correlation, as networks call convolution.

    Args:
      x_BhwC: [B, h, w, C].
      weight: [rows, columns, C, features], of the same type.
      stride: in both directions.
      padding: SAME, VALID, or zeros ((above, below), (left, right)).

    Returns:
      [B, h', w', features]; h' is ceil(h / stride) with SAME.
    """
    zeros = tuple((side // 2, side // 2) for side in weight.shape[:2])
    odd = all(side % 2 for side in weight.shape[:2]) and weight.shape[:2] != (1, 1)
    if odd and stride == 1 and padding in ("SAME", zeros) and on_one_cpu():
        return _same(x_BhwC, weight)
    return _convolve(x_BhwC, weight, stride, padding)


def _convolve(
    x_BhwC: jax.Array, weight: jax.Array, stride: int = 1, padding: Padding = "SAME"
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x_BhwC, weight, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# XLA's CPU compiler takes 4 to 7 times as long for the gradient of a 3 x 3 weight as for the
# convolution itself. The gradient of `_by_products`, which is the same sum, takes half of that.
@jax.custom_jvp
def _same(x_BhwC: jax.Array, weight: jax.Array) -> jax.Array:
    """A convolution of stride 1 that keeps height and width."""
    return _convolve(x_BhwC, weight)


def _same_tangent(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x_BhwC, weight), (x_tangent, weight_tangent) = primals, tangents
    parts = []
    if not isinstance(x_tangent, SymbolicZero):
        parts.append(_same(x_tangent, weight))
    if not isinstance(weight_tangent, SymbolicZero):
        parts.append(_by_products(x_BhwC, weight_tangent))
    y_BhwF = _same(x_BhwC, weight)
    return y_BhwF, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y_BhwF)


_same.defjvp(_same_tangent, symbolic_zeros=True)


def _by_products(x_BhwC: jax.Array, weight: jax.Array) -> jax.Array:
    """`_same` as one product of matrices: columns side by side, then shifted sums of rows."""
    rows, columns, c, f = weight.shape
    b, h, w, _ = x_BhwC.shape
    zeros = ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0))
    padded = jnp.pad(x_BhwC, zeros)
    beside = jnp.concatenate([padded[:, :, j : j + w] for j in range(columns)], axis=-1)
    flat = jnp.transpose(weight, (1, 2, 0, 3)).reshape(columns * c, rows * f)
    y = (beside.reshape(-1, columns * c) @ flat).reshape(b, h + rows - 1, w, rows, f)
    return sum((y[:, i : i + h, :, i] for i in range(1, rows)), y[:, :h, :, 0])


class Conv(nn.Module):
    """A learned convolution; float32 weight [rows, columns, C, features].

    Attributes:
      features: channels of the output.
      kernel: (rows, columns) of the filter.
      stride, padding: see `convolve`.
      bias: adds a zero-initialised bias per feature.
      equalized: equalized learning rate (Karras et al., "Progressive Growing of GANs", section
        4.1): the weight is drawn from N(0, 1) and multiplied by scale / sqrt(fan-in) whenever it is
        used, so that an optimizer with normalised steps moves all layers alike. Otherwise the
        weight itself is drawn from a truncated normal of that deviation.
      scale: 1 keeps the variance through a linear layer (LeCun), sqrt(2) through a ReLU (He).
      dtype: the product's type; its operands are cast to it.
    """

    features: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: Padding = "SAME"
    bias: bool = True
    equalized: bool = False
    scale: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        shape = (*self.kernel, x_BhwC.shape[-1], self.features)
        deviation = self.scale / math.sqrt(math.prod(shape[:3]))
        # A normal truncated at two standard deviations has a deviation of 0.8796.
        drawn = nn.initializers.truncated_normal(deviation / 0.87962566)
        init = nn.initializers.normal(1.0) if self.equalized else drawn
        axes = (None, None, None, "embed")
        weight = self.param("weight", nn.with_logical_partitioning(init, axes), shape)
        if self.equalized:
            weight = weight * deviation
        y_BhwF = convolve(
            x_BhwC.astype(self.dtype), weight.astype(self.dtype), self.stride, self.padding
        )
        if not self.bias:
            return y_BhwF
        init = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
        bias = self.param("bias", init, (self.features,))
        return y_BhwF + jnp.broadcast_to(bias.astype(self.dtype), y_BhwF.shape)


class DepthwiseConv(nn.Module):
    """Each channel filtered by itself, height and width kept; weight [rows, columns, 1, C].

    Attributes:
      kernel: (rows, columns) of the filters, odd.
    """

    kernel: tuple[int, int]

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        channels = x_BhwC.shape[-1]
        drawn = nn.initializers.truncated_normal(1 / 0.87962566 / math.sqrt(math.prod(self.kernel)))
        axes = (None, None, None, "embed")
        shape = (*self.kernel, 1, channels)
        weight = self.param("weight", nn.with_logical_partitioning(drawn, axes), shape)
        init = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
        bias = self.param("bias", init, (channels,))
        y_BhwC = jax.lax.conv_general_dilated(
            x_BhwC,
            weight,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
        )
        return y_BhwC + jnp.broadcast_to(bias, y_BhwC.shape)


def blur(x_BhwC: jax.Array, stride: int = 1, padding: tuple[int, int] = (2, 1)) -> jax.Array:
    """Each channel filtered by [1, 3, 3, 1] / 8 in both directions, then every `stride`-th kept.

    Args:
      x_BhwC: [B, h, w, C].
      stride: 2 halves the size without aliasing.
      padding: zeros (before, after) in both directions; their sum less 3 is what h and w grow by
        before the stride.
    """
    # Four shifted sums per direction: a grouped convolution is slow on CPU and TPU alike.
    for axis in (1, 2):
        widths = [(0, 0)] * x_BhwC.ndim
        widths[axis] = padding
        padded = jnp.pad(x_BhwC, widths)
        length = padded.shape[axis] - len(BLUR) + 1
        x_BhwC = sum(
            tap * jax.lax.slice_in_dim(padded, first, first + length, stride, axis)
            for first, tap in enumerate(BLUR)
        )
    return x_BhwC
