"""Logical names to shardings, for whole trees and inside a traced program."""

import math
import re
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from babeldraw.config import require
from babeldraw.sharding.layout import current
from babeldraw.sharding.rules import Rules, entry_axes, partition_spec

Overrides = tuple[tuple[str, tuple[str | None, ...]], ...]


# In place of a name in `constrain`: as the partitioner likes.
ANYHOW = "anyhow"


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """Asks the partitioner to split `x` by logical names; outside of a layout, does nothing."""
    active = current()
    if active is None or active.manual == frozenset(active.mesh.axis_names):
        return x
    known = tuple(None if name == ANYHOW else name for name in names)
    spec = divisible(partition_spec(known, active.preset.used), x.shape, active.mesh)
    spec = without(spec, active.manual)
    entries = zip(names, spec, strict=True)
    spec = PartitionSpec(
        *(PartitionSpec.UNCONSTRAINED if name == ANYHOW else entry for name, entry in entries)
    )
    if active.manual:
        return jax.lax.with_sharding_constraint(x, spec)
    return jax.lax.with_sharding_constraint(x, NamedSharding(active.mesh, spec))


def without(spec: PartitionSpec, axes: frozenset[str]) -> PartitionSpec:
    """`spec` with these mesh axes struck out."""

    def kept(entry):
        left = tuple(axis for axis in entry_axes(entry) if axis not in axes)
        return left[0] if len(left) == 1 else left or None

    return PartitionSpec(*map(kept, spec))


def divisible(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """`spec` without mesh axes that do not divide the dimension, the last ones first."""

    def fitting(entry, size: int):
        axes = entry_axes(entry)
        while axes and size % math.prod(mesh.shape[axis] for axis in axes):
            axes = axes[:-1]
        return axes[0] if len(axes) == 1 else axes or None

    padded = (*spec, *(None,) * (len(shape) - len(spec)))
    return PartitionSpec(*(fitting(e, n) for e, n in zip(padded, shape, strict=True)))


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


def override(axes: Any, overrides: Overrides) -> Any:
    """`axes` with the names of some parameters replaced.

    Args:
      axes: a tree of logical names.
      overrides: pairs of a regular expression, searched in "path/to/parameter", and that
        parameter's names; the first that is found counts.

    Raises:
      UserError: an expression that finds no parameter; names of another number; `layers`, by which
        the optimizer knows a stack, taken away or given.
    """
    found, places = set(), []

    def of(path, names):
        where = "/".join(str(key.key) for key in path)
        places.append(where)
        for pattern, new in overrides:
            if re.search(pattern, where):
                field = f"config.mesh.overrides has for {pattern!r} the names {new}"
                require(
                    len(new) == len(names),
                    f"{field} and {where} has {len(names)} dimensions, {names}; one name for each "
                    "is needed",
                )
                require(
                    [n == "layers" for n in new] == [n == "layers" for n in names],
                    f"{field} and {where} has {names}; 'layers' stays where it is",
                )
                found.add(pattern)
                return tuple(new)
        return names

    result = jax.tree_util.tree_map_with_path(of, axes, is_leaf=is_names)
    missed = [pattern for pattern, _ in overrides if pattern not in found]
    require(
        not missed,
        f"config.mesh.overrides has {missed and missed[0]!r}, which finds no parameter (or only "
        f"those that one before it finds); names look like {places[0]}",
    )
    return result
