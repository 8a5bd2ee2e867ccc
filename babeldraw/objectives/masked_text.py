"""Masked language modelling: which pieces of a text are asked for, and what is read in their place.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
2019, section 3.1: 15 % of the pieces, of which 80 % are read as a mask, 10 % as a random piece and
10 % as they are.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.data.text import PAD_ID, UNKNOWN_ID
from babeldraw.layers.dropout import fold
from babeldraw.prediction.masking import ranks

# Of the chosen pieces.
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
# Ids that stand for no piece of a text.
SPECIAL = max(PAD_ID, UNKNOWN_ID) + 1


@flax.struct.dataclass
class MaskedText:
    """Texts of S pieces with K places that are asked for.

    Attributes:
      read_BS: int32, the pieces as they are read, random ones among them.
      hidden_BS: bool, where the mask is read.
      places_BK: int32, the places; a text of few pieces has fewer, and padding fills the rest.
      asked_BK: bool, which of them are asked for.
    """

    read_BS: jax.Array
    hidden_BS: jax.Array
    places_BK: jax.Array
    asked_BK: jax.Array


def mask_pieces(
    text_BS: jax.Array, keys_B: jax.Array, vocab_size: int, share: float = 0.15
) -> MaskedText:
    """Chooses pieces of each text, never padding.

    As in BERT's code their number is the share of the text's pieces, rounded, and at least one;
    which they are, and what is read there, are drawn for each text by its own key.

    Args:
      text_BS: int32, zero is padding.
      keys_B: one per text.
      vocab_size: above `SPECIAL`; random pieces are any but padding and the unknown one.
      share: in (0, 1].
    """
    length = text_BS.shape[1]
    counts = np.array([0, *(max(1, round(share * n)) for n in range(1, length + 1))], np.int32)
    choice_BS = _uniform(fold(keys_B, 0), length)
    # Padding stands behind all pieces.
    rank_BS = ranks(jnp.where(text_BS == PAD_ID, 2.0, choice_BS))
    count_B = jnp.asarray(counts)[jnp.sum(text_BS != PAD_ID, axis=1)]
    chosen_BS = rank_BS < count_B[:, None]
    places_BK = jnp.argsort(rank_BS, axis=1)[:, : counts[-1]]
    asked_BK = jnp.arange(counts[-1])[None] < count_B[:, None]

    way_BS = _uniform(fold(keys_B, 1), length)
    random_BS = jax.vmap(lambda key: jax.random.randint(key, (length,), SPECIAL, vocab_size))(
        fold(keys_B, 2)
    )
    replaced_BS = chosen_BS & (way_BS >= MASKED_SHARE) & (way_BS < MASKED_SHARE + RANDOM_SHARE)
    return MaskedText(
        read_BS=jnp.where(replaced_BS, random_BS, text_BS),
        hidden_BS=chosen_BS & (way_BS < MASKED_SHARE),
        places_BK=places_BK,
        asked_BK=asked_BK,
    )


def _uniform(keys_B: jax.Array, length: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys_B)
