"""Evaluates a checkpoint of a run folder."""

import dataclasses
import hashlib
import json
import time
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import build, to_dict
from babeldraw.data.image import save_png
from babeldraw.data.vocabularies import vocabulary_of
from babeldraw.errors import UserError
from babeldraw.evaluation import protocol
from babeldraw.evaluation.base import Context, Evaluator, HalfDone
from babeldraw.objectives.base import Objective, TrainState
from babeldraw.runs.checkpoints import placed, restore_subset
from babeldraw.runs.folder import RunFolder, weights_in, write_json
from babeldraw.say import say
from babeldraw.sharding.layout import Layout, make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.experiment import parse
from babeldraw.train.metrics import last_timing, read_scalars
from babeldraw.train.start import evaluation_context
from babeldraw.train.step import state_shardings


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Attributes:
    figures, pictures: of an evaluator, by name.
    record: the figures with how they came about, as JSON holds it.
    """

    figures: dict[str, float]
    pictures: dict[str, np.ndarray]
    record: dict[str, Any]

    @property
    def flat(self) -> dict[str, float]:
        """The figures under `EVALUATOR/NAME`, as metrics have them."""
        return {f"{self.record['evaluator']}/{name}": v for name, v in self.figures.items()}


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run's weights as a checkpoint holds them, on all devices.

    Attributes:
      folder, experiment, objective: of the run.
      context: what its evaluators need to know.
      layout: in which `state` lies.
      step: the checkpoint's.
      weights: which they are, `ema` or `params`.
      state: its parameters, those that are to be used, and the frozen ones; no optimizer.
    """

    folder: RunFolder
    experiment: Experiment
    objective: Objective
    context: Context
    layout: Layout
    step: int
    weights: str
    state: TrainState

    @classmethod
    def open(cls, workdir: str, weights: str = "") -> "TrainedRun":
        """Reads a run folder.

        Args:
          workdir: the folder, or `PATH@STEP`; of an import too, which has no optimizer.
          weights: `ema` or `params`; empty: the average where the run keeps one.

        Raises:
          UserError: no run there, no checkpoint yet, or no such weights.
        """
        folder = RunFolder.to_read(workdir)
        config = folder.read_config()
        held, experiment = weights_in(config, weights), parse(config)
        objective, layout = experiment.make_objective(), _layout(experiment.mesh)
        vocabulary = None
        if experiment.text_length:
            vocabulary = vocabulary_of(folder, experiment.vocab_size)
        context = evaluation_context(experiment, layout.mesh, vocabulary, folder.read_classes())
        abstract = jax.eval_shape(objective.init, jax.random.key(0))
        abstract = placed(abstract, state_shardings(objective, layout))
        wanted = {held: abstract.params, "frozen": abstract.frozen}
        wanted = {name: tree for name, tree in wanted.items() if jax.tree.leaves(tree)}
        step, found = restore_subset(folder.checkpoints, wanted, folder.step)
        state = TrainState(jnp.int32(step), found[held], None, found.get("frozen", {}), {})
        # A folder may move; what was trained in it, up to when, is what counts.
        identity = json.dumps([to_dict(experiment), step, held], sort_keys=True, default=str)
        context = dataclasses.replace(context, half_done=HalfDone(folder.evaluations, identity))
        return cls(folder, experiment, objective, context, layout, step, held, state)

    def run(self, name: str, evaluator: Evaluator) -> Evaluated:
        """An evaluator's figures with their protocol, which go to `evaluations/` too.

        Its pictures go to `samples/`.
        """
        figures, pictures, start = {}, {}, time.perf_counter()
        before = protocol.machine()["peak_bytes"]
        with use(self.layout.without_pipeline()):
            for key, value in evaluator.run(self.state):
                if isinstance(value, np.ndarray):
                    pictures[key] = value
                else:
                    figures[key] = value
        seconds = time.perf_counter() - start
        record = self._record(name, evaluator, figures, seconds)
        # What another evaluator has taken before cannot be told from what this one took.
        record["machine"]["peak_is_bound"] = record["machine"]["peak_bytes"] == before
        found = Evaluated(figures, pictures, record)
        if jax.process_index() == 0:
            for key, picture in pictures.items():
                save_png(self.folder.samples / f"{name}_{key}_{self.step:07d}.png", picture)
            self.folder.evaluations.mkdir(parents=True, exist_ok=True)
            # Measured in another way is another result, and another file.
            asked = json.dumps(record["protocol"], sort_keys=True, default=str)
            digest = hashlib.sha256(asked.encode()).hexdigest()[:6]
            file = f"{name}_{self.step:07d}_{self.weights}_{digest}.json"
            write_json(self.folder.evaluations / file, found.record)
        return found

    def _record(
        self, name: str, evaluator: Evaluator, figures: dict[str, float], seconds: float
    ) -> dict[str, Any]:
        """One JSON of all that is to be known of a result."""
        lines, timing = read_scalars(self.folder), last_timing(self.folder)
        lines = [line for line in lines if line["step"] <= self.step]
        speed, step_seconds = getattr(evaluator, "speed", None), timing.get("step_seconds")
        batch = self.experiment.train.batch_size
        asked = getattr(evaluator, "protocol", dict)
        return {
            "evaluator": name,
            "run": str(self.folder.path),
            "step": self.step,
            "weights": self.weights,
            "objective": self.experiment.objective,
            "figures": protocol.figures_json(figures),
            "protocol": asked(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.state.params)),
            "training": {
                "seconds": lines[-1]["seconds"] if lines else None,
                "pictures_per_second": batch / step_seconds if step_seconds else None,
                "peak_gib": timing.get(
                    "memory_gib/peak_of_device", timing.get("memory_gib/peak_of_process")
                ),
            },
            "seconds": round(seconds, 3),
            "pictures_per_second": None if speed is None else speed.per_second,
            "machine": protocol.machine(),
            "versions": protocol.versions(),
        }


def evaluate_run(
    workdir: str,
    evaluators: Sequence[str] = (),
    weights: str = "",
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, float]:
    """The figures of a run's evaluators; their pictures go to `samples/`.

    Args:
      workdir: the run folder.
      evaluators: sections of `config.evaluators`; those that the run's config does not list are
        asked with their defaults. Empty: all that it lists.
      weights: see `TrainedRun.open`.
      fields: see `evaluated`.

    Raises:
      UserError: no run there, no checkpoint yet, or an evaluator that there is not for such a run.
    """
    run = TrainedRun.open(workdir, weights)
    figures: dict[str, float] = {"step": run.step}
    for found in evaluated(run, evaluators, fields).values():
        figures |= found.flat
    return figures


def check_asked(
    workdir: str,
    evaluators: Sequence[str],
    weights: str = "",
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Raises what can be said of a run and its evaluators before its weights are read."""
    config = RunFolder.to_read(workdir).read_config()
    weights_in(config, weights)
    asked_alone(parse(config), evaluators, fields)


def evaluated(
    run: TrainedRun,
    evaluators: Sequence[str] = (),
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Evaluated]:
    """What the evaluators of these names find, or all that the run's config lists.

    Args:
      run: to be judged.
      evaluators: see `evaluate_run`.
      fields: by evaluator, values of fields of its section in place of those of the run.

    Raises:
      UserError: one that there is not for such a run, or whose data, files or numbers do not fit,
        before any of them begins.
    """
    fields = fields or {}
    spare = [name for name in fields if name not in evaluators]
    if spare:
        raise UserError(f"fields are set of {', '.join(spare)}, which evaluators does not name")
    if evaluators:
        made = _made(run, evaluators, fields)
    else:
        made = run.experiment.make_evaluators(run.objective, run.context)
    for evaluator in made.values():
        getattr(evaluator, "check", lambda: None)()
    return {name: run.run(name, evaluator) for name, evaluator in made.items()}


def _made(
    run: TrainedRun, names: Sequence[str], fields: Mapping[str, Mapping[str, Any]]
) -> dict[str, Evaluator]:
    """The evaluators of these names, in their order."""
    made: dict[str, Evaluator] = {}
    for name in names:
        alone = asked_alone(run.experiment, [name], fields)
        found = alone.make_evaluators(run.objective, run.context)
        if not found:
            section = dataclasses.asdict(getattr(alone.evaluators, name))
            empty = next((field for field, value in section.items() if value == ""), "")
            if not empty:
                raise UserError(f"evaluators names {name}, for which {run.folder.path} has no loss")
            raise UserError(
                f"evaluators names {name} and its field {empty} is empty; set it, on the command "
                f"line by --set={name}.{empty}=..."
            )
        made |= found
    return made


def asked_alone(
    experiment: Experiment,
    names: Sequence[str],
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> Experiment:
    """The same with these evaluators, as its config has them or by their defaults, and no other.

    Args:
      fields: see `evaluated`.
    """
    hints = typing.get_type_hints(type(experiment.evaluators))
    unknown = [name for name in names if name not in hints]
    if unknown:
        raise UserError(
            f"evaluators names {', '.join(unknown)}; those of {experiment.objective} are "
            f"{', '.join(hints)}"
        )
    sections = {}
    for name, hint in hints.items():
        kind = next(k for k in typing.get_args(hint) if k is not type(None))
        own = getattr(experiment.evaluators, name)
        held = {} if own is None else to_dict(own)
        changed = _changed(held, (fields or {}).get(name, {}))
        asked = build(kind, changed, f"config.evaluators.{name}")
        sections[name] = asked if name in names else None
    return dataclasses.replace(experiment, evaluators=type(experiment.evaluators)(**sections))


def _changed(section: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A section, as plain dicts, with other values of some fields, also of those inside others."""
    found = dict(section)
    for name, value in fields.items():
        inside = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = _changed(found[name], value) if inside else value
    return found


def _layout(config: MeshConfig) -> Layout:
    """The run's own layout where these devices allow it, else weights split over all of them."""
    try:
        return make_layout(config, make_mesh(config))
    except UserError as error:
        say(f"evaluating with rules=fsdp over {jax.device_count()} devices: {error}")
        other = MeshConfig(rules="fsdp")
        return make_layout(other, make_mesh(other))
