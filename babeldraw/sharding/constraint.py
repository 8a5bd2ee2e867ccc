"""Logical names to shardings, for whole trees and inside a traced program."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from babeldraw.sharding.rules import Rules, partition_spec

_LAYOUT: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar(
    "layout", default=None
)


@contextlib.contextmanager
def layout(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """While tracing in this context, `constrain` places arrays on `mesh` by `rules`."""
    token = _LAYOUT.set((mesh, rules))
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """Asks the partitioner to split `x` by logical names; outside of `layout`, does nothing."""
    active = _LAYOUT.get()
    if active is None:
        return x
    mesh, rules = active
    spec = partition_spec(names, rules)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, divisible(spec, x.shape, mesh)))


def divisible(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """`spec` without the mesh axes that do not divide the dimension: such an array stays whole."""

    def size(entry) -> int:
        names = (entry,) if isinstance(entry, str) else entry or ()
        total = 1
        for name in names:
            total *= mesh.shape[name]
        return total

    padded = (*spec, *(None,) * (len(shape) - len(spec)))
    return PartitionSpec(
        *(e if n % size(e) == 0 else None for e, n in zip(padded, shape, strict=True))
    )


def is_names(value: Any) -> bool:
    """Whether a node of a tree of logical axes is one array's names."""
    return type(value) is tuple and all(isinstance(n, str) or n is None for n in value)


def logical_axes(boxed: Any) -> Any:
    """Logical names of each array of a tree made by `Module.init`, boxes replaced by tuples."""

    def names(leaf):
        if isinstance(leaf, nn.LogicallyPartitioned):
            return leaf.names
        return (None,) * leaf.ndim

    return jax.tree.map(names, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def shardings(axes: Any, abstract: Any, mesh: Mesh, rules: Rules) -> Any:
    """A `NamedSharding` for each array of `abstract`, by the tree of logical names `axes`."""

    def sharding(names, leaf):
        return NamedSharding(mesh, divisible(partition_spec(names, rules), leaf.shape, mesh))

    return jax.tree.map(sharding, axes, abstract, is_leaf=is_names)
