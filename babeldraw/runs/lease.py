"""One run, one process: a lease in the run folder, local or on a bucket.

Its holder renews it; who comes later sees it renewed and goes, or sees it silent and takes it over.
No clocks are compared, for those of two hosts differ: the newcomer watches with its own.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from etils import epath

from babeldraw.errors import UserError

BEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0
NAME = ".lease.json"


class Lease:
    """Of one folder, held from `take` to `release`.

    Args:
      folder: the run folder; made when it is not there.
      report: told of a lease that is taken over, a line.
      beat: seconds between signs of life.
      silence: seconds without one after which a lease is nobody's.
    """

    def __init__(
        self,
        folder: epath.Path,
        report: Callable[[str], None] = print,
        beat: float = BEAT_SECONDS,
        silence: float = SILENT_SECONDS,
    ):
        self._folder, self._file = folder, folder / NAME
        self._report, self._beat, self._silence = report, beat, silence
        self._own = {"id": uuid.uuid4().hex, "host": _host(), "process": os.getpid(), "beats": 0}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Takes the lease and renews it from now on; waits where its holder may be dead.

        Raises:
          UserError: another process holds it and lives.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        before = self._read()
        if before is not None:
            self._until_silent(before)
            self._report(f"{self._folder}: taken over from {_called(before)}, which is gone")
        self._write()
        # Two that came at once have both written; the later one stays.
        time.sleep(min(0.2, self._beat / 4))
        self.check()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises `UserError` where another process has taken the lease over."""
        found = self._read()
        if found is not None and found["id"] != self._own["id"]:
            raise UserError(
                f"{_called(found)} has taken {self._folder} over, since this one gave no sign of "
                f"life for {self._silence:g} s; it goes on there"
            )

    def release(self) -> None:
        """Gives it back, where it is still ours."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        found = self._read()
        if found is not None and found["id"] == self._own["id"]:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def _until_silent(self, before: dict[str, Any]) -> None:
        here = before["host"] == self._own["host"]
        if here and (before["process"] == os.getpid() or not _lives(before["process"])):
            return
        began = time.monotonic()
        while time.monotonic() - began < self._silence:
            time.sleep(self._beat / 20)
            now = self._read()
            if now is None:
                return
            if now != before:
                raise UserError(
                    f"{_called(now)} is training in {self._folder}; wait for it, stop it, or give "
                    "another --workdir"
                )

    def _renew(self) -> None:
        while not self._ended.wait(self._beat):
            found = self._read()
            if found is not None and found["id"] != self._own["id"]:
                return
            self._own["beats"] += 1
            # A disk that is full for a while: the next beat tries again.
            with contextlib.suppress(OSError):
                self._write()

    def _read(self) -> dict[str, Any] | None:
        """What the file says; None where there is none, or none that a kill left whole."""
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and {*self._own} <= {*found} else None

    def _write(self) -> None:
        partial = self._folder / f"{NAME}.{self._own['id']}"
        try:
            partial.write_text(json.dumps(self._own))
            partial.replace(self._file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _host() -> str:
    """The host, and of a container the world in which its numbers of processes count."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} ({os.readlink('/proc/self/ns/pid')})"
    return socket.gethostname()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _called(lease: dict[str, Any]) -> str:
    return f"process {lease['process']} of host {str(lease['host']).partition(' ')[0]}"
