"""The device mesh: axes `data`, `stage`, `model`."""

import dataclasses

import jax
from jax.experimental import mesh_utils

from babeldraw.config import require

AXES = ("data", "stage", "model")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; `data` of -1 takes all that are left.

    Attributes:
      data: data parallelism.
      stage: pipeline stages.
      model: in-layer model parallelism.
      rules: name of the table in `babeldraw.sharding.rules`.
    """

    data: int = -1
    stage: int = 1
    model: int = 1
    rules: str = "data_parallel"


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh over all devices, or over the given ones.

    `data` is the slowest axis, so that `model`, which talks most, lies on the fastest links.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    inner = config.stage * config.model
    require(
        config.stage >= 1 and config.model >= 1 and (config.data >= 1 or config.data == -1),
        f"config.mesh has data={config.data}, stage={config.stage}, model={config.model}; sizes of "
        "at least 1 are needed (data may be -1: all that are left)",
    )
    data = len(devices) // inner if config.data == -1 else config.data
    require(
        data * inner == len(devices),
        f"config.mesh needs data {config.data} x stage {config.stage} x model {config.model} "
        f"devices but there are {len(devices)}; choose sizes whose product is {len(devices)}",
    )
    shape = (data, config.stage, config.model)
    # The default axis type, Explicit, turns sharding constraints into failing assertions.
    return jax.sharding.Mesh(
        mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True),
        AXES,
        axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
    )
