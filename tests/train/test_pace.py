"""The line that says how long a run will take."""

import time

import pytest

from babeldraw.train.clock import Clock
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.pace import STEPS, Pace, duration

IN_FLIGHT = 4


def told(monkeypatch, config, start=0, steps=60, **parts):
    """What is said of steps whose parts take so many seconds; the first ones are quicker."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock, lines = Clock(None), []
    pace = Pace(parse(config), start, IN_FLIGHT, lines.append)
    for step in range(1, steps + 1):
        for name, seconds in parts.items():
            with clock.part(name):
                now[0] += seconds if step > 1 + IN_FLIGHT else seconds / 10
        # Saving, which is no part.
        now[0] += 100.0
        clock.step_done()
        pace.step_done(clock)
        if step % 7 == 0:
            clock.figures()
    return lines


@pytest.fixture
def config(runlocal):
    config = runlocal("demo/tokenizer.py")
    config.train.update(steps=20_000, eval_every=0)
    return config


def test_it_is_said_once_when_the_pace_is_known(config, monkeypatch):
    parts = {"data": 0.1, "host": 0.15, "device": 0.5}
    assert told(monkeypatch, config, **parts) == [
        "20,000 steps at 1.33 steps/s: about 4 h 10 min; shorter: config.train.steps; in a new "
        "workdir config.train.batch_size, config.tokenizer.decoder.dim"
    ]
    assert told(monkeypatch, config, steps=IN_FLIGHT + STEPS, **parts) == []


def test_of_a_run_that_goes_on_the_rest_counts(config, monkeypatch):
    config.train.eval_every = 100
    (line,) = told(monkeypatch, config, start=15_000, data=0.0, host=0.0, device=2.0)
    assert line.startswith(
        "5,000 of 20,000 steps at 0.5 steps/s: about 2 h 47 min, evaluations apart; shorter: "
    )


def test_waiting_for_data_is_told(config, monkeypatch):
    (line,) = told(monkeypatch, config, data=2.0, host=0.5, device=1.0)
    assert "shorter: config.data.workers (more than half is waiting for data), config.tr" in line


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("demo/text_to_image.py", "config.model.decoder.dim"),
        ("demo/vim.py", "config.model.decoder.dim"),
        ("demo/coca.py", "config.model.multimodal.dim"),
        ("demo/classifier.py", "config.model.channels"),
        ("demo/super_resolution.py", "config.super_resolution.channels"),
    ],
)
def test_each_recipe_names_a_field_that_it_has(runlocal, name, field):
    config = runlocal(name)
    assert parse(config).width_field == field
    for part in field.split(".")[1:]:
        config = config[part]
    assert config > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1, "1 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "1 h 0 min"),
        (15_300, "4 h 15 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_duration_has_two_units(seconds, text):
    assert duration(seconds) == text


# Two short runs.
@pytest.mark.slow
@pytest.mark.budget(10)
def test_a_run_says_it_once_and_again_when_it_goes_on(runlocal, tmp_path, capsys):
    config = runlocal("demo/classifier.py")
    config.train.update(steps=1 + IN_FLIGHT + STEPS, log_every=9, checkpoint_every=100)
    config.evaluators.classification = None
    for steps, said in ((25, "train: 25 steps at "), (55, "train: 30 of 55 steps at ")):
        config.train.steps = steps
        train(config, str(tmp_path))
        lines = [line for line in capsys.readouterr().err.splitlines() if "; shorter: " in line]
        assert len(lines) == 1 and lines[0].startswith(said)
