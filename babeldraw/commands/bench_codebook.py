"""Measures the quantizer of a large codebook: softmax over all codes in blocks, beside it at once.

A pass is what index backpropagation (`config.tokenizer.quantizer.kind=ibq`) takes of a step: the
likeliest codes, and the gradient towards latents and codebook; with --entropy that term too. Both
forms take turns in one run, and the ratios are medians over the turns: of the time by the clock,
and of that of all processors, which what else the machine does changes little. Memory is what the
compiler sets aside beside inputs and gradients; of --memory it is told alone, and nothing is run.

Example:
  babeldraw bench codebook --codes=16384 --memory=1024,262144
"""

import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath

from babeldraw.errors import UserError
from babeldraw.say import say
from babeldraw.tokenizers import streamed

MIB = 2**20
# Of the entropy, the published one.
TEMPERATURE = 0.01
Arrays = tuple[jax.Array, jax.Array]


def define(values: flags.FlagValues, argv: list[str]) -> None:
    del argv
    flags.DEFINE_list("codes", ["16384"], "Sizes of codebooks to time.", flag_values=values)
    flags.DEFINE_list("memory", [], "Sizes to compile in blocks alone.", flag_values=values)
    flags.DEFINE_integer("tokens", 2048, "Latents: 8 pictures of 256.", flag_values=values)
    flags.DEFINE_integer("dim", 256, "Of a code.", flag_values=values)
    flags.DEFINE_bool("entropy", False, "With the entropy term.", flag_values=values)
    flags.DEFINE_integer("repeats", 5, "Turns of each form.", flag_values=values)
    flags.DEFINE_string("json", None, "File for the figures.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    timed, compiled = (_sizes(values, name) for name in ("codes", "memory"))
    for name in ("tokens", "dim", "repeats"):
        if values[name].value < 1:
            raise UserError(f"--{name} is {values[name].value}; at least 1 is needed")
    report = {
        "tokens": values.tokens,
        "dim": values.dim,
        "entropy": values.entropy,
        "codebooks": [measure(codes, values) for codes in timed],
        "memory_mib": {str(codes): memory(codes, values) for codes in compiled},
    }
    print(json.dumps(report, indent=2))
    if values.json:
        epath.Path(values.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measure(codes: int, values: flags.FlagValues) -> dict[str, Any]:
    """Seconds and memory of both forms, in turns, and their ratio."""
    inputs = drawn(codes, values.tokens, values.dim)
    programs = {name: _compiled(form, inputs, values.entropy) for name, form in FORMS.items()}
    spent: dict[str, list[np.ndarray]] = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program(*inputs))
    for turn in range(values.repeats):
        for name, program in programs.items():
            began = np.array([time.perf_counter(), time.process_time()])
            jax.block_until_ready(program(*inputs))
            spent[name].append(np.array([time.perf_counter(), time.process_time()]) - began)
        shown = ", ".join(f"{name} {1e3 * of[-1][0]:.0f} ms" for name, of in spent.items())
        say(f"bench {turn + 1}/{values.repeats}: {codes:,} codes, {shown}")
    ratios = np.divide(spent["at_once"], spent["in_blocks"])
    return {
        "codes": codes,
        "ms": {name: _told(1e3 * np.median(of, axis=0)) for name, of in spent.items()},
        "in_blocks_is_faster": _told(np.median(ratios, axis=0)),
        "each": [_told(ratio) for ratio in ratios],
        "memory_mib": {name: _temporary(program) for name, program in programs.items()},
    }


def memory(codes: int, values: flags.FlagValues) -> float:
    """MiB that the form in blocks takes beside inputs and gradients."""
    shapes = [jax.ShapeDtypeStruct((n, values.dim), jnp.float32) for n in (values.tokens, codes)]
    return _temporary(_compiled(in_blocks, shapes, values.entropy))


def drawn(codes: int, tokens: int, dim: int) -> Arrays:
    """Latents and codes of a deviation at which a softmax has several codes, float32."""
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(n, dim)).astype(np.float32) * dim**-0.25 for n in (tokens, codes))


def in_blocks(z_NQ: jax.Array, codes_VQ: jax.Array, entropy: bool) -> jax.Array:
    """A loss of the codes, and the entropy term where it is asked for; as this library has them."""
    found = streamed.indexed(z_NQ, codes_VQ, TEMPERATURE if entropy else None)
    return _loss(found.soft_NQ) + found.entropy


def at_once(z_NQ: jax.Array, codes_VQ: jax.Array, entropy: bool) -> jax.Array:
    """The same as the published code has them: arrays of tokens times codes."""
    logits_NV = z_NQ @ codes_VQ.T
    p_NV = jax.nn.softmax(logits_NV)
    hard_NV = jax.nn.one_hot(jnp.argmax(p_NV, axis=-1), codes_VQ.shape[0])
    found = _loss((hard_NV - jax.lax.stop_gradient(p_NV) + p_NV) @ codes_VQ)
    if not entropy:
        return found
    log_NV = jax.nn.log_softmax(logits_NV / TEMPERATURE)
    of_each = -jnp.mean(jnp.sum(jnp.exp(log_NV) * log_NV, axis=-1))
    return found + of_each - streamed.entropy_of_mean(jnp.mean(jnp.exp(log_NV), axis=0))


FORMS = {"at_once": at_once, "in_blocks": in_blocks}


def _loss(chosen_NQ: jax.Array) -> jax.Array:
    # Its gradient differs from value to value.
    return jnp.sum(jnp.square(chosen_NQ - 1.0))


def _compiled(form: Callable, inputs: Any, entropy: bool) -> Any:
    gradients = jax.value_and_grad(lambda *inputs: form(*inputs, entropy), argnums=(0, 1))
    return jax.jit(gradients).lower(*inputs).compile()


def _told(figures: np.ndarray) -> dict[str, float]:
    return dict(zip(("clock", "processors"), figures.round(3).tolist(), strict=True))


def _temporary(program: Any) -> float:
    return round(program.memory_analysis().temp_size_in_bytes / MIB, 1)


def _sizes(values: flags.FlagValues, name: str) -> list[int]:
    for word in values[name].value:
        if not word.isdigit() or int(word) < 1:
            raise UserError(
                f"--{name} holds {word!r}; sizes of codebooks are needed, such as 16384"
            )
    return [int(word) for word in values[name].value]
