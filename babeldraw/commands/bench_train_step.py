"""A config's training step on this machine's devices, its programs compiled and timed."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.commands.compile_train import abstract_inputs, memory
from babeldraw.errors import UserError
from babeldraw.objectives.base import Objective
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.layout import Layout, make_layout
from babeldraw.sharding.mesh import make_mesh
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.loop import STEPS_IN_FLIGHT
from babeldraw.train.pending import Pending
from babeldraw.train.random_batch import random_batch
from babeldraw.train.start import whole_objective
from babeldraw.train.step import (
    make_forward,
    make_gradients,
    make_step,
    make_watched_step,
    state_shardings,
)
from babeldraw.train.watch import WatchState

# What is timed, from the innermost on; each holds all of the one before it.
STAGES = ("forward", "gradients", "update", "step", "whole")
# Parts of a whole step: what each stage takes beyond the one before it.
PARTS = ("forward", "backward", "optimizer", "host", "data")


@dataclasses.dataclass
class Bench:
    """One config, compiled; arrays are made by `begin`.

    Attributes:
      name: how it is called in what is printed.
      experiment: the config.
      batches: the config's own data; None: one random batch, placed anew at each step.
      memory: GiB on each device, of the whole update: `arguments`, `temporaries`, `peak`.
      needed: the peak of the largest program.
      seconds: of each stage, a figure per turn.
    """

    name: str
    experiment: Experiment
    batches: Iterator[dict[str, np.ndarray]] | None = None
    memory: dict[str, float] = dataclasses.field(default_factory=dict)
    needed: float = 0.0
    seconds: dict[str, list[float]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )

    def __post_init__(self):
        """Compiles. Raises `UserError`: the config does not fit the mesh, or the device."""
        experiment = self.experiment
        mesh = make_mesh(experiment.mesh)
        self.layout: Layout = make_layout(experiment.mesh, mesh)
        experiment.check_layout(self.layout)
        self.objective: Objective = whole_objective(experiment)
        self._places = state_shardings(self.objective, self.layout)
        inputs = abstract_inputs(self.objective, self.layout)
        watch = WatchState.of(None, mesh)
        if experiment.train.watch.acts:
            update = make_watched_step(
                self.objective, self.layout, self._places, experiment.train.watch
            )
            self._watched = self._compiled(update, inputs[0], watch, *inputs[1:])
        else:
            plain = self._compiled(make_step(self.objective, self.layout, self._places), *inputs)
            self._watched = lambda state, watch, *given: _beside(watch, plain(state, *given))
        self._watch = watch
        self._parts, self._zeros = {}, {}
        for stage, program in (
            ("forward", make_forward(self.objective, self.layout)),
            ("gradients", make_gradients(self.objective, self.layout, self._places)),
        ):
            # Of the first argument nothing is read.
            result = jax.eval_shape(program, None, *inputs)
            self._parts[stage] = self._compiled(program, result, *inputs)
            self._zeros[stage] = _zeros(result)

    @property
    def devices(self) -> int:
        return self.layout.mesh.size

    def begin(self) -> None:
        """Makes state and batch, and runs each stage once."""
        whole = NamedSharding(self.layout.mesh, PartitionSpec())
        self._key = jax.device_put(jax.random.key(self.experiment.train.seed), whole)
        self._state = jax.jit(self.objective.init, out_shardings=self._places)(self._key)
        first = np.int32(_first_step(self.experiment))
        self._state = self._state.replace(step=jax.device_put(first, self._places.step))
        self._random = random_batch(self.experiment, self.objective.batch_spec())
        self._placed = self._next()
        for stage in STAGES:
            self._run(stage, 1)

    def turn(self, steps: int) -> None:
        """Times every stage over so many steps; the host waits at the end of each stage only."""
        for stage in STAGES:
            self.seconds[stage].append(self._run(stage, steps) / steps)

    def parts(self) -> dict[str, float]:
        """Seconds by part, of each stage's quickest turn; they add up to a whole step."""
        of_stages = [min(self.seconds[stage]) for stage in STAGES]
        return dict(zip(PARTS, np.diff([0.0, *of_stages]).tolist(), strict=True))

    def _run(self, stage: str, steps: int) -> float:
        if stage in self._parts:
            return self._repeat(stage, steps)
        began, pending = time.perf_counter(), Pending(STEPS_IN_FLIGHT)
        for step in range(steps):
            batch = self._next() if stage == "whole" else self._placed
            self._state, self._watch, metrics = self._watched(
                self._state, self._watch, batch, self._key
            )
            if stage != "update":
                # As the loop has it: a few steps are under way, and metrics are read together.
                pending.add(step, step, metrics)
                pending.wait()
        pending.rows(all_of_them=True, ready=True)
        jax.block_until_ready(self._state)
        return time.perf_counter() - began

    def _repeat(self, stage: str, steps: int) -> float:
        """Runs a program that changes nothing; its results take each other's place."""
        program = self._parts[stage]
        result = jax.block_until_ready(self._zeros[stage]())
        began = time.perf_counter()
        for _ in range(steps):
            result = program(result, self._state, self._placed, self._key)
        jax.block_until_ready(result)
        return time.perf_counter() - began

    def _next(self) -> dict[str, jax.Array]:
        batch = self._random if self.batches is None else next(self.batches)
        return place_batch({name: batch[name] for name in self._random}, self.layout.mesh)

    def _compiled(self, program: Callable, *inputs: Any) -> Any:
        try:
            compiled = program.lower(*inputs).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(f"{self.name}: a step does not fit into the device; {LESS}") from error
        found = memory(compiled)
        self.memory, self.needed = self.memory or found, max(self.needed, found["peak"])
        return compiled


LESS = "lower config.train.batch_size, or raise config.train.accumulation where the recipe has it"


def _first_step(experiment: Experiment) -> int:
    """From which on all networks of a recipe are at work: a discriminator may rest before."""
    section = getattr(experiment, "adversarial", None)
    return 0 if section is None else section.start_step + section.head_start


def _beside(watch: WatchState, done: tuple) -> tuple:
    state, metrics = done
    return state, watch, metrics


def _zeros(like: Any) -> Callable[[], Any]:
    """What makes arrays like these, where these are."""
    return jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like),
    )
