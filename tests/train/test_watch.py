"""The watch over a run: a bad step is left out, stops the run or rolls it back, as configured."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.config import to_dict
from babeldraw.data.pipeline import TrainBatches
from babeldraw.errors import UserError
from babeldraw.objectives.base import TrainState
from babeldraw.runs.checkpoints import Checkpoints, on_first_device
from babeldraw.runs.folder import RunFolder
from babeldraw.train import step as step_room
from babeldraw.train import watch as room
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars
from babeldraw.train.start import open_batches
from babeldraw.train.watch import WatchConfig, WatchState

STEPS = 8
NOT_A_NUMBER, SPIKE = 255, 254
MESH = jax.sharding.Mesh(jax.devices()[:1], ("data",))


@pytest.fixture
def config(runlocal):
    """Of eight steps, each logged, a checkpoint after every second, no evaluator."""
    made = runlocal("demo/tokenizer.py")
    made.train.update(steps=STEPS, log_every=1, checkpoint_every=2)
    made.evaluators.reconstruction = None
    return made


@pytest.fixture
def poison(monkeypatch):
    """`poison({3: NOT_A_NUMBER})`: what the update makes of batch 3, counted from 0."""
    real_next, real_update = TrainBatches.__next__, step_room._update

    def update_of(objective, layout):
        update = real_update(objective, layout)

        def poisoned(state, batch, key):
            new, metrics = update(state, batch, key)
            all_are = lambda value: jnp.all(batch["image"] == value)  # noqa: E731
            added = jnp.where(all_are(NOT_A_NUMBER), jnp.float32(jnp.nan), jnp.float32(0))
            added = jnp.where(all_are(SPIKE), jnp.float32(1000), added)
            params = jax.tree.map(lambda p: p + added, new.params)
            return new.replace(params=params), {**metrics, "loss": metrics["loss"] + added}

        return poisoned

    def make(bad):
        def next_batch(batches):
            number = batches.state()["step"]
            batch = dict(real_next(batches))
            if number in bad:
                batch["image"] = np.full_like(batch["image"], bad[number])
            return batch

        monkeypatch.setattr(TrainBatches, "__next__", next_batch)
        monkeypatch.setattr(step_room, "_update", update_of)

    return make


def run(config, folder):
    return train(config, str(folder), devices=jax.devices()[:1])


def saved(folder):
    folder = RunFolder.of(str(folder))
    objective = parse(folder.read_config()).make_objective()
    abstract = on_first_device(jax.eval_shape(objective.init, jax.random.key(0)))
    checkpoints = Checkpoints(folder.checkpoints)
    found = checkpoints.restore_newest(abstract)
    checkpoints.close()
    return found


def metric(folder, name):
    lines = read_scalars(RunFolder.of(str(folder)))
    return {line["step"]: line[f"train/{name}"] for line in lines if f"train/{name}" in line}


def assert_finite(state):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


# ------------------------------------------------------------------ a whole run


@pytest.mark.slow
def test_a_bad_update_is_left_out_and_its_records_named(config, poison, tmp_path, capsys):
    poison({3: NOT_A_NUMBER})
    config.train.watch.skips = 2
    run(config, tmp_path)
    batches = open_batches(parse(config), None)
    keys = batches.records(3)
    batches.close()
    assert (
        f"step 4: update left out, 1 in a row: loss is nan; batch 3 of the data, records {keys}"
        in capsys.readouterr().err
    )
    step, state, progress = saved(tmp_path)
    assert step == state.step == STEPS and progress["batches"]["step"] == STEPS
    assert_finite(state)
    assert metric(tmp_path, "skipped") == {n: float(n == 4) for n in range(1, STEPS + 1)}
    assert sorted(metric(tmp_path, "loss")) == [1, 2, 3, 5, 6, 7, 8]


@pytest.mark.slow
def test_a_left_out_update_changes_nothing_but_the_count_of_steps(config, poison, tmp_path):
    """Eight steps of which the last two are bad are six steps."""
    poison({6: NOT_A_NUMBER, 7: NOT_A_NUMBER})
    config.train.watch.skips = 2
    run(config, tmp_path / "eight")
    config.train.steps = 6
    run(config, tmp_path / "six")
    (_, eight, _), (_, six, _) = saved(tmp_path / "eight"), saved(tmp_path / "six")
    assert (eight.step, six.step) == (8, 6)
    jax.tree.map(np.testing.assert_array_equal, eight.replace(step=six.step), six)


@pytest.mark.slow
def test_more_than_the_bound_stops_the_run(config, poison, tmp_path):
    poison({3: NOT_A_NUMBER, 4: NOT_A_NUMBER, 5: NOT_A_NUMBER})
    config.train.watch.skips = 2
    with pytest.raises(UserError, match=r"^step 6: loss is nan; the last checkpoint is from") as e:
        run(config, tmp_path)
    assert "\n" not in str(e.value) and "batch 5 of the data, records [" in str(e.value)
    step, state, _ = saved(tmp_path)
    assert step == 4
    assert_finite(state)


@pytest.mark.slow
def test_without_a_watch_the_first_one_stops_the_run(config, poison, tmp_path):
    poison({3: NOT_A_NUMBER})
    with pytest.raises(UserError, match=r"^step 4: loss is nan; the last checkpoint is from"):
        run(config, tmp_path)
    assert saved(tmp_path)[0] == 2
    assert "skipped" not in metric(tmp_path, "loss")


@pytest.mark.slow
def test_a_roll_back_goes_on_past_the_data(config, poison, tmp_path, capsys):
    poison({4: NOT_A_NUMBER})
    config.train.watch.then = "roll_back"
    run(config, tmp_path)
    said = capsys.readouterr().err
    assert "step 5: rolling back: loss is nan; batch 4 of the data, records [" in said
    assert "goes on from step 4 with the data after the bad batch" in said
    step, state, progress = saved(tmp_path)
    assert step == state.step == STEPS and progress["roll_backs"] == 1
    # Each step but the bad one took a batch, and the bad one is gone.
    assert progress["batches"]["step"] == STEPS + 1
    assert_finite(state)
    assert sorted(metric(tmp_path, "loss")) == [*range(1, STEPS + 1)]


@pytest.mark.slow
def test_roll_backs_are_bounded(config, poison, tmp_path, capsys):
    poison(dict.fromkeys(range(4, 100), NOT_A_NUMBER))
    config.train.watch.update(then="roll_back", roll_backs=2)
    with pytest.raises(UserError, match=r"after 2 roll-backs \(config.train.watch.roll_backs\)"):
        run(config, tmp_path)
    assert capsys.readouterr().err.count("rolling back") == 2
    assert saved(tmp_path)[0] == 4


@pytest.mark.slow
def test_a_spike_is_bad_too(config, poison, tmp_path, capsys):
    poison({6: SPIKE})
    config.train.watch.update(skips=1, spike=10.0, horizon=3)
    run(config, tmp_path)
    said = capsys.readouterr().err
    assert re.findall(r"step (\d+): update left out", said) == ["7"]
    assert re.search(r"loss 1000\.\d+ is a spike; batch 6 of the data", said)


@pytest.mark.slow
def test_before_the_horizon_nothing_is_a_spike(config, poison, tmp_path, capsys):
    poison({1: SPIKE})
    config.train.steps = 2
    config.train.watch.update(skips=1, spike=10.0, horizon=3)
    run(config, tmp_path)
    assert "left out" not in capsys.readouterr().err
    assert metric(tmp_path, "loss")[2] > 1000


# ------------------------------------------------------------------ its parts


def small_update(state, batch, key):
    """Adds the batch to the only parameter."""
    params = {"w": state.params["w"] + batch["x"]}
    metrics = {"loss": batch["loss"], "psnr_db": jnp.float32(jnp.inf)}
    return state.replace(step=state.step + 1, params=params), metrics


def run_small(config, losses):
    """The parameter, the steps counted, and `skipped` of each step."""
    state = TrainState(jnp.int32(0), {"w": jnp.float32(0)}, None, None, None)
    watch, skipped = WatchState.of(None, MESH), []
    for loss in losses:
        batch = {"x": jnp.float32(1), "loss": jnp.float32(loss)}
        state, watch, metrics = room.watched(small_update, config, state, watch, batch, None)
        skipped.append(int(metrics["skipped_in_row"]))
    return float(state.params["w"]), int(state.step), skipped


def test_bad_steps_are_counted_in_a_row_and_change_nothing():
    nan, inf = float("nan"), float("inf")
    found = run_small(WatchConfig(skips=9), [1, nan, inf, 1, nan, 1, 1000])
    assert found == (4.0, 7, [0, 1, 2, 0, 1, 0, 0])


def test_a_spike_counts_from_the_horizon_on():
    config = WatchConfig(skips=9, spike=5.0, horizon=4)
    found = run_small(config, [1, 1.2, 50, 1.1, 1, 90, 1.1, 1])
    # The early spike has widened what counts as usual: 90 lies within.
    assert found[2] == [0] * 8
    found = run_small(config, [1, 1.2, 0.9, 1.1, 1, 90, 1.1, 1])
    assert found == (7.0, 8, [0, 0, 0, 0, 0, 1, 0, 0])


def learnt(losses, horizon):
    state = WatchState.of(None, MESH)
    for loss in losses:
        state = room._learn(state, jnp.float32(loss), jnp.bool_(False), horizon)
    return state


def test_mean_and_deviation_are_those_of_the_losses_at_first():
    losses = np.random.default_rng(0).normal(3, 2, 20)
    state = learnt(losses, 50)
    np.testing.assert_allclose(state.mean, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(state.variance, losses.var(), rtol=1e-5)


def test_then_they_look_back_on_the_horizon():
    state = learnt([5.0] * 100 + [1.0] * 100, 10)
    np.testing.assert_allclose(state.mean, 1.0, atol=1e-3)


def test_its_state_survives_a_checkpoint_exactly():
    state = learnt(np.random.default_rng(1).normal(size=30), 7)
    again = WatchState.of(state.to_json(), MESH)
    for field in dataclasses.fields(WatchState):
        assert getattr(again, field.name) == getattr(state, field.name)
        assert getattr(again, field.name).dtype == getattr(state, field.name).dtype


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"skips": -1}, "skips is -1; at least 0"),
        ({"then": "panic"}, "then is 'panic'; it may be stop or roll_back"),
        ({"spike": 3.0}, "spike is 3.0 and a spike has no effect with skips=0 and then=stop"),
        ({"horizon": 1}, "horizon is 1; at least 2"),
    ],
)
def test_a_mistake_is_named(fields, said):
    with pytest.raises(UserError, match=f"config.train.watch.{said}"):
        WatchConfig(**fields)


def test_the_records_of_a_batch_are_those_it_reads(config):
    # Several would read across the border of a batch.
    config.data.workers = 1
    batches = open_batches(parse(config), None)
    read, real = [], batches.reader.read_at
    batches.reader.read_at = lambda index: (read.append(index), real(index))[1]
    for _ in range(3):
        next(batches)
    size = config.train.batch_size
    for number in range(3):
        assert sorted(batches.records(number)) == sorted(read[number * size : (number + 1) * size])
    batches.close()
    assert to_dict(config)["train"]["watch"]["then"] == "stop"
