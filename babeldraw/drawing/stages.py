"""What comes between a tokenizer's pictures and those that people see, one after another."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from babeldraw.config import build, require
from babeldraw.errors import UserError
from babeldraw.models.super_resolution import SuperResolutionConfig, Upscaler
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import open_part
from babeldraw.tokenizers.base import MAKES_CODES, identity
from babeldraw.tokenizers.kinds import read_tokenizer


class Stage(Protocol):
    """A trained network that takes images to images. What takes codes to codes is in `cascade`.

    Attributes:
      tokenizer: identity of the tokenizer whose pictures it was trained on.
    """

    tokenizer: str

    def apply(self, x: Any) -> Any:
        """float32 [B, h, w, 3] in [0, 1] to others."""
        ...


@dataclasses.dataclass(frozen=True)
class SuperResolutionRun:
    """Pixels to pixels.

    Attributes:
      upscaler: the network.
      params: of the newest checkpoint.
      tokenizer: identity of the tokenizer whose pictures it was trained on.
    """

    upscaler: Upscaler
    params: Any
    tokenizer: str

    @classmethod
    def open(cls, workdir: str) -> "SuperResolutionRun":
        """Reads a run folder. Raises `UserError` when it is none of super-resolution."""

        def make(config: Mapping[str, Any]) -> Upscaler:
            section = config["super_resolution"]
            return Upscaler(build(SuperResolutionConfig, section, "config.super_resolution"))

        def frozen(config: Mapping[str, Any]) -> dict[str, Any]:
            # Of the tokenizer, what its identity hangs on.
            tokenizer = read_tokenizer(config)
            whole = nn.unbox(jax.eval_shape(tokenizer.init, jax.random.key(0)))
            return {"tokenizer": tokenizer.part(whole, MAKES_CODES)}

        opened = open_part(workdir, ("super_resolution",), make, frozen=frozen)
        made_by = identity(read_tokenizer(opened.config), opened.frozen["tokenizer"])
        return cls(opened.part, opened.params, made_by)

    def apply(self, x: jax.Array | np.ndarray) -> jax.Array:
        """float32 [B, h, w, 3] in [0, 1] -> [B, factor h, factor w, 3], one after the other."""
        return self._upscale(self.params, x)

    @functools.cached_property
    def _upscale(self):
        return jax.jit(self.upscaler.upscale_one_by_one)


# What opens a stage, by the objective of its run.
STAGES: dict[str, Callable[[str], Stage]] = {"super_resolution": SuperResolutionRun.open}
# Of runs that take codes to codes.
OF_CODES = "generator"


def by_kind(workdirs: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of run folders those that work on codes, and those that work on the pictures of these.

    Raises:
      UserError: a run of another kind, or one of codes behind one of pictures.
    """
    found: dict[bool, list[str]] = {True: [], False: []}
    for workdir in workdirs:
        objective = _objective(workdir)
        if objective not in (*STAGES, OF_CODES):
            raise UserError(
                f"{workdir} is a run of {objective}; name one of {' or '.join(STAGES)}, or of "
                f"{OF_CODES} that makes larger by codes"
            )
        require(
            objective != OF_CODES or not found[False],
            f"{workdir} works on codes and {' and '.join(found[False])} before it on pictures; "
            "name it first",
        )
        found[objective == OF_CODES].append(workdir)
    return tuple(found[True]), tuple(found[False])


def _objective(workdir: str) -> str:
    return RunFolder.to_read(workdir).read_config()["objective"]


def open_stages(workdirs: Sequence[str], tokenizer: str) -> tuple[Stage, ...]:
    """The stages of run folders, in their order.

    Args:
      workdirs: the folders, as `by_kind` gives them.
      tokenizer: identity of the one whose codes are drawn.

    Raises:
      UserError: a run that was trained on another tokenizer.
    """
    found: list[Stage] = []
    for workdir in workdirs:
        stage = STAGES[_objective(workdir)](workdir)
        require(
            stage.tokenizer == tokenizer,
            f"{workdir} was trained on pictures of the tokenizer {stage.tokenizer} and the "
            f"generator draws with {tokenizer}; name one of the same",
        )
        found.append(stage)
    return tuple(found)
