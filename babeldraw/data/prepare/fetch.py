"""Fetching pictures by address, within limits; only where the user asked for it."""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass

from babeldraw.config import require

ANY_HOST = "*"
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Fetch:
    """Limits.

    Attributes:
        hosts: names of hosts that may be asked, 'example.org' standing for its sub-domains too;
            '*' is any host of the public network. Hosts of a private network are asked only
            where they are named themselves.
        seconds: for one picture, redirects included.
    """

    hosts: tuple[str, ...]
    seconds: float = 10.0

    def __post_init__(self):
        require(bool(self.hosts), "fetch.hosts is empty; name hosts, or '*' for any")
        require(self.seconds > 0, f"fetch.seconds={self.seconds} must be above 0")


class Connection(http.client.HTTPConnection):
    """Asks the very machine that was checked: a name is looked up once. Ends at a deadline."""

    def __init__(self, host: str, port: int, where: str, encrypted: bool, seconds: float):
        self.default_port = 443 if encrypted else 80
        super().__init__(host, port, timeout=seconds)
        self._where, self._encrypted = where, encrypted
        self._open: socket.socket | None = None
        # A server that sends a byte now and then keeps every read short, not their sum.
        self._clock = threading.Timer(seconds, self._stop)
        self._clock.daemon = True

    def connect(self) -> None:
        self._clock.start()
        self.sock = socket.create_connection((self._where, self.port), self.timeout)
        if self._encrypted:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
        # http.client forgets the socket where the answer is to end with it.
        self._open = self.sock

    def finish(self) -> None:
        """Closes it; http.client itself calls `close` as soon as an answer has begun."""
        self._clock.cancel()
        self.close()

    def _stop(self) -> None:
        # Before there is a connection the timeout of its making holds.
        with contextlib.suppress(OSError, AttributeError):
            self._open.shutdown(socket.SHUT_RDWR)


def fetch(url: str, limits: Fetch, max_bytes: int) -> bytes:
    """The content at `url`, at most one byte more than `max_bytes` of it.

    Raises:
        ValueError: an address or a host that is not allowed, or too many redirects.
        OSError: no whole answer in time, or another than 200.
    """
    deadline = time.monotonic() + limits.seconds
    for _ in range(MAX_REDIRECTS + 1):
        address = urllib.parse.urlsplit(url)
        connection = _connection(address, limits, max(0.01, deadline - time.monotonic()))
        try:
            path = urllib.parse.urlunsplit(("", "", address.path or "/", address.query, ""))
            connection.request("GET", path, headers={"User-Agent": "babeldraw"})
            # The answer holds a file of its own on the socket.
            with connection.getresponse() as answer:
                if answer.status in REDIRECTS:
                    url = urllib.parse.urljoin(url, answer.headers.get("Location", ""))
                    continue
                if answer.status != 200:
                    raise OSError(f"the answer is {answer.status}")
                data = answer.read(max_bytes + 1)
        except http.client.HTTPException as error:
            raise OSError(f"no whole answer: {type(error).__name__}") from error
        finally:
            connection.finish()
        if time.monotonic() > deadline:
            raise TimeoutError(f"it takes more than {limits.seconds} seconds")
        return data
    raise ValueError(f"more than {MAX_REDIRECTS} redirects")


def _connection(address: urllib.parse.SplitResult, limits: Fetch, seconds: float) -> Connection:
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError("only http and https addresses are fetched")
    encrypted, host = address.scheme == "https", address.hostname
    port = address.port or (443 if encrypted else 80)
    named = any(host == name or host.endswith(f".{name}") for name in limits.hosts)
    if not named and ANY_HOST not in limits.hosts:
        raise ValueError(f"the host {host} is not among fetch.hosts")
    where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    if host not in limits.hosts and not ipaddress.ip_address(where).is_global:
        raise ValueError(f"the host {host} is of a private network and is not named itself")
    return Connection(host, port, where, encrypted, seconds)
