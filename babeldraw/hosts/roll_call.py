"""The roll call: each host keeps a line open to the first, which sees who is missing and tells all.

jax's own service says neither which host is missing nor which one hangs, and a collective whose
partner is gone may wait for ever. So the first host listens on one more port. Messages are objects
of JSON, a line each; what is anything else is dropped.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from babeldraw.hosts.presence import Limits, Presence

MAX_LINE = 1 << 20
# Between tries to reach a first host that does not listen yet.
RETRY_SECONDS = 0.5


class Line:
    """One connection: objects of JSON in both directions."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._reader = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Sends; a line that is cut is no error, the reader sees it."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None, and no more, at the end of the line or for what is none."""
        message = None
        with contextlib.suppress(OSError, ValueError):
            message = json.loads(self._reader.readline(MAX_LINE))
        if isinstance(message, dict):
            return message
        self.hang_up()
        self._reader.close()
        self._socket.close()
        return None

    def hang_up(self) -> None:
        """Ends the line; whoever is receiving, on either side, gets None."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class RollCall:
    """The first host's side: listens, keeps the `Presence`, tells every host what it decides.

    Args:
      port: to listen on; 0 for any.
      presence: who is there.
    """

    def __init__(self, port: int, presence: Presence):
        self._presence = presence
        self._lines: dict[int, Line] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("", port), backlog=max(128, presence.count))
        self._closed = threading.Event()
        self.port = self._listener.getsockname()[1]
        for work in (self._accept, self._look):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()

    def close(self) -> None:
        self._closed.set()
        self._listener.close()
        with self._lock:
            for line in self._lines.values():
                line.hang_up()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            line = Line(connection)
            threading.Thread(target=self._serve, args=(line,), daemon=True, name="_serve").start()

    def _serve(self, line: Line) -> None:
        hello = line.receive()
        with self._lock:
            if hello is None or not self._presence.arrive(hello, time.monotonic()):
                line.hang_up()
                line.receive()
                return
            index = hello["index"]
            self._lines[index] = line
        while (message := line.receive()) is not None:
            with self._lock:
                self._presence.hear(index, message, time.monotonic())
                self._tell()
        with self._lock:
            self._presence.hang_up(index)
            self._tell()

    def _look(self) -> None:
        while not self._closed.wait(self._presence.limits.beat):
            with self._lock:
                self._presence.look(time.monotonic())
                self._tell()

    def _tell(self) -> None:
        for message in self._presence.news():
            for line in self._lines.values():
                line.send(**message)


class Hosts:
    """A host's side of the roll call.

    Attributes:
      index, count: which of how many.

    Args:
      address: of the roll call, (host, port).
      index, count, name: of this host.
      facts: what must be the same on all hosts, a tree of JSON.
      limits: seconds.
      on_end: called with (reason, status) in a thread of its own when the run must end, on all
        hosts.
    """

    def __init__(
        self,
        address: tuple[str, int],
        index: int,
        count: int,
        name: str,
        facts: dict[str, Any],
        limits: Limits,
        on_end: Callable[[str, int], None],
    ):
        self.index, self.count, self._limits, self._on_end = index, count, limits, on_end
        self._place: tuple[int, str] = (0, "starting")
        self._since = time.monotonic()
        self._met: set[str] = set()
        self._change = threading.Condition()
        self._ended = False
        self._line = self._call(address)
        self._line.send(index=index, count=count, name=name, facts=facts)
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()
        self.meet("start")

    def meet(self, what: str) -> None:
        """Waits until every host has come here; each place has a name of its own."""
        self._line.send(meet=what)
        with self._change:
            self._change.wait_for(lambda: what in self._met)

    def tick(self, step: int, doing: str) -> None:
        """Where the run is; a host whose place stays the same for too long hangs."""
        self._place, self._since = (step, doing), time.monotonic()

    def leave(self, reason: str = "", status: int = 0) -> None:
        """Says goodbye; with a reason, all others end for it, with this exit status."""
        self._ended = True
        self._line.send(leave=reason, status=status)
        self._line.hang_up()

    def _call(self, address: tuple[str, int]) -> Line:
        deadline = time.monotonic() + self._limits.arrive
        while True:
            try:
                connection = socket.create_connection(address, timeout=self._limits.arrive)
                # The limit is for the connection; silence on it is judged by the first host.
                connection.settimeout(None)
                return Line(connection)
            except OSError as error:
                if time.monotonic() > deadline:
                    reason = (
                        f"host 0 at {address[0]}:{address[1]} does not answer host {self.index} "
                        f"within {self._limits.arrive:g} s ({error}); is it running, is the port "
                        "open?"
                    )
                    self._on_end(reason, 75)
                    raise ConnectionError(reason) from error
                time.sleep(RETRY_SECONDS)

    def _listen(self) -> None:
        while (message := self._line.receive()) is not None:
            if "met" in message:
                with self._change:
                    self._met.add(message["met"])
                    self._change.notify_all()
            if "end" in message:
                self._end(message["end"], message["status"])
        self._end("host 0 was lost: its line is cut", 75)

    def _end(self, reason: str, status: int) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(reason, status)

    def _beat(self) -> None:
        while not self._ended:
            step, doing = self._place
            idle = time.monotonic() - self._since
            self._line.send(step=step, doing=doing, idle=idle)
            time.sleep(self._limits.beat)
