"""The layout that is in force while a program is traced: mesh, rules, pipeline."""

import contextlib
import contextvars
import dataclasses
import re
from collections.abc import Iterator

import jax
from jax.sharding import AbstractMesh, Mesh

from babeldraw.config import require
from babeldraw.errors import UserError
from babeldraw.sharding.mesh import AXES, MeshConfig, abstract_mesh
from babeldraw.sharding.rules import (
    ACTIVATIONS,
    ALL_DATA,
    Preset,
    entry_axes,
    partition_spec,
    preset,
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Attributes:
    mesh: axes `data`, `stage`, `model`.
    preset: how a step uses and stores arrays.
    microbatches: of each data group's batch, in a pipelined stack; a multiple of the stages.
    manual: mesh axes that the code being traced handles by itself (inside `shard_map`).
    platform: of an abstract mesh's devices, cpu, gpu or tpu; empty: this machine's.
    """

    mesh: Mesh | AbstractMesh
    preset: Preset
    microbatches: int = 0
    manual: frozenset[str] = frozenset()
    platform: str = ""

    @property
    def pipelined(self) -> bool:
        return self.preset.pipelined and self.mesh.shape["stage"] > 1 and not self.manual

    @property
    def copies(self) -> frozenset[str]:
        """Mesh axes of the batch along which each device reads the same weights.

        None where weights are gathered layer by layer, and gradients scattered with them, nor in a
        pipeline, whose stacks sum gradients by themselves.
        """
        preset = self.preset
        if self.manual or preset.pipelined or preset.gather_per_layer:
            return frozenset()
        batch, weights = entry_axes(preset.used["batch"]), entry_axes(preset.used["embed"])
        axes = frozenset(batch) - frozenset(weights)
        return axes if any(self.mesh.shape[axis] > 1 for axis in axes) else frozenset()

    def without_pipeline(self) -> "Layout":
        """The same places with plain stacks, each layer gathered where it is used.

        For evaluation and sampling, whose batches are no multiple of the microbatches.
        """
        preset = dataclasses.replace(self.preset, pipelined=False, gather_per_layer=True)
        return dataclasses.replace(self, preset=preset, microbatches=0) if self.pipelined else self


_LAYOUT: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


def make_layout(config: MeshConfig, mesh: Mesh) -> Layout:
    """The layout that a config describes, on a mesh."""
    chosen = check_mesh(config)
    microbatches = config.microbatches or mesh.shape["stage"]
    return Layout(mesh, chosen, microbatches if chosen.pipelined else 0)


def on_one_device(platform: str) -> Layout:
    """Of one device with its own share of a batch, by itself; it need not exist."""
    mesh = abstract_mesh(MeshConfig(), 1)
    return Layout(mesh, preset("data_parallel"), manual=frozenset(AXES), platform=platform)


def check_mesh(config: MeshConfig) -> Preset:
    """The rules of a config, once its sizes fit them.

    Raises:
      UserError: they do not.
    """
    chosen, path = preset(config.rules, config.zero1), "config.mesh"
    require(
        config.model == 1 or chosen.used["heads"] is not None,
        f"{path}.model is {config.model} and {path}.rules={config.rules} splits nothing over "
        "`model`; set model to 1 or take in_layer, in_layer_serving, fsdp or pipeline",
    )
    require(
        config.rules != "fsdp_hybrid" or config.stage > 1,
        f"{path}.stage is {config.stage} and {path}.rules=fsdp_hybrid splits weights over `stage` "
        "alone; set stage to 2 or more, or take rules=fsdp",
    )
    require(
        chosen.pipelined or not config.microbatches,
        f"{path}.microbatches is {config.microbatches} and {path}.rules={config.rules} is no "
        "pipeline; set it to 0 or take rules=pipeline",
    )
    require(
        config.microbatches % config.stage == 0,
        f"{path}.microbatches is {config.microbatches}, which {path}.stage={config.stage} does not "
        f"divide; choose a multiple of {config.stage}",
    )
    for pattern, names in config.overrides:
        _check_override(f"{path}.overrides for {pattern!r}", pattern, names, chosen)
    return chosen


def _check_override(where: str, pattern: str, names: tuple, chosen: Preset) -> None:
    """What can be said of an override before there are parameters; the rest says `override`."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{where}: that is no regular expression: {error}") from error
    known = [name for name in chosen.used if name not in ACTIVATIONS]
    unknown = [name for name in names if name is not None and name not in known]
    require(
        not unknown,
        f"{where} has the name {', '.join(unknown)}; the logical axes of parameters are "
        f"{', '.join(known)}, or None",
    )
    for rules in (chosen.used, chosen.stored):
        try:
            partition_spec(names, rules)
        except UserError as error:
            raise UserError(f"{where}: {error}; put None in place of one") from error


@contextlib.contextmanager
def use(layout: Layout | None) -> Iterator[None]:
    """While tracing in this context, stacks and `constrain` follow `layout`."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def over_all_devices() -> Layout | None:
    """The layout in force with the batch over every device and all weights whole."""
    layout = current()
    if layout is None:
        return None
    return dataclasses.replace(layout, preset=Preset(ALL_DATA, ALL_DATA), microbatches=0)


def current() -> Layout | None:
    """The layout in force, or None."""
    return _LAYOUT.get()


def platform() -> str:
    """Of the devices that a program is traced for: cpu, gpu or tpu."""
    layout = current()
    if layout is not None and layout.platform:
        return layout.platform
    if layout is not None and isinstance(layout.mesh, Mesh):
        return layout.mesh.devices.flat[0].platform
    return jax.default_backend()


def on_one_cpu() -> bool:
    """Whether a program is traced for a single CPU device, whose compiler wants other forms."""
    layout = current()
    return platform() == "cpu" and (layout is None or layout.mesh.size == 1)
