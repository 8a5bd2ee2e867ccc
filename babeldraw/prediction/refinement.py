"""Refinement: codes that are there are masked and drawn again in a few passes over all places.

CogView2's iterative super-resolution by local parallel autoregression (LoPAR; Ding et al.,
"CogView2", 2022, section 3.3, and its code): of each tile of 6 x 6 places some are masked in every
pass, fewer from pass to pass, and all that are masked are drawn at once. Its direct
super-resolution is the same with one pass that masks everything.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.models.base import Generator
from babeldraw.prediction.base import Given, Metrics, Prediction
from babeldraw.prediction.logits import (
    GUIDANCE_SCHEDULES,
    GuidanceConfig,
    Settings,
    check_clusters,
    check_temperature,
    guidance_at,
    sample_tokens,
)
from babeldraw.prediction.masked import (
    by_factors,
    masked_loss,
    masked_score,
    of_factors,
    one_pass,
    read_rows,
)

# CogView2's code: in pass r = 1, 2, ... the cells of at least r are masked; those of 0 and -1 and
# -2 never are.
LOPAR = (
    (-1, 0, 1, 2, 3, 4),
    (0, -1, 2, -1, -2, 5),
    (1, -2, 3, 4, 5, 6),
    (2, 3, 4, 5, -1, 1),
    (3, -1, -2, 0, -1, 2),
    (4, 5, 6, 1, 3, -2),
)
# All places in one pass: direct super-resolution.
AT_ONCE = ((1,),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefinementSampling(GuidanceConfig):
    """How codes are drawn.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest. 1.3 in CogView2's iterative
        super-resolution, 1.5 in its direct one.
      top_ks: of how many of the likeliest codes each pass draws, with commas between; 0 is all, and
        passes beyond the last number take that one. CogView2's list begins with 60, at a pass 0
        that there is not.
      clusters, cluster_temperature: see `logits.SamplingConfig`; 100 and 0.89 in CogView2's direct
        super-resolution, whose iterative one draws of codes.
    """

    temperature: float = 1.3
    top_ks: str = "40,40,40,20,20,10"
    clusters: int = 0
    cluster_temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self, "temperature", "cluster_temperature")
        words = self.top_ks.split(",")
        require(
            all(word.strip().isdigit() for word in words),
            f"top_ks is {self.top_ks!r}; a number for each pass is needed, such as 40,20,10",
        )
        check_clusters(self)
        require(
            self.clusters == 0 or not any(map(int, words)),
            f"clusters is {self.clusters}, which top_ks={self.top_ks} would cut; give one or the "
            "other: top_ks=0",
        )

    def traced(self) -> "RefinementSettings":
        """The same as arrays that a compiled loop takes as arguments."""
        return RefinementSettings(
            temperature=jnp.float32(self.temperature),
            top_ks=jnp.int32([int(word) for word in self.top_ks.split(",")]),
            clusters=jnp.int32(self.clusters),
            cluster_temperature=jnp.float32(self.cluster_temperature),
            labels=None,
            guidance=jnp.float32(self.guidance),
            guidance_schedule=jnp.int32(GUIDANCE_SCHEDULES.index(self.guidance_schedule)),
            guidance_power=jnp.float32(self.guidance_power),
        )


@flax.struct.dataclass
class RefinementSettings:
    """`RefinementSampling` as arrays; `top_ks` is int32 [numbers], `labels` as of `Settings`."""

    temperature: jax.Array
    top_ks: jax.Array
    clusters: jax.Array
    cluster_temperature: jax.Array
    labels: jax.Array | None
    guidance: jax.Array
    guidance_schedule: jax.Array
    guidance_power: jax.Array

    def of_pass(self, number: jax.Array) -> Settings:
        """Those of pass `number`, int32 [] from 0 on."""
        last = self.top_ks.shape[0] - 1
        return Settings(
            temperature=self.temperature,
            top_k=self.top_ks[jnp.minimum(number, last)],
            top_p=jnp.float32(1.0),
            clusters=self.clusters,
            cluster_temperature=self.cluster_temperature,
            labels=self.labels,
            guidance=self.guidance,
            guidance_schedule=self.guidance_schedule,
            guidance_power=self.guidance_power,
        )


@dataclasses.dataclass(frozen=True)
class RefinementPrediction(Prediction):
    """Codes from the condition and those that stand around them; see the module.

    What a network must have: see `models.masked.Masked`.

    Attributes:
      tile: which places of the grid a pass masks, laid side by side over it: in pass r, from 1 to
        the largest number, those of at least r. `AT_ONCE` for direct super-resolution.
      ratios: of an example's places that training masks, one of them drawn evenly; (1,) for direct
        super-resolution. CogView2's by default.
    """

    tile: tuple[tuple[int, ...], ...] = LOPAR
    ratios: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.9)
    kind: str = "refinement"
    needs = ("masked_nll", "hidden", "factor_logits")
    refines = True
    sampling = RefinementSampling

    def __post_init__(self):
        path = "config.prediction"
        widths = {len(row) for row in self.tile}
        require(
            len(widths) == 1 and 0 not in widths and self.passes >= 1,
            f"{path}.tile is {self.tile}; rows of one length, with a number of at least 1, are "
            "needed",
        )
        require(
            bool(self.ratios) and all(0 < ratio <= 1 for ratio in self.ratios),
            f"{path}.ratios is {self.ratios}; shares in (0, 1] are needed",
        )

    @property
    def passes(self) -> int:
        """R, over all places."""
        return max(max(row) if row else 0 for row in self.tile)

    @property
    def begins(self) -> bool:
        """Whether the first pass masks all places; else those that rest must be there."""
        return all(min(row) >= 1 for row in self.tile)

    def check(self, generator: Generator) -> None:
        super().check(generator)
        shape, size = generator.codes.shape, np.shape(self.tile)
        require(
            len(shape) == 2 and not any(n % side for n, side in zip(shape, size, strict=True)),
            f"config.prediction.tile is {size[0]} x {size[1]}, which does not divide codes of the "
            f"shape {shape}; take a grid of multiples of it, or another tile",
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
        """Cross-entropy over the batch's masked places; `accuracy`: of those."""
        del step
        ratios = jnp.float32(self.ratios)
        return masked_loss(
            generator, params, condition, codes, keys, lambda key: jax.random.choice(key, ratios)
        )

    def score(
        self, generator: Generator, params: Any, condition: Any, codes: jax.Array
    ) -> jax.Array:
        """-log p of masked places, float32 [B]: the mean over one mask of each of the ratios.

        Where everything is masked at once it is the -log p of all.
        """
        masks_NT = ratio_masks(self.ratios, codes.shape[1])
        return masked_score(generator, params, condition, codes, masks_NT)

    def draw(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        keys: jax.Array,
        settings: RefinementSettings,
        given: Given | None = None,
        guided: bool = True,
    ) -> jax.Array:
        """As `Prediction.draw`, refining codes where `given.again` says so.

        Places that are kept never change. Of those that are to be drawn again the tile says in
        which passes they are masked; the others are masked in the first pass too, since nothing
        stands there. Pass s of a row draws with `fold_in(key, s)`, factor f of its codes with f
        folded in.
        """
        batch, what = keys.shape[0], generator.codes
        context = read_rows(generator, params, condition, batch, guided)
        codes = jnp.zeros((batch, *what.each), jnp.int32)
        kept_BT = again_BT = jnp.zeros((batch, what.length), bool)
        if given is not None:
            codes, kept_BT = jnp.asarray(given.codes), jnp.asarray(given.kept)
            again_BT = again_BT if given.again is None else jnp.asarray(given.again)
        empty_BT = ~kept_BT & ~again_BT
        masks_RT = jnp.asarray(pass_masks(self.tile, what.shape))

        def one(codes, number):
            masked_BT = jnp.broadcast_to(masks_RT[number][None], kept_BT.shape)
            masked_BT = ~kept_BT & (masked_BT | (empty_BT & (number == 0)))
            own_B = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            own = settings.of_pass(number)

            def choose(factor, logits_BTV):
                keys_B = jax.vmap(jax.random.fold_in, (0, None))(own_B, factor)
                return _chosen(keys_B, logits_BTV, own, what.shape[0])

            guidance = guidance_at(own, number, self.passes) if guided else None
            new = by_factors(generator, params, context, codes, ~masked_BT, guidance, choose)
            return jnp.where(of_factors(masked_BT, codes), new, codes), None

        return jax.lax.scan(one, codes, jnp.arange(self.passes))[0]

    def step(
        self, generator: Generator, params: Any, condition: Any, samples: int, settings: Any
    ) -> tuple[Callable, tuple[Any, ...], int]:
        """One pass over all places, as many times as the tile says."""
        del settings
        return *one_pass(generator, params, condition, samples), self.passes


def pass_masks(tile: tuple[tuple[int, ...], ...], shape: tuple[int, int]) -> np.ndarray:
    """bool [R, T]: which places of a grid, whose sides the tile divides, each pass masks."""
    tile = np.asarray(tile)
    times = [n // side for n, side in zip(shape, tile.shape, strict=True)]
    cells_T = np.tile(tile, times).reshape(-1)
    return cells_T >= np.arange(1, tile.max() + 1)[:, None]


def ratio_masks(ratios: tuple[float, ...], length: int) -> np.ndarray:
    """bool [ratios, T]: masks of these shares, the same at all times."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(length) < max(round(ratio * length), 1) for ratio in ratios])


def _chosen(keys_B: jax.Array, logits_BTV: jax.Array, settings: Settings, height: int) -> jax.Array:
    """A code of each place of a grid, with a key of its own, int32 [B, T].

    One row of the grids after another: what filters and clusters hold meanwhile would be several
    times as large as the logits.
    """
    batch, length, vocab = logits_BTV.shape
    keys_BT = jax.vmap(lambda key: jax.random.split(key, length))(keys_B)

    def by_rows(array: jax.Array) -> jax.Array:
        rows = array.reshape(batch, height, length // height, *array.shape[2:])
        return jnp.moveaxis(rows, 1, 0)

    def row(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        keys_Bw, logits_BwV = pair
        drawn_N = sample_tokens(keys_Bw.reshape(-1), logits_BwV.reshape(-1, vocab), settings)
        return drawn_N.reshape(keys_Bw.shape)

    drawn_hBw = jax.lax.map(row, (by_rows(keys_BT), by_rows(logits_BTV)))
    return jnp.moveaxis(drawn_hBw, 0, 1).reshape(batch, length)
