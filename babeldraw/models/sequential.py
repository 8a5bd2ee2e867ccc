"""Networks that predict codes one after another, given the codes before."""

from typing import Any

import flax.linen as nn
import jax

from babeldraw.layers.stack import unstack
from babeldraw.models.base import Generator, check_codebook, example


class Sequential(Generator):
    """What the prediction of the next token asks of a network, by its Linen module.

    Attributes:
      network: a module with `__call__(condition, codes, keys, read=...)`, which gives the two
        arrays of `Head.nll`, and the methods `read`, `start`, `step`, `next_logits` and
        `first_logits`.
    """

    @property
    def network(self) -> nn.Module:
        raise NotImplementedError

    def check(self) -> None:
        check_codebook(self)

    def init(self, key: jax.Array) -> Any:
        codes = jax.numpy.zeros((1, *self.codes.each), self.codes.dtype)
        return self.network.init(key, example(self.condition, 1), codes)["params"]

    def for_decoding(self, params: Any) -> Any:
        return unstack(self.for_reading(params))

    def nll(
        self,
        params: Any,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array | None = None,
        read: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code, float32 [B, T], and whether it is the likeliest, bool [B, T].

        Args:
          params: of the network.
          condition: a row for each example.
          codes: as `Codes` says.
          keys: of dropout, one per example (`layers.dropout.example_keys`); None: no dropout.
          read: the codes that the network sees before each; None: the same.
        """
        return self.network.apply({"params": params}, condition, codes, keys, read=read)

    def logits(self, params: Any, condition: Any, codes: jax.Array) -> jax.Array:
        """Of the first factor of each code, all at once: float32 [B, T, V]."""
        return self._call("first_logits", params, condition, codes)

    def read(self, params: Any, condition: Any) -> Any:
        return self._call("read", params, condition)

    def start(self, params: Any, context: Any, samples: int = 1) -> Any:
        """An empty cache for `samples` examples of each of the P conditions that were read.

        A batch has P * samples rows then, those of one condition together.
        """
        return self._call("start", params, context, samples)

    def step(
        self, params: Any, codes: jax.Array, index: jax.Array, cache: Any
    ) -> tuple[jax.Array, Any]:
        """The network's output for code `index`, float32 [B, 1, D], and the cache.

        Args:
          params: of the network.
          codes: code `index - 1` of each row, int32 [B] or [B, factors]; ignored at index 0.
          index: int32 in [0, T), [], or [B] where rows stand at different places.
          cache: of `start`, or of the step before.
        """
        return self._call("step", params, codes, index, cache)

    def next_logits(self, params: Any, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        """Of the next factor, float32 [B, V].

        Args:
          params: of the network.
          x_B1D: the output of `step`.
          earlier: int32 [B, f], the factors that were drawn.
        """
        return self._call("next_logits", params, x_B1D, earlier[:, None])[:, 0]

    def _call(self, method: str, params: Any, *inputs: Any) -> Any:
        return self.network.apply({"params": params}, *inputs, method=method)
