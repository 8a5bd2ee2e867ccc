"""Every layout trains as one device does; a checkpoint of one goes on under another."""

import dataclasses
import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from babeldraw.estimate.program import collectives
from babeldraw.runs.checkpoints import Checkpoints, placed
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.mesh import MeshConfig
from tests.train import parallel_case
from tests.train.parallel_case import OBJECTIVE, STEPS, Run, batch_of, placed_state

# Each layout is a training step of its own to trace and compile, over eight devices.
pytestmark = pytest.mark.budget(25)

LAYOUTS = {
    "data_parallel": MeshConfig(),
    "zero1": MeshConfig(zero1=True),
    "fsdp": MeshConfig(rules="fsdp"),
    "in_layer": MeshConfig(model=4, rules="in_layer"),
    "in_layer_zero1": MeshConfig(model=2, rules="in_layer", zero1=True),
    "in_layer_serving": MeshConfig(model=4, rules="in_layer_serving"),
    "in_layer_fsdp": MeshConfig(model=2, rules="fsdp"),
    "pipeline": MeshConfig(stage=4, rules="pipeline"),
    "pipeline_two_rounds_zero1": MeshConfig(stage=2, rules="pipeline", zero1=True, microbatches=4),
    "pipeline_in_layer_zero1": MeshConfig(stage=2, model=2, rules="pipeline", zero1=True),
    "stages_without_pipeline": MeshConfig(stage=4, rules="fsdp"),
    "fsdp_hybrid": MeshConfig(stage=4, rules="fsdp_hybrid"),
}


@functools.cache
def losses_on_one_device():
    return Run(MeshConfig(), devices=jax.devices()[:1]).losses()


# The others hold their parts; they are compiled too where there is time (-m slow).
QUICK = ("fsdp_hybrid",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYOUTS],
)
def test_five_steps_have_the_losses_of_one_device(name):
    expected = losses_on_one_device()
    assert len(set(expected)) == STEPS
    np.testing.assert_allclose(Run(LAYOUTS[name]).losses(), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("data_parallel", "in_layer_zero1", "pipeline", "zero1", "fsdp_hybrid")
    ],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(name):
    config = dataclasses.replace(LAYOUTS[name], stage=min(2, LAYOUTS[name].stage))
    config = dataclasses.replace(config, data=4 // config.stage // config.model)
    objective = dataclasses.replace(OBJECTIVE, accumulation=4)
    if name == "pipeline":
        objective = dataclasses.replace(OBJECTIVE, accumulation=2)
    got = Run(config, objective, jax.devices()[:4]).losses()
    np.testing.assert_allclose(got, losses_on_one_device(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_accumulated_gradients_meet_once_a_step():
    objective = dataclasses.replace(OBJECTIVE, accumulation=4)
    run = Run(MeshConfig(data=4), objective, jax.devices()[:4])
    inputs = run.start(), place_batch(batch_of(0), run.layout.mesh), jax.random.key(0)
    found = collectives(run.program.lower(*inputs).compile().as_text())
    reduced = [c for c in found if c.kind == "all-reduce"]
    assert reduced
    assert not [c for c in reduced if c.in_loop]


@pytest.mark.slow
def test_the_tokenizer_in_the_step_is_data_parallel_over_every_device():
    run = Run(LAYOUTS["in_layer"])
    inputs = run.start(), place_batch(batch_of(0), run.layout.mesh), jax.random.key(0)
    found = collectives(run.program.lower(*inputs).compile().as_text())
    assert any(c.kind == "all-reduce" and "Babeldraw" in c.source for c in found)
    # With its width over `model`, as the generator's, every norm would have to reduce.
    assert not [c for c in found if c.kind == "all-reduce" and "ViTVQGAN" in c.source]


@pytest.mark.slow
def test_a_step_does_not_compile_again():
    run = Run(LAYOUTS["pipeline"])
    run.losses(3)
    assert run.program._cache_size() == 1


@pytest.mark.slow
def test_a_checkpoint_of_a_pipelined_run_goes_on_under_any_layout(tmp_path):
    first = Run(LAYOUTS["pipeline_two_rounds_zero1"])
    state, _ = first.step(first.start(), 0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {"batches": 1})
    checkpoints.wait()
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    _, expected = first.step(state, 1)
    sequential = Run(MeshConfig(), devices=jax.devices()[:1])
    for other in (sequential, Run(LAYOUTS["fsdp"]), Run(LAYOUTS["pipeline"])):
        restored, _ = checkpoints.restore(1, placed(abstract, other.places))
        _, loss = other.step(restored, 1)
        np.testing.assert_allclose(loss, expected, rtol=0, atol=1e-5)
    checkpoints.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stepped", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["filled", "stepped"]
)
def test_an_int8_state_of_a_pipelined_run_comes_back_bit_for_bit(stepped, tmp_path):
    optimizer = dataclasses.replace(OBJECTIVE.optimizer, moment_dtype="int8")
    objective = dataclasses.replace(OBJECTIVE, optimizer=optimizer)
    run = Run(LAYOUTS["pipeline_two_rounds_zero1"], objective)
    abstract = jax.eval_shape(objective.init, jax.random.key(0))
    # Any values do; a step's own are for the slow tests, for compiling it takes longer than all
    # else here.
    rng = np.random.default_rng(0)
    filled = jax.tree.map(lambda a: rng.integers(-100, 100, a.shape).astype(a.dtype), abstract)
    state = run.step(run.start(), 0)[0] if stepped else placed_state(filled, run.places)
    kept = jax.tree.map(np.asarray, state)
    assert any(leaf.dtype == np.int8 and leaf.any() for leaf in jax.tree.leaves(kept))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {"batches": 1})
    checkpoints.wait()
    restored, _ = checkpoints.restore(1, placed(abstract, run.places))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, restored), kept)


@pytest.mark.slow
@pytest.mark.budget(40)  # Two processes, each imports and compiles.
def test_two_processes_of_four_devices_have_the_losses_of_one_device():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mesh = json.dumps(dataclasses.asdict(LAYOUTS["pipeline_two_rounds_zero1"]))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    program = [sys.executable, parallel_case.__file__]
    workers = [
        subprocess.Popen(
            [*program, str(process), "2", str(port), mesh],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    printed = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    for text in printed:
        losses = json.loads(text.splitlines()[-1])
        np.testing.assert_allclose(losses, losses_on_one_device(), rtol=0, atol=1e-5)
