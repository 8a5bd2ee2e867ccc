"""Checkpoints of a run; the one place that knows Orbax.

A checkpoint holds `state`, a tree of arrays, and `progress`, a small tree of plain values (the data
iterator's state, elapsed seconds). It is whole or not there: Orbax writes beside and renames.
"""

from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from babeldraw.errors import UserError


class Checkpoints:
    """Saves asynchronously, keeps the last few, restores onto any mesh.

    Attributes:
      directory: where the steps lie.
    """

    def __init__(self, directory: epath.Path, keep: int = 2):
        """`keep`: number of latest checkpoints that are not deleted."""
        self.directory = epath.Path(directory)
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            _absolute(self.directory),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policy,
            cleanup_tmp_directories=True,
        )

    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Copies `state` off the devices and writes it in the background.

        A step that is already there is left alone.
        """
        if self.latest_step() == step:
            return
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "progress": progress}, force=True
        )

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """State and progress of a step.

        Args:
          step: one that `latest_step` gave.
          abstract_state: a `jax.ShapeDtypeStruct` with a sharding for each array.

        Raises:
          UserError: the checkpoint is of another model than `abstract_state`.
        """
        _check_shapes(self.directory / str(step), abstract_state)
        try:
            loaded = self._checkpointer.load_checkpointables(
                step, {"state": abstract_state, "progress": None}
            )
        except (ValueError, KeyError) as error:
            raise _mismatch(self.directory / str(step), error) from error
        return loaded["state"], loaded["progress"]

    def wait(self) -> None:
        """Until every save has reached the disk; raises what went wrong with one."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits and frees the background threads."""
        self._checkpointer.close()


def restore_subset(directory: epath.Path, abstract_state: Any) -> tuple[int, Any]:
    """The part of the latest state that `abstract_state` names, with its step.

    Raises:
      UserError: there is no checkpoint, or it is of another model.
    """
    directory = epath.Path(directory)
    steps = (
        [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
        if (directory.exists())
        else []
    )
    if not steps:
        raise UserError(f"{directory} holds no checkpoint; train the run first")
    step = max(steps)
    _check_shapes(directory / str(step), abstract_state)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    path = _absolute(directory / str(step))
    with context:
        try:
            loaded = ocp.load_checkpointables(path, {"state": abstract_state})
        except (ValueError, KeyError) as error:
            raise _mismatch(path, error) from error
    return step, loaded["state"]


def placed(abstract: Any, shardings: Any) -> Any:
    """`abstract` with a sharding on each array: what restoring needs to know."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def on_first_device(abstract: Any) -> Any:
    """`abstract` to be restored onto one device, as sampling on one machine wants it."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return placed(abstract, jax.tree.map(lambda _: here, abstract))


def _check_shapes(path: epath.Path, abstract_state: Any) -> None:
    """Refuses a checkpoint of other names or shapes before any array of it is read."""
    stored = ocp.checkpointables_metadata(_absolute(path)).metadata["state"]
    shapes = {
        _names(where): leaf.shape
        for where, leaf in jax.tree_util.tree_leaves_with_path(stored)
        if hasattr(leaf, "shape")
    }
    for where, leaf in jax.tree_util.tree_leaves_with_path(abstract_state):
        name, shape = "/".join(_names(where)), shapes.get(_names(where))
        if shape is None:
            raise _mismatch(path, f"it holds no {name}")
        if tuple(shape) != tuple(leaf.shape):
            raise _mismatch(path, f"{name} is {tuple(shape)} there and {tuple(leaf.shape)} here")


def _names(path: tuple) -> tuple[str, ...]:
    """A place in a tree by names alone: Orbax gives tuples and dataclasses back as dicts."""
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _absolute(path: epath.Path) -> epath.Path:
    """Orbax wants absolute paths; those of a bucket are already."""
    return path if "://" in str(path) else path.absolute()


def _mismatch(path: epath.Path, error: Exception | str) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path} does not fit this config (was the model changed?): {reason}")
