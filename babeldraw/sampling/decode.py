"""Autoregressive decoding with a cache, all steps in one compiled loop."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from babeldraw.layers.stack import unstack
from babeldraw.sampling.logits import Settings, guide, sample_tokens
from babeldraw.tokenizers.base import ImageTokens


class AutoregressiveGenerator(Protocol):
    """All that decoding knows of a model; `babeldraw.models.babeldraw.Generator` is one."""

    tokens: ImageTokens

    def start(self, params: Any, text_BS: jax.Array) -> Any: ...

    def step(
        self, params: Any, token_B: jax.Array, index: jax.Array, cache: Any
    ) -> tuple[jax.Array, Any]: ...


def decode(
    generator: AutoregressiveGenerator,
    params: Any,
    text_BS: jax.Array,
    keys_B: jax.Array,
    settings: Settings,
) -> jax.Array:
    """Draws the image tokens of a batch of prompts.

    The conditional rows and as many unconditional ones (prompts of nothing but padding) go through
    the model as one batch. A row's tokens depend on its own prompt and key only.

    Args:
      generator: the model; `generator.tokens.length` tokens are drawn.
      params: its parameters.
      text_BS: int32 prompts, zero-padded.
      keys_B: typed PRNG keys, one per row.
      settings: temperature, filters and guidance, as traced scalars.

    Returns:
      int32 [B, T].
    """
    params = unstack(params)
    batch = text_BS.shape[0]
    cache = generator.start(params, jnp.concatenate([text_BS, jnp.zeros_like(text_BS)]))

    def step(carry, index):
        token_B, cache = carry
        logits, cache = generator.step(params, jnp.concatenate([token_B, token_B]), index, cache)
        logits_BV = guide(logits[:batch], logits[batch:], settings.guidance)
        step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, index)
        token_B = sample_tokens(step_keys_B, logits_BV, settings)
        return (token_B, cache), token_B

    first = (jnp.zeros(batch, jnp.int32), cache)
    steps = jnp.arange(generator.tokens.length)
    _, tokens_TB = jax.lax.scan(step, first, steps)
    return tokens_TB.T
