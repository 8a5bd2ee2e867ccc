"""One checkpoint on its way to the storage: written by Orbax, read back by a thread of ours."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from babeldraw.errors import UserError
from babeldraw.runs.digest import digest_on_host, digests

# Arrays that are read back together.
GROUP_BYTES = 1 << 30


class Damaged(UserError):
    """A checkpoint does not come back as it was written."""

    def __init__(self, path: epath.Path, reason: str):
        super().__init__(f"the checkpoint {path} is damaged: {reason}")


class Writing:
    """Begins to write a checkpoint; `wait` tells how it went.

    Attributes:
      step: of the checkpoint.
    """

    def __init__(self, checkpointer: ocp.training.Checkpointer, path: epath.Path, step: int):
        self.step = step
        self._checkpointer, self._path = checkpointer, path
        self._fault: str | None = None
        self._thread: threading.Thread | None = None

    def start(self, state: Any, progress: dict[str, Any]) -> None:
        """Copies `state` off the devices; the rest goes on in the background."""
        wanted = digests_by_name(state)
        # What reading back needs to know; the arrays are the next step's to overwrite.
        leaves, tree = jax.tree.flatten(state)
        shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
        parts = {"state": state, "progress": progress, "digests": packed(wanted)}
        try:
            response = self._checkpointer.save_checkpointables_async(self.step, parts, force=True)
        except Exception as error:
            self._fault = describe(error)
            return

        def finish() -> None:
            try:
                response.result()
                self._fault = self._read_back(shapes, tree, wanted)
            except Exception as error:
                self._fault = describe(error)

        self._thread = threading.Thread(target=finish, name=f"checkpoint {self.step}")
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether it is known to have failed, without waiting."""
        return self._fault is not None and (self._thread is None or not self._thread.is_alive())

    def wait(self) -> str | None:
        """What went wrong; None when it came back whole."""
        if self._thread is not None:
            self._thread.join()
        return self._fault

    def _read_back(self, shapes: list, tree: Any, wanted: dict[str, int]) -> str | None:
        """Each host reads its share of the arrays into its own memory."""
        mine = [i for i in range(len(shapes)) if i % jax.process_count() == jax.process_index()]
        for group in _groups(mine, shapes):
            # A placeholder is not read.
            asked = [np.empty(*s) if i in group else ... for i, s in enumerate(shapes)]
            with _alone():
                loaded = ocp.load_checkpointables(
                    self._path, {"state": jax.tree.unflatten(tree, asked)}
                )
            for (name, number), array in zip(
                wanted.items(), jax.tree.leaves(loaded["state"]), strict=True
            ):
                if array is not ... and digest_on_host(array) != number:
                    return f"{name} does not come back as it was written"
        return None


def digests_by_name(state: Any) -> dict[str, int]:
    """The digest of each array under its place in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    found = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    # A program takes arrays of the same devices alone, and a frozen part may lie on one of them.
    groups: dict[Any, list[str]] = {}
    for name, leaf in found.items():
        groups.setdefault(_devices(leaf), []).append(name)
    numbers: dict[str, int] = {}
    for names in groups.values():
        counted = jax.device_get(digests([found[name] for name in names]))
        numbers |= {name: int(number) for name, number in zip(names, counted, strict=True)}
    return {name: numbers[name] for name in found}


def _devices(leaf: Any) -> frozenset[jax.Device]:
    return frozenset(leaf.sharding.device_set if isinstance(leaf, jax.Array) else ())


def packed(digests: dict[str, int]) -> dict[str, np.ndarray]:
    """As one array of JSON: Orbax takes a millisecond or more for each value by itself."""
    return {"json": np.frombuffer(json.dumps(digests).encode(), np.uint8)}


def unpacked(stored: dict[str, Any]) -> dict[str, int]:
    """What `packed` was given; an earlier version stored the numbers one by one."""
    return json.loads(np.asarray(stored["json"]).tobytes()) if "json" in stored else stored


def describe(error: BaseException) -> str:
    """A fault in one line. A user's mistake is none: it is raised again."""
    if isinstance(error, UserError):
        raise error
    while error.__cause__ is not None:  # What Orbax wraps says more than the wrapping.
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _groups(indices: list[int], shapes: list) -> Iterator[set[int]]:
    group, size = set(), 0
    for index in indices:
        shape, dtype = shapes[index]
        size += int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        group.add(index)
        if size >= GROUP_BYTES:
            yield group
            group, size = set(), 0
    if group:
        yield group


def _alone() -> ocp.Context:
    """Reading by this host, without the others."""
    here, context = jax.process_index(), ocp.Context()
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = here
        context.multiprocessing.active_processes = {here}
        context.multiprocessing.barrier_sync_key_prefix = f"read_back_{here}"
    return context
