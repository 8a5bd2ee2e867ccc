"""Adafactor with an int8 first moment, as Babeldraw (Parti) was trained with.

The definition is that of the Google stack's sharded Adafactor (praxis), with the constants of the
patent: beta1 0.9, a "constant-decaying second-moment factor" of 0.96 with Adam's bias correction
inside the decay, update clipping at a root mean square of 1, decoupled weight decay after the
momentum. The momentum holds steps, that is updates already multiplied by the learning rate.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

MOMENT_DTYPES = {
    "int8": jnp.int8,
    "int16": jnp.int16,
    "bfloat16": jnp.bfloat16,
    "float32": jnp.float32,
}


@flax.struct.dataclass
class Quantized:
    """Symmetric integers with one float32 scale per column: `value * scale` over axis 0.

    For the float types `scale` is None.
    """

    value: jax.Array
    scale: jax.Array | None


def quantize(x: jax.Array, dtype: jnp.dtype) -> Quantized:
    """Rounds to nearest even; the largest magnitude over axis 0 becomes 127 (int8).

    A vector has one scale; a column of zeros has scale 0. Idempotent after one round. A number
    alone, which has nothing to save, becomes float32 in place of an integer.
    """
    if x.ndim == 0 and not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.float32
    if jnp.issubdtype(dtype, jnp.floating):
        return Quantized(x.astype(dtype), None)
    largest = jnp.iinfo(dtype).max
    scale = jnp.max(jnp.abs(x), axis=0, keepdims=True) / largest
    value = jnp.round(x / jnp.broadcast_to(jnp.where(scale == 0, 1.0, scale), x.shape))
    return Quantized(value.astype(dtype), jnp.squeeze(scale, 0))


def dequantize(q: Quantized) -> jax.Array:
    """float32 of the shape of `q.value`."""
    value = q.value.astype(jnp.float32)
    if jnp.issubdtype(q.value.dtype, jnp.floating):
        return value
    return value * jnp.broadcast_to(q.scale[None], value.shape)


class Leaf(NamedTuple):
    """State of one parameter; unused parts are None.

    row, column: means of squared gradients over the last and the last but one dimension.
    full: of a parameter with fewer than two dimensions per layer.
    """

    moment: Quantized
    row: jax.Array | None
    column: jax.Array | None
    full: jax.Array | None


class AdafactorState(NamedTuple):
    """count: int32 number of updates; leaves: a `Leaf` for each parameter."""

    count: jax.Array
    leaves: Any


def adafactor(
    learning_rate: optax.Schedule,
    stacked: Any,
    *,
    b1: float = 0.9,
    b2: float = 0.96,
    weight_decay: float = 4.5e-2,
    decayed: Any = None,
    clip_threshold: float = 1.0,
    moment_dtype: str = "int8",
    scale_by_parameter: bool = False,
) -> optax.GradientTransformation:
    """The optimizer; updates are added to the parameters.

    Args:
      learning_rate: function of the number of updates done.
      stacked: True for each parameter with a leading dimension of layers: factors, root mean
        squares and int8 scales are then per layer, never over the stack.
      b1, b2: decays of the moments.
      weight_decay: times the learning rate and the parameter, subtracted after the momentum.
      decayed: True for each parameter that decays; None: all.
      clip_threshold: largest root mean square of an update before the learning rate.
      moment_dtype: name in `MOMENT_DTYPES`.
      scale_by_parameter: steps are relative to a parameter's root mean square, at least 1e-3
        (Shazeer and Stern, 2018, section 8).
    """
    dtype = MOMENT_DTYPES[moment_dtype]

    def init(params):
        def leaf(param, is_stacked):
            return (jax.vmap(_init_leaf, (0, None)) if is_stacked else _init_leaf)(param, dtype)

        return AdafactorState(jnp.zeros((), jnp.int32), jax.tree.map(leaf, params, stacked))

    def update(grads, state, params):
        rate = learning_rate(state.count)
        decay = second_moment_decay(state.count + 1, b2)

        def leaf(grad, param, is_stacked, is_decayed, old):
            def one(grad, param, old):
                own = rate * _size(param) if scale_by_parameter else rate
                step, new = _step(grad, old, own, decay, b1, clip_threshold, dtype)
                shrink = rate * weight_decay * param.astype(jnp.float32) if is_decayed else 0.0
                return (-(step + shrink)).astype(param.dtype), new

            return (jax.vmap(one) if is_stacked else one)(grad, param, old)

        flat, structure = jax.tree.flatten(grads)
        flags = [True] * len(flat) if decayed is None else structure.flatten_up_to(decayed)
        results = [
            leaf(*parts)
            for parts in zip(
                flat,
                structure.flatten_up_to(params),
                structure.flatten_up_to(stacked),
                flags,
                structure.flatten_up_to(state.leaves),
                strict=True,
            )
        ]
        updates = structure.unflatten([update for update, _ in results])
        leaves = structure.unflatten([leaf for _, leaf in results])
        return updates, AdafactorState(state.count + 1, leaves)

    return optax.GradientTransformation(init, update)


def _size(param: jax.Array) -> jax.Array:
    """Root mean square of a parameter, at least 1e-3, so that one which is zero can move."""
    squares = jnp.mean(jnp.square(param.astype(jnp.float32)))
    return jnp.maximum(jnp.sqrt(squares), 1e-3)


def second_moment_decay(step: jax.Array, b2: float) -> jax.Array:
    """b2 (1 - b2^(t-1)) / (1 - b2^t) for update t = 1, 2, ...: bias correction built in."""
    t = step.astype(jnp.float32)
    b2 = jnp.float32(b2)
    return b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)


def leaf_axes(names: tuple[str | None, ...], leaf: Leaf) -> Leaf:
    """Logical names of each array of a parameter's abstract `Leaf`, from the parameter's names."""
    stack = names[:1] if names[:1] == ("layers",) else ()
    own = names[len(stack) :]

    scale = None if leaf.moment.scale is None else (*stack, *own[1:])
    moment = Quantized(names, scale)
    if leaf.full is not None:
        return Leaf(moment, None, None, names)
    return Leaf(moment, names[:-1], (*names[:-2], names[-1]), None)


def _init_leaf(param: jax.Array, dtype: jnp.dtype) -> Leaf:
    shape = param.shape
    moment = quantize(jnp.zeros(shape, jnp.float32), dtype)
    if param.ndim < 2:
        return Leaf(moment, None, None, jnp.zeros(shape, jnp.float32))
    row = jnp.zeros(shape[:-1], jnp.float32)
    column = jnp.zeros((*shape[:-2], shape[-1]), jnp.float32)
    return Leaf(moment, row, column, None)


def _step(grad, old: Leaf, rate, decay, b1, clip_threshold, dtype) -> tuple[jax.Array, Leaf]:
    """The step to subtract, learning rate included, and the new state, for one layer."""
    grad = grad.astype(jnp.float32)
    # An infinite gradient must not hide as a finite, clipped step.
    grad = jnp.where(jnp.any(jnp.isinf(grad)), jnp.nan, grad)
    squares = jnp.square(grad) + 1e-30
    if grad.ndim < 2:
        full = decay * old.full + (1 - decay) * squares
        row, column = old.row, old.column
        update = grad * jax.lax.rsqrt(full)
    else:
        full = old.full
        row = decay * old.row + (1 - decay) * jnp.mean(squares, axis=-1)
        column = decay * old.column + (1 - decay) * jnp.mean(squares, axis=-2)
        row_scale = jax.lax.rsqrt(
            row / jnp.broadcast_to(jnp.mean(row, axis=-1, keepdims=True), row.shape)
        )[..., None]
        update = grad * jnp.broadcast_to(row_scale, grad.shape)
        update = update * jnp.broadcast_to(jax.lax.rsqrt(column)[..., None, :], grad.shape)
    rms = jnp.sqrt(jnp.mean(jnp.square(update)))
    update = update / jnp.maximum(1.0, rms / clip_threshold)
    moment = b1 * dequantize(old.moment) + (1 - b1) * rate * update
    return moment, Leaf(quantize(moment, dtype), row, column, full)
