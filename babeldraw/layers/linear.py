"""The weighted product, the embedding and the norm."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.sharding.constraint import ANYHOW, constrain
from babeldraw.sharding.gathered import gathered
from babeldraw.sharding.layout import on_one_cpu

Axes = tuple[str | None, ...]


def fan_in(eqn: str, shape: tuple[int, ...]) -> int:
    """Number of input values summed into one output value of `eqn`.

    The weight's dimensions that the output does not have are the contracted ones:
    `fan_in("BTD,DNH->BTNH", (D, N, H)) == D` and `fan_in("BTNH,NHD->BTD", (N, H, D)) == N * H`.
    """
    inputs, output = eqn.split("->")
    weight = inputs.split(",")[1]
    return math.prod(
        size for letter, size in zip(weight, shape, strict=True) if letter not in output
    )


class Einsum(nn.Module):
    """`einsum(eqn, x, weight)`, the only weighted product.

    Attributes:
      eqn: two operands, the input and the weight; see the legend in `babeldraw.layers`.
      shape: of the weight, float32, drawn from a truncated normal of variance 1 / fan-in.
      axes: logical axes of the weight, one per dimension.
      bias: adds a zero-initialised bias over the weight's dimensions that reach the output.
      dtype: the product's type; its operands are cast to it.
      scale: multiplies the initial standard deviation.
    """

    eqn: str
    shape: tuple[int, ...]
    axes: Axes
    bias: bool = False
    dtype: jnp.dtype = jnp.float32
    scale: float = 1.0

    def setup(self):
        stddev = self.scale / math.sqrt(fan_in(self.eqn, self.shape))
        # A normal truncated at two standard deviations has a deviation of 0.8796.
        init = nn.initializers.truncated_normal(stddev / 0.87962566)
        self.weight = self.param(
            "weight", nn.with_logical_partitioning(init, self.axes), self.shape
        )
        if self.bias:
            kept = [dim for dim in self._made if dim is not None]
            init = nn.with_logical_partitioning(
                nn.initializers.zeros, tuple(self.axes[dim] for dim in kept)
            )
            # `bias` is the field.
            self.offset = self.param("bias", init, tuple(self.shape[dim] for dim in kept))

    def __call__(self, x: jax.Array) -> jax.Array:
        return products(x, self)[0]

    def _spread(self, offset: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The bias over all that the weight does not make."""
        own = tuple(1 if dim is None else self.shape[dim] for dim in self._made)
        return jnp.broadcast_to(offset.reshape(own), shape)

    @property
    def _made(self) -> tuple[int | None, ...]:
        """Of each dimension of the output, that of the weight which it is, or None."""
        inputs, output = self.eqn.split("->")
        of_weight = inputs.split(",")[1]
        return tuple(of_weight.index(n) if n in of_weight else None for n in output)


def products(x: jax.Array, *layers: Einsum) -> tuple[jax.Array, ...]:
    """Each layer's product of one input, which is gathered but once where its width is split.

    The layers are of one type.
    """

    def multiply(x, *weights):
        pairs = zip(layers, weights, strict=True)
        return tuple(_product(layer.eqn, x, weight) for layer, weight in pairs)

    (dtype,) = {layer.dtype for layer in layers}
    made = gathered(
        multiply,
        x.astype(dtype),
        tuple(layer.weight.astype(dtype) for layer in layers),
        tuple(layer.axes for layer in layers),
        tuple(layer._made for layer in layers),
    )
    return tuple(
        y + layer._spread(layer.offset.astype(dtype), y.shape) if layer.bias else y
        for layer, y in zip(layers, made, strict=True)
    )


class Logits(Einsum):
    """The softmax layer of a model: [B, T, D] -> float32 [B, T, V]; see `make`."""

    @classmethod
    def make(
        cls, dim: int, vocab_size: int, bias: bool = False, name: str | None = None, **more: Any
    ) -> "Logits":
        eqn, axes = "BTD,DV->BTV", ("readout", "vocab")
        return cls(eqn, (dim, vocab_size), axes, bias=bias, name=name, **more)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        # Without the first the weight's layout would spread to the residual stream.
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        return constrain(super().__call__(x_BTD), ("batch", "length", "activation_vocab"))


def _product(eqn: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """`einsum(eqn, x, weight)` as one product of matrices, heads and their dimension side by side.

    A TPU contracts or makes a pair of dimensions such as (N, H) at a fifth to two thirds of the
    speed of one dimension of the same size.
    """
    inputs, output = eqn.split("->")
    letters, of_weight = inputs.split(",")
    contracted = "".join(letter for letter in of_weight if letter not in output)
    made = "".join(letter for letter in of_weight if letter in output)
    kept = "".join(letter for letter in letters if letter not in contracted)
    if of_weight != contracted + made or set(kept) & set(made):
        return jnp.einsum(eqn, x, weight)
    x = jnp.transpose(x, [letters.index(letter) for letter in kept + contracted])
    size = math.prod(weight.shape[: len(contracted)])
    # For a CPU one matrix: the gradient of the weight would sum over several dimensions, for which
    # the input and the output's gradient are copied, transposed, element by element.
    rows = (-1,) if on_one_cpu() else x.shape[: len(kept)]
    flat = x.reshape(*rows, size) @ weight.reshape(size, -1)
    y = flat.reshape(*x.shape[: len(kept)], *weight.shape[len(contracted) :])
    return jnp.transpose(y, [(kept + made).index(letter) for letter in output])


class Embedding(nn.Module):
    """A table of vectors, looked up by int ids.

    Attributes:
      vocab_size, dim: the table is float32 [vocab_size, dim], normal of deviation `stddev`.
      axis: logical axis of the rows.
    """

    vocab_size: int
    dim: int
    axis: str | None = "vocab"
    stddev: float = 0.02

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """ids: int32 [...] in [0, vocab_size) -> float32 [..., dim]."""
        init = nn.with_logical_partitioning(
            nn.initializers.normal(self.stddev), (self.axis, "embed")
        )
        table_VD = self.param("table", init, (self.vocab_size, self.dim))
        # As a step reads parameters: where vectors rest in slices (zero1, fsdp), each lookup would
        # be gathered from these.
        table_VD = constrain(table_VD, (ANYHOW, "embed"))
        return jnp.take(table_VD, ids, axis=0, mode="clip")


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, computed and returned in float32.

    Attributes:
      epsilon: added to the variance.
      axis: logical axis of scale and bias.
      scaled: whether there is a scale beside the bias.
    """

    epsilon: float = 1e-6
    axis: str = "embed"
    scaled: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        if self.scaled:
            scale = self.param(
                "scale", nn.with_logical_partitioning(nn.initializers.ones, (self.axis,)), (dim,)
            )
        bias = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros, (self.axis,)), (dim,)
        )
        y = standardized(x, self.epsilon)
        if self.scaled:
            y = y * jnp.broadcast_to(scale, x.shape)
        return y + jnp.broadcast_to(bias, x.shape)


def standardized(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Mean 0 and variance 1 over the last dimension, float32."""
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) times a scale (Zhang and Sennrich, 2019), in float32."""

    epsilon: float = 1e-6
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.ones, (self.axis,))
        scale = self.param("scale", init, x.shape[-1:])
        x = x.astype(jnp.float32)
        squares = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(squares + self.epsilon) * jnp.broadcast_to(scale, x.shape)


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """x / |x| over the last dimension; a zero vector stays zero."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, epsilon))
