"""CogLM's three maskings: each example draws whether it is drawn, told or filled in.

Ding et al., "CogView2", 2022, section 3.1, and their code (`pretrain_coglm.py`); what each is,
slot by slot, is in `models.arrangement`. Drawing is that of the next token after a text.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.models.arrangement import PAD, Arrangement, Joint
from babeldraw.models.base import Generator
from babeldraw.prediction.base import Given, Metrics
from babeldraw.prediction.logits import SamplingConfig, Settings
from babeldraw.prediction.next_token import NextToken

# What an example's key is folded with to draw its masking: no number of a layer.
MASKING = (1 << 30) + 3
# Spans of a text longer than this have no chance worth counting: of a mean of 3 some 1e-6.
LONGEST = 15


@dataclasses.dataclass(frozen=True)
class Odds:
    """How often each masking is drawn, by weight; 0: never.

    Attributes:
      text_to_image, image_to_text: 0.7 and 0.3 in CogView2's code, of pairs.
      text: of spans; in CogView2 the rows without a picture have it, whose share is not published.
    """

    text_to_image: float = 0.7
    image_to_text: float = 0.3
    text: float = 0.0

    def __post_init__(self):
        path, odds = "config.prediction.odds", dataclasses.asdict(self)
        for name, value in odds.items():
            require(
                0 <= value < math.inf, f"{path}.{name} is {value}; a weight of at least 0 is needed"
            )
        require(
            sum(odds.values()) > 0,
            f"{path} are all 0; at least one of {', '.join(odds)} must be more",
        )

    @property
    def logs(self) -> np.ndarray:
        """float32 [3], in the order of the fields."""
        with np.errstate(divide="ignore"):
            return np.log(np.array(dataclasses.astuple(self), np.float32))


@dataclasses.dataclass(frozen=True)
class CogLMSampling(SamplingConfig):
    """Attributes:
    text_weight: is added to attention's logits at the text's columns; 1.4 in CogView2, where less
      than 3 is called harmless. 0: nothing.
    """

    text_weight: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        require(
            math.isfinite(self.text_weight),
            f"text_weight is {self.text_weight}; a finite number is needed",
        )

    def traced(self) -> "CogLMSettings":
        own = vars(super().traced())
        return CogLMSettings(**own, text_weight=jnp.float32(self.text_weight))


@flax.struct.dataclass
class CogLMSettings(Settings):
    """`CogLMSampling` as scalars that a compiled loop takes as arguments."""

    text_weight: jax.Array


@dataclasses.dataclass(frozen=True)
class CogLMPrediction(NextToken):
    """A code or a piece from what its example's masking lets it see.

    Attributes:
      odds: of the three maskings.
      patch: side of the square patches of codes that image to text hides.
      patched: share of a picture's codes that these would be if none lay on another; 0.8 in
        CogView2's code, at least one patch.
      span: mean of the Poisson distribution of spans' lengths, of which 0 counts as 1.
      spanned: most of a text's pieces that are predicted, a share.
    """

    odds: Odds = Odds()
    patch: int = 4
    patched: float = 0.8
    span: float = 3.0
    spanned: float = 0.15
    kind: str = "coglm"
    needs = (*NextToken.needs, "arranged_nll", "start_weighted")
    sampling = CogLMSampling

    def __post_init__(self):
        path = "config.prediction"
        require(
            self.noise == 0,
            f"{path}.noise is {self.noise}; only kind=next_token can, take 0",
        )
        require(self.patch >= 2, f"{path}.patch is {self.patch}; at least 2 is needed")
        for name in ("patched", "spanned"):
            share = getattr(self, name)
            require(0 < share <= 1, f"{path}.{name} is {share}; a share in (0, 1] is needed")
        require(0 < self.span < math.inf, f"{path}.span is {self.span}; more than 0 is needed")

    def check(self, generator: Generator) -> None:
        super().check(generator)
        h, w = generator.joint.grid
        require(
            self.patch <= min(h, w) or self.odds.image_to_text == 0,
            f"config.prediction.patch is {self.patch} and a picture has {h} x {w} codes; take a "
            "smaller patch, or odds.image_to_text=0",
        )

    def loss(
        self,
        generator: Generator,
        params: Any,
        condition: Any,
        codes: jax.Array,
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy over all that the batch predicts, codes and pieces alike.

        Metrics: `image` and `text`, the same of codes and of pieces alone (0 where a batch has
        none); `accuracy`.
        """
        del step
        arranged = jax.vmap(functools.partial(self.arranged, generator.joint))
        arrangement = arranged(condition, codes, keys)
        nll_BL, right_BL = generator.arranged_nll(params, arrangement, keys)
        weights_BL = arrangement.weights
        of_text_BL = jnp.where(arrangement.targets >= generator.joint.codes, weights_BL, 0.0)
        metrics = {
            "loss": weighted_mean(nll_BL, weights_BL),
            "image": weighted_mean(nll_BL, weights_BL - of_text_BL),
            "text": weighted_mean(nll_BL, of_text_BL),
            "accuracy": weighted_mean(right_BL.astype(jnp.float32), weights_BL),
        }
        return metrics["loss"], metrics

    def arranged(
        self, joint: Joint, text_S: jax.Array, codes_T: jax.Array, key: jax.Array
    ) -> Arrangement:
        """One example as the masking that its key draws lays it out."""
        which_key, place_key = jax.random.split(jax.random.fold_in(key, MASKING))
        which = jax.random.categorical(which_key, jnp.asarray(self.odds.logs))
        all_three = (
            joint.text_to_image(text_S, codes_T),
            joint.image_to_text(text_S, codes_T, self.corners(joint, place_key), self.patch),
            joint.text_spans(text_S, *self.spans(text_S, place_key)),
        )
        return jax.tree.map(lambda *arrays: jnp.stack(arrays)[which], *all_three)

    def corners(self, joint: Joint, key: jax.Array) -> jax.Array:
        """int32 [N]: top left corners of patches, each at most once, all of them alike.

        CogView2's code never draws the last row and column of corners; then the last row and
        column of codes would never be filled in.
        """
        rows, columns = joint.corners(min(self.patch, *joint.grid))
        wanted = int(self.patched * joint.places / self.patch**2)
        count = min(max(wanted, 1), rows * columns)
        return jax.random.permutation(key, rows * columns)[:count].astype(jnp.int32)

    def spans(self, text_S: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """First pieces and sizes of spans, int32 [N] each; see `Joint.text_spans`.

        Sizes are drawn until they are the share of the text's pieces, at least one piece; the last
        is cut to fit, those behind it are 0. First pieces are each drawn at most once.
        """
        size_key, first_key = jax.random.split(key)
        most = max(1, math.ceil(self.spanned * text_S.shape[0]))
        count = jnp.sum(text_S != PAD)
        wanted = jnp.maximum((self.spanned * count.astype(jnp.float32)).astype(jnp.int32), 1)
        uniform_N = jax.random.uniform(size_key, (most,))
        sizes_N = jnp.searchsorted(jnp.asarray(poisson_shares(self.span)), uniform_N)
        sizes_N = jnp.clip(sizes_N, 1, LONGEST).astype(jnp.int32)
        left_N = wanted - (jnp.cumsum(sizes_N) - sizes_N)
        order_S = jax.random.uniform(first_key, text_S.shape)
        # The last piece is before none.
        order_S = jnp.where(jnp.arange(text_S.shape[0]) < count - 1, order_S, jnp.inf)
        firsts_N = jnp.argsort(order_S)[:most].astype(jnp.int32)
        return firsts_N, jnp.clip(sizes_N, 0, jnp.maximum(left_N, 0))

    def begun(
        self,
        generator: Generator,
        params: Any,
        read: Any,
        samples: int,
        settings: Settings,
        given: Given | None,
    ) -> Any:
        """A hole is filled with a look at all that is kept, whichever side it lies on."""
        if given is None:
            return generator.start_weighted(params, read, samples, settings.text_weight)
        copies = jax.tree.leaves(read)[0].shape[0] * samples // given.kept.shape[0]
        codes, kept = (jnp.concatenate([a] * copies) for a in (given.codes, given.kept))
        return generator.start_weighted(params, read, samples, settings.text_weight, codes, kept)


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """float32 []; 0 where all weights are."""
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1e-6)


def poisson_shares(mean: float) -> np.ndarray:
    """float32 [LONGEST]: the chance of at most 0, 1, ... by a Poisson distribution."""
    chances = [math.exp(-mean) * mean**n / math.factorial(n) for n in range(LONGEST)]
    return np.cumsum(chances).astype(np.float32)
