"""The training loop, for every recipe and any number of devices."""

import collections
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from babeldraw.config import require, to_dict
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Evaluator
from babeldraw.objectives.base import Objective, TrainState
from babeldraw.runs.checkpoints import Checkpoints, placed
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import make_mesh
from babeldraw.train.experiment import parse
from babeldraw.train.hosts import ALONE, Alone, Hosts, Interrupted
from babeldraw.train.metrics import MetricsWriter
from babeldraw.train.overview import overview
from babeldraw.train.progress import ProgressReport, say
from babeldraw.train.start import (
    check_resume,
    check_stored_tokens,
    evaluation_context,
    finished_figures,
    initial_state,
    open_batches,
    resolve,
)
from babeldraw.train.step import make_step, state_shardings

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
    experiment, vocabulary = resolve(experiment, folder, hosts)
    objective = experiment.make_objective()
    settings, steps = experiment.train, experiment.train.steps
    schedule = experiment.optimizer.schedule
    if schedule.kind != "constant" and schedule.decay_end > steps:
        say(
            f"{label}: config.train.steps={steps} ends before "
            f"config.optimizer.schedule.decay_end={schedule.decay_end}: the learning rate will not "
            "come down to its end; set both for a shorter run"
        )

    # ------------------------------------------------------------------ state
    key = jax.random.key(settings.seed)
    abstract = jax.eval_shape(objective.init, key)
    places = state_shardings(objective, layout)
    checkpoints = Checkpoints(folder.checkpoints, settings.keep)
    batches = open_batches(experiment, vocabulary)
    # Restart rules, in order:
    # 1. the newest whole checkpoint of this run: state, data position and elapsed time;
    # 2. else fresh weights, with the trained tokenizer where the recipe freezes one.
    latest = checkpoints.latest_step()
    if latest is not None:
        state, progress = checkpoints.restore(latest, placed(abstract, places))
        batches.restore(progress["batches"])
        require(
            latest <= steps,
            f"{folder.path} has done {latest} steps, config.train.steps is {steps}; set at least "
            f"{latest} or give another --workdir",
        )
        start, elapsed_before = latest, float(progress["elapsed"])
        say(f"{label}: goes on from step {latest} of {steps}")
    else:
        state = initial_state(experiment, objective, key, places)
        start, elapsed_before = 0, 0.0
        say(overview(abstract, objective.axes()))
    check_stored_tokens(experiment, state)
    if hosts.index == 0:
        folder.write_config(to_dict(experiment))

    # ------------------------------------------------------------------ the step
    update = make_step(objective, layout, places)
    context = evaluation_context(experiment, mesh, vocabulary)
    evaluators = experiment.make_evaluators(objective, context)
    writer = MetricsWriter(folder) if hosts.index == 0 else None
    stop, restore_sigterm = _stop_on_sigterm(hosts)
    progress_report = ProgressReport(label, steps, start)
    began = time.monotonic()
    pending: collections.deque[tuple[int, dict]] = collections.deque()

    def elapsed() -> float:
        return elapsed_before + time.monotonic() - began

    def save(step: int) -> None:
        progress = {"batches": batches.state(), "elapsed": elapsed()}
        checkpoints.save(step, state, progress)

    # ------------------------------------------------------------------ the loop
    try:
        for step in range(start + 1, steps + 1):
            hosts.tick(step, "waiting for data")
            batch = place_batch(_inputs(next(batches), objective), mesh)
            hosts.tick(step, "in the step")
            state, metrics = update(state, batch, key)
            pending.append((step, metrics))
            if len(pending) > STEPS_IN_FLIGHT:
                jax.block_until_ready(pending[-STEPS_IN_FLIGHT][1])
            stopping = stop(step)
            saving = step % settings.checkpoint_every == 0 or step == steps or stopping
            # Looked at before every save: a checkpoint never holds a state that is not finite.
            if step % settings.log_every == 0 or saving:
                means = _drain(pending)
                progress_report.update(step, f"loss {means['loss']:.4f}")
                if writer is not None:
                    writer.scalars(step, {f"train/{k}": v for k, v in means.items()}, elapsed())
            elif step % 10 == 0:
                progress_report.update(step)
            if saving:
                save(step)
            if settings.eval_every and step % settings.eval_every == 0 and step < steps:
                with use(layout.without_pipeline()):
                    _evaluate(evaluators, state, step, writer, elapsed(), progress_report)
            if stopping:
                raise Interrupted(step)

        # ------------------------------------------------------------------ the end
        if batches.reader.bad:
            say(f"{label}: {batches.reader.bad} records could not be read and were skipped")
        with use(layout.without_pipeline()):
            figures = _evaluate(evaluators, state, steps, writer, elapsed(), progress_report)
        figures["seconds"] = elapsed()
        if writer is not None:
            write_json(folder.report_file, {"step": steps, **figures})
        if hosts.count == 1 and stop(steps):
            raise Interrupted(steps)
        return figures
    finally:
        restore_sigterm()
        progress_report.close()
        batches.close()
        checkpoints.close()
        if writer is not None:
            writer.close()


def _inputs(batch: dict[str, np.ndarray], objective: Objective) -> dict[str, np.ndarray]:
    """The part of a batch that the objective wants."""
    return {name: batch[name] for name in objective.batch_spec()}


def _drain(pending: collections.deque) -> dict[str, float]:
    """Means of all metrics since the last call; stops the run at the first that is not finite."""
    steps = [step for step, _ in pending]
    rows = jax.device_get([metrics for _, metrics in pending])
    pending.clear()
    for step, row in zip(steps, rows, strict=True):
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        # psnr_db is infinite where the reconstruction is perfect, which is no fault.
        bad = [name for name in bad if name != "psnr_db" or math.isnan(row[name])]
        if bad:
            raise UserError(
                f"step {step}: {', '.join(f'{name} is {row[name]}' for name in sorted(bad))}; the "
                "last checkpoint is from before; lower config.optimizer.schedule.peak or "
                "config.optimizer.clip_norm"
            )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _evaluate(
    evaluators: dict[str, Evaluator],
    state: TrainState,
    step: int,
    writer: MetricsWriter | None,
    elapsed: float,
    report: ProgressReport,
) -> dict[str, float]:
    """Runs every evaluator; figures are returned, pictures written."""
    figures = {}
    for name, evaluator in evaluators.items():
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
