"""From config to an optax transformation."""

import dataclasses
import re
from typing import Any

import jax
import optax

from babeldraw.config import require
from babeldraw.errors import UserError
from babeldraw.optim.adafactor import MOMENT_DTYPES, AdafactorState, adafactor, leaf_axes
from babeldraw.optim.muon import Sides, scale_by_muon
from babeldraw.optim.schedules import ScheduleConfig, make_schedule

NAMES = ("adafactor", "adamw", "muon")


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """Parameters that are trained otherwise than the rest.

    Attributes:
      names: regular expression, searched in "path/to/parameter".
      rate: their learning rate over that of the rest; their decay goes with it.
      decay: whether they decay; None: as the rest do.
    """

    names: str
    rate: float = 1.0
    decay: bool | None = None

    def __post_init__(self):
        path = "config.optimizer.groups"
        require(self.rate >= 0, f"{path} has the rate {self.rate}; at least 0 is needed")
        try:
            re.compile(self.names)
        except re.error as error:
            raise UserError(
                f"{path} has names={self.names!r}, no regular expression: {error}"
            ) from None


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Attributes:
    schedule: the learning rate.
    name: adafactor (Babeldraw), adamw (ViT-VQGAN) or muon (small runs: it learns in a fraction of
      the steps). Muon orthogonalises the updates of matrices, scaled to the size of Adam's; all
      else, embeddings and the output included, goes to Adam at the same rate.
    b1, b2: decay of the first and second moments; Muon's own momentum has 0.95.
    weight_decay: decoupled, on arrays of two or more dimensions per layer.
    clip_norm: largest global norm of the gradient; 0 clips nothing.
    moment_dtype: of Adafactor's first moment: int8, int16, bfloat16 or float32; the others keep
      float32 whatever it says.
    clip_threshold: of Adafactor: largest root mean square of an update before the learning rate.
    scale_by_parameter: of Adafactor: steps are relative to a parameter's size.
    groups: parameters with a rate or decay of their own; of several that find one, the first.
    """

    schedule: ScheduleConfig = ScheduleConfig()
    name: str = "adafactor"
    b1: float = 0.9
    b2: float = 0.96
    weight_decay: float = 4.5e-2
    clip_norm: float = 4.0
    moment_dtype: str = "int8"
    clip_threshold: float = 1.0
    scale_by_parameter: bool = False
    groups: tuple[GroupConfig, ...] = ()

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
            self.clip_threshold > 0,
            f"{path}.clip_threshold is {self.clip_threshold}; a positive number is needed",
        )
        for name, plain in (("clip_threshold", 1.0), ("scale_by_parameter", False)):
            value = getattr(self, name)
            require(
                self.name == "adafactor" or value == plain,
                f"{path}.{name} is {value}, which {path}.name={self.name!r} would ignore; leave it "
                "out or choose adafactor",
            )
        require(
            self.moment_dtype in MOMENT_DTYPES,
            f"{path}.moment_dtype is {self.moment_dtype!r}; the types are "
            f"{', '.join(MOMENT_DTYPES)}",
        )

    def tiny(self) -> "OptimizerConfig":
        """The same for a first run."""
        return dataclasses.replace(self, schedule=self.schedule.tiny())


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
    matrices, rates = _grouped(config.groups, matrices)
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
            clip_threshold=config.clip_threshold,
            moment_dtype=config.moment_dtype,
            scale_by_parameter=config.scale_by_parameter,
        )
    if rates is None:
        return optax.chain(clip, core)
    return optax.chain(clip, core, _scaled(rates))


def _grouped(groups: tuple[GroupConfig, ...], decayed: Any) -> tuple[Any, Any]:
    """Which parameters decay, and the rate of each over the schedule's; None: all have that.

    Raises:
      UserError: a group that finds no parameter.
    """
    if not groups:
        return decayed, None
    found = set()

    def of(path, decays):
        where = "/".join(str(key.key) for key in path)
        for group in groups:
            if re.search(group.names, where):
                found.add(group)
                return (decays if group.decay is None else group.decay), group.rate
        return decays, 1.0

    pairs = jax.tree_util.tree_map_with_path(of, decayed)
    for group in groups:
        require(
            group in found,
            f"config.optimizer.groups has names={group.names!r}, which finds no parameter that an "
            "earlier group has not; see `babeldraw inspect`",
        )
    return tuple(
        jax.tree.map(lambda pair, at=at: pair[at], pairs, is_leaf=is_tuple) for at in (0, 1)
    )


def _scaled(rates: Any) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda update, rate: update * rate, updates, rates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


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
    sides = jax.tree.map(_sides, axes, is_leaf=is_tuple)
    orthogonal = jax.tree.map(lambda own: isinstance(own, Sides), sides, is_leaf=_is_sides)
    others = jax.tree.map(lambda own: not own, orthogonal)
    # As `masked` shows a tree to what is inside.
    sides = jax.tree.map(
        lambda own: optax.MaskedNode() if own is None else own, sides, is_leaf=_is_sides
    )
    return optax.chain(
        optax.masked(scale_by_muon(sides), orthogonal),
        optax.masked(optax.scale_by_adam(config.b1, config.b2), others),
        optax.add_decayed_weights(config.weight_decay, matrices),
        optax.scale_by_learning_rate(schedule),
    )


def _is_sides(node: Any) -> bool:
    return node is None or isinstance(node, Sides)


def _sides(names: tuple[str | None, ...]) -> Sides | None:
    """Which dimensions of a weight are its inputs and which its outputs; None: not a matrix."""
    first = int(names[:1] == ("layers",))
    own = names[first:]
    if len(own) < 2 or {"vocab", "position", None} & set(own):
        return None
    # Heads and their dimension are one side of the product.
    inputs = 2 if own[0] == "heads" else 1
    dims = tuple(range(first, len(names)))
    return Sides(dims[:inputs], dims[inputs:])


def _with_standard_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax mixes float32 with integer counts, which strict dtype promotion refuses."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)


def is_tuple(node) -> bool:
    """Whether a node is one array's logical names."""
    return isinstance(node, tuple)
