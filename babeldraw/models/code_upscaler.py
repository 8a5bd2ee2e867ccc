"""What networks of super-resolution by codes have in common, as in CogView2.

Ding et al., 2022, section 3.3, and its public code: both begin from a CogLM, whose blocks, table
and positions they have; see `models.enlarger` and `models.refiner`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.block import Residual, TransformerConfig, feed_forward, make_stack
from babeldraw.layers.linear import Embedding, LayerNorm
from babeldraw.layers.positions import LearnedPositions, tiled
from babeldraw.layers.stack import Stack
from babeldraw.layers.windows import require_odd
from babeldraw.models.condition import Condition
from babeldraw.models.head import token_nll
from babeldraw.models.masked import Masked, MaskedNetwork
from babeldraw.sharding.constraint import constrain
from babeldraw.sharding.context import PerExample
from babeldraw.tokenizers.base import Codes

# A text piece that is none.
PAD = 0
# Of CogLM.
NORM = functools.partial(LayerNorm, epsilon=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeUpscalerConfig:
    """What both say of the network that they begin from, CogLM.

    Attributes:
      decoder: its blocks; `bias` is attention's too.
      around: rows and columns of the window of the large grid: 9 x 5 in CogView2's code, 9 x 9 in
        its paper.
      start: position of the start of a picture; the small codes have those behind. A text's are
        below.
      positions: rows of the table of positions.
      specials: rows of the table of vectors behind codes and pieces, of which the first, the start
        of a picture, stands for a code that is masked.
      early_positions: the positions of the small codes, which are laid side by side over the large
        grid to begin with, begin with that of the start of the picture, one too early: so the
        released weights were made.
      own_positions: the large codes' positions are a table of their own alone, and nothing is laid
        over the large grid: so the released weights are.
      stddev: of both tables' vectors before training.
    """

    decoder: TransformerConfig
    around: tuple[int, int] = (9, 5)
    start: int = 512
    positions: int = 1024
    specials: int = 2
    early_positions: bool = False
    own_positions: bool = False
    stddev: float = 0.02

    def __post_init__(self):
        require_odd(self.around, "config.model.around")
        require(
            not (self.early_positions and self.own_positions),
            "config.model.early_positions and own_positions are True; the first says how the small "
            "codes' positions are laid, the second that they are not: set one to False",
        )
        for name in ("start", "positions", "specials"):
            value = getattr(self, name)
            require(value >= 1, f"config.model.{name} is {value}; at least 1 is needed")
        require(self.stddev > 0, f"config.model.stddev is {self.stddev}; more than 0 is needed")
        dropped = self.decoder.attention_dropout
        require(
            dropped == 0,
            f"config.model.decoder.attention_dropout is {dropped} and attention to windows drops "
            "no weights; take 0, or config.model.decoder.dropout",
        )

    def tiny(self) -> Any:
        """The same for a first run."""
        return dataclasses.replace(self, decoder=self.decoder.tiny())


def sandwich(config: TransformerConfig, attention: Any) -> Stack:
    """Blocks of an attention and a feed-forward, each with a norm before and behind it."""
    parts = (
        Residual("attention", attention, "attention_norm", NORM, NORM),
        Residual("ffn", feed_forward(config), "ffn_norm", NORM, NORM),
    )
    return make_stack(parts, config)


class CodeUpscaler(MaskedNetwork):
    """What both have: one table for codes and pieces, a base's positions, logits by the table.

    Logits are of codes alone. A large code's position is that of a small one, laid over the large
    grid, plus one of its own that is learned from zero on; or one of its own alone.
    """

    config: Any
    condition: Condition
    codes: Codes

    def setup(self):
        config, dim = self.config, self.config.decoder.dim
        text, _ = split(self.condition)
        pieces = 0 if text is None else text.vocabulary
        self.begin = self.codes.vocab_size + pieces
        self.embed = Embedding(self.begin + config.specials, dim, stddev=config.stddev)
        self.places = Embedding(config.positions, dim, "position", config.stddev)
        begin = config.stddev if config.own_positions else 0.0
        self.fine_places = LearnedPositions(self.codes.length, dim, stddev=begin, name="fine")
        self.stack = sandwich(config.decoder, self.attention(text_slots(self.condition)))
        self.norm = NORM()

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the small codes."""
        raise NotImplementedError

    @property
    def factor(self) -> int:
        return self.codes.shape[0] // self.grid[0]

    def attention(self, prefix: int) -> Any:
        """Makes a block's attention, behind so many slots of a text."""
        raise NotImplementedError

    def nll(
        self, x_BTD: jax.Array, codes: jax.Array, smoothing: float
    ) -> tuple[jax.Array, jax.Array]:
        logits_BTV = self.logits(x_BTD, None)
        right_BT = jnp.argmax(logits_BTV, axis=-1) == codes
        return token_nll(logits_BTV, codes, smoothing), right_BT

    def read(self, condition: Any, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """`text`, int32 [B, P], and `small`, int32 [B, S], where they are."""
        del keys
        if self.condition.kind == "codes":
            return {"small": condition}
        if self.condition.kind != "several":
            return {"text": condition}
        parts = self.condition.parts.items()
        return {"small" if p.kind == "codes" else "text": condition[name] for name, p in parts}

    def hidden(
        self,
        context: dict[str, jax.Array],
        codes: jax.Array,
        known: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """The network's output for all places, float32 [B, T, D]."""
        masked_BT, seen = jnp.where(known, codes, self.begin), {}
        parts = [self.embed(masked_BT) + self._of_fine()[None]]
        if "small" in context:
            parts.insert(0, self.embed(context["small"]) + self._of_small()[None])
        if "text" in context:
            text_BP = context["text"]
            of_text_PD = self.places(jnp.arange(text_BP.shape[1]))
            parts.insert(0, self.embed(self.codes.vocab_size + text_BP) + of_text_PD[None])
            seen["text_seen"] = PerExample(text_BP != PAD)
        x_BTD = jnp.concatenate(parts, axis=1)
        x_BTD = constrain(x_BTD, ("batch", "length", "activation_embed"))
        x_BTD = self.stack(x_BTD, seen, keys)[:, -self.codes.length :]
        return self.norm(x_BTD.astype(jnp.float32))

    def _of_small(self, early: bool = False) -> jax.Array:
        """Positions of the small codes, [S, D]; `early`: each has that of the one before."""
        first = self.config.start + (0 if early else 1)
        return self.places(first + jnp.arange(self.grid[0] * self.grid[1]))

    def _of_fine(self) -> jax.Array:
        """Positions of the large codes, [T, D]."""
        if self.config.own_positions:
            return self.fine_places()
        laid_SD = self._of_small(self.config.early_positions)
        return tiled(laid_SD, self.grid, self.factor) + self.fine_places()

    def logits(self, x_BTD: jax.Array, earlier: jax.Array | None) -> jax.Array:
        """Of all codes, float32 [B, T, V]."""
        del earlier
        vectors_VD = self.embed(jnp.arange(self.codes.vocab_size))
        return jnp.einsum("BTD,VD->BTV", x_BTD, vectors_VD)


def split(condition: Condition) -> tuple[Condition | None, Condition | None]:
    """Of what is drawn from the text and the small codes; None: there is no such."""
    several = condition.kind == "several"
    parts = condition.parts.values() if several else (condition,)
    texts = [part for part in parts if part.kind != "codes"]
    codes = [part for part in parts if part.kind == "codes"]
    return (texts[0] if texts else None), (codes[0] if codes else None)


def text_slots(condition: Condition) -> int:
    """P, of the text."""
    text, _ = split(condition)
    return 0 if text is None else text.text_length


class CodeUpscalerGenerator(Masked):
    """What both are as pure functions of their parameters."""

    word_table = "embed/table"

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"stack": self.config.decoder}

    def check(self) -> None:
        super().check()
        shape = self.codes.shape
        require(
            len(shape) == 2 and len(self.codes.vocab) == 1,
            f"config.model.kind={self.config.kind} draws a grid of codes of one number each, and "
            "config.tokenizer has others",
        )
        text, _ = split(self.condition)
        require(
            text is None or text.of_text and text.vocabulary > 0 and not text.needs,
            f"config.model.kind={self.config.kind} reads pieces of a text and the condition is of "
            f"{'' if text is None else text.drawn_from}; take kind=text",
        )
        start, positions = self.config.start, self.config.positions
        length, needed = text_slots(self.condition), start + 1 + self.small_cells
        require(
            length <= start,
            f"config.model.start is {start}, the position of a picture's start, and a text of "
            f"{length} pieces lies below it; take a start of at least {length}, or a shorter text",
        )
        require(
            needed <= positions,
            f"config.model.positions is {positions} and {self.small_cells} small codes behind "
            f"position {start} need {needed}; take at least that many, or a smaller start",
        )

    def flops(self) -> dict[str, tuple[int, str]]:
        stack, slots = self.config.decoder, self.slots
        dim, cells = stack.dim, self.codes.length
        each = 8 * dim * dim + 4 * dim * stack.hidden
        dense = slots - cells
        looked = 4 * dim * (dense * dense + cells * self.looked)
        text = "blocks (T (8 D^2 + 4 D F) + 4 D (S^2 + cells K)), K keys of a cell"
        logits = 2 * cells * dim * self.codes.entries
        return {
            "stack": (stack.blocks * (slots * each + looked), text),
            "logits": (logits, "(2 T D V)"),
        }

    @property
    def small_cells(self) -> int:
        """S, of the small grid."""
        raise NotImplementedError

    @property
    def slots(self) -> int:
        """T, of all streams together."""
        raise NotImplementedError

    @property
    def looked(self) -> int:
        """Keys that a cell of the large grid looks at."""
        raise NotImplementedError
