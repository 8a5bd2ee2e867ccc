"""A bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0


class ProgressReport:
    """Shows steps done, steps per second, loss and time left.

    Attributes:
      total: steps of the whole run.
    """

    def __init__(self, label: str, total: int, start: int = 0, unit: str = "steps"):
        self.label, self.total, self.unit = label, total, unit
        self._first, self._first_time = start, time.monotonic()
        self._last_line = 0.0
        self._note = ""
        self._bar = self._make_bar(start) if sys.stderr.isatty() else None

    def update(self, done: int, note: str = "") -> None:
        """`done`: steps so far; `note`: such as the loss, kept until another is given."""
        self._note = note or self._note
        if self._bar is not None:
            text = f"{self._rate(done):.1f} {self.unit}/s  {self._note}"
            self._bar.update(self._task, completed=done, note=text)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_SECONDS or done == self.total:
            self._last_line = now
            rate = self._rate(done)
            left = f"{(self.total - done) / rate:.0f} s left" if rate > 0 else "starting"
            say(
                f"{self.label} {done}/{self.total} {self.unit}, {rate:.2f} {self.unit}/s, "
                f"{self._note + ', ' if self._note else ''}{left}"
            )

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            say(line)

    def close(self) -> None:
        """Leaves the terminal in order."""
        if self._bar is not None:
            self._bar.stop()

    def _rate(self, done: int) -> float:
        return (done - self._first) / max(time.monotonic() - self._first_time, 1e-9)

    def _make_bar(self, start: int) -> Progress:
        from rich.console import Console

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = bar.add_task(self.label, total=self.total, completed=start, note="compiling")
        bar.start()
        return bar


def say(line: str) -> None:
    """One line to the user, on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def waiting(label: str) -> Iterator[None]:
    """Says `label` and the time that has passed, now and again, while the body runs."""
    began, done = time.monotonic(), threading.Event()

    def tell():
        while not done.wait(PLAIN_SECONDS):
            say(f"{label}: {time.monotonic() - began:.0f} s")

    say(label)
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
