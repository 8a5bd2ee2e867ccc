"""TPU devices without TPUs: libtpu's compiler takes a topology for the real thing."""

import os

import jax
from jax.experimental import topologies

from babeldraw.errors import UserError

# Name of a chip's two cores seen as one device, and chips on a host.
_CHIPS = {
    "v4": ("megacore", (2, 2, 1)),
    "v5p": ("megacore", (2, 2, 1)),
    "v5e": ("default", (2, 2, 1)),
    "v6e": ("default", (2, 2, 1)),
}
# What the compiler lets a program use of each chip, GiB, as it says when a program is too large.
HBM_GIB = {"v4": 30.75, "v5p": 95.73, "v5e": 15.75, "v6e": 31.25}


def topology_devices(name: str, slices: int = 1) -> list[jax.Device]:
    """Devices to compile for, of a topology such as `v4:2x2x1` (four chips) or `v5e:4x4`.

    Args:
      name: generation, colon, chips along each axis of the torus.
      slices: number of such slices.

    Raises:
      UserError: libtpu is not installed, or knows no such topology.
    """
    generation, _, shape = name.partition(":")
    if generation not in _CHIPS or not shape:
        raise UserError(
            f"the topology is {name!r}; a generation ({', '.join(_CHIPS)}), a colon and the chips "
            "along each axis are needed, such as v4:2x2x1"
        )
    # Read when libtpu is loaded; without them it looks for this machine's TPU and its metadata.
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v4-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(variable, value)
    config, host = _CHIPS[generation]
    dims = shape.count("x") + 1
    try:
        topology = topologies.get_topology_desc(
            platform="tpu",
            topology_name=name,
            chip_config_name=config,
            chips_per_host_bounds=host[:dims],
            num_slices=slices,
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        if "libtpu" in reason.lower() and "not" in reason.lower():
            raise UserError(
                "compiling for a TPU needs libtpu: pip install 'babeldraw[tpu]' (Linux, x86_64)"
            ) from error
        raise UserError(f"libtpu knows no topology {name}: {reason[:200]}") from error
    return list(topology.devices)
