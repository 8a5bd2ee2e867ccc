"""Asking a language model behind any endpoint that speaks as OpenAI's chat completions do."""

import http.client
import ipaddress
import json
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from babeldraw.config import require
from babeldraw.data.prepare.fetch import Connection
from babeldraw.errors import UserError

PATH = "/chat/completions"
# Too many requests, or a server that is not well for the moment.
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0
# Of what a server says of an error.
SHOWN = 200
# An answer of a sentence or two and a number; what is longer is not read to its end.
MAX_TOKENS = 400


class Unusable(Exception):
    """An answer that is none: another one may be better."""


class _Passing(Exception):
    """No answer for now."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and within which limits. Safe to use from threads.

    Redirects are not followed: the key goes to the host that was named, and nowhere else. It goes
    encrypted, or stays on this machine: plain http with a key is for loopback addresses alone.

    Attributes:
        url: up to what stands before `/chat/completions`, such as http://localhost:8000/v1.
        model: as the endpoint calls it.
        key: sent as a bearer's token where there is one. It is in no message, file or `repr`.
        seconds: for one answer, to its last byte.
        attempts: how often one thing is asked for before it is given up.
        wait: seconds before the second attempt; each further one waits twice as long, with chance,
            so that many askers do not come back at once. Where the server names a time, that.
        per_minute: requests, of all threads together; 0: no limit.
        max_bytes: of an answer.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    seconds: float = 60.0
    attempts: int = 5
    wait: float = 1.0
    per_minute: int = 0
    max_bytes: int = 1 << 20
    _pace: "Pace" = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        parts = _parts(self.url)
        plain = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        # The address itself may hold a key, which no message should show.
        require(
            bool(plain) and not parts.query and not parts.fragment,
            "url is not of the form http://HOST:PORT/v1 or https://..., without a password or a "
            "query; the key is read from the environment",
        )
        require(bool(self.model), "model is empty; name one that the endpoint has")
        require(self.seconds > 0, f"seconds is {self.seconds}; above 0 is needed")
        require(self.attempts >= 1, f"attempts is {self.attempts}; at least 1 is needed")
        require(self.per_minute >= 0, f"per_minute is {self.per_minute}; at least 0 is needed")
        require(
            self.key.isascii() and self.key.isprintable(),
            "the key in the environment holds what no header may; set it anew",
        )
        require(
            not self.key or parts.scheme == "https" or _is_loopback(parts.hostname),
            f"key is set and url={self.url} is plain http to another machine: all on the way could "
            "read it; give https://, or leave it empty",
        )
        object.__setattr__(self, "_pace", Pace(self.per_minute))

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What the model says.

        Raises:
            Unusable: an answer without text, or one that is too long or no JSON.
            UserError: the endpoint refuses, or gives no answer at any attempt.
        """
        body = {"model": self.model, "messages": list(messages), "temperature": 0}
        data = json.dumps({**body, "max_tokens": MAX_TOKENS}).encode()
        for attempt in range(self.attempts):
            self._pace.take()
            try:
                return self._without_key(_content(self._post(data)))
            except _Passing as error:
                passing = error
            if attempt + 1 < self.attempts:
                backoff = self.wait * 2**attempt * random.uniform(0.5, 1.0)
                time.sleep(min(LONGEST_WAIT, max(passing.wait, backoff)))
        raise UserError(
            f"url={self.url} gave no answer at {self.attempts} attempts, the last time: {passing}; "
            "what is scored so far is kept, run the same once more when it is there"
        )

    def _post(self, data: bytes) -> bytes:
        """One request. Raises `_Passing`, `Unusable` or `UserError`."""
        parts = urllib.parse.urlsplit(self.url)
        headers = {"Content-Type": "application/json", "User-Agent": "babeldraw"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        deadline = time.monotonic() + self.seconds
        connection = None
        try:
            connection = _connection(parts, self.seconds)
            connection.request("POST", parts.path.rstrip("/") + PATH, data, headers)
            with connection.getresponse() as answer:
                content = answer.read(self.max_bytes + 1)
                status, after = answer.status, answer.headers.get("Retry-After", "")
        except (OSError, http.client.HTTPException) as error:
            late = time.monotonic() >= deadline or isinstance(error, TimeoutError)
            slow = f"nothing whole within {self.seconds:g} seconds"
            raise _Passing(slow if late else _reason(error)) from None
        finally:
            if connection is not None:
                connection.finish()
        if time.monotonic() >= deadline:
            raise _Passing(f"nothing whole within {self.seconds:g} seconds")
        if status in PASSING:
            raise _Passing(f"status {status}", _seconds(after))
        if status != 200:
            said = self._without_key(" ".join(content[:1000].decode("utf-8", "replace").split()))
            raise UserError(f"url={self.url} refuses with status {status}: {said[:SHOWN]!r}")
        if len(content) > self.max_bytes:
            raise Unusable(f"the answer is longer than {self.max_bytes} bytes")
        return content

    def _without_key(self, text: str) -> str:
        """What a server says may hold what it was told."""
        return text.replace(self.key, "***") if self.key else text


class Pace:
    """Lets so many through in a minute, evenly; 0: all."""

    def __init__(self, per_minute: int):
        self._between = 60 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def take(self) -> None:
        """Waits for its turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._between
        time.sleep(turn - now)


def _parts(url: str) -> urllib.parse.SplitResult:
    """Of an address; all empty where it is none, or its port is no number of one."""
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018  It is read to be checked.
    except ValueError:
        return urllib.parse.urlsplit("")
    return parts


def _is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone: nothing is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _connection(parts: urllib.parse.SplitResult, seconds: float) -> Connection:
    encrypted, host = parts.scheme == "https", parts.hostname
    port = parts.port or (443 if encrypted else 80)
    where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    return Connection(host, port, where, encrypted, seconds)


def _content(data: bytes) -> str:
    """The text of a chat completion."""
    try:
        answer: Any = json.loads(data)
        content = answer["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError) as error:
        raise Unusable("the answer is no chat completion in JSON") from error
    if not isinstance(content, str):
        raise Unusable("the answer holds no text")
    return content


def _seconds(after: str) -> float:
    """Of the header Retry-After; 0 where it names a date, or nothing."""
    return min(LONGEST_WAIT, float(after)) if after.strip().isdigit() else 0.0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
