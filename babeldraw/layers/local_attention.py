"""Attention parts of super-resolution by codes: windows of grids beside a text, or beside a base.

Both are for whole sequences: what they draw is drawn in a few passes over all cells, never one
cell after another.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from babeldraw.layers.attention import KeyValue, SelfAttention
from babeldraw.layers.inputs import Inputs
from babeldraw.layers.kernels import Seen
from babeldraw.layers.masks import ALWAYS, BY_PATTERN, NEVER, ByRole
from babeldraw.layers.windows import Found, Window, in_all, in_window, joined

# Of a base's slots, and what they see: an empty one of a text is seen by none but itself.
EMPTY, TEXT, CELL = range(3)
BASE = ByRole(((BY_PATTERN, ALWAYS, NEVER), (NEVER, ALWAYS, NEVER), (NEVER, ALWAYS, ALWAYS)))


class LocalAttention(SelfAttention):
    """A text's slots see each other; the cells of a grid behind them the text and a window.

    CogView2's iterative super-resolution: one softmax over all of the text and the window. Of the
    context it reads `text_seen`, bool [B, P], which of the text's slots are not empty; without it
    all are seen.

    Attributes:
      prefix: P, slots of the text.
      window: of the cells, which are all that follow.
    """

    prefix: int = 0
    window: Window | None = None

    def whole(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        """All T slots at once."""
        with jax.named_scope("attention"):
            query_BNTH, keys = self.heads(x_BTD)
            text, cells = _cut(keys, self.prefix)
            text_BNPH, cells_BNTH = query_BNTH[:, :, : self.prefix], query_BNTH[:, :, self.prefix :]
            found = [in_window(cells_BNTH, cells.key, cells.value, self.window, self.kernel)]
            parts = []
            if self.prefix:
                mask = _of_keys(inputs)
                found.append(_in_all(cells_BNTH, text, mask))
                parts.append(_in_all(text_BNPH, text, mask).out)
            out_BNTH = jnp.concatenate([*parts, joined(*found)], axis=2)
            return self.joined(checkpoint_name(out_BNTH, "context"))


class EnlargingAttention(nn.Module):
    """Attention of a base to itself, and of a finer grid to windows of the base's and its own.

    CogView2's direct super-resolution: the base's slots, a text and a coarse grid, see what they
    saw before, all by all but that the text sees itself alone; a fine cell sees a window of the
    coarse grid around the cell that it lies in and a window of its own grid, in one softmax, by
    projections of its own. Of the context it reads `text_seen`, as `LocalAttention`.

    Attributes:
      layer: makes the projections of one of the two.
      prefix: P, slots of the text.
      across: the window of the coarse grid.
      around: the window of the fine grid.
    """

    layer: Callable[[], SelfAttention]
    prefix: int
    across: Window
    around: Window

    def setup(self):
        self.base = self.layer()
        self.fine = self.layer()

    def whole(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        """Of the text, the coarse cells and the fine ones, in this order."""
        coarse = self.prefix + self.across.grid[0] * self.across.grid[1]
        with jax.named_scope("attention"):
            query_BNSH, keys = self.base.heads(x_BTD[:, :coarse])
            mask = self._mask(x_BTD.shape[0], coarse, inputs)
            out_BNSH = self.base.look(query_BNSH, keys, mask)
            _, cells = _cut(keys, self.prefix)
            query_BNTH, own = self.fine.heads(x_BTD[:, coarse:])
            out_BNTH = joined(
                in_window(query_BNTH, cells.key, cells.value, self.across, self.fine.kernel),
                in_window(query_BNTH, own.key, own.value, self.around, self.fine.kernel),
            )
            out_BNTH = checkpoint_name(out_BNTH, "context")
            made = [self.base.joined(out_BNSH), self.fine.joined(out_BNTH)]
            return jnp.concatenate(made, axis=1)

    def _mask(self, batch: int, slots: int, inputs: Inputs) -> Seen:
        """Of the base's slots."""
        roles_BS = jnp.full((batch, slots), CELL).at[:, : self.prefix].set(TEXT)
        seen_BP = inputs.named("text_seen")
        if seen_BP is not None:
            text_BP = jnp.where(seen_BP, TEXT, EMPTY)
            roles_BS = roles_BS.at[:, : self.prefix].set(text_BP)
        return Seen(BASE, roles=roles_BS)


def _cut(keys: KeyValue, place: int) -> tuple[KeyValue, KeyValue]:
    """Those before a place, and those from it on."""
    return (
        jax.tree.map(lambda a: a[:, :, :place], keys),
        jax.tree.map(lambda a: a[:, :, place:], keys),
    )


def _of_keys(inputs: Inputs) -> jax.Array | None:
    """`text_seen` as a mask of keys, bool [B, 1, 1, P]; None: all are seen."""
    seen_BP = inputs.named("text_seen")
    return None if seen_BP is None else seen_BP[:, None, None]


def _in_all(query_BNTH: jax.Array, keys: KeyValue, mask: jax.Array | None) -> Found:
    return in_all(query_BNTH, keys.key, keys.value, mask)
