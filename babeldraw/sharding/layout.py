"""The layout that is in force while a program is traced: mesh, rules, pipeline."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

from jax.sharding import AbstractMesh, Mesh

from babeldraw.config import require
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.sharding.rules import Preset, preset


@dataclasses.dataclass(frozen=True)
class Layout:
    """Attributes:
    mesh: axes `data`, `stage`, `model`.
    preset: how a step uses and stores arrays.
    microbatches: of each data group's batch, in a pipelined stack; a multiple of the stages.
    manual: mesh axes that the code being traced handles by itself (inside `shard_map`).
    """

    mesh: Mesh | AbstractMesh
    preset: Preset
    microbatches: int = 0
    manual: frozenset[str] = frozenset()

    @property
    def pipelined(self) -> bool:
        return self.preset.pipelined and self.mesh.shape["stage"] > 1 and not self.manual


_LAYOUT: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


def make_layout(config: MeshConfig, mesh: Mesh) -> Layout:
    """The layout that a config describes, on a mesh.

    Raises:
      UserError: the sizes do not fit the rules.
    """
    chosen = preset(config.rules, config.zero1)
    stages, path = mesh.shape["stage"], "config.mesh"
    require(
        mesh.shape["model"] == 1 or chosen.used["heads"] is not None,
        f"{path}.model is {config.model} and {path}.rules={config.rules} splits nothing over "
        "`model`; set model to 1 or take in_layer, fsdp or pipeline",
    )
    require(
        chosen.pipelined or not config.microbatches,
        f"{path}.microbatches is {config.microbatches} and {path}.rules={config.rules} is no "
        "pipeline; set it to 0 or take rules=pipeline",
    )
    microbatches = config.microbatches or stages
    require(
        not chosen.pipelined or microbatches % stages == 0,
        f"{path}.microbatches is {microbatches}, which is no multiple of {path}.stage={stages}",
    )
    return Layout(mesh, chosen, microbatches if chosen.pipelined else 0)


@contextlib.contextmanager
def use(layout: Layout | None) -> Iterator[None]:
    """While tracing in this context, stacks and `constrain` follow `layout`."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def current() -> Layout | None:
    """The layout in force, or None."""
    return _LAYOUT.get()
