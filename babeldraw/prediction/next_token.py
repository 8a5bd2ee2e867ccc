"""Autoregressive decoding with a cache, all steps in one compiled loop."""

from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.layers.stack import unstack
from babeldraw.prediction.logits import Settings, guidance_at, guide, sample_tokens
from babeldraw.tokenizers.base import Codes


class AutoregressiveGenerator(Protocol):
    """All that decoding knows of a model; `babeldraw.models.babeldraw.Generator` is one.

    A condition is an array with a leading axis of prompts: texts int32 [P, S], classes int32 [P].
    """

    codes: Codes

    def start(self, params: Any, condition: jax.Array, samples: int = 1) -> Any:
        """The cache of `samples` pictures of each of P conditions, those of one together."""
        ...

    def step(
        self, params: Any, token_B: jax.Array, index: jax.Array, cache: Any
    ) -> tuple[jax.Array, Any]:
        """Logits of image token `index`, float32 [B, V], given token `index - 1`; the cache."""
        ...

    def unconditional(self, condition: jax.Array) -> jax.Array:
        """As many conditions that ask for nothing."""
        ...


@flax.struct.dataclass
class Given:
    """Image tokens that are there already.

    Attributes:
      tokens_BT: int32 [B, T].
      kept_BT: bool [B, T]: True where the token is kept as it is, False where one is drawn.
    """

    tokens_BT: jax.Array
    kept_BT: jax.Array


def decode(
    generator: AutoregressiveGenerator,
    params: Any,
    condition: jax.Array,
    keys_B: jax.Array,
    settings: Settings,
    given: Given | None = None,
    guided: bool = True,
) -> jax.Array:
    """Draws the image tokens of P conditions, B / P pictures of each.

    The conditional rows and as many unconditional ones go through the model as one batch. A row's
    tokens depend on its own condition, key and given tokens only.

    Args:
      generator: the model; `generator.codes.length` tokens are drawn.
      params: its parameters. Stacks that `layers.stack.unstack` has cut are not cut here again.
      condition: [P, ...], such as zero-padded prompts int32 [P, S].
      keys_B: typed PRNG keys, one per picture; those of one condition stand together.
      settings: temperature, filters and guidance, as traced scalars.
      given: tokens that are kept; each drawn token knows the kept ones before it, and no later one.
      guided: False leaves the unconditional rows out, which is the same where guidance is 1.

    Returns:
      int32 [B, T].
    """
    params = unstack(params)
    batch, length = keys_B.shape[0], generator.codes.length
    rows = condition
    if guided:
        rows = jnp.concatenate([condition, generator.unconditional(condition)])
    cache = generator.start(params, rows, batch // condition.shape[0])

    def step(carry, index):
        token_B, cache = carry
        both = jnp.concatenate([token_B, token_B]) if guided else token_B
        logits_BV, cache = generator.step(params, both, index, cache)
        if guided:
            scale = guidance_at(settings, index, length)
            logits_BV = guide(logits_BV[:batch], logits_BV[batch:], scale)
        step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, index)
        token_B = sample_tokens(step_keys_B, logits_BV, settings)
        if given is not None:
            kept_B, old_B = given.kept_BT[:, index], given.tokens_BT[:, index]
            token_B = jnp.where(kept_B, old_B, token_B)
        return (token_B, cache), token_B

    first = (jnp.zeros(batch, jnp.int32), cache)
    _, tokens_TB = jax.lax.scan(step, first, jnp.arange(length))
    return tokens_TB.T
