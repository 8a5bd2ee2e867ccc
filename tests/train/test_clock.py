"""Where the time goes, a profile on demand, and the metrics of steps under way."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.runs.folder import RunFolder
from babeldraw.train import profile
from babeldraw.train.clock import Clock, ideal_seconds
from babeldraw.train.experiment import parse
from babeldraw.train.pending import Pending
from babeldraw.train.profile import Profiler


class Time:
    """A clock that a test turns."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock_time(monkeypatch):
    return Time(monkeypatch)


def step(clock, clock_time, **parts):
    for name, seconds in parts.items():
        with clock.part(name):
            clock_time.now += seconds
    clock.step_done()


def test_a_step_is_split_into_data_host_and_device(clock_time):
    clock = Clock(None)
    step(clock, clock_time, data=5, host=60, device=5)  # Compilation.
    for _ in range(4):
        step(clock, clock_time, data=1, host=2, device=5)
    found = clock.figures()
    assert found["step_seconds"] == 8
    shares = [found[f"{name}_share"] for name in ("data", "host", "device")]
    assert shares == [1 / 8, 2 / 8, 5 / 8]
    assert found["goodput"] == 32 / 102
    assert "step_seconds" not in clock.figures()


def test_goodput_counts_the_time_in_which_nothing_ran_and_no_step_twice(clock_time):
    clock = Clock(None)
    step(clock, clock_time, host=10)
    step(clock, clock_time, device=20)
    saved = clock.to_json()
    step(clock, clock_time, device=30)  # Lost: the run is killed.
    clock_time.now += 40
    again = Clock(saved)
    step(again, clock_time, host=10)
    step(again, clock_time, device=30)
    assert again.figures()["goodput"] == (20 + 30) / (10 + 20 + 30 + 40 + 10 + 30)


def test_the_saved_time_is_the_same_before_and_after_the_metrics(clock_time):
    clock = Clock(None)
    step(clock, clock_time, host=1)
    step(clock, clock_time, host=7)
    before = clock.to_json()
    clock.figures()
    assert clock.to_json() == before == {"started": 1000.0, "productive": 7.0}


def test_mfu_is_the_ideal_time_over_the_real_one(clock_time):
    clock = Clock(None, ideal=3.0)
    for device in (50, 4, 8):
        step(clock, clock_time, device=device)
    assert clock.figures()["mfu"] == 3.0 / 6.0


def test_the_ideal_time_is_that_of_the_formulas_at_the_peak(runlocal):
    experiment = parse(runlocal("demo/text_to_image.py"))
    operations = experiment.flops().per_example * experiment.train.batch_size
    assert ideal_seconds(experiment, "TPU v4", 16) == pytest.approx(operations / 16 / 275e12)
    assert ideal_seconds(experiment, "cpu", 16) is None


# ------------------------------------------------------------------ profile


@pytest.mark.slow
@pytest.mark.parametrize("asked_by", [pytest.param("signal", marks=pytest.mark.slow), "file"])
def test_a_profile_is_made_when_somebody_asks(tmp_path, monkeypatch, asked_by):
    monkeypatch.setattr(profile, "STEPS", 2)
    folder, told = RunFolder.of(str(tmp_path)), []
    before = signal.getsignal(signal.SIGUSR1)
    profiler = Profiler(folder, 0, told.append)
    x = jnp.ones(3)
    profiler.look()
    profiler.step_done(1, x)
    assert not folder.profiles.exists()
    if asked_by == "signal":
        os.kill(os.getpid(), signal.SIGUSR1)
    else:
        folder.profile_request.touch()
        profiler.look()
    for number in range(2, 8):
        x = jax.block_until_ready(x + 1)
        profiler.step_done(number, x)
    profiler.close()
    assert told == [f"profile of 2 steps in {tmp_path}/profiles/0000002"]
    assert list((tmp_path / "profiles" / "0000002").rglob("*.xplane.pb"))
    assert not folder.profile_request.exists()
    assert signal.getsignal(signal.SIGUSR1) is before


# ------------------------------------------------------------------ metrics under way


def rows_of(pending, **how):
    return [(number, data, row["loss"]) for number, data, row in pending.rows(**how)]


def test_rows_come_once_and_in_order():
    pending = Pending(2)
    for number in range(1, 6):
        pending.add(number, number - 1, {"loss": jnp.float32(number)})
        pending.wait()
    assert rows_of(pending, all_of_them=False, ready=False) == []
    assert rows_of(pending, all_of_them=False, ready=True) == [
        (1, 0, 1.0),
        (2, 1, 2.0),
        (3, 2, 3.0),
    ]
    assert rows_of(pending, all_of_them=True, ready=True) == [(4, 3, 4.0), (5, 4, 5.0)]
    assert pending.means() == {"loss": 3.0}
    assert pending.means() == {}


def test_means_leave_out_what_was_left_out():
    pending = Pending(1)
    for loss, skipped in ((1.0, 0.0), (np.nan, 1.0), (3.0, 0.0)):
        flags = {"skipped": skipped, "skipped_in_row": skipped}
        pending.add(
            1, 1, {"loss": jnp.float32(loss)} | {k: jnp.float32(v) for k, v in flags.items()}
        )
    pending.rows(all_of_them=True, ready=True)
    assert pending.means() == {"loss": 2.0, "skipped": pytest.approx(1 / 3)}
