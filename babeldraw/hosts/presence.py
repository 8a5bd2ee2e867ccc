"""Who of a run's hosts is there, as a table that hears messages and comes to a verdict; no network.

A verdict is one line for all hosts and an exit status.
"""

import dataclasses
from typing import Any

from babeldraw.config import first_difference, require

# EX_TEMPFAIL of sysexits.h: what was saved is good, start again. The launchers go on at it.
GO_ON = 75
MISTAKE = 2


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds.

    Attributes:
      arrive: from the first host's start until the last one must be there.
      silence: without a sign of life, after which a host is lost.
      progress: in which the run must do something: the longest compilation or evaluation.
    """

    arrive: float = 600.0
    silence: float = 60.0
    progress: float = 1800.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(value > 0, f"--limit_{field.name} is {value}; seconds above 0 are needed")

    @property
    def beat(self) -> float:
        """Between signs of life."""
        return min(self.silence / 4, self.progress / 4, 5.0)


@dataclasses.dataclass
class _Host:
    name: str
    facts: dict[str, Any]
    heard: float
    step: int = 0
    doing: str = "starting"
    idle: float = 0.0
    gone: bool = False


class Presence:
    """The table. `news` gives the messages that are due to all hosts.

    Attributes:
      count: of hosts.
      limits: seconds.
    """

    def __init__(self, count: int, names: tuple[str, ...], limits: Limits, now: float):
        self.count, self.limits = count, limits
        self._names = names
        self._hosts: dict[int, _Host] = {}
        self._meetings: dict[str, set[int]] = {}
        self._began = now
        self._news: list[dict[str, Any]] = []
        self._ended = False

    def arrive(self, hello: dict[str, Any], now: float) -> bool:
        """Takes a host in; False for what is none of this run."""
        if set(hello) != {"index", "count", "name", "facts"} or hello["count"] != self.count:
            return False
        index = hello["index"]
        if not isinstance(index, int) or not 0 <= index < self.count or index in self._hosts:
            return False
        self._hosts[index] = _Host(str(hello["name"]), hello["facts"], now)
        return True

    def hear(self, index: int, message: dict[str, Any], now: float) -> None:
        """A sign of life, a meeting or a goodbye."""
        host = self._hosts[index]
        host.heard = now
        if "step" in message:
            host.step, host.doing = message["step"], message["doing"]
            host.idle = message["idle"]
        if "meet" in message:
            self._meet(message["meet"], index)
        if "leave" in message:
            host.gone = True
            if message["leave"]:
                self._end(f"{self._called(index)}: {message['leave']}", message["status"])

    def hang_up(self, index: int) -> None:
        """The line to a host is cut."""
        host = self._hosts[index]
        if not host.gone:
            host.gone = True
            self._end(f"{self._called(index)} ended without a word {_at(host)}", GO_ON)

    def look(self, now: float) -> None:
        """Sees who is late, silent or hangs."""
        late = [index for index in range(self.count) if index not in self._hosts]
        if late and now - self._began > self.limits.arrive:
            told = ", ".join(self._called(index) for index in late)
            self._end(
                f"{told} of {self.count} did not arrive within {self.limits.arrive:g} s "
                "(--limit_arrive)",
                GO_ON,
            )
        there = {index: host for index, host in self._hosts.items() if not host.gone}
        for index, host in there.items():
            if now - host.heard > self.limits.silence:
                self._end(
                    f"{self._called(index)} has given no sign of life for "
                    f"{now - host.heard:.0f} s, {_at(host)} (--limit_silence)",
                    GO_ON,
                )
                return
        if not late and there and min(h.idle for h in there.values()) > self.limits.progress:
            # All wait for each other; the one that is behind is the one they wait for.
            index = min(there, key=lambda i: (there[i].step, -there[i].idle))
            self._end(
                f"no host has moved for {self.limits.progress:g} s (--limit_progress); "
                f"{self._called(index)} is behind, {_at(there[index])}",
                GO_ON,
            )

    def news(self) -> list[dict[str, Any]]:
        """Messages to every host since the last call."""
        news, self._news = self._news, []
        return news

    def _meet(self, what: str, index: int) -> None:
        here = self._meetings.setdefault(what, set())
        here.add(index)
        if len(here) < self.count:
            return
        if what == "start" and (difference := self._difference()) is not None:
            self._end(difference, MISTAKE)
        else:
            self._news.append({"met": what})

    def _difference(self) -> str | None:
        first = self._hosts[0].facts
        for index, host in sorted(self._hosts.items()):
            found = first_difference(first, host.facts, "")
            if found is not None:
                field, here, there = found
                return (
                    f"{field.lstrip('.')} is {here!r} on {self._called(0)} and {there!r} on "
                    f"{self._called(index)}; all hosts of a run need the same"
                )
        return None

    def _called(self, index: int) -> str:
        if index in self._hosts:
            return f"host {index} ({self._hosts[index].name})"
        return f"host {index} ({self._names[index]})" if self._names else f"host {index}"

    def _end(self, reason: str, status: int) -> None:
        if not self._ended:
            self._ended = True
            self._news.append({"end": reason, "status": status})


def _at(host: _Host) -> str:
    return f"at step {host.step}, {host.doing}"
