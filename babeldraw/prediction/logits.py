"""From logits to a token: guidance, temperature, top-k, top-p. All settings are traced values."""

import dataclasses
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require, require_choice

GUIDANCE_SCHEDULES = ("constant", "linear", "cosine", "power_cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """What every prediction's settings have.

    Attributes:
      guidance: lambda of classifier-free guidance; 1 is the conditional model alone, 0 the
        unconditional one. 1.2 for the VIM paper's FID figures.
      guidance_schedule: constant, or from 1 at the beginning to `guidance` at the end: linear, or
        cosine, which rises slowly at both ends; or power_cosine, the cosine of a power of the share
        that is drawn, which ends a little below `guidance` (MDT, TiTok, RAR).
      guidance_power: that power; above 1 the guidance comes later.
    """

    guidance: float = 1.0
    guidance_schedule: str = "constant"
    guidance_power: float = 1.0

    def __post_init__(self):
        require(
            math.isfinite(self.guidance), f"guidance is {self.guidance}; a finite number is needed"
        )
        require_choice(self, "guidance_schedule", GUIDANCE_SCHEDULES)
        require(
            0 < self.guidance_power < math.inf,
            f"guidance_power is {self.guidance_power}; more than 0 is needed",
        )
        require(
            self.guidance_schedule == "power_cosine" or self.guidance_power == 1,
            f"guidance_power is {self.guidance_power}, which guidance_schedule="
            f"{self.guidance_schedule!r} would ignore; take power_cosine, or guidance_power=1",
        )

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch has any effect."""
        return self.guidance != 1


@dataclasses.dataclass(frozen=True)
class SamplingConfig(GuidanceConfig):
    """Attributes:
    temperature: divides the logits; 0 takes the likeliest token. 1 in the VIM paper.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: of those, keep the likeliest up to this share of their mass; 1 keeps all.
    clusters: cluster sampling (CogView2): one of so many likeliest clusters of codes is drawn, and
      in it a code; 16 there. 0: none. For runs whose codes are clustered (`babeldraw clusters`):
      top-k of codes would be filled by those that look alike.
    cluster_temperature: divides the logits within the cluster; `temperature` those of its choice.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    clusters: int = 0
    cluster_temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self, "temperature", "cluster_temperature")
        require(self.top_k >= 0, f"top_k is {self.top_k}; at least 0 is needed (0 keeps all)")
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; a mass in (0, 1] is needed")
        check_clusters(self)
        require(
            self.clusters == 0 or (self.top_k == 0 and self.top_p == 1),
            f"clusters is {self.clusters}, which top_k={self.top_k} and top_p={self.top_p} would "
            "cut; give one or the other",
        )

    def traced(self) -> "Settings":
        """The same as scalars that a compiled loop takes as arguments."""
        return Settings(
            temperature=jnp.float32(self.temperature),
            top_k=jnp.int32(self.top_k),
            top_p=jnp.float32(self.top_p),
            clusters=jnp.int32(self.clusters),
            cluster_temperature=jnp.float32(self.cluster_temperature),
            labels=None,
            guidance=jnp.float32(self.guidance),
            guidance_schedule=jnp.int32(GUIDANCE_SCHEDULES.index(self.guidance_schedule)),
            guidance_power=jnp.float32(self.guidance_power),
        )


def check_temperature(section: object, *names: str) -> None:
    """Raises `UserError` where a field is negative or not finite."""
    for name in names:
        value = getattr(section, name)
        require(0 <= value < math.inf, f"{name} is {value}; at least 0 is needed")


def check_clusters(section: object) -> None:
    """Raises `UserError` where `clusters` is negative, or one of the two temperatures undoes it."""
    clusters, inside = section.clusters, section.cluster_temperature
    require(clusters >= 0, f"clusters is {clusters}; at least 0 is needed (0: none)")
    require(
        clusters == 0 or section.temperature > 0,
        f"clusters is {clusters} and temperature 0, which takes the likeliest code, whatever its "
        "cluster; give a temperature of more than 0, or clusters=0",
    )
    require(
        clusters > 0 or inside == 1,
        f"cluster_temperature is {inside}, that within a cluster, and clusters is 0; give clusters "
        "too, or cluster_temperature=1",
    )


@flax.struct.dataclass
class Settings:
    """`SamplingConfig` as scalars that a compiled loop takes as arguments.

    Attributes:
      labels: the cluster of each code, int32 [V] in [0, V); None: they are in none.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    clusters: jax.Array
    cluster_temperature: jax.Array
    labels: jax.Array | None
    guidance: jax.Array
    guidance_schedule: jax.Array
    guidance_power: jax.Array


def guidance_at(settings: Settings, index: jax.Array, length: int) -> jax.Array:
    """Lambda for token `index` of `length`, float32 scalar."""
    schedule, number = settings.guidance_schedule, index.astype(jnp.float32)
    by_share = schedule == GUIDANCE_SCHEDULES.index("power_cosine")
    place = number / jnp.where(by_share, length, max(length - 1, 1)).astype(jnp.float32)
    return 1 + (settings.guidance - 1) * risen(schedule, place, settings.guidance_power)


def risen(schedule: jax.Array, place: jax.Array, power: jax.Array) -> jax.Array:
    """How much of the guidance there is at a place of the drawing, float32 [] in [0, 1].

    Args:
      schedule: number in `GUIDANCE_SCHEDULES`, int32 [].
      place: float32 [], 0 at the beginning, 1 at the end.
      power: of the place, in power_cosine.
    """
    cosine, late = ((1 - jnp.cos(jnp.pi * share)) / 2 for share in (place, place**power))
    return jnp.stack([jnp.ones_like(place), place, cosine, late])[schedule]


def guide(conditional: jax.Array, unconditional: jax.Array, guidance: jax.Array) -> jax.Array:
    """Classifier-free guidance on logits, G(z) + lambda (G(z, c) - G(z)) (Parti, equation 1)."""
    return unconditional + guidance * (conditional - unconditional)


def filter_logits(logits_BV: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Sets to -inf what top-k and then top-p leave out; the likeliest token always stays.

    Top-p keeps the smallest set of likeliest tokens whose mass reaches p of what top-k has left.
    Of tokens as likely as the last that is kept all are. Nothing is sorted: each of the two
    thresholds is found bit by bit, in 32 passes over the vocabulary.

    Args:
      logits_BV: float32.
      top_k: int32 []; 0 keeps all.
      top_p: float32 []; 1 keeps all.
    """
    # A zero has a sign, which is no difference.
    logits_BV = jnp.where(logits_BV == 0, 0.0, logits_BV)
    ranks_BV, vocab = _ordered(logits_BV), logits_BV.shape[-1]
    count = jnp.where(top_k > 0, jnp.minimum(top_k, vocab), vocab)

    def k_likeliest(rank_B1):
        """Whether at least k tokens have that rank or a higher one."""
        return jnp.sum(ranks_BV >= rank_B1, axis=-1, keepdims=True) >= count

    rank_B1 = jax.lax.cond(
        top_k > 0, lambda: _last(k_likeliest, ranks_BV), lambda: jnp.zeros_like(ranks_BV[:, :1])
    )

    def by_mass():
        shifted_BV = logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)
        mass_BV = jnp.exp(shifted_BV)

        def above(rank_B1):
            return jnp.sum(jnp.where(ranks_BV > rank_B1, mass_BV, 0.0), axis=-1, keepdims=True)

        # Of those as likely as the k-th only as many count as make k.
        ties_B1 = count - jnp.sum(ranks_BV > rank_B1, axis=-1, keepdims=True)
        each_B1 = jnp.max(jnp.where(ranks_BV <= rank_B1, mass_BV, 0.0), axis=-1, keepdims=True)
        at_last_B1 = ties_B1.astype(jnp.float32) * each_B1
        all_B1 = above(rank_B1) + jnp.where(top_k > 0, at_last_B1, 0.0)
        # The lowest rank above which there is less than the mass is one above the last that has it.
        return jnp.maximum(rank_B1, _last(lambda r: above(r - 1) >= top_p * all_B1, ranks_BV))

    rank_B1 = jax.lax.cond(top_p < 1, by_mass, lambda: rank_B1)
    return jnp.where(ranks_BV >= rank_B1, logits_BV, -jnp.inf)


def _ordered(logits_BV: jax.Array) -> jax.Array:
    """uint32 [B, V] in the order of float32 logits."""
    bits_BV = jax.lax.bitcast_convert_type(logits_BV.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits_BV >= sign, ~bits_BV, bits_BV | sign)


def _last(holds: Callable[[jax.Array], jax.Array], ranks_BV: jax.Array) -> jax.Array:
    """uint32 [B, 1]: the highest rank at which `holds`, which is so up to a rank; 0: at none."""

    def step(number, found_B1):
        bit = jax.lax.shift_left(jnp.uint32(1), jnp.uint32(31) - number.astype(jnp.uint32))
        tried_B1 = found_B1 | bit
        return jnp.where(holds(tried_B1), tried_B1, found_B1)

    return jax.lax.fori_loop(0, 32, step, jnp.zeros_like(ranks_BV[:, :1]))


def sample_tokens(keys_B: jax.Array, logits_BV: jax.Array, settings: Settings) -> jax.Array:
    """One token per row, int32 [B], each row with its own key."""

    def greedy(logits_BV):
        return jnp.argmax(logits_BV, axis=-1)

    def by_token(logits_BV):
        logits_BV = _cooled(logits_BV, settings.temperature)
        # The passes over the vocabulary take longer than all else here.
        filtered_BV = jax.lax.cond(
            (settings.top_k > 0) | (settings.top_p < 1),
            lambda logits_BV: filter_logits(logits_BV, settings.top_k, settings.top_p),
            lambda logits_BV: logits_BV,
            logits_BV,
        )
        return jax.vmap(jax.random.categorical)(keys_B, filtered_BV)

    def draw(logits_BV):
        if settings.labels is None:
            return by_token(logits_BV)
        return jax.lax.cond(
            settings.clusters > 0,
            lambda logits_BV: by_cluster(keys_B, logits_BV, settings),
            by_token,
            logits_BV,
        )

    drawn_B = jax.lax.cond(settings.temperature == 0, greedy, draw, logits_BV)
    return drawn_B.astype(jnp.int32)


def by_cluster(keys_B: jax.Array, logits_BV: jax.Array, settings: Settings) -> jax.Array:
    """CogView2's cluster sampling (`coglm_strategy.py`), int32 [B].

    A cluster's chance is the sum of its codes'; one of the `clusters` likeliest is drawn. A code in
    it is drawn by a second softmax, of the logits as they came (whether theirs are divided by the
    first temperature too is not confirmed).

    Args:
      keys_B: one per row.
      logits_BV: float32.
      settings: with `labels`.
    """
    labels_V, vocab = settings.labels, logits_BV.shape[-1]
    chances_BV = jax.nn.softmax(_cooled(logits_BV, settings.temperature))
    mass_VB = jax.ops.segment_sum(chances_BV.T, labels_V, num_segments=vocab)
    likely_BV = filter_logits(jnp.log(mass_VB.T), settings.clusters, jnp.float32(1))
    keys_B2 = jax.vmap(jax.random.split)(keys_B)
    chosen_B = jax.vmap(jax.random.categorical)(keys_B2[:, 0], likely_BV)
    inside_BV = labels_V[None] == chosen_B[:, None]
    within_BV = jnp.where(inside_BV, _cooled(logits_BV, settings.cluster_temperature), -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys_B2[:, 1], within_BV)


def _cooled(logits_BV: jax.Array, temperature: jax.Array) -> jax.Array:
    return logits_BV / jnp.maximum(temperature, 1e-6)
