"""How much memory has been used on the devices that are here."""

import resource
import sys

import jax


def peak_bytes() -> tuple[int, str]:
    """The most used so far, and whose: of one 'device', or where devices do not tell, 'process'."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("peak_bytes_in_use" in one for one in stats):
        return max(one["peak_bytes_in_use"] for one in stats), "device"
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "process"
