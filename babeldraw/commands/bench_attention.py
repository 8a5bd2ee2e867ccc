"""Measures attention to windows of a grid beside the same by a dense mask, on this machine.

Forward, and forward with gradients: of each the quickest run and the memory that the compiler plans
beside inputs and results. Processor time counts all threads, and what else the machine does little.

Example:
  babeldraw bench attention --grid=60,60 --window=9,5 --heads=4 --head_dim=64
"""

import dataclasses
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath

from babeldraw.errors import UserError
from babeldraw.layers.attention import KeyValue, dot_product_attention
from babeldraw.layers.masks import Around, dense_mask
from babeldraw.layers.windows import Window, in_window
from babeldraw.say import say

REPEATS = 5
HEADER = "| | seconds | processor seconds | memory, MiB |\n|---|---|---|---|"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_list("grid", ["60", "60"], "Rows and columns of cells.", flag_values=values)
    flags.DEFINE_list("window", ["9", "5"], "Rows and columns of a window.", flag_values=values)
    flags.DEFINE_integer("heads", 4, "Attention heads.", flag_values=values)
    flags.DEFINE_integer("head_dim", 64, "Values of a head.", flag_values=values)
    flags.DEFINE_string("json", None, "File for the figures.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    for name in ("heads", "head_dim"):
        if values[name].value < 1:
            raise UserError(f"--{name} is {values[name].value}; at least 1 is needed")
    window = Window(_pair("grid", values.grid), _pair("window", values.window))
    say(f"measuring on {jax.devices()[0].device_kind}; compiling takes a while at first")
    found = measure(window, values.heads, values.head_dim)
    print(HEADER)
    for name, one in found.items():
        print(one.line(name))
    if values.json:
        rows = {name: dataclasses.asdict(one) for name, one in found.items()}
        epath.Path(values.json).write_text(json.dumps({"attention": rows}, indent=2) + "\n")
    return 0


@dataclasses.dataclass(frozen=True)
class Cost:
    """Attributes:
    seconds: of the quickest run.
    processor_seconds: of all threads, of the run with the least.
    mib: what the compiler plans beside inputs and results.
    """

    seconds: float
    processor_seconds: float
    mib: float

    def line(self, name: str) -> str:
        """A row under `HEADER`."""
        return f"| {name} | {self.seconds:.4f} | {self.processor_seconds:.4f} | {self.mib:.1f} |"


def measure(window: Window, heads: int, head_dim: int) -> dict[str, Cost]:
    """Of `window` and of `dense`, forward and with gradients, one example each."""
    mask = dense_mask(Around(window.grid, window.size), window.queries)[None, None]

    def windowed(query, key, value):
        return in_window(query, key, value, window).out

    def dense(query, key, value):
        return dot_product_attention(query, KeyValue(key, value), mask)

    shape = (1, heads, window.queries, head_dim)
    arrays = [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3)]
    found = {}
    for name, look in {"window": windowed, "dense": dense}.items():
        found[name] = _cost(look, *arrays)
        both = jax.value_and_grad(lambda *a, look=look: jnp.sum(look(*a)), argnums=(0, 1, 2))
        found[f"{name}, with gradients"] = _cost(both, *arrays)
    return found


def _cost(function: Callable, *arrays: jax.Array) -> Cost:
    program = jax.jit(function).lower(*arrays).compile()
    jax.block_until_ready(program(*arrays))
    times = []
    for _ in range(REPEATS):
        began, spent = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(*arrays))
        times.append((time.perf_counter() - began, time.process_time() - spent))
    seconds, processor = np.min(times, axis=0)
    held = program.memory_analysis().temp_size_in_bytes / 2**20
    return Cost(float(seconds), float(processor), held)


def _pair(name: str, words: list[str]) -> tuple[int, int]:
    if len(words) != 2 or not all(word.isdigit() and int(word) for word in words):
        raise UserError(f"--{name} is {','.join(words)}; rows and columns such as 9,5 are needed")
    return int(words[0]), int(words[1])
