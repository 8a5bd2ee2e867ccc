"""From config to an optax transformation."""

import dataclasses
from typing import Any

import jax
import optax
import optax.contrib

from babeldraw.config import require
from babeldraw.optim.adafactor import MOMENT_DTYPES, AdafactorState, adafactor, leaf_axes
from babeldraw.optim.schedules import ScheduleConfig, make_schedule

NAMES = ("adafactor", "adamw", "muon")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Attributes:
    schedule: the learning rate.
    name: adafactor (Babeldraw), adamw (ViT-VQGAN) or muon (small runs: it learns in a fraction of
      the steps). Muon orthogonalises the updates of matrices, scaled to the size of Adam's; all
      else, embeddings and the output included, goes to Adam at the same rate.
    b1, b2: decay of the first and second moments; Muon's own momentum is optax's.
    weight_decay: decoupled, on arrays of two or more dimensions per layer.
    clip_norm: largest global norm of the gradient; 0 clips nothing.
    moment_dtype: of Adafactor's first moment: int8, int16, bfloat16 or float32; the others keep
      float32 whatever it says.
    """

    schedule: ScheduleConfig = ScheduleConfig()
    name: str = "adafactor"
    b1: float = 0.9
    b2: float = 0.96
    weight_decay: float = 4.5e-2
    clip_norm: float = 4.0
    moment_dtype: str = "int8"

    def __post_init__(self):
        path = "config.optimizer"
        require(
            self.name in NAMES,
            f"{path}.name is {self.name!r}; the optimizers are {', '.join(NAMES)}",
        )
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{path}.{name} is {value}; a decay in [0, 1) is needed")
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            require(value >= 0, f"{path}.{name} is {value}; at least 0 is needed")
        require(
            self.moment_dtype in MOMENT_DTYPES,
            f"{path}.moment_dtype is {self.moment_dtype!r}; the types are "
            f"{', '.join(MOMENT_DTYPES)}",
        )


def make_optimizer(config: OptimizerConfig, axes) -> optax.GradientTransformation:
    """Clip by global norm, then the named optimizer with its schedule.

    Args:
      config: which, and its constants.
      axes: logical names of each parameter; those that begin with `layers` are stacked, and
        statistics, scales and the choice of what decays are per layer.
    """
    schedule = make_schedule(config.schedule)
    stacked = jax.tree.map(lambda names: names[:1] == ("layers",), axes, is_leaf=is_tuple)
    matrices = jax.tree.map(
        lambda names, is_stacked: len(names) - is_stacked >= 2, axes, stacked, is_leaf=is_tuple
    )
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.name == "adamw":
        core = optax.adamw(
            schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=matrices
        )
        core = _with_standard_promotion(core)
    elif config.name == "muon":
        core = _with_standard_promotion(_muon(config, schedule, axes, matrices))
    else:
        core = adafactor(
            schedule,
            stacked,
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            decayed=matrices,
            moment_dtype=config.moment_dtype,
        )
    return optax.chain(clip, core)


def optimizer_axes(opt_state: Any, params: Any, axes: Any) -> Any:
    """Logical axes of each array of an optimizer's state, in the same tree.

    An array that stands at a parameter's place in the tree and has its shape carries its names;
    Adafactor's factors derive theirs; anything else is whole on every device.

    Args:
      opt_state: abstract state of what `make_optimizer` made.
      params: abstract parameters.
      axes: logical names of each parameter.
    """
    structure = jax.tree.structure(params)
    flat = jax.tree_util.tree_leaves_with_path(params)
    names = structure.flatten_up_to(axes)
    known = {path: (leaf.shape, n) for (path, leaf), n in zip(flat, names, strict=True)}

    def of_node(path: tuple, node: Any) -> Any:
        if isinstance(node, AdafactorState):
            leaves = structure.flatten_up_to(node.leaves)
            named = [leaf_axes(n, leaf) for n, leaf in zip(names, leaves, strict=True)]
            return AdafactorState(count=(), leaves=structure.unflatten(named))
        for start in range(len(path)):
            shape, own = known.get(path[start:], (None, None))
            if shape == node.shape:
                return own
        return (None,) * node.ndim

    return jax.tree_util.tree_map_with_path(
        of_node, opt_state, is_leaf=lambda node: isinstance(node, AdafactorState)
    )


def _muon(
    config: OptimizerConfig, schedule: optax.Schedule, axes: Any, matrices: Any
) -> optax.GradientTransformation:
    return optax.contrib.muon(
        schedule,
        # The root mean square of Adam's updates, so that one schedule serves both.
        consistent_rms=0.2,
        weight_decay=config.weight_decay,
        weight_decay_mask=matrices,
        adam_b1=config.b1,
        adam_b2=config.b2,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=jax.tree.map(_matrix_dimensions, axes, is_leaf=is_tuple),
    )


def _matrix_dimensions(
    names: tuple[str | None, ...],
) -> optax.contrib.MuonDimensionNumbers | None:
    """Which dimensions of a weight are its inputs and which its outputs; None: not a matrix."""
    first = int(names[:1] == ("layers",))
    own = names[first:]
    if len(own) < 2 or {"vocab", "position", None} & set(own):
        return None
    # Heads and their dimension are one side of the product.
    inputs = 2 if own[0] == "heads" else 1
    dims = tuple(range(first, len(names)))
    return optax.contrib.MuonDimensionNumbers(dims[:inputs], dims[inputs:])


def _with_standard_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax mixes float32 with integer counts, which strict dtype promotion refuses."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)


def is_tuple(node) -> bool:
    """Whether a node is one array's logical names."""
    return isinstance(node, tuple)
