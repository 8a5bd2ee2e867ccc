"""A profile of a few steps, whenever somebody asks for one."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import jax

from babeldraw.runs.folder import RunFolder

STEPS = 10


class Profiler:
    """Traces the next steps after SIGUSR1, or after a file `profile` appears in the run folder.

    Every host that sees either writes to `profiles/STEP/`, for TensorBoard's profile page or
    ui.perfetto.dev.
    """

    def __init__(self, folder: RunFolder, index: int, tell: Callable[[str], None]):
        self._folder, self._index, self._tell = folder, index, tell
        self._asked = threading.Event()
        self._until: int | None = None
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGUSR1, lambda *_: self._asked.set())

    def look(self) -> None:
        """For the file, which is one question to the storage: not at every step."""
        if self._folder.profile_request.exists():
            self._asked.set()

    def step_done(self, step: int, metrics: Any) -> None:
        """Begins or ends a trace after a step, whose metrics tell when the devices are done."""
        if self._until is None and self._asked.is_set():
            jax.block_until_ready(metrics)
            self._target = self._folder.profiles / f"{step:07d}"
            jax.profiler.start_trace(str(self._target))
            self._until = step + STEPS
        elif self._until is not None and step >= self._until:
            jax.block_until_ready(metrics)
            self._stop()
            self._tell(f"profile of {STEPS} steps in {self._target}")

    def close(self) -> None:
        """Ends a trace that is under way, puts the old handler back."""
        if self._until is not None:
            self._stop()
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._until = None
        self._asked.clear()
        if self._index == 0:
            self._folder.profile_request.unlink(missing_ok=True)
