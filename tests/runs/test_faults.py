"""Storage that fails: the last good checkpoint stays, the fault is told, the save made again."""

import contextlib
import os
import subprocess
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.runs import checkpoints as room
from babeldraw.runs.checkpoints import Checkpoints, on_first_device

PROGRESS = {"batches": {"step": 3}}


def state_of(step):
    """Noise, which does not compress, and other noise for each step."""
    rng = np.random.default_rng(step)
    return {
        "weight": jnp.asarray(rng.normal(size=(300, 1000)), jnp.float32),
        "opt": (jnp.asarray(rng.integers(-127, 128, 5000), jnp.int8), jnp.int32(step)),
    }


ABSTRACT = on_first_device(jax.eval_shape(lambda: state_of(0)))


@pytest.fixture
def told():
    return []


@pytest.fixture
def make(tmp_path, told):
    """Checkpoints that report into `told` and try again soon."""
    with contextlib.ExitStack() as stack:

        def open_(folder=tmp_path, **kwargs):
            made = Checkpoints(
                folder, **{"report": told.append, "retry_seconds": (0.05, 0.05), **kwargs}
            )
            stack.callback(made.close)
            return made

        yield open_


def steps_of(checkpoints):
    return sorted(int(p.name) for p in checkpoints.directory.iterdir() if p.name.isdigit())


def assert_good(checkpoints, step):
    found, state, _ = checkpoints.restore_newest(ABSTRACT)
    assert found == step
    for here, there in zip(jax.tree.leaves(state), jax.tree.leaves(state_of(step)), strict=True):
        assert np.asarray(here).tobytes() == np.asarray(there).tobytes()


def wait_for_retry(checkpoints):
    deadline = time.monotonic() + 20
    while not checkpoints.retry_due():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ------------------------------------------------------------------ the disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of six megabytes of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
            yield folder
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            return
    pytest.skip("only root may mount a small file system")


@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_is_told_and_the_save_made_once_there_is_room(small_disk, make, told):
    checkpoints = make(small_disk / "checkpoints", keep=1)
    checkpoints.save(1, state_of(1), PROGRESS)
    checkpoints.wait()
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    checkpoints.save(2, state_of(2), PROGRESS)
    wait_for_retry(checkpoints)
    assert "the checkpoint of step 2 could not be written" in told[0]
    assert "No space left" in told[0] or "RESOURCE_EXHAUSTED" in told[0]
    assert told[0].endswith("that of step 1 is whole; trying again in 0.05 s")
    assert "\n" not in told[0]
    assert_good(checkpoints, 1)

    filler.unlink()
    checkpoints.save(5, state_of(5), PROGRESS)
    checkpoints.wait()
    assert steps_of(checkpoints) == [5] and len(told) == 1
    assert not checkpoints.retry_due()
    assert_good(checkpoints, 5)


# ------------------------------------------------------------------ faults at the n-th write


class Storage:
    """Orbax's checkpointer over a storage that fails or is slow at chosen saves."""

    def __init__(self, monkeypatch):
        self.saves, self.faults, self.delay = 0, {}, 0.0
        real = room.Writing.start
        storage = self

        def start(writing, state, progress):
            storage.saves += 1
            fault = storage.faults.get(storage.saves)
            checkpointer = writing._checkpointer

            class Failing:
                def save_checkpointables_async(self, *args, **kwargs):
                    if fault == "at once":
                        raise ConnectionError("the bucket cannot be reached")
                    response = checkpointer.save_checkpointables_async(*args, **kwargs)
                    return Response(response)

            class Response:
                def __init__(self, response):
                    self._response = response

                def result(self):
                    time.sleep(storage.delay)
                    self._response.result()
                    if fault == "later":
                        raise ConnectionError("the bucket cannot be reached")

            writing._checkpointer = Failing()
            real(writing, state, progress)

        monkeypatch.setattr(room.Writing, "start", start)


@pytest.fixture
def storage(monkeypatch):
    return Storage(monkeypatch)


@pytest.mark.parametrize("when", ["at once", "later"])
def test_the_second_write_fails(make, storage, told, when):
    storage.faults = {2: when}
    checkpoints = make(keep=1)
    checkpoints.save(1, state_of(1), PROGRESS)
    checkpoints.save(2, state_of(2), PROGRESS)
    wait_for_retry(checkpoints)
    assert told == [
        "the checkpoint of step 2 could not be written (ConnectionError: the bucket cannot be "
        "reached); that of step 1 is whole; trying again in 0.05 s"
    ]
    assert_good(checkpoints, 1)
    checkpoints.save(3, state_of(3), PROGRESS)
    checkpoints.wait()
    assert steps_of(checkpoints) == [3]
    assert_good(checkpoints, 3)


def test_after_too_many_faults_the_run_stops_with_a_line(make, storage, told):
    storage.faults = {2: "at once", 3: "at once", 4: "at once"}
    checkpoints = make(keep=1)
    checkpoints.save_surely(1, state_of(1), PROGRESS)
    with pytest.raises(UserError, match="that of step 1 is whole; this was try 3: mend") as error:
        checkpoints.save_surely(2, state_of(2), PROGRESS)
    assert "\n" not in str(error.value) and len(told) == 2
    assert_good(make(), 1)


def test_the_last_save_of_a_run_is_tried_until_it_is_there(make, storage, told):
    storage.faults = {1: "at once", 2: "later"}
    checkpoints = make()
    checkpoints.save_surely(4, state_of(4), PROGRESS)
    assert len(told) == 2 and steps_of(checkpoints) == [4]
    assert_good(checkpoints, 4)


def test_slow_writes_hold_up_nothing_but_the_next_save(make, storage):
    storage.delay = 0.5
    checkpoints = make(keep=2)
    began = time.monotonic()
    checkpoints.save(1, state_of(1), PROGRESS)
    assert not checkpoints.retry_due()
    assert time.monotonic() - began < 0.4
    checkpoints.save(2, state_of(2), PROGRESS)
    assert time.monotonic() - began >= 0.5
    checkpoints.wait()
    assert steps_of(checkpoints) == [1, 2]


# ------------------------------------------------------------------ damage


def damage(checkpoints, step):
    """Turns one bit of the largest file of a checkpoint."""
    files = [path for path in Path(checkpoints.directory / str(step)).rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_put_aside_for_the_one_before_it(make, told):
    checkpoints = make()
    for step in (1, 2):
        checkpoints.save_surely(step, state_of(step), PROGRESS)
    damage(checkpoints, 2)
    assert_good(checkpoints, 1)
    assert "/2 is damaged" in told[0] and "put aside, trying the one before it" in told[0]
    assert (checkpoints.directory / "damaged-2").exists()
    checkpoints.save_surely(2, state_of(2), PROGRESS)
    assert_good(checkpoints, 2)
    damage(checkpoints, 2)
    assert_good(checkpoints, 1)


def test_where_all_are_damaged_the_user_is_told(make):
    checkpoints = make()
    checkpoints.save_surely(1, state_of(1), PROGRESS)
    damage(checkpoints, 1)
    with pytest.raises(UserError, match="1 is damaged: .* there is none before it, look into"):
        checkpoints.restore_newest(ABSTRACT)


def test_older_ones_stay_until_the_new_one_has_come_back(make, storage, monkeypatch, told):
    """The storage takes every byte and gives others back."""
    checkpoints = make(keep=1)
    checkpoints.save_surely(1, state_of(1), PROGRESS)
    real, reading = room.Writing._read_back, threading.Event()

    def read_back(writing, *args):
        damage(checkpoints, writing.step)
        assert steps_of(checkpoints) == [1, 2]
        reading.set()
        return real(writing, *args)

    monkeypatch.setattr(room.Writing, "_read_back", read_back)
    checkpoints.save(2, state_of(2), PROGRESS)
    wait_for_retry(checkpoints)
    assert reading.is_set() and "step 2 could not be written" in told[0]
    assert steps_of(checkpoints) == [1]
    assert_good(checkpoints, 1)


# ------------------------------------------------------------------ what is kept


def test_every_nth_stays_beside_the_latest(make):
    checkpoints = make(keep=2, keep_every=4)
    for step in range(1, 10):
        checkpoints.save(step, state_of(step), PROGRESS)
    checkpoints.wait()
    assert steps_of(checkpoints) == [4, 8, 9]
