"""Whether a checkpoint is that of a state, and what is read of it what was written."""

import re
from collections.abc import Container
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from babeldraw.errors import UserError
from babeldraw.runs.writing import Damaged, digests_by_name, unpacked

# What older runs hold and nothing reads any more: shares of codes, of quantizers that move none.
RETIRED = {("extra", "code_share")}


def stored_digests(path: epath.Path) -> dict[tuple[str, ...], int]:
    """The digest of each array of a checkpoint, by its place. Raises `FileNotFoundError`."""
    if not (path / "digests").exists():
        raise FileNotFoundError("its digests are missing")
    stored = ocp.load_checkpointables(path, {"digests": None})["digests"]
    return {_plain(name): int(number) for name, number in unpacked(stored).items()}


def check_digests(path: epath.Path, state: Any, wanted: dict[tuple[str, ...], int]) -> None:
    """Raises `Damaged`: an array that was read has another digest than the one stored."""
    for name, number in digests_by_name(state).items():
        if wanted.get(_plain(name)) != number:
            raise Damaged(path, f"{name} does not come back as it was written")


def _plain(name: str) -> tuple[str, ...]:
    """A place as `jax.tree_util.keystr` writes it, alike for dataclasses, dicts and tuples."""
    parts = re.findall(r"\.(\w+)|\['([^']*)'\]|\[(\d+)\]", name)
    return tuple(next(filter(None, part)) for part in parts)


def check_shapes(
    path: epath.Path, abstract_state: Any, digests: Container[tuple[str, ...]], whole: bool = True
) -> None:
    """Refuses a checkpoint of other names or shapes before any array of it is read.

    Args:
      path: of the checkpoint.
      abstract_state: a tree of shapes.
      digests: places of the arrays that were there once, whose absence is damage.
      whole: False: it may hold more.

    Raises:
      UserError: it is not that of the state; or `Damaged`.
    """
    stored = ocp.checkpointables_metadata(path).metadata["state"]
    shapes = {
        names_at(where): leaf.shape
        for where, leaf in jax.tree_util.tree_leaves_with_path(stored)
        if hasattr(leaf, "shape")
    }
    leaves = jax.tree_util.tree_leaves_with_path(abstract_state)
    for where, leaf in leaves:
        name, shape = "/".join(names_at(where)), shapes.get(names_at(where))
        if shape is None and names_at(where) in digests:
            raise Damaged(path, f"{name} is lost")
        if shape is None and name == "step":
            # `write_run` makes such.
            raise UserError(
                f"{path} holds weights that came from elsewhere, without an optimizer; they are "
                "not trained on in place: name another workdir, and this one in config.starts"
            )
        if shape is None:
            raise _mismatch(path, f"it holds no {name}")
        if tuple(shape) != tuple(leaf.shape):
            raise _mismatch(path, f"{name} is {tuple(shape)} there and {tuple(leaf.shape)} here")
    left = shapes.keys() - {names_at(where) for where, _ in leaves} - RETIRED
    if whole and left:
        raise _mismatch(path, f"it also holds {'/'.join(min(left))}")


def names_at(path: tuple) -> tuple[str, ...]:
    """A place in a tree by names alone: Orbax gives tuples and dataclasses back as dicts."""
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _mismatch(path: epath.Path, error: Exception | str) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path} does not fit this config (was the model changed?): {reason}")
