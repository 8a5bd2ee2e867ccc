"""One run, one process: who comes later goes, and takes over only from who is gone."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from babeldraw.errors import UserError
from babeldraw.runs.lease import NAME, Lease

QUICK = {"beat": 0.1, "silence": 0.6}


@pytest.fixture
def said():
    return []


@pytest.fixture
def make(tmp_path, said):
    made = []

    def lease(**changes):
        made.append(Lease(epath.Path(tmp_path), said.append, **{**QUICK, **changes}))
        return made[-1]

    yield lease
    for one in made:
        one.release()


def foreign(folder, **changes):
    """A lease of another host that is not renewed."""
    own = {"id": "x", "host": "elsewhere", "process": 7, "beats": 3, **changes}
    # Whole or not at all, as a lease is written.
    (folder / "partial").write_text(json.dumps(own))
    (folder / "partial").replace(folder / NAME)
    return own


def test_a_lease_is_there_while_it_is_held(make, tmp_path):
    lease = make()
    lease.take()
    first = json.loads((tmp_path / NAME).read_text())
    time.sleep(0.5)
    assert json.loads((tmp_path / NAME).read_text())["beats"] > first["beats"]
    lease.check()
    lease.release()
    assert not list(tmp_path.iterdir())


def test_one_that_lives_is_named_and_left_alone(make, tmp_path, said):
    own, stop = foreign(tmp_path), threading.Event()

    def renew():
        for beats in range(1000):
            foreign(tmp_path, beats=beats)
            if stop.wait(0.1):
                return

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(UserError, match="process 7 of host elsewhere is training in .*--workdir"):
        make().take()
    stop.set()
    thread.join()
    assert json.loads((tmp_path / NAME).read_text())["id"] == own["id"] and not said


def test_one_that_is_silent_is_taken_over_with_a_line(make, tmp_path, said):
    foreign(tmp_path)
    began = time.monotonic()
    make().take()
    assert QUICK["silence"] <= time.monotonic() - began < 3
    (line,) = said
    assert "taken over from process 7 of host elsewhere" in line


def test_a_process_of_this_host_that_is_dead_is_not_waited_for(make, tmp_path, said):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    foreign(tmp_path, host=make()._own["host"], process=process.pid)
    make(silence=1000).take()
    assert len(said) == 1


def test_who_lost_it_learns_so_and_leaves_the_other_s_alone(make, tmp_path):
    lease = make()
    lease.take()
    foreign(tmp_path)
    with pytest.raises(UserError, match="process 7 of host elsewhere has taken .* over"):
        lease.check()
    lease.release()
    assert json.loads((tmp_path / NAME).read_text())["id"] == "x"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}'])
def test_a_file_that_is_none_holds_nothing(make, tmp_path, text):
    (tmp_path / NAME).write_text(text)
    make().take()
    assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()


def test_a_folder_that_is_not_there_is_made(make, tmp_path):
    lease = Lease(epath.Path(tmp_path / "a" / "b"), **QUICK)
    lease.take()
    lease.release()
    assert (tmp_path / "a" / "b").is_dir()
