"""Weights that come from elsewhere: which, from where, into which part of the state.

One concept for a frozen tokenizer, a network of a loss, parts of a tokenizer that is trained on,
and a warm start. What a run begins from is read once; afterwards its own checkpoints hold it.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.config import require
from babeldraw.errors import UserError
from babeldraw.models.condition import Condition
from babeldraw.models.kinds import read_generator
from babeldraw.objectives.base import TrainState
from babeldraw.runs.checkpoints import by_name, placed, restore_subset, stored_shapes
from babeldraw.runs.folder import RunFolder, weights_in
from babeldraw.runs.weights import check_finite, few, flatten, read_weights
from babeldraw.say import say
from babeldraw.tokenizers.kinds import read_tokenizer

NO_CLASSES: Mapping[str, int] = MappingProxyType({})
# Where the optimizer keeps what it knows, in the state and in a checkpoint.
OPTIMIZER = "opt_state"
# And a recipe its discriminator, with an optimizer of its own.
DISCRIMINATOR = "extra/discriminator"
# What lies in a run's state where it lies in ours.
ALIKE = (OPTIMIZER, DISCRIMINATOR)


@dataclasses.dataclass(frozen=True)
class StartConfig:
    """One source of weights; of several that give a parameter the last counts.

    Attributes:
      run: a run folder; its average of weights where it keeps one.
      file: a .safetensors file in place of a run.
      into: what of the state they become: `params`, which are trained on, `frozen/NAME`,
        `extra/discriminator`: that of a run goes on, whatever else comes from there, with a fresh
        optimizer; or `opt_state`: the optimizer of a run of the same parameters and optimizer goes
        on, its count of steps, by which the schedule goes, included.
      names: regular expression over the names of our parameters there, such as
        `text_encoder/.*`; those that it matches as a whole come from elsewhere.
      part: what of the run's state they are, as `into`; of a file the beginning of the names.
      theirs: how a parameter is called there, by `re.sub` with `names`; empty: as here.
    """

    run: str = ""
    file: str = ""
    into: str = "params"
    names: str = ".*"
    part: str = "params"
    theirs: str = ""

    def __post_init__(self):
        require(
            bool(self.run) != bool(self.file),
            f"config.starts has run={self.run!r} and file={self.file!r}; one of them is needed",
        )
        for name in ("into", "part"):
            value = getattr(self, name)
            require(
                value == "params"
                or re.fullmatch(r"frozen/\w+", value) is not None
                or (name == "into" and value in ALIKE)
                or (name == "part" and not self.run),
                f"config.starts.{name} is {value!r}; params, or frozen/NAME, is needed",
            )
        require(
            self.into != OPTIMIZER or (self.file, self.names, self.theirs) == ("", ".*", ""),
            f"config.starts.into is {OPTIMIZER!r}, which comes whole and of a run; leave file, "
            "names and theirs out",
        )
        require(
            self.into != DISCRIMINATOR or bool(self.run),
            f"config.starts.into is {DISCRIMINATOR!r}, which comes of a run; name one in place of "
            f"file={self.file!r}",
        )
        try:
            re.compile(self.names)
        except re.error as error:
            raise UserError(
                f"config.starts.names is {self.names!r}, no regular expression: {error}"
            ) from None

    @property
    def source(self) -> str:
        return self.run or self.file

    def chosen(self, ours: Mapping[str, Any]) -> dict[str, str]:
        """Of the names of our parameters those that come from there, and what they are there.

        Raises:
          UserError: `theirs` speaks of a group that `names` does not have.
        """
        try:
            return {
                name: re.sub(f"^(?:{self.names})$", self.theirs, name) if self.theirs else name
                for name in ours
                if re.fullmatch(self.names, name)
            }
        except (re.error, IndexError) as error:
            raise UserError(
                f"config.starts.theirs is {self.theirs!r}, which does not go with names="
                f"{self.names!r}: {error}"
            ) from None


def starts_of(condition: Condition) -> tuple[StartConfig, ...]:
    """Where the frozen networks begin that a condition is encoded by."""
    return tuple(
        StartConfig(file=file, into=f"frozen/{name}", part=condition.weights_part)
        for name, file in condition.files.items()
    )


def begun(
    state: TrainState,
    start: StartConfig,
    class_rows: Mapping[str, int] = NO_CLASSES,
    quiet: bool = False,
) -> TrainState:
    """`state` with what comes from elsewhere in its place, where and as the state has it.

    Says how many parameters came, which of ours stayed as they were made, and which there are
    of no use. Where a run has another number of classes, the rows of classes stay as they were
    made; that of no class, which both have learned, comes.

    Args:
      state: of fresh weights, placed.
      start: what comes from where.
      class_rows: see `Experiment.class_rows`.
      quiet: says nothing.

    Raises:
      UserError: no such part, names that match nothing, or a parameter that is not there or has
        another shape there.
    """
    if start.into == OPTIMIZER:
        return _with_optimizer(state, start, quiet)
    ours, chosen, there = _matched(state, start, class_rows)
    like = {theirs: _as_there(ours[name], there[theirs]) for name, theirs in chosen.items()}
    arrays = _read(start, like)
    new = {name: arrays[theirs] for name, theirs in chosen.items()}
    other = [name for name, array in new.items() if array.shape != ours[name].shape]
    new |= {name: _with_own_classes(ours[name], new[name], class_rows[name]) for name in other}
    kept = [name for name in ours if name not in chosen]
    unused = sorted(set(there) - set(chosen.values()))
    if not quiet:
        say(
            f"{start.into}: {len(chosen)} of {len(ours)} parameters begin as in {start.source}"
            + (f"; other classes, so their rows are fresh: {few(other)}" if other else "")
            + (f"; fresh: {few(kept)}" if kept else "")
            + (f"; not taken: {few(unused)}" if unused else "")
        )
    leaves = [new.get(name, leaf) for name, leaf in ours.items()]
    structure = jax.tree.structure(_part(state, start.into))
    return _with_part(state, start.into, jax.tree.unflatten(structure, leaves))


def check_fits(
    state: TrainState, start: StartConfig, class_rows: Mapping[str, int] = NO_CLASSES
) -> None:
    """Raises what `begun` would of a state that is not made yet, all shapes."""
    if start.into == OPTIMIZER:
        _check_optimizer(state, start)
    else:
        _matched(state, start, class_rows)


def _with_optimizer(state: TrainState, start: StartConfig, quiet: bool) -> TrainState:
    """`state` with the optimizer's state of another run in place of its own."""
    _check_optimizer(state, start)
    folder, _ = _held(start)
    places = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
    wanted = {OPTIMIZER: placed(state.opt_state, places)}
    _, found = restore_subset(folder.checkpoints, wanted, folder.step)
    if not quiet:
        say(f"{OPTIMIZER}: the optimizer goes on as in {start.run}, its count of steps too")
    # Orbax gives tuples and dataclasses back as they were asked for.
    return state.replace(opt_state=found[OPTIMIZER])


def _check_optimizer(state: TrainState, start: StartConfig) -> None:
    """Raises `UserError`: the run has no optimizer, as an import, or another one."""
    there = _shapes(start)
    for name, leaf in by_name(state.opt_state).items():
        found = there.get(name)
        require(
            found is not None and tuple(found.shape) == leaf.shape,
            f"config.starts takes the optimizer of {start.run}, which is another one: its state "
            + (f"has no {name}" if found is None else f"{name} is {found.shape}, not {leaf.shape}")
            + "; take config.optimizer and config.model as they were there",
        )


def _matched(
    state: TrainState, start: StartConfig, class_rows: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Ours by name; of those that come from there their names there; what there is, by name.

    Raises:
      UserError: as `begun`.
    """
    ours = flatten(_part(state, start.into))
    chosen = start.chosen(ours)
    require(
        bool(chosen),
        f"config.starts.names is {start.names!r}, which matches none of the parameters in "
        f"{start.into}: {few(sorted(ours))}",
    )
    there = _shapes(start)
    by_class = class_rows if start.into == "params" else NO_CLASSES
    by_class_there = _class_rows_there(start) if by_class else NO_CLASSES
    for name, theirs in chosen.items():
        found = there.get(theirs)
        require(
            found is not None,
            f"{start.source} has no {theirs}, from which {start.into}/{name} was to begin; it has "
            f"{few(sorted(there))}",
        )
        wanted, given = ours[name].shape, tuple(found.shape)
        if name in by_class and theirs in by_class_there:
            wanted = (wanted[0] - by_class[name], *wanted[1:])
            given = (given[0] - by_class_there[theirs], *given[1:])
        require(
            wanted == given,
            f"{start.source}: {theirs} has the shape {tuple(found.shape)} and {start.into}/{name} "
            f"{ours[name].shape}; take the sizes of what it begins from, or other names",
        )
    twice = [theirs for theirs, count in Counter(chosen.values()).items() if count > 1]
    require(
        not twice,
        f"config.starts.theirs makes several parameters begin as {few(sorted(twice))}; write a "
        "start for each",
    )
    return ours, chosen, there


def _class_rows_there(start: StartConfig) -> Mapping[str, int]:
    """The `class_rows` of the generator that the weights are of; none where they are of none."""
    if not start.run or start.part != "params":
        return NO_CLASSES
    config = RunFolder.to_read(start.run).read_config()
    if config["objective"] != "generator":
        return NO_CLASSES
    return read_generator(config, read_tokenizer(config)).class_rows


def _as_there(ours: jax.Array, there: Any) -> Any:
    """What is read for a parameter of ours: it, or as many rows as there, whole on each device."""
    if tuple(there.shape) == ours.shape:
        return ours
    place = ours.sharding
    if isinstance(place, NamedSharding):
        place = NamedSharding(place.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(there.shape, ours.dtype, sharding=place)


def _with_own_classes(ours: jax.Array, theirs: jax.Array, rows: int) -> jax.Array:
    """`theirs` but for the rows of classes, which are those of `ours`: its last `rows` but one."""
    shared = ours.shape[0] - rows

    def joined(ours: jax.Array, theirs: jax.Array) -> jax.Array:
        return jnp.concatenate([theirs[:shared], ours[shared:-1], theirs[-1:]])

    return jax.jit(joined, out_shardings=ours.sharding)(ours, theirs)


def check_start(start: StartConfig) -> None:
    """What can be said before anything is made. Raises `UserError`: the source is not there."""
    _shapes(start)


def _shapes(start: StartConfig) -> dict[str, Any]:
    """Shapes of what is there, by name."""
    if start.file:
        arrays = read_weights(start.file, "config.starts.file")
        inside = "" if start.part == "params" else f"{start.part}/"
        return {n.removeprefix(inside): a for n, a in arrays.items() if n.startswith(inside)}
    folder, held = _held(start)
    stored = stored_shapes(folder.checkpoints, folder.step)
    found = {n.removeprefix(f"{held}/"): s for n, s in stored.items() if n.startswith(f"{held}/")}
    field = "into" if start.into in ALIKE else "part"
    require(bool(found), f"{start.run} has no {held}, which config.starts.{field} names")
    return found


def _held(start: StartConfig) -> tuple[RunFolder, str]:
    folder = RunFolder.to_read(start.run)
    config = folder.read_config()
    if start.into in ALIKE:
        return folder, start.into
    return folder, weights_in(config) if start.part == "params" else start.part


def _read(start: StartConfig, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Arrays by their names there, each where the one here lies."""
    if start.file:
        arrays = read_weights(start.file, "config.starts.file")
        inside = "" if start.part == "params" else f"{start.part}/"
        found = {name: arrays[inside + name] for name in like}
        check_finite(found, start.file)
        return {
            name: jax.device_put(np.asarray(array, like[name].dtype), like[name].sharding)
            for name, array in found.items()
        }
    folder, held = _held(start)
    wanted: dict[str, Any] = {}
    for name, leaf in like.items():
        *path, last = [*held.split("/"), *name.split("/")]
        tree = wanted
        for part in path:
            tree = tree.setdefault(part, {})
        tree[last] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    shardings = {name: leaf.sharding for name, leaf in like.items()}
    leaves = [shardings[name] for name in _in_order(wanted, held)]
    places = jax.tree.unflatten(jax.tree.structure(wanted), leaves)
    _, state = restore_subset(folder.checkpoints, placed(wanted, places), folder.step)
    return {name.removeprefix(f"{held}/"): leaf for name, leaf in flatten(state).items()}


def _in_order(wanted: Any, held: str) -> list[str]:
    return [name.removeprefix(f"{held}/") for name in flatten(wanted)]


def _part(state: TrainState, into: str) -> Any:
    """What comes from elsewhere: of a discriminator all but its optimizer."""
    room, _, name = into.partition("/")
    tree = getattr(state, room)
    if not name:
        return tree
    if name not in tree:
        raise UserError(
            f"config.starts.into is {into!r}; the run has {', '.join(tree) or 'nothing'} in {room}"
        )
    return {part: leaf for part, leaf in tree[name].items() if part != OPTIMIZER}


def _with_part(state: TrainState, into: str, tree: Any) -> TrainState:
    room, _, name = into.partition("/")
    if name:
        others = getattr(state, room)
        tree = {**others, name: {**others[name], **tree}}
    return state.replace(**{room: tree})
