"""Codes whose distribution is known are learned by a small DiT and drawn, class by class."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.dit import DiTConfig, DiTGenerator
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.prediction.diffusion import DiffusionPrediction, DiffusionSampling
from babeldraw.sharding.constraint import logical_axes
from babeldraw.tokenizers.base import Codes

MEANS, DEVIATION, STEPS, ROWS = np.float32([-1.0, 0.5, 2.0]), 0.3, 1500, 64
KEY = jax.random.key(0)
OPTIMIZER = OptimizerConfig(
    ScheduleConfig(5e-3, 0, 0, 1500, 0.01), "adamw", weight_decay=0.0, clip_norm=1.0
)
STACK = TransformerConfig(
    1, 2, 32, 64, activation="gelu", bias=True, compute=ComputeConfig(scan=False)
)


@pytest.mark.slow
@pytest.mark.budget(10)
@pytest.mark.parametrize(
    ("objective", "sampler", "steps", "learned"),
    [("flow", "heun", 10, False), ("ddpm", "ancestral", 50, True)],
)
def test_classes_are_drawn_as_they_were(objective, sampler, steps, learned):
    config = DiTConfig(STACK, patch_size=1, learned_sigma=learned)
    network = DiTGenerator(config, ClassCondition(3, 0.1), Codes((2,), (), 2))
    prediction = DiffusionPrediction(objective=objective)
    optimizer = make_optimizer(OPTIMIZER, logical_axes(jax.eval_shape(network.init, KEY)))

    def step(carry, key):
        params, state = carry
        label_key, code_key, keys_key = jax.random.split(key, 3)
        label_B = jax.random.randint(label_key, (ROWS,), 0, 3)
        noise = jax.random.normal(code_key, (ROWS, 2, 2))
        mean = jnp.broadcast_to(jnp.asarray(MEANS)[label_B][:, None, None], noise.shape)
        codes, keys = mean + DEVIATION * noise, jax.random.split(keys_key, ROWS)
        grads = jax.grad(
            lambda p: prediction.loss(network, p, label_B, codes, keys, jnp.int32(0))[0]
        )(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def trained(key):
        params = nn.unbox(network.init(key))
        carry = (params, optimizer.init(params))
        return jax.lax.scan(step, carry, jax.random.split(key, STEPS))[0][0]

    settings = DiffusionSampling(sampler=sampler, steps=steps).traced()
    drawn = jax.jit(
        lambda params, labels, keys: prediction.draw(
            network, params, labels, keys, settings, guided=False
        )
    )(trained(KEY), jnp.arange(3), jax.random.split(jax.random.key(1), 600))
    of_class = np.asarray(drawn).reshape(3, -1)
    np.testing.assert_allclose(of_class.mean(1), MEANS, atol=0.1)
    np.testing.assert_allclose(of_class.std(1), DEVIATION, atol=0.1)
