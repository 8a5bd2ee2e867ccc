"""The metrics of steps that the devices may still be working on."""

import collections
from collections.abc import Mapping

import jax
import numpy as np

Row = tuple[int, int, dict[str, float]]


class Pending:
    """Metrics wait here until the host reads them.

    Args:
      in_flight: steps that may be under way before `wait` waits for the oldest.
    """

    def __init__(self, in_flight: int):
        self._in_flight = in_flight
        self._steps: collections.deque[tuple[int, int, Mapping]] = collections.deque()
        self._read: list[dict[str, float]] = []

    def add(self, step: int, data_step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Of a step that was just begun, from that batch of the data."""
        self._steps.append((step, data_step, metrics))

    def wait(self) -> None:
        """Until no more than `in_flight` steps are under way."""
        if len(self._steps) > self._in_flight:
            jax.block_until_ready(self._steps[-self._in_flight][2])

    def rows(self, all_of_them: bool, ready: bool) -> list[Row]:
        """(step, data step, metrics) of steps not given before.

        Args:
          all_of_them: waits for those under way; else only those that `wait` has waited for, and
            those only where `ready` asks for them.
        """
        count = len(self._steps) if all_of_them else ready * (len(self._steps) - self._in_flight)
        taken = [self._steps.popleft() for _ in range(max(count, 0))]
        values = jax.device_get([metrics for *_, metrics in taken])
        rows = [
            (step, data_step, {name: float(value) for name, value in row.items()})
            for (step, data_step, _), row in zip(taken, values, strict=True)
        ]
        self._read += [row for *_, row in rows]
        return rows

    def means(self) -> dict[str, float]:
        """Of all rows since the last call, those that were left out not counted; empty for none.

        `skipped` is the share that was left out.
        """
        rows, self._read = self._read, []
        good = [row for row in rows if not row.get("skipped")]
        names = good[0] if good else ()
        means = {name: float(np.mean([row[name] for row in good])) for name in names}
        if rows and "skipped" in rows[0]:
            means["skipped"] = 1 - len(good) / len(rows)
            means.pop("skipped_in_row", None)
        return means

    def clear(self) -> None:
        """Forgets what was not read: the state was rolled back."""
        self._steps.clear()
        self._read.clear()
