"""One training step as a compiled program: what the loop runs and `babeldraw compile` looks at."""

from collections.abc import Callable
from typing import Any

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


def make_forward(objective: Objective, layout: Layout) -> Callable:
    """`objective.forward`, jitted, of (what it gave before, state, batch, key).

    What it gave before is donated: each call waits for the last one, as steps do, and holds no
    second result.
    """

    def forward(before: Metrics, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        with use(layout):
            return objective.forward(state, batch, jax.random.fold_in(key, state.step))

    whole = NamedSharding(layout.mesh, PartitionSpec())
    return jax.jit(forward, donate_argnums=0, keep_unused=True, out_shardings=whole)


def make_gradients(objective: Objective, layout: Layout, places: TrainState) -> Callable:
    """`objective.gradients` in the same way; gradients lie where their parameters do."""

    def gradients(before, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        with use(layout):
            return objective.gradients(state, batch, jax.random.fold_in(key, state.step))

    whole = NamedSharding(layout.mesh, PartitionSpec())
    own = (_gradient_places(objective, places), whole)
    return jax.jit(gradients, donate_argnums=0, keep_unused=True, out_shardings=own)


def _gradient_places(objective: Objective, places: TrainState) -> Any:
    """Of the gradients' tree, which may be a part of that of the parameters."""
    state = jax.eval_shape(objective.init, jax.random.key(0))
    batch, key = objective.batch_spec(), jax.random.key(0)
    grads, _ = jax.eval_shape(objective.gradients, state, batch, key)
    flat = jax.tree_util.tree_leaves_with_path(places.params)
    at = {jax.tree_util.keystr(path): place for path, place in flat}
    return jax.tree_util.tree_map_with_path(lambda path, _: at[jax.tree_util.keystr(path)], grads)


def _update(objective: Objective, layout: Layout) -> Step:
    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        with use(layout):
            return objective.update(state, batch, jax.random.fold_in(key, state.step))

    return step
