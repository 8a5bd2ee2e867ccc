"""Next-token prediction: cross-entropy, and drawing with a cache in one compiled loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.stack import unstack
from babeldraw.models.base import Generator
from babeldraw.prediction.base import Given, Metrics, Prediction
from babeldraw.prediction.logits import (
    SamplingConfig,
    Settings,
    guidance_at,
    guide,
    sample_tokens,
)
from babeldraw.tokenizers.base import Codes

# What an example's key is folded with to draw its noise: no number of a layer, which dropout takes.
NOISE = (1 << 30) + 1


@dataclasses.dataclass(frozen=True)
class NextToken(Prediction):
    """Each code from the condition and the codes before it, in order; factor by factor.

    What a network must have: see `models.sequential.Sequential`.

    Attributes:
      noise: in training, of the codes that the network reads at most this share are others, drawn
        uniformly; of each example a share of its own, uniform in [0, noise]. What is predicted
        stays. Where pictures come again often, their first codes tell the rest, and the condition
        is hardly read; noise takes that away, and shows the network what its own mistakes look
        like (noise on what a language model reads: Xie et al. 2017, arXiv:1703.02573, section 3).
    """

    kind: str = "next_token"
    noise: float = 0.0
    needs = ("nll", "read", "start", "step", "next_logits")
    sampling = SamplingConfig

    def __post_init__(self):
        path = "config.prediction.noise"
        require(0 <= self.noise <= 1, f"{path} is {self.noise}; a share in [0, 1] is needed")

    def check_sampling(self, settings: Any, generator: Generator, path: str = "") -> None:
        super().check_sampling(settings, generator, path)
        require(
            settings.clusters == 0 or not path,
            f"{path}clusters is {settings.clusters} and a run's codes are clustered when it is "
            "trained (`babeldraw clusters`); take 0, and --clusters of `babeldraw sample`",
        )

    def loss(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy, the mean over all codes; `accuracy`: share that is the likeliest."""
        read = noised(codes, generator.codes, keys, self.noise) if self.noise else None
        return averaged(generator, codes, generator.nll(params, condition, codes, keys, read))

    def score(
        self, generator: Generator, params: Any, condition: Any, codes: jax.Array
    ) -> jax.Array:
        nll_BT = generator.nll(params, condition, codes)[0]
        if generator.codes.end is None:
            return jnp.mean(nll_BT, axis=-1)
        return jnp.mean(nll_BT, axis=-1, where=up_to_end(codes, generator.codes.end))

    def draw(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        keys: jax.Array,
        settings: Settings,
        given: Given | None = None,
        guided: bool = True,
    ) -> jax.Array:
        """As `Prediction.draw`; the conditional and the unconditional rows go as one batch.

        Each drawn code knows the kept ones before it, and no later one. Stacks of `params` that
        `layers.stack.unstack` has cut are not cut here again. Behind the codes' `end`, all are it.
        """
        if given is not None and given.again is not None:
            raise ValueError("the next token is drawn from those before it, not from what is there")
        params, what = unstack(params), generator.codes
        batch, prompts = keys.shape[0], jax.tree.leaves(condition)[0].shape[0]
        rows = condition
        if guided:
            nothing = generator.condition.nothing(condition)
            rows = jax.tree.map(lambda *both: jnp.concatenate(both), condition, nothing)
        read, samples = generator.read(params, rows), batch // prompts
        cache = self.begun(generator, params, read, samples, settings, given)

        def step(carry, index):
            code, cache = carry
            both = jnp.concatenate([code, code]) if guided else code
            x_B1D, cache = generator.step(params, both, index, cache)
            step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
            scale = guidance_at(settings, index, what.length)
            new = _draw_code(generator, params, x_B1D, step_keys_B, settings, scale, guided)
            if given is not None:
                kept_B = given.kept[:, index].reshape(batch, *(1,) * (new.ndim - 1))
                new = jnp.where(jnp.broadcast_to(kept_B, new.shape), given.codes[:, index], new)
            if what.end is not None:
                over_B = (index > 0) & (code == what.end)
                new = jnp.where(over_B, what.end, new)
            return (new, cache), new

        first = jnp.zeros((batch, *what.each[1:]), jnp.int32)
        _, codes = jax.lax.scan(step, (first, cache), jnp.arange(what.length))
        return jnp.moveaxis(codes, 0, 1)

    def begun(
        self,
        generator: Generator,
        params: Any,
        read: Any,
        samples: int,
        settings: Settings,
        given: Given | None,
    ) -> Any:
        """The cache with which drawing begins.

        Args:
          generator, params: the network.
          read: of the conditions, behind them those that say nothing where it is guided.
          samples: examples of each.
          settings, given: as `draw` takes them.
        """
        del settings, given
        return generator.start(params, read, samples)

    def step(
        self, generator: Generator, params: Any, condition: Any, samples: int, settings: Any
    ) -> tuple[Callable, tuple[Any, ...], int]:
        del settings

        def begin(params, condition):
            return generator.start(params, generator.read(params, condition), samples)

        cache = jax.eval_shape(begin, params, condition)
        rows = jax.tree.leaves(condition)[0].shape[0] * samples
        code = jax.ShapeDtypeStruct((rows, *generator.codes.each[1:]), jnp.int32)
        index = jax.ShapeDtypeStruct((), jnp.int32)

        def step(params, code, index, cache):
            x_B1D, cache = generator.step(params, code, index, cache)
            drawn = jnp.zeros((rows, len(generator.factors)), jnp.int32)
            heads = range(drawn.shape[1])
            return [generator.next_logits(params, x_B1D, drawn[:, :n]) for n in heads], cache

        return step, (code, index, cache), generator.codes.length

    def forward(self, generator: Generator) -> Callable:
        return generator.logits


def noised(codes: jax.Array, what: Codes, keys: jax.Array, most: float) -> jax.Array:
    """Codes of which some are others.

    Args:
      codes: int32, as `what` says.
      what: they are.
      keys: one per example, as of dropout.
      most: the share is uniform in [0, most].

    Returns:
      int32, of the same shape; a place is whole or another in all its factors.
    """

    def one(key: jax.Array, codes: jax.Array) -> jax.Array:
        share_key, place_key, code_key = jax.random.split(jax.random.fold_in(key, NOISE), 3)
        share = jax.random.uniform(share_key, maxval=most)
        other_T = jax.random.bernoulli(place_key, share, codes.shape[:1])
        sizes = jnp.broadcast_to(jnp.array(what.vocab), codes.shape)
        others = jax.random.randint(code_key, codes.shape, 0, sizes)
        return jnp.where(other_T.reshape(-1, *(1,) * (codes.ndim - 1)), others, codes)

    return jax.vmap(one)(keys, codes)


def averaged(
    generator: Generator, codes: jax.Array, found: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, Metrics]:
    """The loss and metrics of a network's two arrays [B, T], as `Sequential.nll` gives them."""
    nll_BT, right_BT = found
    end = generator.codes.end
    counted = None if end is None else up_to_end(codes, end)
    loss = jnp.mean(nll_BT, where=counted)
    return loss, {"loss": loss, "accuracy": jnp.mean(right_BT, where=counted)}


def up_to_end(codes: jax.Array, end: int) -> jax.Array:
    """bool [B, T]: which places of codes with an end are counted, those up to the first end."""
    real_BT = codes != end
    return real_BT | jnp.pad(real_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)


def _draw_code(
    generator: Generator,
    params: Any,
    x_B1D: jax.Array,
    keys_B: jax.Array,
    settings: Settings,
    scale: jax.Array,
    guided: bool,
) -> jax.Array:
    """One code per row, int32 [B] or [B, factors], each factor given those before it."""
    batch = keys_B.shape[0]
    drawn: list[jax.Array] = []
    for number in range(len(generator.factors)):
        earlier = jnp.stack(drawn, axis=-1) if drawn else jnp.zeros((batch, 0), jnp.int32)
        earlier = jnp.concatenate([earlier, earlier]) if guided else earlier
        logits_BV = generator.next_logits(params, x_B1D, earlier)
        if guided:
            logits_BV = guide(logits_BV[:batch], logits_BV[batch:], scale)
        own_B = keys_B
        if number:
            own_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, number)
        drawn.append(sample_tokens(own_B, logits_BV, settings))
    return generator.joined(drawn)
