"""What one device holds in a training step, estimated from the step's trace, without compiling."""

import dataclasses
import math
from collections.abc import Mapping

import jax

from babeldraw.objectives.base import TrainState
from babeldraw.sharding.constraint import shardings
from babeldraw.sharding.layout import Layout, on_one_device, use
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.sharding.rules import preset
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.start import whole_objective
from babeldraw.train.traced_memory import Held, held_at_most


def held_in_step(
    experiment: Experiment, layout: Layout | None, abstract: TrainState, axes: TrainState
) -> Held:
    """What one TPU holds beside state and batch at a step's worst moment.

    The step is traced with one device's share of the batch, and its arrays count in full, but for
    what in-layer parallelism splits: then as many times less. Gradients count as the step holds
    them: split as weights are at rest, `zero1` left out.

    Args:
      experiment: whose step it is.
      layout: mesh and rules, whose sizes were checked; None: a single device.
      abstract: the state, of `jax.eval_shape(objective.init, key)`.
      axes: of `objective.axes()`.

    Raises:
      UserError: a kernel of other devices was asked for.
    """
    objective = whole_objective(_own_share(experiment, layout))

    def step(state, batch, key):
        with use(on_one_device("tpu")):
            return objective.update(state, batch, key)

    return held_at_most(
        step,
        abstract,
        objective.batch_spec(),
        jax.random.key(0),
        weights=_shares(experiment.mesh, layout, abstract, axes),
        share=1 / _splits(experiment, layout),
    )


def _own_share(experiment: Experiment, layout: Layout | None) -> Experiment:
    """The experiment that one device would run alone: with its examples."""
    if layout is None:
        return experiment
    # What is no pipeline takes the stages as data groups; in a pipeline each device has some of the
    # layers for the examples of as many data groups, which comes to the same.
    groups = layout.mesh.shape["data"] * layout.mesh.shape["stage"]
    train = dataclasses.replace(
        experiment.train, batch_size=max(experiment.train.batch_size // groups, 1)
    )
    return dataclasses.replace(experiment, mesh=MeshConfig(), train=train)


def _splits(experiment: Experiment, layout: Layout | None) -> int:
    """Over how many devices the arrays of one example are split; convolutions' are whole."""
    if layout is None or not experiment.stacks or not layout.preset.used["activation_embed"]:
        return 1
    return layout.mesh.shape["model"]


def _shares(
    config: MeshConfig, layout: Layout | None, abstract: TrainState, axes: TrainState
) -> Mapping[tuple[int, ...], float]:
    """For each shape of the state's arrays, what share of one a device holds in a step."""
    rest = (abstract.opt_state, abstract.extra, abstract.ema)
    shares = {leaf.shape: 1.0 for leaf in jax.tree.leaves((abstract.params, rest)) if leaf.shape}
    if layout is None:
        return shares
    stored = preset(config.rules).stored
    places = shardings(axes.params, abstract.params, layout.mesh, stored)
    leaves = zip(jax.tree.leaves(abstract.params), jax.tree.leaves(places), strict=True)
    return shares | {
        leaf.shape: math.prod(place.shard_shape(leaf.shape)) / math.prod(leaf.shape)
        for leaf, place in leaves
        if leaf.shape
    }
