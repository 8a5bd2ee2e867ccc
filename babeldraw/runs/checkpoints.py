"""Checkpoints of a run; with `writing` and `fitting`, the one place that knows Orbax.

A checkpoint holds `state`, a tree of arrays, `progress`, a small tree of plain values (the data
iterator's state, elapsed seconds), and `digests`, a number for each array. It is whole or not
there: Orbax writes beside and renames. Once written it is read back; only then do older ones go.
"""

import contextlib
import gc
import itertools
import time
import traceback
from collections.abc import Callable, Container, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from babeldraw.errors import UserError, without_unraisable
from babeldraw.runs.fitting import check_digests, check_shapes, names_at, stored_digests
from babeldraw.runs.writing import Damaged, Writing, describe

# Between tries to write after a fault of the storage; after the last, the run stops.
RETRY_SECONDS = (10.0, 30.0, 60.0, 300.0, 600.0)


class Checkpoints:
    """Saves asynchronously, keeps some, restores onto any mesh.

    A fault of the storage (a full disk, a bucket that cannot be reached) is reported and the save
    tried again with the state of then; older checkpoints are left alone until one has come back
    whole.

    Args:
      directory: made when it is not there.
      keep: number of latest checkpoints that are not deleted.
      keep_every: those of each multiple of this step stay too; 0 for none.
      report: told of faults, a line each.
      retry_seconds: between tries to write.
    """

    def __init__(
        self,
        directory: epath.Path,
        keep: int = 2,
        keep_every: int = 0,
        report: Callable[[str], None] = print,
        retry_seconds: tuple[float, ...] = RETRY_SECONDS,
    ):
        self.directory = _absolute(epath.Path(directory))
        self._keep, self._keep_every, self._report = keep, keep_every, report
        self._retry_seconds = retry_seconds
        self._checkpointer = _open(self.directory)
        self._writing: Writing | None = None
        self._faults, self._retry_at = 0, 0.0

    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Copies `state` off the devices and writes it in the background.

        A step that is already there is left alone. Waits for the save before. On several hosts, all
        must call.

        Raises:
          UserError: the storage has failed too often, one after the other.
        """
        self._settle()
        if self.latest_step() != step:
            self._writing = Writing(self._checkpointer, self.directory / str(step), step)
            self._writing.start(state, progress)

    def save_surely(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Saves and waits, as often as needed: the run ends here.

        Raises:
          UserError: the storage has failed too often.
        """
        while True:
            self.save(step, state, progress)
            self._settle()
            if not self._faults:
                return
            time.sleep(max(0.0, self._retry_at - time.monotonic()))

    def retry_due(self) -> bool:
        """Whether the last save has failed and should be made again with the state of now.

        On several hosts always False: they find out together, at the next save.
        """
        if jax.process_count() > 1:
            return False
        if self._writing is not None and self._writing.failed:
            self._settle()
        return self._faults > 0 and time.monotonic() >= self._retry_at

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """State and progress of a step.

        Args:
          step: one that `latest_step` gave.
          abstract_state: a `jax.ShapeDtypeStruct` with a sharding for each array.

        Raises:
          UserError: the checkpoint is of another model than `abstract_state`.
          Damaged: it does not come back as it was written.
        """
        path = self.directory / str(step)
        # Names and shapes are said first: what fails after them is damage.
        with _damage(path):
            wanted = stored_digests(path)
            check_shapes(path, abstract_state, wanted)
            with _partial():
                loaded = self._checkpointer.load_checkpointables(
                    step, {"state": abstract_state, "progress": None}
                )
        check_digests(path, loaded["state"], wanted)
        return loaded["state"], loaded["progress"]

    def restore_newest(
        self, abstract_state: Any, put_aside: bool = True
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Step, state and progress of the newest checkpoint that comes back whole; None for none.

        A damaged one is put aside as `damaged-STEP` and the one before it is taken. Without
        `put_aside` it is left where it is, for this is not the run itself.

        Raises:
          UserError: a checkpoint is of another model; or all are damaged.
        """
        if not put_aside:
            return _newest_whole(
                self.directory, lambda step: (step, *self.restore(step, abstract_state))
            )
        damage = None
        while (step := self.latest_step()) is not None:
            try:
                return step, *self.restore(step, abstract_state)
            except Damaged as error:
                damage = error
                self._report(f"{error}; put aside, trying the one before it")
                self._put_aside(step)
        if damage is not None:
            raise UserError(f"{damage}; there is none before it, look into {self.directory}")
        return None

    def wait(self) -> None:
        """Until the last save has reached the disk and come back; a fault is reported."""
        self._settle()

    def close(self) -> None:
        """Waits and frees the background threads."""
        self._settle()
        self._checkpointer.close()

    def _settle(self) -> None:
        """Learns how the last save went: removes older ones, or plans another try."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        fault = writing.wait()
        if _on_any_host(fault is not None):
            self._plan_retry(writing.step, fault or "another host could not write its part")
            return
        self._faults = 0
        steps = sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)
        for step in steps[: -self._keep]:
            if not self._keep_every or step % self._keep_every:
                self._checkpointer.delete(step)

    def _plan_retry(self, step: int, fault: str) -> None:
        try:
            self._checkpointer.close()
        except Exception:  # It raises the fault of the save once more.
            pass
        # A fresh one removes what the failed save has left.
        self._checkpointer = _open(self.directory)
        if self.latest_step() == step:
            # It was written, and does not come back.
            self._put_aside(step)
        latest = self.latest_step()
        good = "there is none before it" if latest is None else f"that of step {latest} is whole"
        said = f"the checkpoint of step {step} could not be written ({fault}); {good}"
        if self._faults >= len(self._retry_seconds):
            raise UserError(
                f"{said}; this was try {self._faults + 1}: mend the storage of {self.directory} "
                "and start again"
            )
        wait = self._retry_seconds[self._faults]
        self._faults += 1
        self._retry_at = time.monotonic() + wait
        self._report(f"{said}; trying again in {wait:g} s")

    def _put_aside(self, step: int) -> None:
        self._checkpointer.close()
        if jax.process_index() == 0:
            names = (f"damaged-{step}" + "-again" * times for times in itertools.count())
            free = (self.directory / name for name in names)
            aside = next(path for path in free if not path.exists())
            (self.directory / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} put aside")
        self._checkpointer = _open(self.directory)


def _open(directory: epath.Path) -> ocp.training.Checkpointer:
    """Orbax's own: it shall save whenever asked and delete nothing by itself."""
    training = ocp.training
    return training.Checkpointer(
        directory,
        save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=training.preservation_policies.PreserveAll(),
        cleanup_tmp_directories=True,
    )


def _on_any_host(here: bool) -> bool:
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def restore_subset(
    directory: epath.Path, abstract_state: Any, step: int | None = None
) -> tuple[int, Any]:
    """The part of the newest whole state, or of that of `step`, which `abstract_state` names.

    With it the step. What is read is checked against the digests that were stored with it. A
    damaged checkpoint is named in the log, and the one before it read.

    Raises:
      UserError: there is no such checkpoint, or it is of another model; or all are damaged.
    """
    directory = _absolute(epath.Path(directory))
    found = _newest_whole(
        directory, lambda step: (step, _subset(directory / str(step), abstract_state)), step
    )
    if found is None:
        raise UserError(f"{directory} holds no checkpoint; train the run first")
    return found


def stored_shapes(directory: epath.Path, step: int | None = None) -> dict[str, Any]:
    """What the newest state that can be read, or that of `step`, holds.

    Shapes and types by name, `params/...`.

    Raises:
      UserError: there is no such checkpoint.
    """
    directory = _absolute(epath.Path(directory))

    def read(step: int) -> Any:
        path = directory / str(step)
        with _damage(path):
            return ocp.checkpointables_metadata(path).metadata["state"]

    stored = _newest_whole(directory, read, step)
    if stored is None:
        raise UserError(f"{directory} holds no checkpoint; train the run first")
    return by_name(stored)


def by_name(tree: Any) -> dict[str, Any]:
    """The arrays of a tree, or their shapes, by the names that they have in a checkpoint."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(names_at(at)): leaf for at, leaf in leaves if hasattr(leaf, "shape")}


def restore_parts(
    directory: epath.Path, names: Container[str], step: int | None = None
) -> tuple[int, Any]:
    """The parts of these names, whatever they hold, on one device.

    Of the newest whole state, or of that of `step`.

    Raises:
      UserError: there is no such checkpoint, or all are damaged.
    """
    directory = _absolute(epath.Path(directory))

    def read(step: int) -> tuple[int, Any]:
        path = directory / str(step)
        with _damage(path):
            stored = ocp.checkpointables_metadata(path).metadata["state"]
            parts = {name: tree for name, tree in stored.items() if name in names}
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parts)
        return step, _subset(path, on_first_device(shapes))

    found = _newest_whole(directory, read, step)
    if found is None:
        raise UserError(f"{directory} holds no checkpoint; train the run first")
    return found


def _newest_whole(
    directory: epath.Path, read: Callable[[int], Any], wanted: int | None = None
) -> Any:
    """What `read` gives of the newest checkpoint that is not damaged; None where there is none.

    Where one is wanted, of that alone.
    """
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    steps = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    if wanted is not None and wanted not in steps:
        there = ", ".join(map(str, reversed(steps))) or "none"
        raise UserError(
            f"{directory} holds no checkpoint of step {wanted}; there are {there} "
            "(config.train.keep_every keeps more)"
        )
    if wanted is not None:
        steps = [wanted]
    damage = None
    for step in steps:
        try:
            found = read(step)
        except Damaged as error:
            logging.warning("%s; looking at the one before it", error)
            damage = damage or error
            continue
        if damage is not None:
            logging.warning("step %d of %s is whole and is taken in its place", step, directory)
        return found
    if damage is not None:
        raise UserError(f"{damage}; there is no whole one before it in {directory}")
    return None


def _subset(path: epath.Path, abstract_state: Any) -> Any:
    """A part of one checkpoint, as it was written.

    Raises:
      UserError: it is of another model.
      Damaged: it does not come back as it was written.
    """
    with _damage(path):
        wanted = stored_digests(path)
        check_shapes(path, abstract_state, wanted, whole=False)
        with _partial():
            state = ocp.load_checkpointables(path, {"state": abstract_state})["state"]
    check_digests(path, state, wanted)
    return state


def _partial() -> ocp.Context:
    """Lets Orbax read less than there is; `check_shapes` says what may be left."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    return context


@contextlib.contextmanager
def _damage(path: epath.Path) -> Iterator[None]:
    """Whatever Orbax raises inside is damage of the checkpoint; a misfit is said as it is."""
    with without_unraisable():
        try:
            yield
            return
        except UserError:
            raise
        except Exception as error:
            damaged = Damaged(path, describe(error))
            damaged.add_note(traceback.format_exc())
        # The other reads that were under way go here, not in the midst of what is said later.
        gc.collect()
    raise damaged


def placed(abstract: Any, shardings: Any) -> Any:
    """`abstract` with a sharding on each array: what restoring needs to know."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def on_first_device(abstract: Any) -> Any:
    """`abstract` to be restored onto one device, as sampling on one machine wants it."""
    # Each host has its own.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return placed(abstract, jax.tree.map(lambda _: here, abstract))


def _absolute(path: epath.Path) -> epath.Path:
    """Orbax wants absolute paths; those of a bucket are already."""
    return path if "://" in str(path) else path.absolute()
