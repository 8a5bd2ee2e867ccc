"""The one door to what is trained: networks and weights, out of any run folder and into one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import Checkpoints, on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder, weights_in


@dataclasses.dataclass(frozen=True)
class Opened:
    """Attributes:
    folder: of the run.
    config: as config.json holds it.
    part: what was asked for, such as a network.
    params: its weights, of the newest whole checkpoint.
    frozen: the frozen networks' that were asked for.
    step: the checkpoint's.
    weights: `ema` or `params`: which they are.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    part: Any
    params: Any
    frozen: Any
    step: int
    weights: str


def write_run(
    workdir: str,
    config: Mapping[str, Any],
    params: Any,
    *,
    frozen: Any = None,
    extra: Mapping[str, Any] | None = None,
    source: str = "",
    vocabulary: bytes | None = None,
    classes: tuple[str, ...] = (),
    step: int = 0,
) -> RunFolder:
    """Makes a run folder of weights from elsewhere, without an optimizer.

    Whatever opens a part of a run, evaluates it or begins from it reads it like any other; it
    cannot be trained on in place.

    Args:
      workdir: the folder, which must not be there, or be empty.
      config: whole, as config.json holds it.
      params: of the network, a tree of dicts.
      frozen: of the networks that it builds on, by name.
      extra: other arrays of the state, as an objective names them.
      source: where the weights are from, for people.
      vocabulary: content of `text.model`, of a run that reads texts.
      classes: names of the classes.
      step: updates that were done.

    Raises:
      UserError: the folder holds something.
    """
    folder = RunFolder.of(workdir)
    if folder.path.exists() and any(folder.path.iterdir()):
        raise UserError(f"{workdir} is not empty; name another folder")
    # An average of weights that came alone is the weights.
    plain = {**config, "train": {**config["train"], "ema": None}}
    state = {"params": params, "frozen": frozen or {}, "extra": dict(extra or {})}
    checkpoints = Checkpoints(folder.checkpoints, keep=1)
    checkpoints.save_surely(step, state, {"source": source})
    checkpoints.close()
    if vocabulary is not None:
        folder.vocabulary_file.write_bytes(vocabulary)
    folder.write_classes(classes)
    folder.write_config(plain)
    return folder


def check_kind(workdir: str, config: Mapping[str, Any], objectives: tuple[str, ...]) -> None:
    """Raises `UserError` where a run, whose config this is, has another objective than these."""
    if config["objective"] not in objectives:
        raise UserError(
            f"{workdir} is a run of {config['objective']}; name one of {' or '.join(objectives)}"
        )


def open_part(
    workdir: str,
    objectives: tuple[str, ...],
    make: Callable[[Mapping[str, Any]], Any],
    *,
    frozen: Callable[[Mapping[str, Any]], Any] | None = None,
    weights: str = "",
    place: Callable[[Any], Any] | None = None,
) -> Opened:
    """Reads a run's config and the weights of one of its networks.

    Args:
      workdir: the run folder; `PATH@STEP` for another checkpoint than the newest.
      objectives: those whose runs have this part.
      make: the part, with `init(key)`, of a run's config.
      frozen: shapes of what is read of the frozen networks, of a run's config; None: nothing.
      weights: `ema`, the average of the weights, or `params`, as they are; empty: the average where
        the run keeps one.
      place: parameters as `init` gives them, abstract, to their shapes and places; None: one
        device.

    Raises:
      UserError: no such folder, a run of another kind, no checkpoint yet, or no such weights.
    """
    folder = RunFolder.to_read(workdir)
    config = folder.read_config()
    check_kind(workdir, config, objectives)
    part = make(config)
    boxed = jax.eval_shape(part.init, jax.random.key(0))
    held = weights_in(config, weights)
    abstract = {held: on_first_device(nn.unbox(boxed)) if place is None else place(boxed)}
    wanted = None if frozen is None else frozen(config)
    # Of an empty tree Orbax refuses what the checkpoint has there.
    if wanted:
        abstract["frozen"] = on_first_device(wanted)
    step, state = restore_subset(folder.checkpoints, abstract, folder.step)
    found = state["frozen"] if wanted else wanted
    return Opened(folder, config, part, state[held], found, step, held)
