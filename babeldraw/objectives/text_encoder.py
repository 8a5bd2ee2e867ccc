"""A text encoder learns before it is given pictures to draw.

From texts by masked language modelling (BERT), from pairs by which text belongs to which picture
(CLIP), or from both: Parti, section 2.3. A generator then begins from it, by `starts`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.dropout import example_keys, fold
from babeldraw.models.conditions import TextCondition
from babeldraw.models.head import token_nll
from babeldraw.models.text_pretraining import TextPretrainer, TextPretrainingConfig
from babeldraw.objectives.base import Batch, Metrics, TrainState
from babeldraw.objectives.contrastive_captioner import contrastive_loss
from babeldraw.objectives.masked_text import MaskedText, mask_pieces
from babeldraw.objectives.one_network import OneNetwork
from babeldraw.sharding.constraint import constrain
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class TextEncoderLossConfig:
    """Attributes:
    masked, contrastive: weights; what has none has no network either. Not published for Parti.
    share: of a text's pieces that are asked for; 0.15 in BERT.
    min_temperature: the learned temperature is held above; 0.01 is CLIP's.
    """

    masked: float = 1.0
    contrastive: float = 1.0
    share: float = 0.15
    min_temperature: float = 0.01

    def __post_init__(self):
        for name in ("masked", "contrastive"):
            value = getattr(self, name)
            require(
                0 <= value < math.inf,
                f"config.loss.{name} is {value}; a weight of at least 0, and finite, is needed",
            )
        require(
            self.masked + self.contrastive > 0,
            "config.loss.masked and contrastive are both 0; there is nothing to learn",
        )
        require(
            0 < self.share <= 1,
            f"config.loss.share is {self.share}; a share above 0 and at most 1 is needed",
        )
        require(
            self.min_temperature > 0,
            f"config.loss.min_temperature is {self.min_temperature}; a positive number is needed",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderObjective(OneNetwork):
    """Attributes:
    model, condition: the network, and the texts that it reads.
    loss: its constants. An example is a text, a pair, or both.
    own_texts: the texts to mask come beside the pairs, as `masked_text`, and are not theirs.
    """

    model: TextPretrainingConfig
    condition: TextCondition
    loss: TextEncoderLossConfig
    own_texts: bool = False

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        text = jax.ShapeDtypeStruct((self.batch_size, self.condition.length), jnp.int32)
        found = {"text": text}
        if self.loss.contrastive:
            image = (self.batch_size, *self.model.image_size, 3)
            found["image"] = jax.ShapeDtypeStruct(image, jnp.uint8)
        return {**found, "masked_text": text} if self.own_texts else found

    def _loss(self, params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        keys, loss, metrics = example_keys(key, self.batch_size), jnp.zeros(()), {}
        if self.loss.masked:
            text_BS = batch["masked_text" if self.own_texts else "text"]
            found = self._masked(params, text_BS, fold(keys, 0), fold(keys, 1))
            masked, accuracy = (mean_asked(values, found[-1]) for values in found[:-1])
            loss = loss + self.loss.masked * masked
            metrics |= {"masked": masked, "masked_accuracy": accuracy}
        if self.loss.contrastive:
            images = constrain(to_float(batch["image"]), ("batch", None, None, None))
            *pair, learned = self._network.pair(params, images, batch["text"], fold(keys, 2))
            temperature = jnp.maximum(learned, self.loss.min_temperature)
            contrastive, accuracy = contrastive_loss(*pair, temperature)
            loss = loss + self.loss.contrastive * contrastive
            metrics |= {
                "contrastive": contrastive,
                "accuracy": accuracy,
                "temperature": temperature,
            }
        return loss, {"loss": loss, **metrics}

    def _masked(
        self, params: Any, text_BS: jax.Array, mask_keys: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of K places: -log p of the piece there and whether it is the likeliest, float32 [B, K].

        And whether it is asked for, bool [B, K].
        """
        masked: MaskedText = mask_pieces(
            text_BS, mask_keys, self.condition.vocab_size, self.loss.share
        )
        logits_BKV = self._network.piece_logits(
            params, masked.read_BS, masked.hidden_BS, masked.places_BK, keys
        )
        own_BK = jnp.take_along_axis(text_BS, masked.places_BK, axis=1)
        right_BK = jnp.argmax(logits_BKV, axis=-1) == own_BK
        return token_nll(logits_BKV, own_BK), right_BK.astype(jnp.float32), masked.asked_BK

    def predict_fns(self) -> dict[str, Callable]:
        def loss(state: TrainState, batch: Batch) -> jax.Array:
            """-log p of masked pieces, the mean over each text's, float32 [B].

            Which are masked hangs on a text's place in its batch alone.
            """
            keys = example_keys(jax.random.key(0), batch["text"].shape[0])
            nll_BK, _, asked_BK = self._masked(state.params, batch["text"], keys)
            return mean_asked(nll_BK, asked_BK, axis=1)

        def embed(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
            """Embeddings of pictures and of texts, each float32 [B, Q] of length one."""
            images = to_float(batch["image"])
            return self._network.pair(state.params, images, batch["text"])[:2]

        def text_features(state: TrainState, batch: Batch) -> jax.Array:
            """The mean of the encoder's output over a text's pieces, float32 [B, D]."""
            return self._network.text_features(state.params, batch["text"])

        found = {"text_features": text_features}
        found |= {"loss": loss} if self.loss.masked else {}
        return {**found, "embed": embed} if self.loss.contrastive else found

    @functools.cached_property
    def _network(self) -> TextPretrainer:
        masked, contrastive = self.loss.masked > 0, self.loss.contrastive > 0
        return TextPretrainer(self.model, self.condition, masked, contrastive)


def mean_asked(values_BK: jax.Array, asked_BK: jax.Array, axis: int | None = None) -> jax.Array:
    """The mean over the places that are asked for, of all or of each text; 0 without any."""
    count = jnp.maximum(jnp.sum(asked_BK, axis=axis, dtype=jnp.float32), 1)
    return jnp.sum(values_BK, axis=axis, where=asked_BK) / count
