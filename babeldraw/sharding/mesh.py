"""The device mesh: axes `data`, `stage`, `model`."""

import dataclasses

import jax
import numpy as np
from jax.experimental import mesh_utils

from babeldraw.config import require

AXES = ("data", "stage", "model")
# The default axis type, Explicit, turns sharding constraints into failing assertions.
_AUTO = (jax.sharding.AxisType.Auto,) * len(AXES)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; `data` of -1 takes all that are left.

    Attributes:
      data: data parallelism; several slices lie along it.
      stage: pipeline stages, or more data parallelism where `rules` is no pipeline.
      model: in-layer model parallelism.
      rules: name of the layout in `babeldraw.sharding.rules`.
      zero1: master weights and optimizer state are split over `data` too, and gathered once a step.
      microbatches: of a pipelined stack, a multiple of `stage`; 0: `stage`.
      overrides: pairs of a regular expression over parameter names and the logical axes of those
        that it finds, in place of their own; their optimizer state follows.
    """

    data: int = -1
    stage: int = 1
    model: int = 1
    rules: str = "data_parallel"
    zero1: bool = False
    microbatches: int = 0
    overrides: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    def __post_init__(self):
        require(
            self.stage >= 1 and self.model >= 1 and (self.data >= 1 or self.data == -1),
            f"config.mesh has data={self.data}, stage={self.stage}, model={self.model}; sizes of "
            "at least 1 are needed (data may be -1: all that are left)",
        )
        require(
            self.microbatches >= 0,
            f"config.mesh.microbatches is {self.microbatches}; 0 (as many as stages) or a multiple "
            "of config.mesh.stage is needed",
        )


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh over all devices, or over the given ones.

    `data` is the slowest axis, so that `model`, which talks most, lies on the fastest links: on a
    TPU slice each axis is a ring of the torus where the sizes allow it.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    return jax.sharding.Mesh(
        _ordered(shape, devices),
        AXES,
        axis_types=_AUTO,
    )


def first_devices(config: MeshConfig) -> list[jax.Device]:
    """The first devices, as many as a mesh of fixed sizes needs; all where there are fewer."""
    count = config.data * config.stage * config.model
    return jax.devices()[:count] if count > 0 else jax.devices()


def abstract_mesh(config: MeshConfig, count: int) -> jax.sharding.AbstractMesh:
    """The mesh over `count` devices that need not exist; raises what `make_mesh` raises."""
    return jax.sharding.AbstractMesh(mesh_shape(config, count), AXES, axis_types=_AUTO)


def mesh_shape(config: MeshConfig, count: int) -> tuple[int, int, int]:
    """Devices along `data`, `stage` and `model`, of `count` in all.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    inner = config.stage * config.model
    # At least one, so that a mesh larger than the devices is told by its size.
    data = max(count // inner, 1) if config.data == -1 else config.data
    require(
        data * inner == count,
        f"config.mesh needs data {data} x stage {config.stage} x model {config.model} = "
        f"{data * inner} devices but there are {count}; choose sizes whose product is {count}",
    )
    return data, config.stage, config.model


def _ordered(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
    """Devices in the shape of the mesh, slices of a multi-slice system along `data`."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    require(
        shape[0] % len(slices) == 0,
        f"config.mesh.data is {shape[0]}, which the {len(slices)} slices do not divide; stages and "
        "in-layer parallelism stay within a slice",
    )
    return mesh_utils.create_hybrid_device_mesh(
        (shape[0] // len(slices), *shape[1:]),
        (len(slices), 1, 1),
        devices,
        allow_split_physical_axes=True,
    )
