"""What the training loop knows of a recipe."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax

from babeldraw.sharding.layout import current, use

Metrics = dict[str, jax.Array]
Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that an update reads and writes; one checkpoint.

    Attributes:
      step: int32, number of updates done.
      params: trained parameters.
      opt_state: of the optimizer.
      frozen: parameters that are used and never trained, such as the tokenizer's in stage 2.
      extra: what a recipe keeps beside parameters, such as the use of each code.
      ema: average of the parameters over the steps, see `objectives.average`; None: none is kept.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    frozen: Any
    extra: Any
    ema: Any = None


class Objective(Protocol):
    """One training recipe. All methods but `init` are pure and are jitted by the caller."""

    def init(self, key: jax.Array) -> TrainState:
        """A fresh state. Traced: may be evaluated abstractly."""
        ...

    def axes(self) -> TrainState:
        """Logical axes of each array of the state, in the same tree."""
        ...

    def update(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """One step; metrics are float32 scalars."""
        ...

    def forward(self, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        """The forward pass of `update` alone: the loss, and its terms."""
        ...

    def gradients(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        """Forward and backward pass of `update`: what the optimizer is given, and the metrics."""
        ...

    @property
    def after_gradients(self) -> tuple[str, ...]:
        """What else `update` does, in order, in words for people: the optimizer first."""
        ...

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Global shapes and types of a batch."""
        ...

    def predict_fns(self) -> dict[str, Callable]:
        """What evaluators and the sample grid may call, by name."""
        ...


def apply_gradients(
    state: TrainState, grads: Any, optimizer: optax.GradientTransformation
) -> TrainState:
    """One optimizer step; `step` counts it."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


def accumulate(
    loss_fn: Callable[[Any, Batch], tuple[jax.Array, Metrics]],
    params: Any,
    batch: Batch,
    parts: int,
) -> tuple[Any, Metrics]:
    """Gradients and metrics of the mean over `parts` equal shares of a batch, see `in_parts`.

    Args:
      loss_fn: of (params, share of the batch), with its metrics; all are means over examples.
      params: to differentiate by.
      batch: as `in_parts` takes it.
      parts: 1 is a plain gradient.
    """
    return in_parts(jax.grad(loss_fn, has_aux=True), params, batch, parts)


def in_parts(fn: Callable[[Any, Batch], Any], params: Any, batch: Batch, parts: int) -> Any:
    """The mean of `fn` over `parts` equal shares of a batch, one after another.

    Every device keeps its examples: a share takes some from each. Where devices hold copies of the
    weights, each sums for itself and they meet once, in the end. Sums are float32, whatever the
    type of the parameters.

    Args:
      fn: of (params, share of the batch), a tree of means over examples.
      params: which `fn` reads.
      batch: arrays with a leading batch dimension, which `parts` times the devices along
        `Layout.copies` divide.
      parts: 1 is `fn` of the whole batch.
    """
    if parts == 1:
        return fn(params, batch)
    layout = current()
    copies = frozenset() if layout is None else layout.copies
    if not copies:
        return _in_turn(fn, params, batch, parts)
    shape = layout.mesh.shape
    axes = tuple(axis for axis in shape if axis in copies)
    # With nothing split over the other axes the whole mesh is manual, which any backend supports.
    alone = all(shape[axis] == 1 for axis in shape if axis not in copies)
    manual = frozenset(shape) if alone else copies

    def of_group(params, batch):
        with use(dataclasses.replace(layout, manual=manual)):
            return jax.lax.pmean(_in_turn(fn, params, batch, parts), axes)

    return jax.shard_map(
        of_group,
        mesh=layout.mesh,
        in_specs=(jax.P(), jax.P(axes)),
        out_specs=jax.P(),
        axis_names=manual,
        check_vma=False,
    )(params, batch)


def _in_turn(fn, params, batch, parts):
    def share(a):
        return jnp.moveaxis(a.reshape(a.shape[0] // parts, parts, *a.shape[1:]), 1, 0)

    def add(total, share):
        of_share = fn(params, share)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, of_share), None

    shares = jax.tree.map(share, batch)
    like = jax.eval_shape(fn, params, jax.tree.map(lambda a: a[0], shares))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), like)
    total, _ = jax.lax.scan(add, zeros, shares)
    return jax.tree.map(lambda a: a / parts, total)
