"""The training loop, for every recipe and any number of devices."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from babeldraw.config import require, to_dict
from babeldraw.data.records import Source
from babeldraw.evaluation.base import Evaluator
from babeldraw.hosts.joining import ALONE, Alone, Hosts, Interrupted
from babeldraw.objectives.base import Objective, TrainState
from babeldraw.runs.checkpoints import Checkpoints, placed
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.runs.lease import Lease
from babeldraw.say import ProgressReport, say
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.layout import Layout, make_layout, use
from babeldraw.sharding.mesh import make_mesh
from babeldraw.train.built_on import check_stored_states, check_stored_tokens
from babeldraw.train.clock import Clock, ideal_seconds
from babeldraw.train.crash import Flight, reported
from babeldraw.train.experiment import Experiment, parse
from babeldraw.train.first_step import FirstStep
from babeldraw.train.metrics import MetricsWriter
from babeldraw.train.overview import overview
from babeldraw.train.pace import Pace
from babeldraw.train.pending import Pending
from babeldraw.train.profile import Profiler
from babeldraw.train.requirements import without_kernel
from babeldraw.train.start import (
    check_data,
    check_moved,
    check_resume,
    classes_learned,
    evaluation_context,
    finished_figures,
    initial_state,
    moved,
    open_batches,
    open_train_source,
    resolve,
    whole_objective,
)
from babeldraw.train.step import make_watched_step, state_shardings
from babeldraw.train.watch import Watchman, WatchState

# Steps that may be under way on the device before the host waits for the oldest.
STEPS_IN_FLIGHT = 4


def train(
    config: Mapping[str, Any],
    workdir: str,
    label: str = "train",
    devices: list[jax.Device] | None = None,
    hosts: Hosts | Alone = ALONE,
) -> dict[str, float]:
    """Trains one run, from its last checkpoint if it has one, to its last step.

    Args:
      config: of `get_config`, or the content of a config.json.
      workdir: the run folder, local or on a path that etils knows.
      label: names the run in the progress display.
      devices: those to train on; None for all.
      hosts: of `joined`, where there are several.

    Returns:
      The figures of the last evaluation, as report.json holds them.

    Raises:
      UserError: a mistake in the config, the data or the run folder.
      Interrupted: SIGTERM; the state is saved.
    """
    # ------------------------------------------------------------------ what to do
    experiment = parse(config)
    folder = RunFolder.of(workdir)
    check_resume(folder, experiment)
    finished = finished_figures(folder, experiment)
    if finished is not None:
        say(f"{label}: {folder.path} is finished, {experiment.train.steps} steps")
        return finished
    # All must have looked before one writes.
    hosts.meet("checked")
    mesh = make_mesh(experiment.mesh, devices)
    layout = make_layout(experiment.mesh, mesh)
    # Before anything is written into the folder.
    experiment.check_layout(layout)
    # Once: what lies in many files takes a while to be looked through.
    source = open_train_source(experiment)
    check_data(experiment, source)
    with contextlib.ExitStack() as holding:
        lease = None
        if hosts.index == 0:
            lease = Lease(folder.path, say)
            lease.take()
            holding.callback(lease.release)
        # Again: another process may have trained here while this one waited.
        check_resume(folder, experiment)
        return _train(experiment, folder, label, layout, source, hosts, lease)


def _train(
    experiment: Experiment,
    folder: RunFolder,
    label: str,
    layout: Layout,
    source: Source,
    hosts: Hosts | Alone,
    lease: Lease | None,
) -> dict[str, float]:
    """`train`, in a folder that no other process writes to."""
    mesh = layout.mesh
    experiment, vocabulary = resolve(experiment, folder, source, hosts)
    objective = whole_objective(experiment)
    settings, steps = experiment.train, experiment.train.steps
    schedule = experiment.optimizer.schedule
    if schedule.kind != "constant" and schedule.decay_end > steps:
        say(
            f"{label}: config.train.steps={steps} ends before "
            f"config.optimizer.schedule.decay_end={schedule.decay_end}: the learning rate will not "
            "come down to its end; set both for a shorter run"
        )

    for line in without_kernel(layout, experiment.stacks):
        say(f"{label}: {line}")

    # ------------------------------------------------------------------ state
    key = jax.random.key(settings.seed)
    abstract = jax.eval_shape(objective.init, key)
    places = state_shardings(objective, layout)
    checkpoints = Checkpoints(folder.checkpoints, settings.keep, settings.keep_every, say)
    batches = open_batches(experiment, vocabulary, source)

    def newest() -> tuple[int, TrainState, dict[str, Any]]:
        # Restart rules, in order:
        # 1. the newest whole checkpoint of this run: state, data position, elapsed time, watch;
        # 2. else fresh weights, with the trained tokenizer where the recipe freezes one.
        found = checkpoints.restore_newest(placed(abstract, places))
        return found or (0, initial_state(experiment, objective, key, places), {})

    start, state, progress = newest()
    require(
        start <= steps,
        f"{folder.path} has done {start} steps, config.train.steps is {steps}; set at least "
        f"{start} or give another workdir",
    )
    if progress:
        check_moved(folder, experiment, batches, progress, state)
        batches.restore(progress["batches"])
        say(f"{label}: goes on from step {start} of {steps}{moved(progress, layout, hosts)}")
    else:
        say(overview(abstract, objective.axes()))
    check_stored_tokens(experiment, state, source)
    check_stored_states(experiment, state, source)
    classes = classes_learned(experiment, source)
    if hosts.index == 0:
        folder.write_classes(classes)
        folder.write_config(to_dict(experiment))

    # ------------------------------------------------------------------ the step
    update = make_watched_step(objective, layout, places, settings.watch)
    watch = WatchState.of(progress.get("watch"), mesh)
    watchman = Watchman(settings.watch, progress.get("roll_backs", 0), say)
    context = evaluation_context(experiment, mesh, vocabulary, classes)
    evaluators = experiment.make_evaluators(objective, context)
    # What an evaluator cannot open is said now, not at the first evaluation, hours from here.
    for evaluator in evaluators.values():
        getattr(evaluator, "check", lambda: None)()
    writer = None
    if hosts.index == 0:
        writer = MetricsWriter(folder, settings.metrics, to_dict(experiment))
    stop, restore_sigterm = _stop_on_sigterm(hosts)
    progress_report = ProgressReport(label, steps, start)
    profiler = Profiler(folder, hosts.index, progress_report.say)
    kind = mesh.devices.flat[0].device_kind
    clock = Clock(progress.get("clock"), ideal_seconds(experiment, kind, mesh.size))
    elapsed_before, began = progress.get("elapsed", 0.0), time.monotonic()
    pending = Pending(STEPS_IN_FLIGHT)

    def tell(line: str) -> None:
        progress_report.say(f"{label}: {line}")

    pace = Pace(experiment, start, STEPS_IN_FLIGHT, tell)
    flight = Flight(to_dict(experiment))

    def elapsed() -> float:
        return elapsed_before + time.monotonic() - began

    def position() -> dict[str, Any]:
        return {
            "batches": batches.state(),
            "elapsed": elapsed(),
            "watch": watch.to_json(),
            "roll_backs": watchman.roll_backs,
            "clock": clock.to_json(),
            "mesh": {**mesh.shape, "hosts": hosts.count},
        }

    def evaluate(step: int) -> dict[str, float]:
        with use(layout.without_pipeline()):
            return _evaluate(evaluators, state, step, writer, elapsed(), progress_report, hosts)

    # ------------------------------------------------------------------ the loop
    with contextlib.ExitStack() as closing:
        for close in (writer and writer.close, checkpoints.close, batches.close):
            closing.callback(close or (lambda: None))
        for close in (profiler.close, progress_report.close, restore_sigterm):
            closing.callback(close)
        first_step = FirstStep(tell)
        closing.callback(first_step.close)
        closing.enter_context(reported(folder, hosts.index, flight))
        step = start
        while step < steps:
            step += 1
            flight.step = step
            hosts.tick(step, "waiting for data")
            with clock.part("data"):
                data_step = batches.state()["step"]
                batch = _inputs(next(batches), objective)
            hosts.tick(step, "in the step")
            with clock.part("host"):
                state, watch, metrics = update(state, watch, place_batch(batch, mesh), key)
                pending.add(step, data_step, metrics)
            with clock.part("device"):
                pending.wait()
            first_step.done(clock)
            clock.step_done()
            pace.step_done(clock)
            profiler.step_done(step, metrics)
            stopping = stop(step)
            saving = step % settings.checkpoint_every == 0 or step == steps or stopping
            saving = saving or checkpoints.retry_due()
            logging = step % settings.log_every == 0 or saving
            # Looked at before every save: a checkpoint never holds a state that is not finite.
            with clock.part("device"):
                # Before metrics are written the steps under way are waited for.
                rows = pending.rows(all_of_them=logging, ready=settings.watch.acts)
            if any(watchman.must_roll_back(*row, batches) for row in rows):
                pending.clear()
                checkpoints.wait()
                position_of_data = batches.state()
                step, state, progress = newest()
                watch = WatchState.of(progress.get("watch"), mesh)
                batches.restore(position_of_data)
                say(f"{label}: goes on from step {step} with the data after the bad batch")
                continue
            if logging:
                hosts.tick(step, "writing metrics")
                flight.metrics = means = pending.means()
                # Where every update was left out there is none.
                loss = f"loss {means['loss']:.4f}" if "loss" in means else ""
                progress_report.update(step, loss)
                profiler.look()
                if writer is not None:
                    writer.scalars(step, {f"train/{k}": v for k, v in means.items()}, elapsed())
                    writer.timing(step, clock.figures())
            elif step % 10 == 0:
                progress_report.update(step)
            if saving:
                hosts.tick(step, "saving")
                if lease is not None:
                    lease.check()
                save = checkpoints.save_surely if stopping else checkpoints.save
                save(step, state, position())
            if settings.eval_every and step % settings.eval_every == 0 and step < steps:
                evaluate(step)
            if stopping:
                raise Interrupted(step)

        # ------------------------------------------------------------------ the end
        if batches.reader.bad:
            say(f"{label}: {batches.reader.bad} records could not be read and were skipped")
        figures = evaluate(steps)
        checkpoints.save_surely(steps, state, position())
        figures["seconds"] = elapsed()
        if writer is not None:
            write_json(folder.report_file, {"step": steps, **figures})
        if hosts.count == 1 and stop(steps):
            raise Interrupted(steps)
        return figures


def _inputs(batch: dict[str, np.ndarray], objective: Objective) -> dict[str, np.ndarray]:
    """The part of a batch that the objective wants."""
    return {name: batch[name] for name in objective.batch_spec()}


def _evaluate(
    evaluators: dict[str, Evaluator],
    state: TrainState,
    step: int,
    writer: MetricsWriter | None,
    elapsed: float,
    report: ProgressReport,
    hosts: Hosts | Alone,
) -> dict[str, float]:
    """Runs every evaluator; figures are returned, pictures written."""
    figures = {}
    for name, evaluator in evaluators.items():
        hosts.tick(step, f"evaluating {name}")
        for key, value in evaluator.run(state):
            if isinstance(value, np.ndarray):
                if writer is not None:
                    writer.image(step, f"{name}/{key}", value)
            else:
                figures[f"{name}/{key}"] = value
    if figures and writer is not None:
        writer.scalars(step, figures, elapsed)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        report.say(f"step {step}: {shown}")
    return figures


def _stop_on_sigterm(hosts: Hosts | Alone) -> tuple[Callable[[int], bool], Callable[[], None]]:
    """Whether to stop after a step, since SIGTERM came (preemption, maintenance) to any host.

    And how to put the old handler back.
    """
    if hosts.count > 1:
        # jax has set its own handler: it agrees with all hosts on the step.
        return multihost_utils.reached_preemption_sync_point, lambda: None
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        return lambda step: False, lambda: None
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    return lambda step: event.is_set(), lambda: signal.signal(signal.SIGTERM, before)
