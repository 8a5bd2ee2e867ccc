"""Texts and pictures in one sequence: ids, positions, and who sees whom, an example's own.

Ding et al., "CogView2: Faster and Better Text-to-Image Generation via Hierarchical Transformers",
2022, section 3.1, and their code (`pretrain_coglm.py`). Every array here is of one example; callers
map over a batch. Which of the three maskings an example has, and which patches or spans, is drawn
in `prediction.coglm`.
"""

import dataclasses
import itertools

import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.masks import ALWAYS, BY_PATTERN, NEVER, ByRole

# A text piece that is none: padding, and a text's end.
PAD = 0
# What a slot may be: nothing; of a text that is drawn from; the start of the picture; known, and
# seen by all that is predicted; predicted; of a text that is told of a picture.
EMPTY, TEXT, START, KNOWN, PREDICTED, TOLD = range(6)
_N, _P, _A = NEVER, BY_PATTERN, ALWAYS
SEES = ByRole(
    (
        (_P, _N, _N, _N, _N, _N),
        (_N, _A, _N, _N, _N, _N),
        (_N, _A, _A, _N, _N, _N),
        (_N, _A, _A, _A, _N, _N),
        (_N, _A, _A, _A, _P, _N),
        (_N, _N, _N, _A, _A, _P),
    )
)


@flax.struct.dataclass
class Arrangement:
    """A sequence of L slots, [L] each, or [B, L] of a batch.

    Attributes:
      ids: int32, of the one vocabulary.
      positions: int32, rows of the table of positions.
      roles: int32, what each slot is; `SEES` says what it sees.
      targets: int32, the id that it predicts, of the one vocabulary.
      weights: float32, 1 where it predicts, else 0.
    """

    ids: jax.Array
    positions: jax.Array
    roles: jax.Array
    targets: jax.Array
    weights: jax.Array


def _joined(*parts: Arrangement) -> Arrangement:
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


@dataclasses.dataclass(frozen=True)
class Joint:
    """One vocabulary and one count of positions, for texts and pictures.

    Ids are the codes of pictures, then the pieces of texts, then the start of a picture and the
    starts of texts. A text's positions are 0, 1, ...; a told one's start has position 0 and its
    pieces come behind (CogView2's code shifts the text by one and leaves its positions).

    Attributes:
      codes: how many codes there are.
      pieces: how many pieces.
      grid: (h, w) of a picture's codes.
      length: S, pieces of a text.
      start: position of the start of a picture, whose codes have those behind it in raster order.
      languages: pieces from which on a told text has the next start; see `start_of`.

    Raises:
      UserError: languages that do not ascend, or are no pieces.
    """

    codes: int
    pieces: int
    grid: tuple[int, int]
    length: int
    start: int
    languages: tuple[int, ...] = ()

    def __post_init__(self):
        firsts = (0, *self.languages, self.pieces)
        require(
            not self.languages or all(a < b for a, b in itertools.pairwise(firsts)),
            f"config.model.languages is {self.languages}, the first piece of each further "
            f"language, and config.condition.vocab_size {self.pieces}; take ascending numbers "
            "between 0 and that",
        )

    @property
    def places(self) -> int:
        """T, codes of a picture."""
        return self.grid[0] * self.grid[1]

    @property
    def slots(self) -> int:
        """L, of every masking: S + T, of which the last code, or piece, is predicted alone."""
        return self.length + self.places

    @property
    def start_of_image(self) -> int:
        return self.codes + self.pieces

    @property
    def start_of_text(self) -> int:
        return self.codes + self.pieces + 1

    def start_of(self, text_S: jax.Array) -> jax.Array:
        """The id of a text's start, int32 []: that of the language of its highest piece."""
        highest = jnp.max(text_S)
        later = [(highest >= first).astype(jnp.int32) for first in self.languages]
        return jnp.int32(self.start_of_text) + sum(later, start=jnp.int32(0))

    def text_ids(self, text: jax.Array) -> jax.Array:
        """Of pieces, int32 of any shape."""
        return text + self.codes

    def before(self, values: jax.Array, first: int | jax.Array) -> jax.Array:
        """`first` and all values but the last: what stands in the slots that predict them."""
        return jnp.concatenate([jnp.full_like(values[:1], first), values[:-1]])

    # ------------------------------------------------------------ the parts of a sequence

    def _read_text(self, text_S: jax.Array) -> Arrangement:
        """A text that a picture is drawn from: its pieces see each other."""
        ids_S = self.text_ids(text_S)
        roles_S = jnp.where(text_S != PAD, TEXT, EMPTY)
        weights_S = jnp.zeros(self.length, jnp.float32)
        return Arrangement(ids_S, jnp.arange(self.length), roles_S, ids_S, weights_S)

    def _told_text(self, text_S: jax.Array) -> Arrangement:
        """A start and a text, of which each slot predicts the next piece, or the text's end.

        An empty text predicts nothing: it says that there is none, not that it ends at once.
        """
        place_S, count = jnp.arange(self.length), jnp.sum(text_S != PAD)
        told_S = (place_S <= count) & (count > 0)
        ids_S = self.before(self.text_ids(text_S), self.start_of(text_S))
        roles_S = jnp.where(told_S, TOLD, EMPTY)
        return Arrangement(
            ids_S, place_S, roles_S, self.text_ids(text_S), told_S.astype(jnp.float32)
        )

    # ------------------------------------------------------------ the three maskings

    def text_to_image(self, text_S: jax.Array, codes_T: jax.Array) -> Arrangement:
        """Masking 1: a picture, code by code, from a text.

        The text sees itself on both sides, the start and the codes all of the text and the codes
        before them; each predicts the next code.

        Args:
          text_S: int32 [S], padded with 0 on the right.
          codes_T: int32 [T].
        """
        slots_T = jnp.arange(self.places)
        picture = Arrangement(
            self.before(codes_T, self.start_of_image),
            self.start + slots_T,
            jnp.where(slots_T == 0, START, PREDICTED),
            codes_T,
            jnp.ones(self.places, jnp.float32),
        )
        return _joined(self._read_text(text_S), picture)

    def image_to_text(
        self, text_S: jax.Array, codes_T: jax.Array, corners_N: jax.Array, patch: int
    ) -> Arrangement:
        """Masking 2: a text told of a picture, and patches of the picture from what is around.

        Codes outside the patches are seen by all and see each other; those of the patches see them
        and the patches' codes before. A code of a patch predicts the one at its right, so the first
        column of each is never predicted. The text sees all of the picture, and itself causally.

        Args:
          text_S: int32 [S], padded with 0 on the right.
          codes_T: int32 [T].
          corners_N: int32 [N], top left corners of patches, numbered as `corners` counts them.
          patch: side of a patch.
        """
        masked_T, predicts_T = self.patches(corners_N, patch)
        picture = Arrangement(
            codes_T,
            self.start + 1 + jnp.arange(self.places),
            jnp.where(masked_T, PREDICTED, KNOWN),
            jnp.concatenate([codes_T[1:], codes_T[:1]]),
            predicts_T.astype(jnp.float32),
        )
        return _joined(picture, self._told_text(text_S))

    def text_spans(self, text_S: jax.Array, firsts_N: jax.Array, sizes_N: jax.Array) -> Arrangement:
        """Masking 3: spans of a text from what is around; there is no picture.

        A span of n predicted pieces hides the piece before them too: it stands where the first of
        them is predicted, as the first column of a patch.

        Args:
          text_S: int32 [S], padded with 0 on the right.
          firsts_N: int32 [N], the piece before each span.
          sizes_N: int32 [N], pieces of each that are predicted; 0: no span. What reaches behind the
            text is cut off.
        """
        place_S, last = jnp.arange(self.length), jnp.sum(text_S != PAD) - 1
        behind_SN = place_S[:, None] - firsts_N[None]
        sizes_SN = jnp.broadcast_to(sizes_N[None], behind_SN.shape)
        inside_SN = (behind_SN >= 0) & (sizes_SN > 0)
        hidden_S = jnp.any(inside_SN & (behind_SN <= sizes_SN), axis=1) & (place_S <= last)
        predicts_S = jnp.any(inside_SN & (behind_SN < sizes_SN), axis=1) & (place_S < last)
        ids_S, read = self.text_ids(text_S), self._read_text(text_S)
        text = read.replace(
            roles=jnp.where(read.roles == EMPTY, EMPTY, jnp.where(hidden_S, PREDICTED, KNOWN)),
            targets=jnp.concatenate([ids_S[1:], ids_S[:1]]),
            weights=predicts_S.astype(jnp.float32),
        )
        nothing_T = jnp.zeros(self.places, jnp.int32)
        weights_T = nothing_T.astype(jnp.float32)
        return _joined(text, Arrangement(*[nothing_T] * 4, weights_T))

    # ------------------------------------------------------------ patches

    def corners(self, patch: int) -> tuple[int, int]:
        """Rows and columns in which the top left corner of a patch may lie."""
        h, w = self.grid
        return h - patch + 1, w - patch + 1

    def patches(self, corners_N: jax.Array, patch: int) -> tuple[jax.Array, jax.Array]:
        """bool [T]: which codes lie in patches, and which of these predict the one at their right.

        Patches may overlap.
        """
        top_N, left_N = jnp.divmod(corners_N, self.corners(patch)[1])
        row_T, column_T = jnp.divmod(jnp.arange(self.places), self.grid[1])
        down_TN, right_TN = row_T[:, None] - top_N[None], column_T[:, None] - left_N[None]
        within_TN = (down_TN >= 0) & (down_TN < patch) & (right_TN >= 0)
        masked_T = jnp.any(within_TN & (right_TN < patch), axis=1)
        return masked_T, jnp.any(within_TN & (right_TN < patch - 1), axis=1)
