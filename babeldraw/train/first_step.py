"""Where the first step's program came from: one line, once it is ready."""

from collections.abc import Callable

from babeldraw.runs.compiled import Programs
from babeldraw.train.clock import Clock


class FirstStep:
    """Tells once in a process; made just before its first step.

    Args:
      tell: takes the line.
    """

    def __init__(self, tell: Callable[[str], None]):
        self._tell, self._programs = tell, Programs()

    def done(self, clock: Clock) -> None:
        """After each step; only the first one is told."""
        if self._programs is None:
            return
        programs = self._programs
        self.close()
        # Its part `host` is Python's tracing and the compiler: the step itself is waited for later.
        self._tell(told(programs, clock.spent["host"]))

    def close(self) -> None:
        """Counts no more; may be called again."""
        if self._programs is not None:
            self._programs.close()
        self._programs = None


def told(programs: Programs, seconds: float) -> str:
    """The line, of what was made ready in so many seconds."""
    took = f"the first step was ready after {seconds:.1f} s"
    if not programs.found:
        kept = ", kept in the compilation cache for the next start" if programs.kept else ""
        return f"{took}, compiled{kept}"
    whole = programs.found == programs.asked
    which = "" if whole else f", {programs.found} of {programs.asked} programs"
    return f"{took}, from the compilation cache{which}: {programs.saved:.1f} s of compiling saved"
