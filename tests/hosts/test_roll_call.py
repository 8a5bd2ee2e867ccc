"""The roll call over real sockets, hosts as threads: who is missing, silent, behind, different."""

import socket
import threading
import time

import pytest

from babeldraw.hosts.presence import GO_ON, MISTAKE, Limits, Presence
from babeldraw.hosts.roll_call import Hosts, Line, RollCall

QUICK = Limits(arrive=5, silence=5, progress=60)
FACTS = {"version": {"jax": "1"}, "config": {"train": {"steps": 4}}}


class Site:
    """Some hosts of a run that shall have `count`."""

    def __init__(self, count, limits=QUICK, names=()):
        self.count, self.limits = count, limits
        self.call = RollCall(0, Presence(count, names, limits, time.monotonic()))
        self.hosts, self.ends, self.threads = {}, {}, []
        self._ended = threading.Condition()

    def arrive(self, index, facts=FACTS):
        """In a thread, since a host waits for the others."""

        def end(reason, status):
            with self._ended:
                self.ends[index] = reason, status
                self._ended.notify_all()

        def start():
            address = "localhost", self.call.port
            name = f"machine{index}"
            host = Hosts(address, index, self.count, name, facts, self.limits, end)
            self.hosts[index] = host

        thread = threading.Thread(target=start, daemon=True)
        thread.start()
        self.threads.append(thread)
        return thread

    def all_arrive(self):
        threads = [self.arrive(index) for index in range(self.count)]
        for thread in threads:
            thread.join(5)
        assert sorted(self.hosts) == [*range(self.count)]

    def end_of(self, *indices):
        """What those hosts were told, which is the same."""
        with self._ended:
            assert self._ended.wait_for(lambda: set(indices) <= set(self.ends), 10), self.ends
        told = {self.ends[index] for index in indices}
        assert len(told) == 1
        return told.pop()


@pytest.fixture
def site():
    made = []

    def make(*args, **kwargs):
        made.append(Site(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        for host in one.hosts.values():
            host.leave()
        one.call.close()


def test_all_arrive_meet_and_leave_without_a_word(site):
    here = site(3)
    here.all_arrive()
    reached = []
    for index in (2, 0, 1):
        host = here.hosts[index]
        thread = threading.Thread(target=lambda h=host: (h.meet("x"), reached.append(h.index)))
        thread.start()
        if index != 1:
            time.sleep(0.05)
            assert reached == []
    thread.join(5)
    deadline = time.monotonic() + 5
    while len(reached) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(reached) == [0, 1, 2]
    for host in here.hosts.values():
        host.leave()
    time.sleep(0.1)
    assert here.ends == {}


def test_hosts_that_do_not_arrive_are_named(site):
    here = site(4, Limits(arrive=0.5, silence=5, progress=60), ("a", "b", "c", "d"))
    for index in (0, 2):
        here.arrive(index)
    reason, status = here.end_of(0, 2)
    assert reason == "host 1 (b), host 3 (d) of 4 did not arrive within 0.5 s (--limit_arrive)"
    assert status == GO_ON


def test_a_first_host_that_does_not_answer_is_named():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ends = []
    with pytest.raises(ConnectionError):
        Hosts(
            ("localhost", port),
            1,
            2,
            "b",
            FACTS,
            Limits(arrive=0.2),
            lambda *said: ends.append(said),
        )
    assert ends[0][0].startswith(f"host 0 at localhost:{port} does not answer host 1 within 0.2 s")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"version": {"jax": "2"}, "config": FACTS["config"]},
            "version.jax is '1' on host 0 (machine0) and '2' on host 1 (machine1)",
        ),
        (
            {**FACTS, "config": {"train": {"steps": 5}}},
            "config.train.steps is 4 on host 0 (machine0) and 5 on host 1 (machine1)",
        ),
    ],
)
def test_a_difference_is_named_and_is_a_mistake(site, facts, said):
    here = site(2)
    here.arrive(0)
    here.arrive(1, facts)
    reason, status = here.end_of(0, 1)
    assert reason == f"{said}; all hosts of a run need the same"
    assert status == MISTAKE


def test_a_host_whose_line_is_cut_ends_all(site):
    here = site(3)
    here.all_arrive()
    here.hosts[1].tick(17, "in the step")
    time.sleep(QUICK.beat * 1.5)
    here.hosts[1]._line.hang_up()
    reason, status = here.end_of(0, 2)
    assert reason == "host 1 (machine1) ended without a word at step 17, in the step"
    assert status == GO_ON


def test_a_silent_host_ends_all(site):
    here = site(3, Limits(arrive=5, silence=0.4, progress=60))
    here.all_arrive()
    # Its threads stand still, as those of a stopped process do.
    here.hosts[2]._ended = True
    reason, status = here.end_of(0, 1)
    assert reason.startswith("host 2 (machine2) has given no sign of life for ")
    assert status == GO_ON


def test_of_hosts_that_all_wait_the_one_behind_is_named(site):
    here = site(3, Limits(arrive=5, silence=5, progress=0.4))
    here.all_arrive()
    for index, step in ((0, 8), (1, 7), (2, 8)):
        here.hosts[index].tick(step, "waiting for data" if index == 1 else "in the step")
    reason, status = here.end_of(0, 1, 2)
    assert reason == (
        "no host has moved for 0.4 s (--limit_progress); host 1 (machine1) is behind, at step 7, "
        "waiting for data"
    )
    assert status == GO_ON


def test_a_mistake_on_one_host_ends_the_others_with_its_words(site):
    here = site(2)
    here.all_arrive()
    here.hosts[1].leave("the disk is full", MISTAKE)
    assert here.end_of(0) == ("host 1 (machine1): the disk is full", MISTAKE)


def test_strangers_are_not_heard(site):
    here = site(2)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"index": 7}\n', b"\xff" * 9 + b"\n"):
        with socket.create_connection(("localhost", here.call.port)) as stranger:
            stranger.sendall(words)
            assert stranger.recv(1) == b""
    line = Line(socket.create_connection(("localhost", here.call.port)))
    line.send(index=1, count=9, name="x", facts={})
    assert line.receive() is None
    here.all_arrive()
