"""The one door to what is trained: a network and its weights, out of any run folder."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import on_first_device, restore_subset
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
    """

    folder: RunFolder
    config: Mapping[str, Any]
    part: Any
    params: Any
    frozen: Any
    step: int


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
      workdir: the run folder.
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
    folder = RunFolder.of(workdir)
    config = folder.read_config()
    if config["objective"] not in objectives:
        raise UserError(
            f"{workdir} is a run of {config['objective']}; name one of {' or '.join(objectives)}"
        )
    part = make(config)
    boxed = jax.eval_shape(part.init, jax.random.key(0))
    held = weights_in(config, weights)
    abstract = {held: on_first_device(nn.unbox(boxed)) if place is None else place(boxed)}
    if frozen is not None:
        abstract["frozen"] = on_first_device(frozen(config))
    step, state = restore_subset(folder.checkpoints, abstract)
    return Opened(folder, config, part, state[held], state.get("frozen"), step)
