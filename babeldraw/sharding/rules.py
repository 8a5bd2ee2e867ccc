"""Rule tables: each logical axis to the mesh axis, or axes, that split it.

A layout has two tables. `stored` is how parameters and optimizer state rest between steps; `used`
is how a step reads parameters and holds activations. Where they differ, the step gathers: `fsdp`
one layer at a time, inside the loop over layers; the others a whole stack at once, before it.
Each is written out in full; `None` means whole on every device.
"""

import dataclasses
from collections.abc import Mapping

from jax.sharding import PartitionSpec

from babeldraw.config import require

MeshAxes = str | tuple[str, ...] | None
Rules = Mapping[str, MeshAxes]

# Every device holds all weights and a share of the batch.
WHOLE: Rules = {
    # Parameters.
    "layers": None,
    "embed": None,
    "readout": None,
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
# What a parameter cannot be named.
ACTIVATIONS = ("batch", "length", *(name for name in WHOLE if name.startswith("activation_")))

# Weights and what lies inside a block split over heads and feed-forward; what leaves attention,
# feed-forward and the softmax layer whole: an all-reduce each, nothing else. Least latency for the
# small tensors of decoding.
IN_LAYER_SERVING: Rules = {
    **WHOLE,
    "heads": "model",
    "mlp": "model",
    "readout": "model",
    "activation_heads": "model",
    "activation_mlp": "model",
}

# The outputs of a block split too: reduce-scatter and all-gather in place of all-reduce, and a
# quarter of the residual stream on each of four devices (Parti, section 3.2.1); logits by the
# vocabulary, so that no device ever holds all of a batch's.
IN_LAYER: Rules = {
    **WHOLE,
    "heads": "model",
    "mlp": "model",
    "vocab": "model",
    "activation_embed": "model",
    "activation_heads": "model",
    "activation_mlp": "model",
    "activation_vocab": "model",
}


def _spread(rules: Rules, axes: MeshAxes) -> Rules:
    """`rules` with the width of the model, which every matrix has, split over `axes`."""
    return {**rules, "embed": axes, "readout": axes}


# The batch over every device, for a frozen tokenizer inside the step of a larger model.
ALL_DATA: Rules = {**WHOLE, "batch": ("data", "stage", "model")}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Attributes:
    used: how a step reads parameters and holds activations.
    stored: how parameters and optimizer state rest.
    gather_per_layer: gather each layer where it is used, not a whole stack before it.
    pipelined: the stage axis carries stages inside stacks; outside it is data parallelism.
    """

    used: Rules
    stored: Rules
    gather_per_layer: bool = False
    pipelined: bool = False


PRESETS: dict[str, Preset] = {
    "data_parallel": Preset(WHOLE, WHOLE),
    "fsdp": Preset(IN_LAYER, _spread(IN_LAYER, ("data", "stage")), gather_per_layer=True),
    # Over many chips a slice of the width is too narrow: a TPU gathers what is no multiple of 128
    # values by an all-reduce, at twice the bytes. So over `stage` only, and copies over `data`.
    "fsdp_hybrid": Preset(IN_LAYER, _spread(IN_LAYER, "stage"), gather_per_layer=True),
    "in_layer": Preset(IN_LAYER, IN_LAYER),
    "in_layer_serving": Preset(IN_LAYER_SERVING, IN_LAYER_SERVING),
    # Each device keeps a slice of every layer and gets the whole layers of its stage once a step:
    # stored so, a checkpoint knows nothing of stages.
    "pipeline": Preset(IN_LAYER, _spread(IN_LAYER, "stage"), pipelined=True),
}


def preset(name: str, zero1: bool = False) -> Preset:
    """The layout of that name.

    Args:
      name: a key of `PRESETS`.
      zero1: master weights and optimizer state are split over `data` as well.

    Raises:
      UserError: there is no such layout.
    """
    require(
        name in PRESETS,
        f"config.mesh.rules is {name!r}; the tables are {', '.join(sorted(PRESETS))}",
    )
    chosen = PRESETS[name]
    if not zero1:
        return chosen
    return dataclasses.replace(chosen, stored=_spread(chosen.stored, ("data", "stage")))


def entry_axes(entry: MeshAxes) -> tuple[str, ...]:
    """The mesh axes of one entry of a table or a spec."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def partition_spec(names: tuple[str | None, ...], rules: Rules) -> PartitionSpec:
    """The spec of an array whose dimensions carry these logical names.

    Raises:
      KeyError: a name that the table does not know, which is a programming error.
      UserError: two dimensions of the array on one mesh axis.
    """
    axes = [None if name is None else rules[name] for name in names]
    used = [axis for entry in axes for axis in entry_axes(entry)]
    twice = sorted({axis for axis in used if used.count(axis) > 1})
    require(
        not twice, f"the logical axes {names} of one array both lie on mesh axis {', '.join(twice)}"
    )
    return PartitionSpec(*axes)
