"""What is drawn from: the codes of the same picture at another level of the run's tokenizer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import center_crop
from babeldraw.layers.pictures import downsample
from babeldraw.layers.positions import LearnedPositions
from babeldraw.models.condition import Asked, Condition, Lexicon
from babeldraw.models.head import CodeEmbedding
from babeldraw.tokenizers.base import Codes, Tokenizer
from babeldraw.tokenizers.pixels import CHANNELS, to_float


@dataclasses.dataclass(frozen=True)
class CodesCondition(Condition):
    """int32 [B, S]: codes of a smaller picture, of which the network draws a larger one.

    In training they are made of the batch's pictures by the run's frozen tokenizer, after each cell
    of pixels has become its mean.

    Attributes:
      level: of the tokenizer, such as 8 of a hierarchy.
      tokenizer: at that level; a run gives its own, see `bound`.
    """

    level: str = ""
    kind: str = "codes"
    tokenizer: Tokenizer | None = None
    in_words = False

    def __post_init__(self):
        require(
            bool(self.level),
            "config.condition.level is empty; name the level of the tokenizer that is drawn from",
        )

    def bound(self, make: Callable[[], Tokenizer]) -> "CodesCondition":
        tokenizer = make().at(self.level)
        require(
            bool(tokenizer.codes.vocab) and len(tokenizer.codes.shape) == 2,
            "config.tokenizer's codes are continuous or no grid; config.condition.kind=codes draws "
            "from a grid of numbers",
        )
        return dataclasses.replace(self, tokenizer=tokenizer)

    @property
    def codes(self) -> Codes:
        """What is drawn from."""
        return self.tokenizer.codes

    @property
    def needs(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer}

    def spec(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Nothing beside the pictures that are there anyway."""
        return {}

    def of_batch(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        return batch["image"]

    def example(self, rows: int) -> jax.Array:
        return jnp.zeros((rows, *self.codes.each), jnp.int32)

    def encoded(self, frozen: Mapping[str, Any], said: jax.Array) -> jax.Array:
        """Codes, of pictures [B, H, W, 3] whose size the level's divides; of codes themselves."""
        if said.ndim != 4:
            return said
        (height, width), size = self.tokenizer.image_size, said.shape[1:3]
        times = size[0] // height
        require(
            times > 0 and size == (times * height, times * width),
            f"the pictures are {size[1]} x {size[0]} px and config.condition.level={self.level} "
            f"has {width} x {height} px, which do not divide them; take sizes of a whole factor",
        )
        images = to_float(said)
        images = downsample(images, times) if times > 1 else images
        return self.tokenizer.encode(frozen["tokenizer"], images)

    def nothing(self, like: jax.Array) -> jax.Array:
        return jnp.zeros_like(like)

    def prefix(self, dim: int, name: str | None = None) -> nn.Module:
        return CodesPrefix(self.codes, dim, name=name)

    @property
    def prefix_length(self) -> int:
        return self.codes.length

    @property
    def drawn_from(self) -> str:
        return "a smaller picture's codes"

    def ask(self, words: np.ndarray, lexicon: Lexicon) -> Asked:
        """`words` are codes, int32 [S], or a picture, uint8 [H, W, 3], of which the centre is cut.

        Raises:
          UserError: neither, codes of another number or that there are not, or a picture smaller
            than the level's.
        """
        require(
            isinstance(words, np.ndarray),
            f"{str(words)[:60]!r} is given and level {self.level} reads an array: codes "
            f"{list(self.codes.each)}, or a picture, uint8 [height, width, 3]",
        )
        if words.ndim == 3:
            return Asked("a picture", self._cut(words))
        require(
            words.shape == self.codes.each,
            f"codes of the shape {words.shape} are given and level {self.level} has "
            f"{self.codes.each}",
        )
        entries = self.codes.vocab
        require(
            words.dtype.kind in "iu" and words.min() >= 0 and bool(np.all(words < entries)),
            f"codes are given, {words.dtype} from {words.min()} to {words.max()}, and level "
            f"{self.level} has whole numbers from 0 to below {' and '.join(map(str, entries))}",
        )
        return Asked("codes", words.astype(np.int32))

    def _cut(self, picture: np.ndarray) -> np.ndarray:
        """The centre of a picture, in the size that the level reads."""
        size = self.tokenizer.image_size
        require(
            picture.dtype == np.uint8 and picture.shape[2] == CHANNELS,
            f"the picture is {picture.dtype} {list(picture.shape)}; uint8 [height, width, 3] is "
            "needed",
        )
        require(
            picture.shape[0] >= size[0] and picture.shape[1] >= size[1],
            f"the picture is {picture.shape[1]} x {picture.shape[0]} px, smaller than the crop of "
            f"{size[1]} x {size[0]} px that level {self.level} reads; give a larger one",
        )
        return center_crop(picture, size)

    def asked_by(self, said: Mapping[str, Sequence[str]], lexicon: Lexicon) -> list[Any]:
        """Raises `UserError`: words say no codes."""
        del said, lexicon
        require(
            False,
            f"the run makes larger what stands in codes of level {self.level}, which no words say; "
            "draw with a run of these and name this one in its `babeldraw sample "
            "--super_resolution`",
        )
        return []

    def first(self, count: int, captions: Sequence[str]) -> list[Any]:
        """Raises `UserError`: there are none without pictures."""
        require(False, "what is drawn from codes needs a picture for each; say which")
        return []


class CodesPrefix(nn.Module):
    """int32 [B, S] -> float32 [B, S, D]: codes plus positions."""

    codes: Codes
    dim: int

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        positions_SD = LearnedPositions(self.codes.length, self.dim, name="positions")()
        return CodeEmbedding(self.codes, self.dim, name="embed")(codes) + positions_SD[None]
