"""What a run that crashes leaves behind: a short report in its folder."""

import contextlib
import dataclasses
import datetime
import traceback
from collections.abc import Iterator
from typing import Any

from babeldraw.errors import UserError
from babeldraw.hosts.joining import Interrupted, versions
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.say import say


@dataclasses.dataclass
class Flight:
    """What the loop has told so far.

    Attributes:
      config: of the run.
      step: that was begun last.
      metrics: that were read last.
    """

    config: dict[str, Any]
    step: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def reported(folder: RunFolder, index: int, flight: Flight) -> Iterator[None]:
    """A crash inside leaves `crashes/TIME_hostINDEX.json`: config, versions, metrics, stack.

    The environment, which may hold secrets, is not in it. A user's mistake and a stop are no crash.
    """
    try:
        yield
    except (UserError, Interrupted, KeyboardInterrupt):
        raise
    except BaseException as error:
        now = datetime.datetime.now(datetime.UTC)
        report = {
            "time": now.isoformat(timespec="seconds"),
            "host": index,
            "step": flight.step,
            "error": f"{type(error).__name__}: {' '.join(str(error).split())}",
            "stack": traceback.format_exc().splitlines(),
            "last_metrics": flight.metrics,
            "versions": versions(),
            "config": flight.config,
        }
        path = folder.crashes / f"{now:%Y%m%dT%H%M%S}_host{index}.json"
        # The storage may be what failed; the error itself matters more.
        with contextlib.suppress(OSError):
            folder.crashes.mkdir(parents=True, exist_ok=True)
            write_json(path, report)
            say(f"crashed at step {flight.step}; report in {path}")
        raise
