"""The learning rate, at the steps where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.optim.schedules import ScheduleConfig, make_schedule

BABELDRAW = make_schedule(ScheduleConfig())


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (1, 9e-9),
        (2_500, 2.25e-5),
        (5_000, 4.5e-5),
        (5_001, 4.5e-5),
        (60_000, 4.5e-5),
        (85_000, 4.5e-5),
        (450_000, 1.125e-6),
        (450_001, 1.125e-6),
        (10_000_000, 1.125e-6),
    ],
)
def test_babeldraw_s_published_points(step, rate):
    np.testing.assert_allclose(BABELDRAW(step), rate, rtol=1e-5)


def test_babeldraw_s_midpoint_is_the_geometric_mean():
    np.testing.assert_allclose(BABELDRAW(267_500), 7.115e-6, rtol=1e-3)
    np.testing.assert_allclose(BABELDRAW(267_500), np.sqrt(4.5e-5 * 1.125e-6), rtol=1e-5)


def test_the_exponential_decay_is_linear_in_the_logarithm():
    steps = jnp.linspace(85_000, 450_000, 11)
    logarithms = np.log(np.asarray(BABELDRAW(steps), np.float64))
    np.testing.assert_allclose(np.diff(logarithms), np.log(0.025) / 10, atol=1e-5)


def test_the_rate_is_float32_of_a_traced_count():
    rate = jax.jit(BABELDRAW)(jnp.int32(5_000))
    assert rate.dtype == jnp.float32 and rate.shape == ()
    np.testing.assert_allclose(rate, 4.5e-5, rtol=1e-5)


def test_cosine_falls_as_half_a_wave():
    config = ScheduleConfig(0.2, 10, 20, 120, final_ratio=0.1, kind="cosine")
    steps = np.array([0, 5, 10, 20, 45, 70, 95, 120, 500])
    wave = 0.5 * (1 + np.cos(np.pi * np.clip((steps - 20) / 100, 0, 1)))
    expected = 0.2 * np.minimum(steps / 10, 1) * (0.1 + 0.9 * wave)
    np.testing.assert_allclose(make_schedule(config)(steps), expected, atol=1e-6)
    np.testing.assert_allclose(expected[[5, 7, 8]], [0.11, 0.02, 0.02])


def test_linear_falls_to_nothing():
    config = ScheduleConfig(0.2, 10, 20, 120, final_ratio=0.0, kind="linear")
    steps = np.array([0, 5, 10, 20, 70, 95, 120, 500])
    expected = [0, 0.1, 0.2, 0.2, 0.1, 0.05, 0, 0]
    np.testing.assert_allclose(make_schedule(config)(steps), expected, atol=1e-6)


def test_constant_stays_at_the_peak():
    schedule = make_schedule(ScheduleConfig(0.2, 10, 20, 120, kind="constant"))
    np.testing.assert_allclose(
        schedule(np.array([5, 10, 50, 500])), [0.1, 0.2, 0.2, 0.2], rtol=1e-6
    )


def test_no_warm_up_begins_at_the_peak():
    schedule = make_schedule(ScheduleConfig(0.2, 0, 0, 100, kind="constant"))
    np.testing.assert_allclose(schedule(np.array([0, 1])), 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"kind": "sine"}, "kind"),
        ({"peak": 0.0}, "peak"),
        ({"peak": -1.0}, "peak"),
        ({"peak": float("nan")}, "peak"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_steps": 90_000}, "warmup_steps"),
        ({"decay_start": 450_000}, "decay_start"),
        ({"decay_end": 85_000}, "decay_end"),
        ({"final_ratio": 0.0}, "final_ratio"),
        ({"final_ratio": 1.5}, "final_ratio"),
    ],
)
def test_a_bad_value_is_named(bad, field):
    with pytest.raises(UserError) as caught:
        ScheduleConfig(**bad)
    message = str(caught.value)
    assert message.startswith("config.optimizer.schedule") and field in message
    assert str(*bad.values()) in message and "\n" not in message


def test_warm_up_may_begin_above_zero():
    config = ScheduleConfig(peak=2.0, warmup_steps=10, warmup_from=0.5, kind="constant")
    rates = [float(make_schedule(config)(step)) for step in (0, 5, 10, 20)]
    np.testing.assert_allclose(rates, [1.0, 1.5, 2.0, 2.0], rtol=1e-6)
    with pytest.raises(UserError, match="warmup_from is 2; a ratio in"):
        ScheduleConfig(warmup_from=2)


def test_the_rate_drops_to_a_tenth_at_each_of_some_steps():
    config = ScheduleConfig(peak=2.0, warmup_steps=0, kind="constant", drops=(5, 8))
    rates = [float(make_schedule(config)(step)) for step in (0, 4, 5, 7, 8, 99)]
    np.testing.assert_allclose(rates, [2.0, 2.0, 0.2, 0.2, 0.02, 0.02], rtol=1e-6)
    with pytest.raises(UserError, match=r"schedule.drops is \(0,\); steps of at least 1"):
        ScheduleConfig(drops=(0,))
