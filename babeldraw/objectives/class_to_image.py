"""VIM's recipe: next-token prediction of image tokens from a class, or from nothing.

Yu et al., "Vector-quantized Image Modeling with Improved VQGAN", ICLR 2022, section 4. Pictures are
augmented first and made tokens by the frozen tokenizer afterwards, inside the step.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.models.vim import Generator, VIMConfig
from babeldraw.objectives.base import Batch, TrainState
from babeldraw.objectives.next_token import NextTokenObjective


@dataclasses.dataclass(frozen=True)
class ClassToImageLossConfig:
    """Attributes:
    class_dropout: share of classes replaced by the no-class, which teaches the unconditional branch
      of classifier-free guidance. 0 in the paper, which samples without guidance.
    """

    class_dropout: float = 0.0

    def __post_init__(self):
        require(
            0 <= self.class_dropout <= 1,
            f"config.loss.class_dropout is {self.class_dropout}; a share in [0, 1] is needed",
        )


@dataclasses.dataclass(frozen=True)
class ClassToImageObjective(NextTokenObjective):
    """`model` is a `VIMConfig`; without classes it is trained unconditionally.

    A batch holds `label` int32 [B], and `image` [B, height, width, 3] or `tokens` int32 [B, T]. A
    record without a label, -1, trains the no-class.
    """

    model: VIMConfig

    def predict_fns(self) -> dict[str, Callable]:
        def features(state: TrainState, batch: Batch) -> jax.Array:
            """Of every block, float32 [B, L + 1, D]; the class is not told."""
            tokens_BT = self._tokens(state.frozen, batch)
            class_B = jnp.full(tokens_BT.shape[:1], self.model.num_classes, jnp.int32)
            return self._generator.features(state.params, class_B, tokens_BT)

        return {**super().predict_fns(), "features": features}

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator(self.model, self._tokenizer.codes)

    @property
    def _dropped_share(self) -> float:
        return self.loss.class_dropout

    @property
    def _guided(self) -> bool:
        # The no-class has been trained where classes are dropped, and only there.
        return self.loss.class_dropout > 0

    def _condition_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {"label": jax.ShapeDtypeStruct((self.batch_size,), jnp.int32)}

    def _condition(self, batch: Batch) -> jax.Array:
        label_B, count = batch["label"], self.model.num_classes
        return jnp.where((label_B >= 0) & (label_B < count), label_B, count)
