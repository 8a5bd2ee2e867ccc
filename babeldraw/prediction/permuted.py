"""Next-token prediction in random orders, annealed to raster order (RAR).

Yu et al., "Randomized Autoregressive Visual Generation", 2024, section 3.2: with both sides seen in
training a causal network learns more of a picture, and drawing stays that of raster order.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.models.base import Generator
from babeldraw.prediction.base import Metrics
from babeldraw.prediction.next_token import NextToken, averaged

# What an example's key is folded with to draw its order: no number of a layer, which dropout takes.
ORDER = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class PermutedNextToken(NextToken):
    """Each code from the condition and those before it in an order that each example draws.

    Drawing and scoring are those of `NextToken`, in raster order, for which training should end in
    it: FID 2.18 in the paper's Table 2, and 3.01 where it never did (RAR-L, 400 epochs).

    Attributes:
      anneal_start: the step up to which every order is random.
      anneal_end: the step from which every order is the raster; the chance falls linearly between.
    """

    anneal_start: int
    anneal_end: int
    kind: str = "permuted_next_token"
    needs = (*NextToken.needs, "ordered_nll")

    def __post_init__(self):
        require(
            self.noise == 0,
            f"config.prediction.noise is {self.noise}; only kind=next_token can, take 0",
        )
        path, start, end = "config.prediction", self.anneal_start, self.anneal_end
        require(start >= 0, f"{path}.anneal_start is {start}; at least 0 is needed")
        require(
            end >= start,
            f"{path}.anneal_end is {end} and anneal_start {start}; it may not come before",
        )

    def tiny(self) -> "PermutedNextToken":
        """The same for a first run."""
        return dataclasses.replace(self, anneal_start=1, anneal_end=3)

    def tuned(self) -> "PermutedNextToken":
        """In raster order from the first step on, though the run stopped before its annealing did.

        That is what drawing goes by; who wants random orders again sets `anneal_end`.
        """
        return dataclasses.replace(self, anneal_start=0, anneal_end=0)

    def random_share(self, step: jax.Array) -> jax.Array:
        """The chance of a random order after so many updates, float32 []."""
        left = (self.anneal_end - step).astype(jnp.float32)
        return jnp.clip(left / max(self.anneal_end - self.anneal_start, 1), 0.0, 1.0)

    def loss(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy as `NextToken.loss`; `permuted`: share of the examples in random order."""
        share = self.random_share(step)
        order_BT, random_B = jax.vmap(draw_order, (0, None, None))(keys, codes.shape[1], share)
        found = generator.ordered_nll(params, condition, codes, order_BT, keys)
        loss, metrics = averaged(generator, codes, found)
        return loss, {**metrics, "permuted": jnp.mean(random_B.astype(jnp.float32))}


def draw_order(key: jax.Array, length: int, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A permutation of places, int32 [T], by a chance of `share`, else the raster; and which."""
    chance_key, order_key = jax.random.split(jax.random.fold_in(key, ORDER))
    random = jax.random.bernoulli(chance_key, share)
    raster_T = jnp.arange(length, dtype=jnp.int32)
    permuted_T = jax.random.permutation(order_key, raster_T)
    return jnp.where(jnp.broadcast_to(random, raster_T.shape), permuted_T, raster_T), random
