"""Evaluates the newest checkpoint of a run folder."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from babeldraw.data.image import save_png
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.objectives.base import Objective, TrainState
from babeldraw.runs.checkpoints import Checkpoints, placed
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.sharding.layout import Layout, make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train.experiment import Experiment, WithText, parse
from babeldraw.train.start import evaluation_context, whole_objective
from babeldraw.train.step import state_shardings


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run as its newest checkpoint holds it, on all devices.

    Attributes:
      folder, experiment, objective: of the run.
      context: what its evaluators need to know.
      layout: in which `state` lies.
      step: the checkpoint's.
      state: all of it.
    """

    folder: RunFolder
    experiment: Experiment
    objective: Objective
    context: Context
    layout: Layout
    step: int
    state: TrainState

    @classmethod
    def open(cls, workdir: str) -> "TrainedRun":
        """Reads a run folder. Raises `UserError`: no run there, or no checkpoint yet."""
        folder = RunFolder.of(workdir)
        experiment = parse(folder.read_config())
        objective = whole_objective(experiment)
        layout = _layout(experiment.mesh)
        reads_text = isinstance(experiment, WithText)
        vocabulary = Vocabulary(folder.vocabulary_file) if reads_text else None
        context = evaluation_context(experiment, layout.mesh, vocabulary, folder.read_classes())
        abstract = jax.eval_shape(objective.init, jax.random.key(0))
        places = state_shardings(objective, layout)
        checkpoints = Checkpoints(folder.checkpoints, experiment.train.keep)
        found = checkpoints.restore_newest(placed(abstract, places), put_aside=False)
        checkpoints.close()
        if found is None:
            raise UserError(f"{workdir} holds no checkpoint; train the run first")
        step, state, _ = found
        return cls(folder, experiment, objective, context, layout, step, state)

    def run(self, name: str, evaluator: Evaluator) -> dict[str, float]:
        """An evaluator's figures; its pictures go to `samples/`."""
        figures = {}
        with use(self.layout.without_pipeline()):
            for key, value in evaluator.run(self.state):
                if isinstance(value, np.ndarray):
                    if jax.process_index() > 0:
                        continue
                    save_png(self.folder.samples / f"{name}_{key}_{self.step:07d}.png", value)
                else:
                    figures[f"{name}/{key}"] = value
        return figures


def evaluate_run(workdir: str, only: Sequence[str] = ()) -> dict[str, float]:
    """The figures of a run's evaluators; their pictures go to `samples/`.

    Args:
      workdir: the run folder.
      only: names of evaluators; empty for all.

    Raises:
      UserError: no run there, no checkpoint yet, or an evaluator that the run does not have.
    """
    run = TrainedRun.open(workdir)
    evaluators = run.experiment.make_evaluators(run.objective, run.context)
    unknown = [name for name in only if name not in evaluators]
    if unknown:
        raise UserError(
            f"--only names {', '.join(unknown)}; the evaluators of {workdir} are "
            f"{', '.join(evaluators) or 'none'}"
        )
    figures: dict[str, float] = {"step": run.step}
    for name in only or evaluators:
        figures |= run.run(name, evaluators[name])
    return figures


def _layout(config: MeshConfig) -> Layout:
    """The run's own layout where these devices allow it, else weights split over all of them."""
    try:
        return make_layout(config, make_mesh(config))
    except UserError as error:
        say(f"evaluating with rules=fsdp over {jax.device_count()} devices: {error}")
        other = MeshConfig(rules="fsdp")
        return make_layout(other, make_mesh(other))
