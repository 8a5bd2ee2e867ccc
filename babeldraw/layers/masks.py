"""Who may attend to whom. True means: this query sees this key.

A pattern says it for any two slots of a sequence, so that training, which needs the whole mask, and
cached decoding, which needs one row of it over the slots still kept, cannot differ.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from babeldraw.config import require

PATTERNS = ("causal", "conv", "dalle")
WRAPS = ("none", "grid", "raster")
OFFSETS = ("slot", "token")

# Integers or integer arrays; they broadcast against each other.
Slots = jax.Array | int


class AttentionPattern(Protocol):
    """Which earlier slots a slot of the image decoder sees; hashable."""

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        """bool, of the common shape of slots `query` and `key`; `layer` is a scalar."""
        ...

    def window(self, length: int, layer: int) -> int:
        """Number of newest slots, its own among them, outside of which no slot sees any."""
        ...


@dataclasses.dataclass(frozen=True)
class Causal:
    """Every slot sees itself and all before it."""

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        return jnp.asarray(key <= query)

    def window(self, length: int, layer: int) -> int:
        return length


@dataclasses.dataclass(frozen=True)
class ConvShaped:
    """A slot sees a square of cells around its own, as far as they come before it.

    The mask of DALL-E's last layer (Ramesh et al. 2021, appendix B.1), which Parti (section 2.2)
    uses "in the decoder transformers"; its kernel and edges are not published.

    Attributes:
      grid: (h, w) of the image tokens.
      kernel: odd side of the square.
      wrap: at the grid's edges the square is cut off (none), goes on at the opposite edge (grid),
        or is laid on the tokens in raster order, so that it runs into the rows beside (raster).
      offset: the cell of slot t is that of token t, which it predicts (slot), or that of token
        t - 1, which it holds (token); slot 0 then lies at the end of a row above the grid.
    """

    grid: tuple[int, int]
    kernel: int = 11
    wrap: str = "none"
    offset: str = "slot"

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        h, w = self.grid
        half = self.kernel // 2
        before = query - key
        if self.wrap == "raster":
            rows = jnp.minimum((before + half) // w, half)
            return (before >= 0) & (before - rows * w <= half)
        shift = 1 if self.offset == "token" else 0
        (query_row, query_column), (key_row, key_column) = (
            jnp.divmod(jnp.asarray(slot) - shift, w) for slot in (query, key)
        )
        rows, columns = abs(query_row - key_row), abs(query_column - key_column)
        if self.wrap == "grid":
            rows, columns = jnp.minimum(rows, h - rows), jnp.minimum(columns, w - columns)
        return (before >= 0) & (rows <= half) & (columns <= half)

    def window(self, length: int, layer: int) -> int:
        if self.wrap == "grid":
            return length
        half, w = self.kernel // 2, self.grid[1]
        # Whole rows: 6 of 32 for a kernel of 11.
        return min(length, w * half + max(w, half + 1))


@dataclasses.dataclass(frozen=True)
class DallE:
    """DALL-E's mixture: rows, at every fourth layer columns, in the last layer a convolution.

    Ramesh et al. 2021, appendix B.1: of layers counted from 1, layer i is a column where i - 2 is a
    multiple of 4. In a row layer a slot sees the w slots before it; in a column layer those whole
    rows before it.

    Attributes:
      conv: the last layer's pattern.
      layers: their number.
    """

    conv: ConvShaped
    layers: int

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        w = self.conv.grid[1]
        before = query - key
        row = (before >= 0) & (before <= w)
        column = (before >= 0) & (before % w == 0)
        conv = self.conv.sees(query, key, layer)
        last, is_column = layer == self.layers - 1, (layer - 1) % 4 == 0
        return jnp.where(last, conv, jnp.where(is_column, column, row))

    def window(self, length: int, layer: int) -> int:
        if layer == self.layers - 1:
            return self.conv.window(length, layer)
        if (layer - 1) % 4 == 0:
            return length
        return min(length, self.conv.grid[1] + 1)


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """What an image token sees of those before it.

    Attributes:
      pattern: conv (`ConvShaped`, in every layer), dalle (`DallE`) or causal (all of them).
      kernel, wrap, offset: of the convolution, see `ConvShaped`; without effect on causal.
    """

    pattern: str = "conv"
    kernel: int = 11
    wrap: str = "none"
    offset: str = "slot"

    def __post_init__(self):
        for name, valid in (("pattern", PATTERNS), ("wrap", WRAPS), ("offset", OFFSETS)):
            value = getattr(self, name)
            require(
                value in valid,
                f"model.attention.{name} is {value!r}; the choices are {', '.join(valid)}",
            )
        require(
            self.kernel >= 1 and self.kernel % 2 == 1,
            f"model.attention.kernel is {self.kernel}; an odd number is needed",
        )
        if self.pattern == "causal":
            given = (self.kernel, self.wrap, self.offset)
            require(
                given == (11, "none", "slot"),
                f"model.attention.pattern is 'causal' and (kernel, wrap, offset) {given}, which it "
                "would ignore; leave them out or choose conv",
            )

    def make(self, grid: tuple[int, ...], layers: int) -> AttentionPattern:
        """The pattern over tokens of this arrangement.

        Raises:
          UserError: a pattern on a grid for tokens that are none.
        """
        if self.pattern == "causal":
            return Causal()
        require(
            len(grid) == 2,
            f"model.attention.pattern is {self.pattern!r} and the tokenizer gives a sequence of "
            f"{grid[0]} tokens, not a grid; choose causal",
        )
        conv = ConvShaped((grid[0], grid[1]), self.kernel, self.wrap, self.offset)
        return conv if self.pattern == "conv" else DallE(conv, layers)


def dense_mask(pattern: AttentionPattern, length: int, layer: Slots = 0) -> jax.Array:
    """bool [T, T]: row t is the slots that slot t sees."""
    slots_T = jnp.arange(length)
    return pattern.sees(slots_T[:, None], slots_T[None, :], layer)


def ring_mask(pattern: AttentionPattern, window: int, index: jax.Array, layer: Slots) -> jax.Array:
    """bool [W], or [B, W]: which places of a ring of `window` slots slot `index` sees.

    Slot t is written at place t modulo the window; what it sees lies among the newest `window`.

    Args:
      pattern: what a slot sees.
      window: W, of the ring.
      index: int32 [], or [B], a slot of each row.
      layer: number of the block.
    """
    if index.ndim:
        return jax.vmap(lambda one: ring_mask(pattern, window, one, layer))(index)
    age_W = (index - jnp.arange(window)) % window
    slot_W = index - age_W
    return (slot_W >= 0) & pattern.sees(index, slot_W, layer)


def padding_mask(ids_BS: jax.Array, pad_id: int = 0) -> jax.Array:
    """bool [B, 1, 1, S]: True where a text token is not padding.

    A text of nothing but padding, which is how classifier-free guidance spells "no prompt", keeps
    all its positions: a query must have something to look at.
    """
    real_BS = ids_BS != pad_id
    empty_B1 = ~jnp.any(real_BS, axis=-1, keepdims=True)
    return (real_BS | jnp.broadcast_to(empty_B1, real_BS.shape))[:, None, None, :]
