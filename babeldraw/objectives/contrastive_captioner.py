"""CoCa's two losses: which text belongs to which picture, and what the text says.

Yu et al., "CoCa: Contrastive Captioners are Image-Text Foundation Models", 2022, section 3.2:
L = lambda_con L_con + lambda_cap L_cap, with weights 1 and 2 (section 4.1).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.dropout import example_keys
from babeldraw.models.coca import CoCaConfig, ContrastiveCaptioner
from babeldraw.models.head import token_nll
from babeldraw.objectives.base import Batch, Metrics, TrainState
from babeldraw.objectives.one_network import OneNetwork
from babeldraw.prediction.next_token import up_to_end
from babeldraw.sharding.constraint import constrain
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class ContrastiveCaptionerLossConfig:
    """Attributes:
    contrastive, captioning: weights; 1 and 2 in the paper.
    min_temperature: the learned temperature is held above; 0.01 is CLIP's, "to prevent training
      instability" (Radford et al. 2021, section 2.5).
    """

    contrastive: float = 1.0
    captioning: float = 2.0
    min_temperature: float = 0.01

    def __post_init__(self):
        for name in ("contrastive", "captioning"):
            value = getattr(self, name)
            require(value >= 0, f"config.loss.{name} is {value}; a weight of at least 0 is needed")
        require(
            self.contrastive + self.captioning > 0,
            "config.loss.contrastive and captioning are both 0; there is nothing to learn",
        )
        require(
            self.min_temperature > 0,
            f"config.loss.min_temperature is {self.min_temperature}; a positive number is needed",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveCaptionerObjective(OneNetwork):
    """Attributes:
    model: the network to train.
    loss: its constants. An example is a pair, which is told from all the others of its batch.
    """

    model: CoCaConfig
    loss: ContrastiveCaptionerLossConfig

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        image = (self.batch_size, *self.model.image_size, 3)
        text = (self.batch_size, self.model.text_length)
        return {
            "image": jax.ShapeDtypeStruct(image, jnp.uint8),
            "text": jax.ShapeDtypeStruct(text, jnp.int32),
        }

    def _loss(self, params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        images = constrain(to_float(batch["image"]), ("batch", None, None, None))
        text_BS, keys = batch["text"], example_keys(key, self.batch_size)
        found = self._network(params, images, text_BS, keys)
        temperature = jnp.maximum(found.temperature, self.loss.min_temperature)
        contrastive, accuracy = contrastive_loss(found.image_BQ, found.text_BQ, temperature)
        captioning = jnp.mean(caption_losses(found.logits_BSV, text_BS))
        loss = self.loss.contrastive * contrastive + self.loss.captioning * captioning
        return loss, {
            "loss": loss,
            "contrastive": contrastive,
            "captioning": captioning,
            "accuracy": accuracy,
            "temperature": temperature,
        }

    def predict_fns(self) -> dict[str, Callable]:
        def embed(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
            """Embeddings of pictures and of texts, each float32 [B, Q] of length one."""
            images = to_float(batch["image"])
            image_BQ = self._network.embed_images(state.params, images)
            return image_BQ, self._network.embed_text(state.params, batch["text"])

        def loss(state: TrainState, batch: Batch) -> jax.Array:
            """The captioning loss of each example, float32 [B]."""
            found = self._network(state.params, to_float(batch["image"]), batch["text"])
            return caption_losses(found.logits_BSV, batch["text"])

        return {"embed": embed, "loss": loss}

    @functools.cached_property
    def _network(self) -> ContrastiveCaptioner:
        return ContrastiveCaptioner(self.model)


def contrastive_loss(
    image_BQ: jax.Array, text_BQ: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """L_con: cross-entropy of each picture's own text plus that of each text's own picture.

    Equation 2 of the paper, which sums both directions; each is a mean over the whole batch, on
    however many devices it lies. A device holds the similarities of its own pictures to all texts,
    [B / devices, B]: texts are gathered, the other direction's normaliser is summed over devices.

    Args:
      image_BQ, text_BQ: embeddings of length one; row i of one belongs to row i of the other.
      temperature: float32 scalar.

    Returns:
      The loss, and the share of pictures whose own text is the nearest.
    """
    image_BQ, text_BQ = constrain(image_BQ, ("batch", None)), constrain(text_BQ, ("batch", None))
    # Not the diagonal of all similarities: to read it, each device would gather the others' rows.
    own_B = jnp.einsum("BQ,BQ->B", image_BQ, text_BQ) / temperature
    text_EQ = constrain(text_BQ, (None, None))
    similarity_BE = constrain(jnp.einsum("BQ,EQ->BE", image_BQ, text_EQ), ("batch", None))
    logits_BB = similarity_BE / temperature
    to_text_B = jax.nn.logsumexp(logits_BB, axis=1) - own_B
    to_image_B = jax.nn.logsumexp(logits_BB, axis=0) - own_B
    nearest_B = jnp.argmax(logits_BB, axis=1) == jnp.arange(own_B.shape[0])
    return jnp.mean(to_text_B) + jnp.mean(to_image_B), jnp.mean(nearest_B)


def caption_losses(logits_BSV: jax.Array, text_BS: jax.Array) -> jax.Array:
    """L_cap, float32 [B]: -log p of the text's tokens and its end, the mean over them.

    The first padding after a text stands for its end; a text that fills all S has none.
    """
    return jnp.mean(token_nll(logits_BSV, text_BS), axis=1, where=up_to_end(text_BS, end=0))
