"""How long a run will take: one line, once its pace is known."""

from collections.abc import Callable

from babeldraw.train.base_experiment import Experiment
from babeldraw.train.clock import Clock

# Steps whose pace is told.
STEPS = 20


class Pace:
    """Tells once in a process; it reads the loop's clock and waits for nothing.

    Args:
      experiment: what is trained.
      start: steps that were done before.
      in_flight: steps that may be under way. The first one compiles, and while the next ones are
        begun nothing is waited for, so so many more pass before the pace is looked at.
      tell: takes the line.
    """

    def __init__(
        self, experiment: Experiment, start: int, in_flight: int, tell: Callable[[str], None]
    ):
        self._experiment, self._start, self._tell = experiment, start, tell
        self._settling, self._count = 1 + in_flight, 0

    def step_done(self, clock: Clock) -> None:
        """After each step that this process did, whatever its number."""
        self._count += 1
        if self._count == self._settling:
            self._before = dict(clock.spent)
        elif self._count == self._settling + STEPS:
            spent = {part: total - self._before[part] for part, total in clock.spent.items()}
            self._tell(self._line(spent))

    def _line(self, spent: dict[str, float]) -> str:
        steps, seconds = self._experiment.train.steps, sum(spent.values()) / STEPS
        what = f"{steps:,} steps"
        if self._start:
            what = f"{steps - self._start:,} of {what}"
        apart = ", evaluations apart" if self._experiment.train.eval_every else ""
        rate = 1 / max(seconds, 1e-9)
        # Of a run that has begun the others are fixed.
        shorter = "config.train.steps; in a new workdir config.train.batch_size"
        if self._experiment.width_field:
            shorter += f", {self._experiment.width_field}"
        if spent["data"] > sum(spent.values()) / 2:
            shorter = f"config.data.workers (more than half is waiting for data), {shorter}"
        took = duration((steps - self._start) * seconds)
        return f"{what} at {rate:.3g} steps/s: about {took}{apart}; shorter: {shorter}"


def duration(seconds: float) -> str:
    """In the two largest units, such as `4 h 15 min`."""
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min"
