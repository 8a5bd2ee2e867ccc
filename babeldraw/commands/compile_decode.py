"""Drawing compiled for TPUs that are not here: the whole loop of tokens, on a serving slice."""

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.commands.compile_train import Report, Scheduled, fill
from babeldraw.drawing.floor import bytes_per_step
from babeldraw.errors import UserError
from babeldraw.estimate.aot import topology_devices
from babeldraw.estimate.chips import CHIPS
from babeldraw.models.base import Generator, example
from babeldraw.prediction.base import Prediction
from babeldraw.runs.checkpoints import placed
from babeldraw.say import waiting
from babeldraw.sharding.constraint import is_names, logical_axes, shardings
from babeldraw.sharding.layout import Layout, make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.overview import count


def compile_decode(
    experiment: Experiment, topology: str, samples: int = 16
) -> tuple[Report, Scheduled | None]:
    """Compiles the drawing of one thing's pictures, the weights split over all chips.

    It is guided where the condition is dropped in training.

    Args:
      experiment: a generator's config.
      topology: see `estimate.aot.topology_devices`.
      samples: pictures; as many unconditional rows go with them.

    Returns:
      The report, and the program that it speaks of; None where it does not fit.

    Raises:
      UserError: a config that draws nothing, an unknown topology, no libtpu, or heads
        that the chips do not divide.
    """
    if experiment.objective != "generator":
        raise UserError(
            f"--config is one of {experiment.objective}, which draws nothing; name one of generator"
        )
    devices = topology_devices(topology, 1)
    mesh = MeshConfig(data=1, model=len(devices), rules="in_layer_serving")
    layout = make_layout(mesh, make_mesh(mesh, devices))
    for path, stack in experiment.stacks.items():
        if stack.heads % len(devices):
            raise UserError(
                f"{topology} has {len(devices)} chips, which do not divide {path}.heads="
                f"{stack.heads}; name a slice of fewer"
            )
    generator, prediction = experiment.generator, experiment.prediction
    report = Report(
        topology=topology,
        slices=1,
        chips=len(devices),
        mode="decode",
        mesh={**layout.mesh.shape, "rules": mesh.rules, "zero1": mesh.zero1},
        batch_size=samples,
        pipeline={},
    )
    began = time.monotonic()
    with waiting(f"compiling for {topology}"):
        params = _abstract(generator, layout)
        report.parameters = {f"trained/{name}": count(part) for name, part in params.items()}
        program = fill(
            report,
            _lowered(generator, prediction, experiment.sampling, params, layout, samples),
            layout,
            None,
        )
    report.compile_seconds = time.monotonic() - began
    rows = 2 if generator.condition.dropout > 0 else 1
    step, inputs, steps = prediction.step(
        generator, params, example(generator.condition, rows), samples, experiment.sampling
    )
    chip = CHIPS[topology.partition(":")[0]]
    report.tokens = steps
    read = bytes_per_step(step, params, *inputs)
    report.floor_seconds = read / (len(devices) * chip.bandwidth)
    return report, program


def _lowered(
    generator: Generator,
    prediction: Prediction,
    sampling: Any,
    params: Any,
    layout: Layout,
    samples: int,
) -> Any:
    whole = NamedSharding(layout.mesh, PartitionSpec())
    guided = generator.condition.dropout > 0

    def everywhere(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)

    def draw(params, condition, seeds_B, settings):
        keys_B = jax.vmap(jax.random.key)(seeds_B)
        with use(layout):
            return prediction.draw(generator, params, condition, keys_B, settings, guided=guided)

    condition = jax.eval_shape(lambda: example(generator.condition, 1))
    seeds_B = jax.ShapeDtypeStruct((samples,), jnp.uint32)
    settings = jax.eval_shape(lambda: sampling.traced())
    inputs = jax.tree.map(everywhere, (condition, seeds_B, settings))
    return jax.jit(draw).lower(params, *inputs)


def _abstract(generator: Generator, layout: Layout) -> Any:
    """Shapes and places of the parameters as decoding reads them."""
    boxed = jax.eval_shape(generator.init, jax.random.key(0))
    axes = logical_axes(boxed)
    params = jax.eval_shape(generator.for_decoding, nn.unbox(boxed))
    cut = _cut_axes(axes, params)
    return placed(params, shardings(cut, params, layout.mesh, layout.preset.used))


def _cut_axes(axes: Any, params: Any) -> Any:
    """Names of the parameters once stacks are cut: each block's without that of layers."""
    if not isinstance(axes, dict):
        return axes

    def one(name: str) -> Any:
        if name != "blocks" or not isinstance(params[name], tuple):
            return _cut_axes(axes[name], params[name])
        block = jax.tree.map(lambda names: names[1:], axes[name], is_leaf=is_names)
        return (block,) * len(params[name])

    return {name: one(name) for name in axes}
