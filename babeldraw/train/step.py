"""One training step as a compiled program: what the loop runs and `babeldraw compile` looks at."""

from collections.abc import Callable

import jax
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.objectives.base import Batch, Metrics, Objective, TrainState
from babeldraw.sharding.constraint import shardings
from babeldraw.sharding.layout import Layout, use
from babeldraw.train.watch import WatchConfig, WatchState, watched

Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def state_shardings(objective: Objective, layout: Layout) -> TrainState:
    """Where each array of the state lives between steps."""
    abstract = jax.eval_shape(objective.init, jax.random.key(0))
    return shardings(objective.axes(), abstract, layout.mesh, layout.preset.stored)


WatchedStep = Callable[
    [TrainState, WatchState, Batch, jax.Array], tuple[TrainState, WatchState, Metrics]
]


def make_watched_step(
    objective: Objective, layout: Layout, places: TrainState, config: WatchConfig
) -> WatchedStep:
    """As `make_step`, with the watch's state beside that of the run."""
    plain = _update(objective, layout)

    def step(state, watch, batch, key):
        return watched(plain, config, state, watch, batch, key)

    if not config.acts:
        alone = make_step(objective, layout, places)

        def unwatched(state, watch, batch, key):
            state, metrics = alone(state, batch, key)
            return state, watch, metrics

        return unwatched
    whole = NamedSharding(layout.mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=(places, whole, whole))


def make_step(objective: Objective, layout: Layout, places: TrainState) -> Step:
    """`objective.update`, jitted: the state is donated and comes back in the same places.

    The key is that of the run; the step's own is folded in from `state.step`.
    """

    whole = NamedSharding(layout.mesh, PartitionSpec())
    return jax.jit(_update(objective, layout), donate_argnums=0, out_shardings=(places, whole))


def _update(objective: Objective, layout: Layout) -> Step:
    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        with use(layout):
            return objective.update(state, batch, jax.random.fold_in(key, state.step))

    return step
