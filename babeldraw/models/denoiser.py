"""Networks that see noisy continuous codes and say what of them is noise."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.stack import unstack
from babeldraw.models.base import Generator, example


class DenoisingNetwork(nn.Module):
    """A module that has `read` and `denoised`."""

    def __call__(
        self, condition: Any, noisy: jax.Array, time_B: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Both, one after the other, as training asks."""
        return self.denoised(self.read(condition, keys), noisy, time_B, keys)

    def read(self, condition: Any, keys: jax.Array | None = None) -> Any:
        """What it makes of conditions, a tree of arrays with a row for each."""
        raise NotImplementedError

    def denoised(
        self, context: Any, noisy: jax.Array, time_B: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Of what `read` gave, a row for each of the codes; see `Denoiser.denoise`."""
        raise NotImplementedError


class Denoiser(Generator):
    """What diffusion asks of a network, by its Linen module; the twin of `Masked`.

    Attributes:
      network: a `DenoisingNetwork`.
      packed: of a network with levels, the same on packed rows.
      learned_variance: whether it says, beside each value, how much noise a step draws.
    """

    learned_variance: bool = False

    @property
    def network(self) -> DenoisingNetwork:
        raise NotImplementedError

    def check(self) -> None:
        require(
            not self.codes.vocab,
            f"config.tokenizer's codes are discrete and config.model.kind={self.config.kind} "
            "denoises continuous ones; take a tokenizer with quantizer.kind=gaussian",
        )

    def init(self, key: jax.Array) -> Any:
        noisy, time_B = jnp.zeros((1, *self.codes.each), jnp.float32), jnp.zeros(1)
        return self.network.init(key, example(self.condition, 1), noisy, time_B)["params"]

    def for_decoding(self, params: Any) -> Any:
        return unstack(self.for_reading(params))

    def predicted(
        self,
        params: Any,
        condition: Any,
        noisy: jax.Array,
        time_B: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """As `denoise`, of a condition that is read here.

        Args:
          params: of the network.
          condition: a row for each example.
          noisy: as `Codes` says.
          time_B: float32.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.
        """
        return self.network.apply({"params": params}, condition, noisy, time_B, keys)

    def predicted_packed(
        self,
        params: Any,
        condition: Any,
        noisy: list[jax.Array],
        time_RP: jax.Array,
        keys: jax.Array | None = None,
    ) -> list[jax.Array]:
        """As `predicted`, of pictures of all levels packed into rows; only of networks with levels.

        Args:
          params: of the network.
          condition: [R, P, ...], in the order of the levels.
          noisy: of each level, [R, count, ...].
          time_RP: float32.
          keys: of dropout, [R, P].
        """
        return self.packed.apply({"params": params}, condition, noisy, time_RP, keys)

    def read(self, params: Any, condition: Any) -> Any:
        """A tree of arrays, a row for each of the conditions: read once, whatever the steps."""
        return self.network.apply({"params": params}, condition, method="read")

    def denoise(self, params: Any, context: Any, noisy: jax.Array, time_B: jax.Array) -> jax.Array:
        """What is asked of the noise: float32, of the codes' shape.

        With `learned_variance` twice as many channels; the second half are the variances' places,
        -1 to 1, between the least and the most that they may be.

        Args:
          params: of the network.
          context: of `read`, a row for each of the codes.
          noisy: float32, as `Codes` says, scaled.
          time_B: float32 in [0, 1000], how noisy each row is.
        """
        inputs = (context, noisy, time_B)
        return self.network.apply({"params": params}, *inputs, method="denoised")
