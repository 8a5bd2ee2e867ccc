"""TPU devices without TPUs: libtpu's compiler takes a topology for the real thing."""

import importlib.util
import itertools
import math
import os

import jax
from jax.experimental import topologies

from babeldraw.errors import UserError
from babeldraw.estimate.chips import CHIPS
from babeldraw.estimate.collective_costs import Wires


def topology_devices(name: str, slices: int = 1) -> list[jax.Device]:
    """Devices to compile for, of a topology such as `v4:2x2x1` (four chips) or `v5e:1x1` (one).

    Args:
      name: generation, colon, chips along each axis of the torus.
      slices: number of such slices.

    Raises:
      UserError: libtpu is not installed, or knows no such topology.
    """
    generation, _, shape = name.partition(":")
    if generation not in CHIPS or not shape:
        raise UserError(
            f"the topology is {name!r}; a generation ({', '.join(CHIPS)}), a colon and the chips "
            "along each axis are needed, such as v4:2x2x1"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu: pip install 'babeldraw[tpu]' (Linux, x86_64)"
        )
    # Read when libtpu is loaded; without them it looks for this machine's TPU and its metadata.
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v4-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(variable, value)
    try:
        topology = topologies.get_topology_desc(
            platform="tpu",
            topology_name=name,
            chip_config_name=CHIPS[generation].config,
            chips_per_host_bounds=(1, 1, 1) if _chips(shape) == 1 else (2, 2, 1),
            num_slices=slices,
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"libtpu knows no topology {name}; near are {', '.join(_near(generation, shape))} "
            f"({reason[:120]})"
        ) from error
    return list(topology.devices)


def wires(generation: str, devices: list[jax.Device]) -> Wires:
    """The links between these devices, in this order.

    A dimension is a ring where whole cubes of 4 x 4 x 4 lie along it (v4, v5p), or where it has all
    16 chips of a pod (v5e, v6e).
    """
    chip = CHIPS[generation]
    places = tuple(
        (getattr(device, "slice_index", 0) or 0, *tuple(device.coords)[: chip.dims])
        for device in devices
    )
    sizes = [1 + max(place[dim + 1] for place in places) for dim in range(chip.dims)]
    rings = tuple(size % 4 == 0 if chip.dims == 3 else size == 16 for size in sizes)
    return Wires(chip, places, rings)


def topologies_near(generation: str, chips: int, count: int = 3) -> list[str]:
    """Names of the topologies of a generation whose number of chips is nearest."""
    if CHIPS[generation].dims == 2:
        shapes = [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
    else:
        cubes = itertools.combinations_with_replacement((4, 8, 12, 16), 3)
        shapes = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), *cubes]
    # Of equally many chips the roundest.
    ranked = sorted(shapes, key=lambda s: (abs(math.log(math.prod(s) / max(chips, 1))), max(s)))
    return [f"{generation}:{'x'.join(map(str, shape))}" for shape in ranked[:count]]


def _near(generation: str, shape: str) -> list[str]:
    return topologies_near(generation, _chips(shape))


def _chips(shape: str) -> int:
    return math.prod(int(part) for part in shape.split("x") if part.isdigit())
