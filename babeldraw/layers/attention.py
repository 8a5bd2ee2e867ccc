"""Multi-head attention, with keys and values as a value one can hold.

`KeyValue` is what a caller may keep: the text's keys and values, computed once for all image
tokens, or the growing cache of a decoder's own. Attention itself has no state.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from babeldraw.layers.inputs import Inputs
from babeldraw.layers.kernels import (
    Mask,
    Seen,
    choose,
    cudnn_attention,
    fused_attention,
    heads_per_row,
)
from babeldraw.layers.linear import Einsum, products
from babeldraw.layers.masks import AttentionPattern, ring_mask, ring_slots
from babeldraw.layers.packing import Apart, Drop, by_rows
from babeldraw.sharding.constraint import constrain


@flax.struct.dataclass
class KeyValue:
    """Keys and values of S positions: `key` and `value` are [B, N, S, H].

    Or [B, N / G, S, G H], G heads side by side: see `kernels.heads_per_row`.
    """

    key: jax.Array
    value: jax.Array

    def side_by_side(self, rows: int) -> "KeyValue":
        """The same as `rows` rows of heads, [B, rows, S, N / rows * H]."""

        def beside(a_BNSH):
            batch, heads, length, dim = a_BNSH.shape
            split = a_BNSH.reshape(batch, rows, heads // rows, length, dim)
            return split.swapaxes(2, 3).reshape(batch, rows, length, heads // rows * dim)

        return self if self.key.shape[1] == rows else jax.tree.map(beside, self)

    def write(self, index: jax.Array, new: "KeyValue") -> "KeyValue":
        """These positions with `new` written from position `index` on: int32 [], or [B]."""
        if index.ndim:
            # Each row at its own place.
            def one(index, old, new):
                pair = jax.tree.map(lambda a: a[None], (old, new))
                return jax.tree.map(lambda a: a[0], pair[0].write(index, pair[1]))

            return jax.vmap(one)(index, self, new)
        at, new = (0, 0, index, 0), new.side_by_side(self.key.shape[1])
        return KeyValue(
            key=jax.lax.dynamic_update_slice(self.key, new.key.astype(self.key.dtype), at),
            value=jax.lax.dynamic_update_slice(self.value, new.value.astype(self.value.dtype), at),
        )


def empty_key_value(batch: int, length: int, num_heads: int, head_dim: int, dtype) -> KeyValue:
    """A cache of `length` unwritten positions."""
    beside = heads_per_row(num_heads, head_dim)
    shape = (batch, num_heads // beside, length, beside * head_dim)
    # Two arrays, not one twice: a donated buffer may be given only once.
    return KeyValue(key=jnp.zeros(shape, dtype), value=jnp.zeros(shape, dtype))


def dot_product_attention(
    query_BNTH: jax.Array,
    keys: KeyValue,
    mask: Mask,
    kernel: str = "plain",
    added: jax.Array | None = None,
    drop: Drop | None = None,
) -> jax.Array:
    """softmax(query key^T / sqrt(H)) value; logits and softmax in float32.

    Args:
      query_BNTH: queries.
      keys: S keys and values; heads side by side are for one query and the plain form alone, and a
        mask of all heads.
      mask: bool, broadcastable by unit dimensions to [B, N, T, S]; True is visible. None: all.
        Or slots of one sequence, as `Seen`.
      kernel: see `layers.kernels.choose`.
      added: float32 to the logits, broadcastable by unit dimensions to [B, N, T, S]; None: nothing.
      drop: dropout of the softmax's weights, [B, N, T, S], in the plain form alone; None: none.

    Returns:
      [B, N, T, H] in the type of the queries.
    """
    *_, queries, head_dim = query_BNTH.shape
    more = (added is not None, drop is not None)
    chosen = choose(kernel, queries, keys.key.shape[2], head_dim, mask, query_BNTH.dtype, *more)
    packed = isinstance(mask, Seen) and isinstance(mask.pattern, Apart) and added is None
    if packed and chosen in ("plain", "cudnn"):
        drop = by_rows(drop, query_BNTH.shape[0])
        alone = functools.partial(dot_product_attention, mask=None, kernel=chosen, drop=drop)
        return mask.pattern.attended(alone, query_BNTH, keys)
    # Each names its result "context" for `layers.stack.POLICIES`, those by Pallas with what their
    # backward passes need besides.
    if chosen in ("short", "splash"):
        return fused_attention(chosen, query_BNTH, keys.key, keys.value, mask)
    if chosen == "cudnn":
        out_BNTH = cudnn_attention(query_BNTH, keys.key, keys.value, mask)
        return checkpoint_name(out_BNTH, "context")
    if isinstance(mask, Seen):
        mask = mask.dense(query_BNTH.shape[2])
    out_BNTH = _plain(query_BNTH, keys, mask, added, drop)
    return checkpoint_name(out_BNTH, "context")


def _plain(
    query_BNTH: jax.Array,
    keys: KeyValue,
    mask: jax.Array | None,
    added: jax.Array | None,
    drop: Drop | None,
) -> jax.Array:
    beside = query_BNTH.shape[1] // keys.key.shape[1]
    if beside > 1:
        added = None if added is None else _rows_of_heads(added, *query_BNTH.shape[:2], beside)
        query_BNTH = _block_diagonal(query_BNTH, beside)
    scale = (query_BNTH.shape[-1] // beside) ** -0.5
    logits_BNTS = jnp.einsum(
        "BNTH,BNSH->BNTS", query_BNTH * scale, keys.key, preferred_element_type=jnp.float32
    )
    if added is not None:
        logits_BNTS = logits_BNTS + jnp.broadcast_to(added, logits_BNTS.shape)
    if mask is not None:
        logits_BNTS = jnp.where(mask, logits_BNTS, jnp.finfo(jnp.float32).min)
    weights_BNTS = jax.nn.softmax(logits_BNTS, axis=-1).astype(query_BNTH.dtype)
    if drop is not None:
        weights_BNTS = drop(weights_BNTS)
    out_BNTH = jnp.einsum("BNTS,BNSH->BNTH", weights_BNTS, keys.value)
    return out_BNTH if beside == 1 else _diagonal(out_BNTH, beside)


def _block_diagonal(query_BNTH: jax.Array, beside: int) -> jax.Array:
    """[B, N, 1, H] to [B, N / G, G, G H]: each head's query among zeros, for a row of G heads."""
    batch, heads, _, dim = query_BNTH.shape
    query = query_BNTH.reshape(batch, heads // beside, beside, 1, dim)
    own = jnp.eye(beside, dtype=query.dtype)[None, None, :, :, None]
    return (query * own).reshape(batch, heads // beside, beside, beside * dim)


def _rows_of_heads(added: jax.Array, batch: int, heads: int, beside: int) -> jax.Array:
    """What is added to each head's one query, [.., .., 1, S], as [B, N / G, G, S]."""
    keys = added.shape[-1]
    added_BN1S = jnp.broadcast_to(added, (batch, heads, 1, keys))
    return added_BN1S.reshape(batch, heads // beside, beside, keys)


def _diagonal(out_BNTH: jax.Array, beside: int) -> jax.Array:
    """[B, N / G, G, G H] to [B, N, 1, H]: of each row what belongs to its own head."""
    batch, rows, _, width = out_BNTH.shape
    out = out_BNTH.reshape(batch, rows, beside, beside, width // beside)
    own = jnp.eye(beside, dtype=out.dtype)[None, None, :, :, None]
    return jnp.sum(out * own, axis=3).reshape(batch, rows * beside, 1, width // beside)


class Attention(nn.Module):
    """Multi-head attention: N heads of H dimensions over a width of D.

    Attributes:
      num_heads, head_dim, dim: N, H and D; N H need not be D.
      dtype: of the products.
      kernel: see `layers.kernels.choose`.
      bias: biases in the projections; `out`: in the last of them alone, as in timm's ViT without
        biases of queries, keys and values.
      norm: makes the norm of each head's queries, and of its keys; None: none.
      rotate: (heads [B, N, T, H], positions [T] or [B, T]) to the same turned by their positions
        (RoPE); None: positions are no part of attention.
      added: makes what is added to the logits, float32 broadcastable to [B, N, T, S]: a module
        called with (inputs, queries, keys), int32 slots, [T] and [S], or [B, 1] and [B, S] where
        rows stand at different places. A bias by distance (T5, ALiBi), more weight on a text's
        columns (CogView2). None: nothing.
    """

    num_heads: int
    head_dim: int
    dim: int
    dtype: jnp.dtype = jnp.float32
    kernel: str = "plain"
    bias: bool | str = False
    norm: Callable[[], nn.Module] | None = None
    rotate: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    added: Callable[[], nn.Module] | None = None

    def setup(self):
        shape = (self.dim, self.num_heads, self.head_dim)
        axes, inward = ("embed", "heads", "head_dim"), self.bias is True
        options = {"dtype": self.dtype, "bias": inward}
        self.query = Einsum("BTD,DNH->BNTH", shape, axes, **options)
        self.key = Einsum("BSD,DNH->BNSH", shape, axes, **options)
        self.value = Einsum("BSD,DNH->BNSH", shape, axes, **options)
        self.out = Einsum(
            "BNTH,NHD->BTD",
            (*shape[1:], self.dim),
            ("heads", "head_dim", "embed"),
            bias=bool(self.bias),
            dtype=self.dtype,
        )
        if self.norm is not None:
            self.query_norm, self.key_norm = self.norm(), self.norm()
        if self.added is not None:
            self.logit_bias = self.added()

    def key_value(self, source_BSD: jax.Array, positions: jax.Array | None = None) -> KeyValue:
        """Keys and values of a source of S positions.

        Args:
          source_BSD: what is looked at.
          positions: int32 [S] or [B, S], for `rotate`; None: 0 to S - 1.
        """
        return self._key_value(*products(source_BSD, self.key, self.value), positions)

    def queries(self, x_BTD: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """Of T slots, [B, N, T, H]."""
        return self._queries(self.query(x_BTD), positions)

    def look(
        self,
        query_BNTH: jax.Array,
        keys: KeyValue,
        mask: Mask,
        added: jax.Array | None = None,
        drop: Drop | None = None,
    ) -> jax.Array:
        """What T queries find, [B, N, T, H]; see `dot_product_attention`."""
        return dot_product_attention(query_BNTH, keys, mask, self.kernel, added, drop)

    def joined(self, out_BNTH: jax.Array) -> jax.Array:
        """The heads of T slots back to the width, [B, T, D]."""
        out_BTD = constrain(self.out(out_BNTH), ("batch", "length", "activation_embed"))
        return checkpoint_name(out_BTD, "output")

    def attend(
        self,
        x_BTD: jax.Array,
        keys: KeyValue,
        mask: Mask,
        positions: jax.Array | None = None,
        added: jax.Array | None = None,
        drop: Drop | None = None,
    ) -> jax.Array:
        """Looks from T queries at given keys and values. Returns [B, T, D]."""
        with jax.named_scope("attention"):
            return self.joined(self.look(self.queries(x_BTD, positions), keys, mask, added, drop))

    def __call__(
        self,
        x_BTD: jax.Array,
        source_BSD: jax.Array | None,
        mask: Mask,
        positions: jax.Array | None = None,
        added: jax.Array | None = None,
        drop: Drop | None = None,
    ) -> jax.Array:
        """Looks from x at a source, None being x itself. Returns [B, T, D]."""
        if source_BSD is not None:
            return self.attend(x_BTD, self.key_value(source_BSD), mask, positions, added, drop)
        with jax.named_scope("attention"):
            query_BNTH, keys = self.heads(x_BTD, positions)
            return self.joined(self.look(query_BNTH, keys, mask, added, drop))

    def heads(
        self, x_BTD: jax.Array, positions: jax.Array | None = None
    ) -> tuple[jax.Array, KeyValue]:
        """Queries, and keys and values, of the same slots."""
        query_BNTH, *pair = products(x_BTD, self.query, self.key, self.value)
        return self._queries(query_BNTH, positions), self._key_value(*pair, positions)

    def _queries(self, query_BNTH: jax.Array, positions: jax.Array | None) -> jax.Array:
        if self.norm is not None:
            query_BNTH = self.query_norm(query_BNTH).astype(self.dtype)
        return constrain(self._turned(query_BNTH, positions), _HEADS)

    def _key_value(
        self, key_BNSH: jax.Array, value_BNSH: jax.Array, positions: jax.Array | None
    ) -> KeyValue:
        if self.norm is not None:
            key_BNSH = self.key_norm(key_BNSH).astype(self.dtype)
        key_BNSH = self._turned(key_BNSH, positions)
        return KeyValue(key=constrain(key_BNSH, _HEADS), value=constrain(value_BNSH, _HEADS))

    def _turned(self, heads_BNTH: jax.Array, positions: jax.Array | None) -> jax.Array:
        if self.rotate is None:
            return heads_BNTH
        if positions is None:
            positions = jnp.arange(heads_BNTH.shape[2])
        return self.rotate(heads_BNTH, positions).astype(self.dtype)


_HEADS = ("batch", "activation_heads", "length", "head_dim")


class SelfAttention(Attention):
    """Attention of a sequence to itself, as a part of a block.

    Of the context it reads `mask`, of whole sequences, in place of the pattern; `roles`, where the
    pattern goes by them (`masks.ByRole`); and `positions`, int32 [T] or [B, T], for `rotate` where
    slots do not stand in their order.

    Attributes:
      pattern: what a slot sees, whole sequences and step by step. Without it, and without the
        context's `mask`, a slot sees all.
    """

    pattern: AttentionPattern | None = None

    def whole(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        """All T slots at once."""
        added = self.added_to(inputs, jnp.arange(x_BTD.shape[1]))
        positions = inputs.named("positions")
        return self(x_BTD, None, self.mask(inputs), positions, added, inputs.drop_weights)

    def mask(self, inputs: Inputs) -> Mask:
        """Who sees whom, of whole sequences."""
        mask = inputs.named("mask")
        if self.pattern is None or mask is not None:
            return mask
        return Seen(self.pattern, inputs.layer, inputs.named("roles"))

    def added_to(
        self, inputs: Inputs, queries: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array | None:
        """What is added to the logits; None: nothing. Keys are the queries' slots if not given."""
        if self.added is None:
            return None
        return self.logit_bias(inputs, queries, queries if keys is None else keys)

    def start(self, inputs: Inputs, rows: int, length: int) -> KeyValue:
        """A cache for `length` slots, as a ring of what the pattern looks back on."""
        window = self.pattern.window(length, inputs.layer)
        return empty_key_value(rows, window, self.num_heads, self.head_dim, self.dtype)

    def fill(self, x_BPD: jax.Array, past: KeyValue, inputs: Inputs) -> tuple[jax.Array, KeyValue]:
        """The first P slots at once, and the cache with them; P is at most the ring's length."""
        positions, slots_P = inputs.named("positions"), jnp.arange(x_BPD.shape[1])
        positions = None if positions is None else positions[..., : x_BPD.shape[1]]
        with jax.named_scope("attention"):
            query_BNPH, keys = self.heads(x_BPD, positions)
            with jax.named_scope("cache_update"):
                past = past.write(jnp.zeros((), jnp.int32), keys)
            added = self.added_to(inputs, slots_P)
            out_BNPH = self.look(query_BNPH, keys, self.mask(inputs), added)
            return self.joined(out_BNPH), past

    def step(
        self, x_B1D: jax.Array, past: KeyValue, index: jax.Array, inputs: Inputs
    ) -> tuple[jax.Array, KeyValue]:
        """Writes slot `index` into the ring and attends from it to what it sees there."""
        position = inputs.at_slot("positions", index, index[..., None])
        with jax.named_scope("cache_update"):
            new = self.key_value(x_B1D, position)
        with jax.named_scope("attention"):
            query_BN1H = self.queries(x_B1D, position)
        past, found_BN1H = self.looked_back(query_BN1H, new, past, index, inputs)
        return self.joined(found_BN1H), past

    def looked_back(
        self,
        query_BN1H: jax.Array,
        new: KeyValue,
        past: KeyValue,
        index: jax.Array,
        inputs: Inputs,
    ) -> tuple[KeyValue, jax.Array]:
        """The ring with slot `index`, and what its query finds there, [B, N, 1, H]."""
        window = past.key.shape[2]
        with jax.named_scope("cache_update"):
            past = past.write(index % window, new)
        with jax.named_scope("attention"):
            mask = ring_mask(self.pattern, window, index, inputs.layer, inputs.named("roles"))
            mask = mask[:, None, None] if mask.ndim == 2 else mask[None, None, None]
            added = None
            if self.added is not None:
                added = self.added_to(inputs, index[..., None], ring_slots(window, index))
            return past, self.look(query_BN1H, past, mask, added)


class CrossAttention(Attention):
    """Attention to another sequence of the context, as a part of a block.

    Attributes:
      source: its name in the context, [B, S, D]; `SOURCE_mask` beside it says what of it is seen.
    """

    source: str = "text"

    def whole(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        """All T slots at once."""
        mask = inputs.named(f"{self.source}_mask")
        return self(x_BTD, inputs.context[self.source], mask, drop=inputs.drop_weights)

    def start(self, inputs: Inputs, rows: int, length: int) -> KeyValue:
        """Keys and values of P sources, computed once for all pictures and slots of each."""
        del rows, length
        return self.key_value(inputs.context[self.source])

    def step(
        self, x_B1D: jax.Array, keys: KeyValue, index: jax.Array, inputs: Inputs
    ) -> tuple[jax.Array, KeyValue]:
        """One slot. Rows of one source stand together in the batch."""
        del index
        return self.fill(x_B1D, keys, inputs)

    def fill(self, x_BPD: jax.Array, keys: KeyValue, inputs: Inputs) -> tuple[jax.Array, KeyValue]:
        """The first P slots of each row at once."""
        # Rows of one source look at it together, as if they were slots of one sequence.
        x_RQD = jnp.reshape(x_BPD, (keys.key.shape[0], -1, x_BPD.shape[-1]))
        seen_RQD = self.attend(x_RQD, keys, inputs.named(f"{self.source}_mask"))
        return jnp.reshape(seen_RQD, x_BPD.shape), keys
