"""A small text-to-image run that `test_parallel` trains under many layouts.

Run as a program it is one of several processes: PROCESS COUNT PORT, the mesh's fields as JSON; it
prints the losses.
"""

import json
import os
import re
import sys

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    # All else that the tests ask of XLA stays, such as its quickest compilation.
    flags = re.sub(r"--xla_force_host\S+", "", os.environ.get("XLA_FLAGS", ""))
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.babeldraw import BabeldrawConfig
from babeldraw.models.conditions import TextCondition
from babeldraw.models.kinds import make_generator
from babeldraw.objectives.generator import GeneratorObjective
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.prediction.next_token import NextToken
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer
from babeldraw.train.step import make_step, state_shardings

B, V, STEPS = 16, 32, 5
STACK = TransformerConfig(
    blocks=4, heads=4, dim=32, hidden=64, dropout=0.1, compute=ComputeConfig(remat="full")
)
TOKENIZER = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32)
CODES = ViTVQGANTokenizer(
    ViTVQGANConfig(TOKENIZER, TOKENIZER, (16, 16), patch_size=4, quantizer=VQConfig(V, 4))
)
WORDS = TextCondition(vocab_size=20, length=5, dropout=0.3)
OBJECTIVE = GeneratorObjective(
    generator=make_generator(BabeldrawConfig(STACK, STACK), WORDS, CODES.codes),
    prediction=NextToken(),
    tokenizer=CODES,
    optimizer=OptimizerConfig(
        ScheduleConfig(1e-2, 0, 0, 1, kind="constant"), moment_dtype="float32", clip_norm=1.0
    ),
    batch_size=B,
)


def initial_state(objective=OBJECTIVE):
    """Random weights; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        scale = 0.2 if name.startswith((".params", ".frozen")) else 0.0
        offset = 1.0 if name.endswith("['scale']") else 0.0
        return rng.normal(offset, scale, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(objective.init, jax.random.key(0)))


def batch_of(step):
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (B, 16, 16, 3), dtype=np.uint8),
        "text": rng.integers(1, 20, (B, 5), dtype=np.int32),
    }


def placed_state(state, places):
    """`state`, which every process holds whole, where it belongs."""
    return jax.tree.map(
        lambda a, place: jax.make_array_from_callback(a.shape, place, lambda index: a[index]),
        state,
        places,
    )


class Run:
    """The case under one layout."""

    def __init__(self, config: MeshConfig, objective=OBJECTIVE, devices=None):
        self.layout = make_layout(config, make_mesh(config, devices))
        self.places = state_shardings(objective, self.layout)
        self._step = make_step(objective, self.layout, self.places)
        self.program, self._objective = self._step, objective

    def start(self):
        return placed_state(initial_state(self._objective), self.places)

    def step(self, state, number):
        """The state and the loss after step `number`."""
        share = B // jax.process_count()
        rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        local = {name: rows_of[rows] for name, rows_of in batch_of(number).items()}
        state, metrics = self._step(state, place_batch(local, self.layout.mesh), jax.random.key(0))
        return state, float(metrics["loss"])

    def losses(self, steps=STEPS):
        state, losses = self.start(), []
        for number in range(steps):
            state, loss = self.step(state, number)
            losses.append(loss)
        return losses


def main():
    process, count, port, mesh = sys.argv[1:]
    jax.distributed.initialize(f"localhost:{port}", int(count), int(process))
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    assert jnp.zeros(()).dtype == jnp.float32 and len(jax.devices()) == 4 * int(count)
    print(json.dumps(Run(MeshConfig(**json.loads(mesh))).losses()))


if __name__ == "__main__":
    main()
