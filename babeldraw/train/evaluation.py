"""Evaluates the newest checkpoint of a run folder."""

from collections.abc import Sequence

import jax
import numpy as np

from babeldraw.data.image import save_png
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import Checkpoints, placed
from babeldraw.runs.folder import RunFolder
from babeldraw.sharding.layout import Layout, make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train.experiment import WithText, parse
from babeldraw.train.progress import say
from babeldraw.train.start import evaluation_context
from babeldraw.train.step import state_shardings


def evaluate_run(workdir: str, only: Sequence[str] = ()) -> dict[str, float]:
    """The figures of a run's evaluators; their pictures go to `samples/`.

    Args:
      workdir: the run folder.
      only: names of evaluators; empty for all.

    Raises:
      UserError: no run there, no checkpoint yet, or an evaluator that the run does not have.
    """
    folder = RunFolder.of(workdir)
    experiment = parse(folder.read_config())
    objective = experiment.make_objective()
    layout = _layout(experiment.mesh)
    reads_text = isinstance(experiment, WithText)
    vocabulary = Vocabulary(folder.vocabulary_file) if reads_text else None
    context = evaluation_context(experiment, layout.mesh, vocabulary)
    evaluators = experiment.make_evaluators(objective, context)
    unknown = [name for name in only if name not in evaluators]
    if unknown:
        raise UserError(
            f"--only names {', '.join(unknown)}; the evaluators of {workdir} are "
            f"{', '.join(evaluators) or 'none'}"
        )
    abstract = jax.eval_shape(objective.init, jax.random.key(0))
    places = state_shardings(objective, layout)
    checkpoints = Checkpoints(folder.checkpoints, experiment.train.keep)
    step = checkpoints.latest_step()
    if step is None:
        raise UserError(f"{workdir} holds no checkpoint; train the run first")
    state, _ = checkpoints.restore(step, placed(abstract, places))
    checkpoints.close()
    figures: dict[str, float] = {"step": step}
    with use(layout.without_pipeline()):
        for name in only or evaluators:
            for key, value in evaluators[name].run(state):
                if isinstance(value, np.ndarray):
                    if jax.process_index() > 0:
                        continue
                    save_png(folder.samples / f"{name}_{key}_{step:07d}.png", value)
                else:
                    figures[f"{name}/{key}"] = value
    return figures


def _layout(config: MeshConfig) -> Layout:
    """The run's own layout where these devices allow it, else weights split over all of them."""
    try:
        return make_layout(config, make_mesh(config))
    except UserError as error:
        say(f"evaluating with rules=fsdp over {jax.device_count()} devices: {error}")
        other = MeshConfig(rules="fsdp")
        return make_layout(other, make_mesh(other))
