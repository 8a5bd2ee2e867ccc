"""The text encoder of Babeldraw: of its generators, and of the pretraining that they begin from."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.block import TransformerConfig, encoder_parts, make_stack
from babeldraw.layers.dropout import fold
from babeldraw.layers.linear import Embedding, LayerNorm
from babeldraw.layers.masks import padding_mask
from babeldraw.layers.positions import LearnedPositions
from babeldraw.models.conditions import TextCondition
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample


def mean_over_pieces(states_BSD: jax.Array, text_BS: jax.Array) -> jax.Array:
    """A vector of each text, float32 [B, D], padding left out; zeros of an empty one."""
    real_BS1 = (text_BS > 0)[..., None]
    total_BD = jnp.sum(jnp.where(real_BS1, states_BSD, 0.0), axis=1)
    count_B1 = jnp.sum(real_BS1, axis=1, dtype=total_BD.dtype)
    return total_BD / jnp.maximum(count_B1, 1)


class TextEncoder(nn.Module):
    """int32 [B, S] -> float32 [B, S, D], with a LayerNorm after the stack.

    Attributes:
      config: of the stack.
      condition: the texts that it reads.
    """

    config: TransformerConfig
    condition: TextCondition

    def setup(self):
        text, dim = self.condition, self.config.dim
        self.embed = Embedding(text.vocab_size, dim, stddev=text.stddev)
        self.positions = LearnedPositions(text.length, dim)
        self.stack = make_stack(encoder_parts(self.config), self.config)
        self.norm = LayerNorm()

    def __call__(
        self,
        text_BS: jax.Array,
        keys: jax.Array | None = None,
        hidden_BS: jax.Array | None = None,
        mark_D: jax.Array | None = None,
    ) -> jax.Array:
        """What is read of each piece.

        Args:
          text_BS: int32, zero is padding, which no piece sees.
          keys: of dropout, one per example; None: no dropout.
          hidden_BS: bool, pieces in whose place `mark_D` is read; None: none.
          mark_D: float32.
        """
        x_BSD = self.embed(text_BS)
        if hidden_BS is not None:
            hidden_BSD = jnp.broadcast_to(hidden_BS[..., None], x_BSD.shape)
            x_BSD = jnp.where(hidden_BSD, jnp.broadcast_to(mark_D, x_BSD.shape), x_BSD)
        x_BSD = x_BSD + self.positions()[None, : text_BS.shape[1]]
        x_BSD = constrain(x_BSD, ("batch", "length", "activation_embed"))
        seen = {"mask": PerExample(padding_mask(text_BS))}
        return self.norm(self.stack(x_BSD, seen, keys=fold(keys, 0)))
