"""Where the time of a step goes, and how much of all time was progress."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import jax

from babeldraw.estimate.chips import CHIPS
from babeldraw.sharding.memory import peak_bytes
from babeldraw.train.base_experiment import Experiment

# What jax calls a device, and our name of its generation.
KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
# Of a step: waiting for data, the host's own work, waiting for the devices.
PARTS = ("data", "host", "device")


def ideal_seconds(experiment: Experiment, kind: str, devices: int) -> float | None:
    """A step's time if the devices did nothing but the model's operations, at their peak.

    Args:
      experiment: whose step it is.
      kind: of the devices, as `jax.Device.device_kind`.
      devices: their number.

    Returns:
      None for a device whose peak is not known, or a recipe without a formula.
    """
    needed = experiment.flops() if kind in KINDS else None
    if needed is None:
        return None
    batch = needed.per_example * experiment.train.batch_size
    return batch / devices / CHIPS[KINDS[kind]].peak


class Clock:
    """Adds up the parts of each step.

    Args:
      ideal: seconds of a step at the devices' peak, of `ideal_seconds`.
      saved: of `to_json` in the checkpoint that the run goes on from; None at its start.

    Attributes:
      spent: seconds of this process by part, all steps together.
    """

    def __init__(self, saved: Mapping[str, float] | None, ideal: float | None = None):
        self._ideal = ideal
        # Wall time from the first start on, the time in which nothing ran included.
        self._started = saved["started"] if saved else time.time()
        self._productive = saved["productive"] if saved else 0.0
        self._parts = dict.fromkeys(PARTS, 0.0)
        self.spent = dict.fromkeys(PARTS, 0.0)
        self._steps = 0
        self._compiling = True

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time inside belongs to this part of the step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self._parts[name] += took
            self.spent[name] += took

    def step_done(self) -> None:
        """The first step of a process is compilation for the most part, and no progress."""
        if self._compiling:
            self._compiling = False
            self._parts = dict.fromkeys(PARTS, 0.0)
            return
        self._steps += 1

    def figures(self) -> dict[str, float]:
        """Since the last call: seconds per step, the share of each part; goodput; device memory.

        `mfu` is the model's operations over what the devices' peak would do in that time.

        `goodput` is the time in steps that still count, over all time since the run was first
        started: what is lost to compiling, evaluating, repeating and standing still is missing.
        """
        self._bank()
        total, steps = sum(self._last.values()), self._last_steps
        found = {"goodput": self._productive / max(time.time() - self._started, 1e-9)}
        if steps:
            found["step_seconds"] = total / steps
            if self._ideal is not None:
                found["mfu"] = self._ideal * steps / total
            found |= {f"{name}_share": seconds / total for name, seconds in self._last.items()}
        memory = jax.local_devices()[0].memory_stats() or {}
        for name in ("bytes_in_use", "bytes_limit"):
            if name in memory:
                found[f"memory_gib/{name}"] = memory[name] / 2**30
        peak, whose = peak_bytes()
        found[f"memory_gib/peak_of_{whose}"] = peak / 2**30
        return found

    def to_json(self) -> dict[str, float]:
        """For the checkpoint: steps after it, which a kill would lose, are not in it."""
        running = sum(self._parts.values()) if self._steps else 0.0
        return {"started": self._started, "productive": self._productive + running}

    def _bank(self) -> None:
        self._last, self._last_steps = self._parts, self._steps
        self._productive += sum(self._parts.values()) if self._steps else 0.0
        self._parts, self._steps = dict.fromkeys(PARTS, 0.0), 0
