"""Figures and pictures of a run: a line per step in metrics.jsonl, and where they are looked at."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from babeldraw.data.image import save_png
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.train.boards import Boards


class MetricsWriter:
    """Writes under `metrics/` and `samples/` of a run folder. Only the first host makes one.

    What a full disk swallows is told once and costs the run nothing else.

    Args:
      folder: of the run.
      boards: as `config.train.metrics`.
      config: of the run, for boards that show it.
    """

    def __init__(
        self,
        folder: RunFolder,
        boards: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ):
        self._folder = folder
        folder.metrics.mkdir(parents=True, exist_ok=True)
        self._lines = (folder.metrics / "metrics.jsonl").open("a")
        self._timing = (folder.metrics / "timing.jsonl").open("a")
        self._failed = False
        self._boards = Boards(boards, folder, config or {})

    def scalars(self, step: int, values: Mapping[str, float], elapsed: float) -> None:
        """`elapsed`: seconds of training, over all restarts."""
        self._append(self._lines, {"step": step, "seconds": round(elapsed, 3), **values})
        self._boards.scalars(step, values)

    def timing(self, step: int, values: Mapping[str, float]) -> None:
        """What no two runs share, to timing.jsonl: where the time goes, memory."""
        self._append(self._timing, {"step": step, **values})
        self._boards.scalars(step, {f"timing/{k}": v for k, v in values.items()})

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """uint8 [H, W, 3] to samples/NAME_STEP.png."""
        self._folder.samples.mkdir(parents=True, exist_ok=True)
        save_png(self._folder.samples / f"{name.replace('/', '_')}_{step:07d}.png", picture)
        self._boards.image(step, name, picture)

    def close(self) -> None:
        """Flushes all of them."""
        for lines in (self._lines, self._timing):
            # A line that the disk did not take is tried once more.
            with contextlib.suppress(OSError):
                lines.close()
        self._boards.close()

    def _append(self, lines: TextIO, line: Mapping[str, float]) -> None:
        try:
            lines.write(json.dumps(line) + "\n")
            lines.flush()
        except OSError as error:
            if not self._failed:
                say(f"metrics cannot be written ({error}); the run goes on without")
            self._failed = True


def last_timing(folder: RunFolder) -> dict[str, float]:
    """The last of each figure of timing.jsonl; none where the run left none."""
    path, found = folder.metrics / "timing.jsonl", {}
    for text in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # A killed run may leave half a line.
            found |= json.loads(text)
    return found


def read_scalars(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order of steps; of a step trained twice, the later line."""
    path = folder.metrics / "metrics.jsonl"
    if not path.exists():
        return []
    merged: dict[tuple, dict[str, Any]] = {}
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # A killed run may leave half a line.
            continue
        merged[(line["step"], *sorted(line))] = line
    return sorted(merged.values(), key=lambda line: line["step"])
