"""Networks that predict all unknown codes at once from the condition and those that are known."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.stack import unstack
from babeldraw.models.base import Generator, check_codebook, example


class MaskedNetwork(nn.Module):
    """A module that has a `prefix` of its condition, a `head`, and `hidden`."""

    def __call__(
        self,
        condition: Any,
        codes: jax.Array,
        known: jax.Array,
        keys: jax.Array | None = None,
        smoothing: float = 0.0,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code given the condition and those that are known; see `Head.nll`."""
        hidden_BTD = self.hidden(self.read(condition, keys), codes, known, keys)
        return self.nll(hidden_BTD, codes, smoothing)

    def read(self, condition: Any, keys: jax.Array | None = None) -> Any:
        """What it makes of conditions, a tree of arrays with a row for each: here the prefix."""
        del keys
        return self.prefix(condition)

    def hidden(
        self, context: Any, codes: jax.Array, known: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Of what `read` gave, a row for each of the codes: float32 [B, T, D]."""
        raise NotImplementedError

    def nll(
        self, x_BTD: jax.Array, codes: jax.Array, smoothing: float
    ) -> tuple[jax.Array, jax.Array]:
        """As `Head.nll`, of what `hidden` gave."""
        return self.head.nll(x_BTD, codes, smoothing)

    def logits(self, x_BTD: jax.Array, earlier: jax.Array | None) -> jax.Array:
        """As `Head.logits`, of what `hidden` gave."""
        return self.head.logits(x_BTD, earlier)


class Masked(Generator):
    """What masked prediction asks of a network, by its Linen module; the twin of `Sequential`.

    A place is known or not, with all factors of its code. `known` is bool [B, T]; what `codes` hold
    at unknown places is not read.

    Attributes:
      network: a `MaskedNetwork`.
    """

    @property
    def network(self) -> MaskedNetwork:
        raise NotImplementedError

    def check(self) -> None:
        check_codebook(self)

    def for_rows(self, rows: int) -> MaskedNetwork:
        """The network as training computes it of so many examples."""
        del rows
        return self.network

    def init(self, key: jax.Array) -> Any:
        codes = jnp.zeros((1, *self.codes.each), self.codes.dtype)
        known = jnp.zeros((1, self.codes.length), bool)
        return self.network.init(key, example(self.condition, 1), codes, known)["params"]

    def for_decoding(self, params: Any) -> Any:
        return unstack(self.for_reading(params))

    def masked_nll(
        self,
        params: Any,
        condition: Any,
        codes: jax.Array,
        known: jax.Array,
        keys: jax.Array | None = None,
        smoothing: float = 0.0,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code, float32 [B, T], and whether it is the likeliest, bool [B, T].

        Known places are told too: there the network sees what it predicts.

        Args:
          params: of the network.
          condition: a row for each example.
          codes: as `Codes` says.
          known: bool [B, T], which of them the network sees.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.
          smoothing: of labels, see `models.head.token_nll`.
        """
        inputs = (condition, codes, known, keys, smoothing)
        return self.for_rows(codes.shape[0]).apply({"params": params}, *inputs)

    def read(self, params: Any, condition: Any) -> Any:
        """A tree of arrays, a row for each of the conditions: read once, whatever the steps."""
        return self._call("read", params, condition)

    def hidden(self, params: Any, context: Any, codes: jax.Array, known: jax.Array) -> jax.Array:
        """The network's output for all places, float32 [B, T, D].

        Args:
          params: of the network.
          context: of `read`, a row for each of the codes.
          codes: as `Codes` says.
          known: bool [B, T].
        """
        return self._call("hidden", params, context, codes, known)

    def factor_logits(
        self, params: Any, hidden_BTD: jax.Array, earlier: jax.Array | None = None
    ) -> jax.Array:
        """Of the next factor of each place, float32 [B, T, V].

        Args:
          params: of the network.
          hidden_BTD: of `hidden`.
          earlier: int32 [B, T, f], the factors that were drawn; None: none.
        """
        return self._call("logits", params, hidden_BTD, earlier)

    def _call(self, method: str, params: Any, *inputs: Any) -> Any:
        return self.network.apply({"params": params}, *inputs, method=method)
