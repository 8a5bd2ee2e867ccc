"""Drawing compiled for TPUs that are not here: the whole loop of tokens, on a serving slice."""

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.commands.compile_train import Report, Scheduled, fill
from babeldraw.drawing.floor import bytes_per_token
from babeldraw.errors import UserError
from babeldraw.estimate.aot import topology_devices
from babeldraw.estimate.chips import CHIPS
from babeldraw.models.babeldraw import Generator
from babeldraw.prediction.logits import SamplingConfig, Settings
from babeldraw.prediction.next_token import decode
from babeldraw.runs.checkpoints import placed
from babeldraw.say import waiting
from babeldraw.sharding.constraint import is_names, logical_axes, shardings
from babeldraw.sharding.layout import Layout, make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train.experiment import Experiment, TextToImageExperiment
from babeldraw.train.overview import count


def compile_decode(
    experiment: Experiment, topology: str, samples: int = 16
) -> tuple[Report, Scheduled | None]:
    """Compiles the drawing of one prompt's pictures, guided, the weights split over all chips.

    Args:
      experiment: a text-to-image config.
      topology: see `sharding.aot.topology_devices`.
      samples: pictures; as many unconditional rows go with them.

    Returns:
      The report, and the program that it speaks of; None where it does not fit.

    Raises:
      UserError: a config that does not draw from text, an unknown topology, no libtpu, or heads
        that the chips do not divide.
    """
    if experiment.objective != "text_to_image" or not isinstance(experiment, TextToImageExperiment):
        raise UserError(
            f"--config is one of {experiment.objective}, whose drawing is not compiled for a TPU "
            "yet; name one of text_to_image"
        )
    devices = topology_devices(topology, 1)
    mesh = MeshConfig(data=1, model=len(devices), rules="in_layer_serving")
    layout = make_layout(mesh, make_mesh(mesh, devices))
    heads = experiment.model.decoder.heads
    if heads % len(devices):
        raise UserError(
            f"{topology} has {len(devices)} chips, which do not divide "
            f"config.model.decoder.heads={heads}; name a slice of fewer"
        )
    generator = Generator(experiment.model, make_tokenizer(experiment.tokenizer).codes)
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
        program = fill(report, _lowered(generator, params, layout, samples), layout, None)
    report.compile_seconds = time.monotonic() - began
    text = jnp.zeros((2, generator.config.text_length), jnp.int32)
    cache = jax.eval_shape(lambda params: generator.start(params, text, samples), params)
    chip = CHIPS[topology.partition(":")[0]]
    report.tokens = generator.codes.length
    report.floor_seconds = bytes_per_token(params, cache) / (len(devices) * chip.bandwidth)
    return report, program


def _lowered(generator: Generator, params: Any, layout: Layout, samples: int) -> Any:
    whole = NamedSharding(layout.mesh, PartitionSpec())

    def everywhere(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)

    def draw(params, text_PS, seeds_B, settings):
        keys_B = jax.vmap(jax.random.key)(seeds_B)
        with use(layout):
            return decode(generator, params, text_PS, keys_B, settings)

    text_PS = jax.ShapeDtypeStruct((1, generator.config.text_length), jnp.int32)
    seeds_B = jax.ShapeDtypeStruct((samples,), jnp.uint32)
    settings = jax.eval_shape(lambda: Settings.of(SamplingConfig()))
    inputs = jax.tree.map(everywhere, (text_PS, seeds_B, settings))
    return jax.jit(draw).lower(params, *inputs)


def _abstract(generator: Generator, layout: Layout) -> Any:
    """Shapes and places of the parameters as decoding reads them."""
    boxed = jax.eval_shape(generator.init, jax.random.key(0))
    axes = logical_axes(boxed)
    params = jax.eval_shape(generator.for_decoding, nn.unbox(boxed))
    cut = {room: _cut_axes(axes[room], params[room]) for room in params}
    return placed(params, shardings(cut, params, layout.mesh, layout.preset.used))


def _cut_axes(axes: Any, params: Any) -> Any:
    """Names of a room's parameters once its stack is cut: each block's without that of layers."""
    block = jax.tree.map(lambda names: names[1:], axes["stack"]["blocks"], is_leaf=is_names)
    blocks = (block,) * len(params["stack"]["blocks"])
    return {**axes, "stack": {**axes["stack"], "blocks": blocks}}
