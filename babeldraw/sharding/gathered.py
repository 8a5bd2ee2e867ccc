"""Products of matrices whose input has its width split, as in-layer parallelism leaves it.

Left to the partitioner, the queries', keys' and values' gradients of one input are scattered one by
one, and an input is gathered anew for the backward pass. Here it is gathered once for all products
that read it, its gradients are summed before they are scattered, and what was gathered has a name
by which `layers.stack.POLICIES` can keep it.
"""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

from babeldraw.sharding.layout import current
from babeldraw.sharding.rules import partition_spec

AXIS = "model"


def gathered(
    multiply: Callable[..., tuple[jax.Array, ...]],
    x: jax.Array,
    weights: tuple[jax.Array, ...],
    names: tuple[tuple[str | None, ...], ...],
    made: tuple[tuple[int | None, ...], ...],
) -> tuple[jax.Array, ...]:
    """`multiply(x, *weights)`, by hand where the layout in force splits the last dimension of x.

    Args:
      multiply: products of x with each weight, and nothing that couples different columns of one.
      x: float [..., D].
      weights: D first.
      names: logical axes of each weight.
      made: for each product and each of its dimensions, that of the weight which it is, or None.
    """
    specs = _specs(x, weights, names)
    if specs is None:
        return multiply(x, *weights)

    def body(x, *weights):
        x = jax.lax.all_gather(x, AXIS, axis=x.ndim - 1, tiled=True)
        return multiply(checkpoint_name(x, "gathered"), *weights)

    layout = current()
    return jax.shard_map(
        body,
        # Inside another shard_map the mesh is the one in force there.
        mesh=None if layout.manual else layout.mesh,
        in_specs=(jax.P(*(None,) * (x.ndim - 1), AXIS), *specs),
        out_specs=tuple(
            jax.P(*(None if dim is None else spec[dim] for dim in dims))
            for spec, dims in zip(specs, made, strict=True)
        ),
        axis_names={AXIS},
        check_vma=False,
    )(x, *weights)


def _specs(x, weights, names) -> tuple[jax.P, ...] | None:
    """Where each weight lies along the axis; None: the layout splits it otherwise or not at all."""
    layout = current()
    if layout is None or layout.mesh.shape[AXIS] == 1 or AXIS in layout.manual:
        return None
    rules, size = layout.preset.used, layout.mesh.shape[AXIS]
    if rules["activation_embed"] != AXIS or x.shape[-1] % size:
        return None
    specs = []
    for weight, axes in zip(weights, names, strict=True):
        spec = jax.P(*(AXIS if entry == AXIS else None for entry in partition_spec(axes, rules)))
        split = [dim for dim, entry in enumerate(spec) if entry == AXIS]
        # Columns alone are split, and evenly.
        if len(split) != 1 or split == [0] or weight.shape[split[0]] % size:
            return None
        specs.append(spec)
    return tuple(specs)
