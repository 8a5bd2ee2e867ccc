"""What tests of networks share: random weights, and decoding one step at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.models.kinds import make_generator
from babeldraw.objectives.generator import GeneratorObjective
from babeldraw.prediction.next_token import NextToken
from babeldraw.tokenizers.kinds import make_tokenizer

# The config of a tokenizer's run, of 16 x 24 px at 1, 2 and 4 pixels to a code.
NESTED_VAE = {
    "objective": "image_tokenizer",
    "train": {"steps": 1, "batch_size": 8},
    "data": {"source": "shapes"},
    "tokenizer": {
        "kind": "nested_vae",
        "strides": (1, 2, 4),
        "image_size": (16, 24),
        "network": {
            "channels": 4,
            "groups": 2,
            "multipliers": (1, 1, 2),
            "encoder_blocks": 1,
            "decoder_blocks": 1,
            "middle_blocks": 1,
            "latent_channels": 3,
        },
    },
    "optimizer": {
        "name": "adamw",
        "schedule": {"peak": 1e-3, "warmup_steps": 0, "decay_start": 0, "decay_end": 1},
    },
}


def random_params(generator, seed=0):
    """Random everywhere: at the start too much is zero, one, or too small to tell codes apart."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        scale = 2.0 if "embed" in name or "positions" in name else 0.25
        offset = 1.0 if "'scale'" in name else 0.0
        return jnp.asarray(rng.normal(offset, scale, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(generator))


def abstract_params(generator):
    """Shapes and types of the parameters."""
    return jax.eval_shape(lambda key: nn.unbox(generator.init(key)), jax.random.key(0))


def start(generator, params, condition, samples=1):
    """An empty cache for conditions that are read here."""
    return generator.start(params, generator.read(params, condition), samples)


def step(generator, params, codes, index, cache):
    """Logits of the first factor of code `index`, and the cache."""
    x_B1D, cache = generator.step(params, codes, index, cache)
    earlier = jnp.zeros((codes.shape[0], 0), jnp.int32)
    return generator.next_logits(params, x_B1D, earlier), cache


def generator_objective(model, condition, tokenizer, optimizer, batch_size, **more):
    """The recipe of a generator by the next token, of sections."""
    tokenizer = make_tokenizer(tokenizer)
    generator = make_generator(model, condition, tokenizer.codes)
    return GeneratorObjective(generator, NextToken(), tokenizer, optimizer, batch_size, **more)
