"""Several hosts as one run: all are there and alike before jax starts, and end together."""

import contextlib
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax

import babeldraw
from babeldraw.errors import UserError
from babeldraw.hosts.place import Place
from babeldraw.hosts.presence import GO_ON, MISTAKE, Limits, Presence
from babeldraw.hosts.roll_call import Hosts, RollCall

# Seconds in which a failed collective waits for the news that its partner is lost.
VERDICT_SECONDS = 5.0
# In which a message from the first host reaches all others.
NEWS_SECONDS = 1.0
# Of a fault that is in no table: python's own status.
CRASH = 1


class Interrupted(Exception):
    """The run was asked to stop and has saved; `step` is where it goes on."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


class Alone:
    """A run on one host: the same calls, nothing to wait for."""

    index, count = 0, 1

    def meet(self, what: str) -> None:
        del what

    def tick(self, step: int, doing: str) -> None:
        del step, doing


ALONE = Alone()


def versions() -> dict[str, str]:
    """Of everything that a number may hang on."""
    found = {"babeldraw": babeldraw.__version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextlib.contextmanager
def joined(place: Place | None, config: dict[str, Any], limits: Limits) -> Iterator[Hosts | Alone]:
    """Inside, this process is one of the run's hosts and `jax.devices()` are those of all.

    When any host is lost, hangs or makes a mistake, the process ends with one line on stderr: exit
    status 75 where a new start goes on, else that of the mistake.

    Args:
      place: None where there is only this host.
      config: compared between hosts, with the versions; a difference ends all, named.
      limits: seconds.
    """
    if place is None or place.count == 1:
        yield Alone()
        return
    roll_call = None
    if place.index == 0:
        presence = Presence(place.count, place.names, limits, time.monotonic())
        roll_call = RollCall(place.address[1], presence)
    facts = {"version": versions(), "config": config}
    address = ("localhost", place.address[1]) if roll_call else place.address
    name = socket.gethostname()
    stop = end if roll_call is None else _end_last
    hosts = Hosts(address, place.index, place.count, name, facts, limits, stop)
    # Ours are the limits that end the run and name the host; jax's own come later.
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        initialization_timeout=int(limits.arrive) + 10,
        heartbeat_timeout_seconds=int(limits.silence) * 2 + 30,
    )
    stopped = None
    try:
        yield hosts
    except Interrupted as error:
        stopped = error
    except UserError as error:
        hosts.leave(str(error), MISTAKE)
        stop(str(error), MISTAKE)
    except BaseException as error:
        # A collective fails at once where its partner is gone: the roll call knows which, and ends
        # this process while it sleeps.
        time.sleep(VERDICT_SECONDS)
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        hosts.leave(reason, GO_ON)
        stop(reason, CRASH)
    hosts.meet("end")
    jax.distributed.shutdown()
    hosts.leave()
    if roll_call is not None:
        time.sleep(NEWS_SECONDS)
        roll_call.close()
    if stopped is not None:
        raise stopped


def _end_last(reason: str, status: int) -> None:
    """The first host's end: the others must have been told before their line is cut."""
    time.sleep(NEWS_SECONDS)
    end(reason, status)


def end(reason: str, status: int) -> None:
    """Ends the process at once: its main thread may wait in a collective for ever."""
    print(f"babeldraw: {'error: ' if status == MISTAKE else ''}{reason}", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(status)
