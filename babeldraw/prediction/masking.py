"""How many places are masked, and which: the schedules and orders of masked prediction."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Share of the places that is masked where a share r of the way is gone, 1 at r = 0 and 0 at 1:
# functions of r, in [0, 1], and of jax.numpy or numpy. All but arccos, which is TiTok's, are in
# MaskGIT (Chang et al., 2022), section 3.3.
SCHEDULES: dict[str, Callable[[Any, Any], Any]] = {
    "arccos": lambda gone, xp: xp.arccos(gone) * (2 / np.pi),
    "cosine": lambda gone, xp: xp.cos(gone * (np.pi / 2)),
    "linear": lambda gone, xp: 1 - gone,
    "square": lambda gone, xp: 1 - gone**2,
    "cubic": lambda gone, xp: 1 - gone**3,
    "square_root": lambda gone, xp: 1 - xp.sqrt(gone),
}
# Which of the codes that a step draws stay: those of the highest logit (TiTok), of the highest
# probability (MaskGIT), or those at the next places of `halton_places`.
ORDERS = ("logit", "probability", "halton")


def random_mask(keys_B: jax.Array, masked_B: jax.Array, length: int) -> jax.Array:
    """bool [B, T]: True at so many places of each row, each set of them as likely as another."""
    scores_BT = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys_B)
    return ranks(scores_BT) < masked_B[:, None]


def ranks(scores_BT: jax.Array) -> jax.Array:
    """int32 [B, T]: 0 for the lowest of each row; of equal ones the first place comes first."""
    return jnp.argsort(jnp.argsort(scores_BT, axis=-1), axis=-1)


def left_masked(steps: int, length: int) -> np.ndarray:
    """int32 [schedules, steps, T + 1]: how many of n masked places are to stay so after a step.

    floor(n share((s + 1) / steps)) after step s, in float32 as in MaskGIT's code; 0 after the last.
    """
    gone = np.arange(1, steps + 1, dtype=np.float32) / np.float32(steps)
    shares = np.stack([share(gone, np).astype(np.float32) for share in SCHEDULES.values()])
    left = np.floor(shares[..., None] * np.arange(length + 1, dtype=np.float32)).astype(np.int32)
    left[:, -1] = 0
    return left


def halton_places(shape: tuple[int, ...]) -> np.ndarray:
    """int32 [T]: all places of a grid or a line, in an order in which each is far from the last.

    The cells that the points of Halton's sequence fall into, bases 2 and 3 for rows and columns,
    each where it is first met (Besnier et al., "Halton Scheduler for Masked Generative Image
    Transformer", 2025); of a line base 2.
    """
    length, points = int(np.prod(shape)), 1
    found: dict[int, None] = {}
    while len(found) < length:
        points *= 2
        pairs = zip((2, 3), shape, strict=False)
        cells = tuple((_halton(points, base) * size).astype(np.int64) for base, size in pairs)
        found = dict.fromkeys(np.ravel_multi_index(cells, shape).tolist())
    return np.fromiter(found, np.int32)


def _halton(points: int, base: int) -> np.ndarray:
    """float64 [points]: the fractions whose digits are those of 1, 2, 3, ... read backwards."""
    number, fraction, scale = np.arange(1, points + 1), np.zeros(points), 1.0
    while number.any():
        scale /= base
        fraction += scale * (number % base)
        number //= base
    return fraction
