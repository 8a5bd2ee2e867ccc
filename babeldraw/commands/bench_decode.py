"""Measures how fast a config's generator draws on this machine, with random weights.

A step draws the next token, or with masked prediction all that are masked. The floor is the time to
read, once a step, the weights and the cache that it needs, at the rate at which this machine was
just seen to read its memory. Uncached is one forward over the whole picture for every token.

Example:
  babeldraw bench decode --config=configs/demo/text_to_image.py --batches=1,4,16 --guidance
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath
from ml_collections import config_flags

from babeldraw.commands.flags import required
from babeldraw.drawing.floor import bytes_per_step
from babeldraw.errors import UserError
from babeldraw.models.base import Generator, example
from babeldraw.prediction.base import Prediction
from babeldraw.say import say
from babeldraw.train.experiment import parse

REPEATS = 3
# Larger than any cache of a processor.
PROBE_BYTES = 2**28


def define(values: flags.FlagValues, argv: list[str]) -> None:
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A generator's config; --config.FIELD=VALUE sets a field.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_list("batches", ["1", "4", "16", "64"], "Pictures at a time.", flag_values=values)
    flags.DEFINE_bool("guidance", False, "With the unconditional half.", flag_values=values)
    flags.DEFINE_bool("uncached", True, "Measure the full forward too.", flag_values=values)
    flags.DEFINE_string("json", None, "File for the figures.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    experiment = parse(required(values, "config"))
    if experiment.objective != "generator":
        raise UserError(f"--config is one of {experiment.objective}; name one of generator")
    batches = [_batch(word) for word in values.batches]
    generator, prediction = experiment.generator, experiment.prediction
    guidance = 2.0 if values.guidance else 1.0
    settings = dataclasses.replace(experiment.sampling, guidance=guidance)
    prediction.check_sampling(settings, generator, "--guidance: ")
    say(f"measuring on {jax.devices()[0].device_kind}; compiling takes a while at first")
    bandwidth = memory_bandwidth()
    print(f"memory is read at {bandwidth / 1e9:.1f} GB/s")
    params = jax.jit(lambda key: generator.for_decoding(nn.unbox(generator.init(key))))(
        jax.random.key(0)
    )
    print(HEADER)
    found = []
    for batch in batches:
        measured = measure(
            generator, prediction, params, batch, settings, values.uncached, bandwidth
        )
        print(measured.line())
        found.append(measured)
    if values.json:
        rows = [dataclasses.asdict(one) for one in found]
        text = json.dumps({"bandwidth": bandwidth, "decode": rows}, indent=2)
        epath.Path(values.json).write_text(text + "\n")
    return 0


HEADER = (
    "| pictures | images/s | tokens/s | ms per step | floor, ms | of the floor | uncached, ms "
    "per step | cached is faster |\n|---|---|---|---|---|---|---|---|"
)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Attributes:
    batch: pictures at a time.
    seconds: for all their tokens.
    steps: of a picture.
    tokens: of a picture.
    floor: seconds per step that reading memory takes.
    uncached: seconds per step without a cache, or None.
    """

    batch: int
    seconds: float
    steps: int
    tokens: int
    floor: float
    uncached: float | None

    def line(self) -> str:
        """A row under `HEADER`."""
        per_step = self.seconds / self.steps
        cells = [
            str(self.batch),
            f"{self.batch / self.seconds:.3f}",
            f"{self.batch * self.tokens / self.seconds:.1f}",
            f"{1e3 * per_step:.2f}",
            f"{1e3 * self.floor:.2f}",
            f"{self.floor / per_step:.2f}",
        ]
        if self.uncached is None:
            cells += ["-", "-"]
        else:
            cells += [f"{1e3 * self.uncached:.1f}", f"{self.uncached / per_step:.1f} times"]
        return "| " + " | ".join(cells) + " |"


def measure(
    generator: Generator,
    prediction: Prediction,
    params: Any,
    batch: int,
    settings: Any,
    uncached: bool,
    bandwidth: float,
) -> Decoding:
    """Draws `batch` pictures of different things a few times and takes the quickest."""
    condition = jax.tree.map(jnp.ones_like, example(generator.condition, batch))
    keys_B = jax.random.split(jax.random.key(0), batch)
    guided = settings.guided

    @jax.jit
    def draw(params, condition, keys_B, settings):
        return prediction.draw(generator, params, condition, keys_B, settings, guided=guided)

    seconds = quickest(draw, params, condition, keys_B, settings.traced())
    rows = condition
    if guided:
        rows = jax.tree.map(lambda a: jnp.concatenate([a, a]), condition)
    forward, one_forward = prediction.forward(generator), None
    if uncached and forward is not None:
        spec = generator.codes.spec(jax.tree.leaves(rows)[0].shape[0])
        codes = jnp.zeros(spec.shape, spec.dtype)
        one_forward = quickest(jax.jit(forward), params, rows, codes)
    step, inputs, steps = prediction.step(generator, params, rows, 1, settings)
    read = bytes_per_step(step, params, *inputs)
    tokens = generator.codes.length
    return Decoding(batch, seconds, steps, tokens, read / bandwidth, one_forward)


def memory_bandwidth() -> float:
    """Bytes per second, the most that a product with a vector or a sum with a scalar reached."""
    size = PROBE_BYTES // 4
    matrix = jnp.ones((size // 4096, 4096), jnp.float32)
    vector = jnp.ones(4096, jnp.float32)
    product = quickest(jax.jit(jnp.matmul), matrix, vector)
    added = quickest(jax.jit(lambda a: a + 1), matrix)
    return max(PROBE_BYTES / product, 2 * PROBE_BYTES / added)


def quickest(program: Callable, *inputs: Any) -> float:
    """Seconds of the quickest of some runs, compilation apart."""
    jax.block_until_ready(program(*inputs))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(program(*inputs))
        times.append(time.perf_counter() - began)
    return float(np.min(times))


def _batch(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise UserError(f"--batches holds {word!r}; numbers of pictures, at least 1, are needed")
    return int(word)
