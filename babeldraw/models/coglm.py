"""CogLM: one stack that draws a picture from a text, tells a picture in words, and fills in.

Ding et al., "CogView2: Faster and Better Text-to-Image Generation via Hierarchical Transformers",
2022, section 3.1, and their code. Codes and pieces of texts share one table, which is also the
softmax's weights; each part of a block lies between two norms (a sandwich). Who sees whom is an
arrangement of each example, see `models.arrangement`.

Losses are over the whole vocabulary; draws read the rows of codes, or of pieces, alone, as there.
The codebook's size, the pieces' and all widths are fields; weights begin by their fan-in, not with
a deviation of 0.02.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require, require_positive
from babeldraw.layers.block import (
    DTYPES,
    Residual,
    TransformerConfig,
    empty_caches,
    encoder_parts,
    filled,
    make_stack,
    through,
)
from babeldraw.layers.flops import blocks_forward
from babeldraw.layers.linear import Embedding, LayerNorm
from babeldraw.layers.softmax import streamed_nll
from babeldraw.layers.stack import read_type
from babeldraw.layers.text_weight import TextWeight
from babeldraw.models.arrangement import (
    EMPTY,
    KNOWN,
    PREDICTED,
    SEES,
    START,
    TEXT,
    TOLD,
    Arrangement,
    Joint,
)
from babeldraw.models.condition import Condition
from babeldraw.models.head import HeadCompute, token_nll
from babeldraw.models.sequential import Sequential
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerSlot
from babeldraw.tokenizers.base import Codes

# Of all norms, in the published code.
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class CogLMConfig:
    """Attributes:
    decoder: the stack; its `bias` is attention's too.
    start: position of the start of a picture; its codes have those behind. A text's are below.
    positions: rows of the table of positions.
    specials: rows of the table behind codes and pieces: the start of a picture, then starts of
      texts.
    languages: pieces from which on a told text has the next start, that of its highest piece, as
      CogView2 tells English from Chinese, (63_823,) in icetk's order. One that is drawn has the
      first.
    stddev: of the table's vectors as they begin, and of the positions'. Small networks learn
      sooner from a larger one: behind the first block a sandwich adds values near 1 to them.
    compute: how the loss is computed.
    """

    decoder: TransformerConfig
    start: int = 512
    positions: int = 1024
    specials: int = 2
    languages: tuple[int, ...] = ()
    stddev: float = 0.02
    compute: HeadCompute = HeadCompute()
    kind: str = "coglm"

    def __post_init__(self):
        require_positive(self, "config.model", "start", "positions")
        least = 2 + len(self.languages)
        require(
            self.specials >= least,
            f"config.model.specials is {self.specials}; at least {least} are needed, the start of "
            "a picture and that of a text in each language",
        )
        require(self.stddev > 0, f"config.model.stddev is {self.stddev}; more than 0 is needed")

    def tiny(self) -> "CogLMConfig":
        """The same for a first run."""
        return dataclasses.replace(self, decoder=self.decoder.tiny(), compute=HeadCompute())


@flax.struct.dataclass
class Read:
    """What is drawn from, or told, as the network needs it; all with P rows.

    Attributes:
      prefix: the slots before those that are drawn, float32 [P, S, D].
      roles: of these slots, int32 [P, S].
    """

    prefix: jax.Array
    roles: jax.Array


@flax.struct.dataclass
class Cache:
    """What decoding keeps between steps.

    Attributes:
      blocks: a cache per block.
      context: of the stack: `roles` of all slots, [B, L]; `text_weight` where there is one.
      first: the slot that predicts the first code, or piece.
    """

    blocks: tuple[Any, ...]
    context: dict[str, jax.Array]
    first: int = flax.struct.field(pytree_node=False)


def coglm_parts(config: TransformerConfig) -> tuple[Residual, ...]:
    """A block's: attention by roles and feed-forward, each between two norms (Sandwich-LN)."""
    norm = functools.partial(LayerNorm, EPSILON)
    added = functools.partial(TextWeight, TEXT)
    return encoder_parts(config, SEES, norm, norm, bias=config.bias, added=added)


def joint(config: CogLMConfig, condition: Condition, codes: Codes) -> Joint:
    """The one vocabulary and the positions of a network of these sections."""
    text = condition.vocabulary, codes.shape, condition.text_length
    return Joint(codes.vocab_size, *text, config.start, config.languages)


class CogLM(nn.Module):
    """What predicts codes and pieces by an arrangement."""

    config: CogLMConfig
    condition: Condition
    codes: Codes

    def setup(self):
        config, dim = self.config, self.config.decoder.dim
        self.joint = joint(config, self.condition, self.codes)
        rows = self.joint.start_of_image + config.specials
        self.embed = Embedding(rows, dim, stddev=config.stddev)
        self.places = Embedding(config.positions, dim, "position", config.stddev)
        self.stack = make_stack(coglm_parts(config.decoder), config.decoder)
        self.norm = LayerNorm(EPSILON)

    # ------------------------------------------------------------ whole sequences

    def __call__(
        self,
        text_BS: jax.Array,
        codes_BT: jax.Array,
        keys: jax.Array | None = None,
        read: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each code given the text and the codes before it; see `Sequential.nll`."""
        arranged = jax.vmap(self.joint.text_to_image)
        arrangement = arranged(text_BS, codes_BT if read is None else read)
        hidden_BTD = self.hidden(arrangement, keys)[:, -self.joint.places :]
        return self.nll(hidden_BTD, codes_BT)

    def arranged_nll(
        self, arrangement: Arrangement, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of each target, float32 [B, L], and whether it is the likeliest, bool [B, L].

        Args:
          arrangement: of a batch.
          keys: of dropout, one per example; None: no dropout.
        """
        return self.nll(self.hidden(arrangement, keys), arrangement.targets)

    def told_nll(self, codes_BT: jax.Array, text_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same of each piece given the picture and the pieces before it, [B, S] each."""
        no_patches = jnp.zeros(0, jnp.int32)
        told = functools.partial(self.joint.image_to_text, corners_N=no_patches, patch=1)
        hidden_BLD = self.hidden(jax.vmap(told)(text_BS, codes_BT))
        text_ids = self.joint.text_ids(text_BS)
        return self.nll(hidden_BLD[:, -self.joint.length :], text_ids)

    def first_logits(self, text_BS: jax.Array, codes_BT: jax.Array) -> jax.Array:
        """Of each code, float32 [B, T, V]."""
        hidden_BLD = self.hidden(jax.vmap(self.joint.text_to_image)(text_BS, codes_BT))
        return self.code_logits(hidden_BLD[:, -self.joint.places :])

    def hidden(self, arrangement: Arrangement, keys: jax.Array | None = None) -> jax.Array:
        """The network's output for all slots, float32 [B, L, D]."""
        x_BLD = self.vectors(arrangement.ids, arrangement.positions)
        x_BLD = constrain(x_BLD, ("batch", "length", "activation_embed"))
        return self.norm(self.stack(x_BLD, {"roles": PerSlot(arrangement.roles)}, keys=keys))

    def vectors(self, ids: jax.Array, positions: jax.Array) -> jax.Array:
        """What the first block reads of slots, float32 [..., D]."""
        return self.embed(ids) + jnp.broadcast_to(self.places(positions), (*ids.shape, self._dim))

    @property
    def _dim(self) -> int:
        return self.config.decoder.dim

    def nll(self, hidden_BTD: jax.Array, ids_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of ids of the one vocabulary, all of which are possible."""
        pieces, rows = self.config.compute.pieces, self.embed.vocab_size
        if pieces > 1:
            weight_DV = self.embed(jnp.arange(rows)).T
            return streamed_nll(hidden_BTD, weight_DV, ids_BT, pieces)
        logits_BTV = self._logits(hidden_BTD, 0, rows)
        return token_nll(logits_BTV, ids_BT), jnp.argmax(logits_BTV, axis=-1) == ids_BT

    def code_logits(self, hidden_BTD: jax.Array) -> jax.Array:
        """float32 [B, T, codes]."""
        return self._logits(hidden_BTD, 0, self.joint.codes)

    def piece_logits(self, hidden_BTD: jax.Array) -> jax.Array:
        """float32 [B, T, pieces]."""
        return self._logits(hidden_BTD, self.joint.codes, self.joint.start_of_image)

    def _logits(self, hidden_BTD: jax.Array, first: int, last: int) -> jax.Array:
        table_VD = self.embed(jnp.arange(first, last))
        return jnp.einsum("BTD,VD->BTV", hidden_BTD.astype(jnp.float32), table_VD)

    # ------------------------------------------------------------ slot by slot

    def read(self, text_PS: jax.Array) -> Read:
        """Texts to draw pictures from."""
        vectors = self.vectors(self.joint.text_ids(text_PS), jnp.arange(self.joint.length)[None])
        return Read(vectors, jnp.where(text_PS != 0, TEXT, EMPTY))

    def read_picture(self, codes_PT: jax.Array) -> Read:
        """Pictures to be told."""
        positions = self.config.start + 1 + jnp.arange(self.joint.places)
        return Read(self.vectors(codes_PT, positions[None]), jnp.full_like(codes_PT, KNOWN))

    def start(
        self,
        read: Read,
        samples: int = 1,
        text_weight: jax.Array | None = None,
        codes_BT: jax.Array | None = None,
        known_BT: jax.Array | None = None,
    ) -> Cache:
        """A cache with the text in, and with the known codes of a picture where there are some.

        Args:
          read: of P texts.
          samples: pictures of each.
          text_weight: float32 [], is added to the logits of the text's columns; None: nothing.
          codes_BT: of a picture with holes.
          known_BT: which of these are known: they are seen by each other and by all that is drawn,
            whichever side they lie on; None: none, and there are no slots for them.
        """
        read = jax.tree.map(lambda rows: jnp.repeat(rows, samples, axis=0), read)
        prefix, roles, places = read.prefix, [read.roles], self.joint.places
        drawn = jnp.full((prefix.shape[0], places), PREDICTED)
        if known_BT is None:
            drawn = drawn.at[:, 0].set(START)
        else:
            known = self._known(codes_BT)
            prefix = jnp.concatenate([prefix, known], axis=1)
            starts = jnp.full_like(drawn[:, :1], START)
            roles += [starts, jnp.where(known_BT, KNOWN, EMPTY)]
            drawn = jnp.where(known_BT, EMPTY, PREDICTED)
        context = {"roles": jnp.concatenate([*roles, drawn], axis=1)}
        if text_weight is not None:
            context["text_weight"] = text_weight
        return self._cache(prefix, context)

    def _known(self, codes_BT: jax.Array) -> jax.Array:
        """The start of a picture and its codes at their own positions, [B, 1 + T, D]."""
        start = jnp.full_like(codes_BT[:, :1], self.joint.start_of_image)
        positions = self.config.start + jnp.arange(1 + self.joint.places)
        return self.vectors(jnp.concatenate([start, codes_BT], axis=1), positions[None])

    def start_telling(self, read: Read, samples: int = 1) -> Cache:
        """A cache with the picture in."""
        read = jax.tree.map(lambda rows: jnp.repeat(rows, samples, axis=0), read)
        told = jnp.full((read.roles.shape[0], self.joint.length), TOLD)
        return self._cache(read.prefix, {"roles": jnp.concatenate([read.roles, told], axis=1)})

    def _cache(self, prefix_BSD: jax.Array, context: dict[str, jax.Array]) -> Cache:
        rows, early = prefix_BSD.shape[:2]
        blocks = empty_caches(self.stack, context, rows, context["roles"].shape[1])
        _, blocks = filled(self.stack, prefix_BSD, blocks, context)
        return Cache(blocks, context, early)

    def step(self, codes_B: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        return self._step(codes_B, self.joint.start_of_image, self.config.start, index, cache)

    def tell(self, text_B: jax.Array, index: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """As `step`, of the pieces of a text."""
        ids_B = self.joint.text_ids(text_B)
        return self._step(ids_B, self.joint.start_of_text, 0, index, cache)

    def _step(
        self, ids_B: jax.Array, start: int, position: int, index: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        place_B1 = jnp.broadcast_to(jnp.reshape(index, (-1, 1)), (ids_B.shape[0], 1))
        ids_B1 = jnp.where(place_B1 == 0, start, ids_B[:, None])
        x_B1D = self.vectors(ids_B1, position + place_B1)
        slot = cache.first + index
        x_B1D, blocks = through(self.stack, x_B1D, cache.blocks, slot, cache.context)
        return self.norm(x_B1D), cache.replace(blocks=blocks)

    def next_logits(self, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        del earlier
        return self.code_logits(x_B1D)

    def next_piece_logits(self, x_B1D: jax.Array, earlier: jax.Array) -> jax.Array:
        del earlier
        return self.piece_logits(x_B1D)


@dataclasses.dataclass(frozen=True)
class CogLMGenerator(Sequential):
    """A CogLM as pure functions of its parameters; see `Generator` and `Sequential`."""

    config: CogLMConfig
    condition: Condition
    codes: Codes
    word_table = "embed/table"

    @property
    def network(self) -> CogLM:
        return CogLM(self.config, self.condition, self.codes)

    @property
    def joint(self) -> Joint:
        """The one vocabulary and its positions."""
        return joint(self.config, self.condition, self.codes)

    def check(self) -> None:
        super().check()
        path, codes, condition = "config.model", self.codes, self.condition
        require(
            condition.kind == "text",
            f"{path}.kind=coglm has one vocabulary for texts and codes, and config.condition.kind "
            f"is {condition.kind!r}; take text",
        )
        require(
            len(codes.shape) == 2 and len(codes.vocab) == 1,
            f"{path}.kind=coglm draws a grid of codes of one number and the tokenizer gives "
            f"{' x '.join(map(str, codes.shape))} codes of {len(codes.vocab)}; take another",
        )
        start, length, most = self.config.start, condition.text_length, self.config.positions
        require(
            length <= start,
            f"{path}.start is {start}, the position of a picture's start, and "
            f"config.condition.length {length}: the text leaves no room; take a length of at most "
            f"{start}",
        )
        needed = start + 1 + codes.length
        require(
            needed <= most,
            f"{path}.positions is {most} and a picture of {codes.length} codes behind position "
            f"{start} needs {needed}; take at least that many, or a smaller start",
        )
        self.config.compute.check((self.joint.start_of_image + self.config.specials,))

    def check_new(self) -> None:
        usual = type(self.condition).stddev
        require(
            self.condition.stddev == usual,
            f"config.condition.stddev is {self.condition.stddev} and config.model.kind=coglm has "
            f"one table of pieces and codes, drawn with config.model.stddev; set it to {usual}",
        )

    def arranged_nll(
        self, params: Any, arrangement: Arrangement, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """See `CogLM.arranged_nll`."""
        return self._call("arranged_nll", params, arrangement, keys)

    def start_weighted(
        self,
        params: Any,
        context: Any,
        samples: int,
        text_weight: jax.Array | None,
        codes: jax.Array | None = None,
        known: jax.Array | None = None,
    ) -> Cache:
        """As `start`, with more weight on the text and the known codes of a picture in."""
        return self._call("start", params, context, samples, text_weight, codes, known)

    def for_reading(self, params: Any) -> Any:
        dtype = DTYPES[self.config.decoder.compute.dtype]
        return {**params, "stack": read_type(params["stack"], dtype)}

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"decoder": self.config.decoder}

    def flops(self) -> dict[str, tuple[int, str]]:
        slots, decoder = self.joint.slots, self.config.decoder
        rows = self.joint.start_of_image + self.config.specials
        return {
            "decoder": (blocks_forward(decoder, slots), "blocks (8 L D^2 + 4 L^2 D + 4 L D F)"),
            "logits": (2 * slots * decoder.dim * rows, "(2 L D V)"),
        }
