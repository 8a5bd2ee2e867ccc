"""What this machine does and has at most: the rate of a matmul, and memory."""

import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from babeldraw.commands.bench_decode import quickest

# Rows of the square matrices on each device: so large that a product runs at the full rate. The
# simulated devices of one CPU share its cores.
SIDE, SIDE_CPU, SIDE_SIMULATED = 8192, 2048, 512
# Products in one program, so that starting it does not count; a CPU takes long for one.
CHAIN = 8
# Where Linux says what this process may still take: of the machine, and of its container.
MEMINFO = Path("/proc/meminfo")
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def matmul(mesh: Mesh, dtype: str) -> Callable[[], float]:
    """A function that measures: operations per second of all devices at once, in one large matmul.

    Args:
      mesh: whose devices.
      dtype: of the matrices, such as float32; products are at jax's default precision, as a
        model's are.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    side = (SIDE_CPU if mesh.size == 1 else SIDE_SIMULATED) if on_cpu else SIDE
    chain = 1 if on_cpu else CHAIN
    split = jax.P(mesh.axis_names)
    place = NamedSharding(mesh, split)

    def draw():
        # Random: of equal numbers a chip draws less power and runs faster. Scaled, so that products
        # keep their size.
        matrix = jax.random.normal(jax.random.key(0), (mesh.size * side, side), jnp.float32)
        return (matrix / math.sqrt(side)).astype(dtype)

    @jax.shard_map(mesh=mesh, in_specs=(split, split), out_specs=split)
    def product(a, b):
        return jax.lax.fori_loop(0, chain, lambda _, x: x @ b, a) if chain > 1 else a @ b

    a, program = jax.jit(draw, out_shardings=place)(), jax.jit(product)
    operations = 2 * side**3 * chain * mesh.size
    return lambda: operations / quickest(program, a, a)


def free_bytes(device: jax.Device) -> int | None:
    """What a program may still take on a device; on a CPU, of the machine. None: not known."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if device.platform != "cpu" or not MEMINFO.exists():
        return None
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    found = [1024 * int(fields["MemAvailable"].split()[0])]
    for limit, used in CGROUPS:
        if Path(limit).exists() and Path(limit).read_text().strip() != "max":
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return min(found)
