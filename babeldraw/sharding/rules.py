"""Rule tables: each logical axis to the mesh axis, or axes, that split it.

A table is written out in full; `None` means whole on every device. The batch is always split over
`data` (and over `stage` where no pipeline runs).
"""

from collections.abc import Mapping

from jax.sharding import PartitionSpec

from babeldraw.config import require

MeshAxes = str | tuple[str, ...] | None
Rules = Mapping[str, MeshAxes]

_WHOLE: dict[str, MeshAxes] = {
    # Parameters.
    "layers": None,
    "embed": None,
    "heads": None,
    "head_dim": None,
    "mlp": None,
    "vocab": None,
    "code_dim": None,
    "position": None,
    "patch": None,
    # Activations.
    "batch": ("data", "stage"),
    "length": None,
    "activation_embed": None,
    "activation_heads": None,
    "activation_mlp": None,
    "activation_vocab": None,
}

TABLES: dict[str, Rules] = {
    # Every device holds all weights and a share of the batch.
    "data_parallel": _WHOLE,
    # As data_parallel, each weight split over the data axis along its model dimension.
    "fsdp": {**_WHOLE, "embed": "data"},
}


def table(name: str) -> Rules:
    """The rule table of that name. Raises `UserError` when there is none."""
    require(
        name in TABLES, f"config.mesh.rules is {name!r}; the tables are {', '.join(sorted(TABLES))}"
    )
    return TABLES[name]


def partition_spec(names: tuple[str | None, ...], rules: Rules) -> PartitionSpec:
    """The spec of an array whose dimensions carry these logical names.

    Raises:
      KeyError: a name that the table does not know, which is a programming error.
      UserError: two dimensions of the array on one mesh axis.
    """
    axes = [None if name is None else rules[name] for name in names]
    used = [
        axis for entry in axes for axis in ((entry,) if isinstance(entry, str) else entry or ())
    ]
    twice = sorted({axis for axis in used if used.count(axis) > 1})
    require(
        not twice, f"the logical axes {names} of one array both lie on mesh axis {', '.join(twice)}"
    )
    return PartitionSpec(*axes)
