"""Who may attend to whom. True means: this query sees this key.

A pattern says it for any two slots of a sequence, so that training, which needs the whole mask, and
cached decoding, which needs one row of it over the slots still kept, cannot differ.
"""

import dataclasses
import functools
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
class Prefixed:
    """A text and a picture in one sequence: all see the text, and the picture goes by a pattern.

    Attributes:
      prefix: slots of the text, the first ones; they see each other, whichever comes first, so
        that they enter a cache together (`Block.fill`).
      pattern: of the slots behind them, counted from there.
    """

    prefix: int
    pattern: AttentionPattern = Causal()

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        in_text = jnp.asarray(query) < self.prefix
        behind = self.pattern.sees(query - self.prefix, key - self.prefix, layer)
        return (jnp.asarray(key) < self.prefix) | (~in_text & (key >= self.prefix) & behind)

    def window(self, length: int, layer: int) -> int:
        return length


@dataclasses.dataclass(frozen=True)
class Around:
    """A cell of a grid sees a window of it, before and behind.

    As of CogView2's super-resolution; `windows.in_window` computes it without a mask.

    Attributes:
      grid: (h, w) of the slots.
      size: (rows, columns) of the window, odd.
    """

    grid: tuple[int, int]
    size: tuple[int, int] = (9, 5)

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        cells = (jnp.divmod(jnp.asarray(slot), self.grid[1]) for slot in (query, key))
        return _near(*cells, self.size)

    def window(self, length: int, layer: int) -> int:
        return length


@dataclasses.dataclass(frozen=True)
class Enlarged:
    """A picture's coarse codes and its fine ones, in one softmax over two windows.

    Coarse slots see each other. A fine one sees the coarse cells around where it lies, and the fine
    cells around itself, before it and behind it (CogView2's direct super-resolution; Ding et al.
    2022, and their code). The coarse come first.

    Attributes:
      coarse, fine: (h, w) of both grids; the second divides by the first.
      across: (rows, columns) of the window on the coarse grid, odd; 5 x 5 in CogView2.
      around: the same of the window on the fine grid; 9 x 5 in its code.
    """

    coarse: tuple[int, int]
    fine: tuple[int, int]
    across: tuple[int, int] = (5, 5)
    around: tuple[int, int] = (9, 5)

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        first = self.coarse[0] * self.coarse[1]
        query, key = jnp.asarray(query), jnp.asarray(key)
        times = (self.fine[0] // self.coarse[0], self.fine[1] // self.coarse[1])
        at_query = jnp.divmod(query - first, self.fine[1])
        above = tuple(cell // size for cell, size in zip(at_query, times, strict=True))
        across = _near(above, jnp.divmod(key, self.coarse[1]), self.across)
        around = _near(at_query, jnp.divmod(key - first, self.fine[1]), self.around)
        in_coarse = key < first
        return jnp.where(query < first, in_coarse, jnp.where(in_coarse, across, around))

    def window(self, length: int, layer: int) -> int:
        return length


def _near(query: tuple[Slots, Slots], key: tuple[Slots, Slots], window: tuple[int, int]):
    """Whether a key's cell lies in the window around a query's."""
    rows, columns = (abs(q - k) for q, k in zip(query, key, strict=True))
    return (rows <= window[0] // 2) & (columns <= window[1] // 2)


# How slots of one role stand to those of another.
NEVER, BY_PATTERN, ALWAYS = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class ByRole:
    """Slots see each other by roles that each example gives them.

    CogLM's context, seen by all, and what is predicted, seen from behind alone; padding, seen by
    none (CogView2). A context of the stack names them `roles`.

    Attributes:
      table: row by role of the query, column by role of the key: NEVER, BY_PATTERN or ALWAYS.
      pattern: of slots in their order. For steps through a cache of whole sequences.
    """

    table: tuple[tuple[int, ...], ...]
    pattern: AttentionPattern = Causal()

    def sees(self, query: Slots, key: Slots, layer: Slots) -> jax.Array:
        return self.pattern.sees(query, key, layer)

    def window(self, length: int, layer: int) -> int:
        return length

    def related(self, query_roles: jax.Array, key_roles: jax.Array, seen: jax.Array) -> jax.Array:
        """bool: what is seen by roles, `seen` being so by the pattern; the three broadcast."""
        relation = jnp.asarray(self.table, jnp.int32)[query_roles, key_roles]
        seen = jnp.broadcast_to(seen, relation.shape)
        return (relation == ALWAYS) | ((relation == BY_PATTERN) & seen)


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


def by_role(pattern: ByRole, roles_BT: jax.Array, layer: Slots = 0) -> jax.Array:
    """bool [B, T, T]: the same where slots of each example have roles."""
    seen_1TT = dense_mask(pattern, roles_BT.shape[1], layer)[None]
    return pattern.related(roles_BT[:, :, None], roles_BT[:, None, :], seen_1TT)


def ring_slots(window: int, index: jax.Array) -> jax.Array:
    """int32 [W], or [B, W]: the slots in a ring when slot `index` is; below 0: not yet written.

    Slot t is written at place t modulo the window.
    """
    places = jnp.arange(window).reshape((1,) * index.ndim + (window,))
    index = jnp.broadcast_to(index[..., None], (*index.shape, window))
    return index - (index - places) % window


def ring_mask(
    pattern: AttentionPattern,
    window: int,
    index: jax.Array,
    layer: Slots,
    roles_BT: jax.Array | None = None,
) -> jax.Array:
    """bool [W], or [B, W]: which places of a ring of `window` slots slot `index` sees.

    What it sees lies among the newest `window`.

    Args:
      pattern: what a slot sees.
      window: W, of the ring.
      index: int32 [], or [B], a slot of each row.
      layer: number of the block.
      roles_BT: of a `ByRole`, whose ring has all T slots.
    """
    if index.ndim == 0 and roles_BT is not None:
        index = jnp.broadcast_to(index, roles_BT.shape[:1])
    if index.ndim:
        one = functools.partial(_ring_mask, pattern, window, layer)
        return jax.vmap(one)(index, roles_BT)
    return _ring_mask(pattern, window, layer, index)


def _ring_mask(
    pattern: AttentionPattern,
    window: int,
    layer: Slots,
    index: jax.Array,
    roles_T: jax.Array | None = None,
) -> jax.Array:
    if roles_T is not None:
        # Of a context, what stands behind the slot may be there already.
        slot_W = jnp.arange(window)
        seen_W = pattern.sees(index, slot_W, layer)
        return pattern.related(roles_T[index], roles_T[:window], seen_W)
    slot_W = ring_slots(window, index)
    return (slot_W >= 0) & pattern.sees(index, slot_W, layer)


def padding_mask(ids_BS: jax.Array, pad_id: int = 0) -> jax.Array:
    """bool [B, 1, 1, S]: True where a text token is not padding.

    A text of nothing but padding, which is how classifier-free guidance spells "no prompt", keeps
    all its positions: a query must have something to look at.
    """
    real_BS = ids_BS != pad_id
    empty_B1 = ~jnp.any(real_BS, axis=-1, keepdims=True)
    return (real_BS | jnp.broadcast_to(empty_B1, real_BS.shape))[:, None, None, :]
