"""Pictures of any size with a part drawn anew: the Python interface of `babeldraw sample --mask`.

The model draws its square around the hole, and the drawn part is put back into the picture. What is
kept are the picture's own pixels, not what the decoder makes of their codes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from babeldraw.config import require, require_choice
from babeldraw.data.image import resize
from babeldraw.drawing.canvas import Canvas, as_mask, keep_untouched
from babeldraw.drawing.holes import Crop, crop_around, put_back, weights_inside
from babeldraw.drawing.sampler import Picture, Sampler

SEAMS = ("exact", "blend", "decoder")


@dataclasses.dataclass(frozen=True)
class Editing:
    """How a hole is drawn and put back.

    Attributes:
      seam: `exact`: what is drawn fills the hole, and every pixel outside it is the picture's own.
        `blend`: likewise, and inside the hole, over `feather` pixels from its rim, the picture's
        own pixels fade into the drawn ones; they must be worth it, so not where the hole cuts
        through what is to go. `decoder`: all that the model drew is put back, what the decoder
        makes of kept codes too; only what lies outside the square is the picture's own.
      feather: pixels of the picture over which `blend` fades.
      scale: pixels of the picture to one of the model's; see `holes.crop_around`. A scale of more
        than 1 shows the model more of what is around, in less detail; one below 1 the reverse.
      encode_again: the filled square is encoded and decoded once more, and what the decoder makes
        of it is put back: the encoder then sees the kept pixels and the drawn ones side by side,
        which hides the seam, and softens what was drawn. CogView2's completion does so with the
        whole picture, kept parts too. No code is drawn anew.
    """

    seam: str = "exact"
    feather: int = 4
    scale: float | None = None
    encode_again: bool = False

    def __post_init__(self):
        require_choice(self, "seam", SEAMS)
        require(self.feather >= 1, f"feather is {self.feather}; at least 1 is needed")

    def laid(self, image: np.ndarray, mask: np.ndarray, sampler: Sampler) -> "Hole":
        """What of a picture is drawn. For arguments and errors see `edit`."""
        require(
            sampler.cascade is None,
            "a part of a picture is drawn in codes of the small size and a cascade makes all of "
            "them anew; leave super-resolution by codes out",
        )
        require(
            image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3,
            f"the picture is {image.dtype} {list(image.shape)}; uint8 [height, width, 3] is needed",
        )
        masked = as_mask(mask, image.shape[:2])
        crop = crop_around(masked, sampler.image_size, self.scale)
        kept = keep_untouched(crop.of(masked), sampler.drawer.generator.codes)
        return Hole(image, masked, crop, kept)


@dataclasses.dataclass(frozen=True)
class Hole:
    """A picture and what of it is drawn.

    Attributes:
      image: uint8 [H, W, 3].
      masked: bool [H, W], what is drawn anew.
      crop: what the model sees and draws.
      kept: bool [T], the codes of the crop that stay.
    """

    image: np.ndarray
    masked: np.ndarray
    crop: Crop
    kept: np.ndarray

    def filled(self, drawn: np.ndarray, editing: Editing) -> np.ndarray:
        """The picture with what the model drew, uint8 [h, w, 3] of any size, put back."""
        if editing.seam == "decoder":
            return put_back(self.image, self.crop, drawn, None)
        feather = editing.feather if editing.seam == "blend" else 0
        return put_back(self.image, self.crop, drawn, weights_inside(self.masked, feather))


EXACT = Editing()


def edit(
    sampler: Sampler,
    words: Sequence[Any],
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    num: int = 1,
    seed: int | Sequence[int] = 0,
    settings: Any = None,
    batch_size: int = 16,
    keep: int | None = None,
    editing: Editing = EXACT,
) -> Iterator[Picture]:
    """Draws holes in pictures anew, `num` times each, in order.

        image, mask = np.array(Image.open("a.png").convert("RGB")), np.zeros((480, 640), bool)
        mask[100:200, 300:420] = True
        for picture in edit(sampler, ["a red circle"], [image], [mask], num=4):
            picture.image       # uint8 [480, 640, 3]; outside the mask equal to `image`

    A code is drawn where the mask touches its patch, from the words and the codes that are kept;
    which of these it sees is the prediction's: see `drawing.canvas`. A mask of all is allowed: that
    is drawing. A picture does not depend on those beside it, but for the rounding of a level.

    Args:
      sampler: the run.
      words: of each picture, for what its square shall show: see `Sampler.sample`.
      images: uint8 [H, W, 3], one for each of the words, each of its own size.
      masks: [H, W] of each picture: what is true or above 127 is drawn anew.
      num, seed, settings, batch_size, keep: see `Sampler.sample`; a judge sees the square as the
        decoder draws it.
      editing: how holes are drawn and put back.

    Returns:
      Pictures of the size of those that were given; `tokens` are the square's.

    Raises:
      UserError: a mask of another size than its picture, or without a hole; a picture smaller than
        the model's square; a hole that fits no square; a tokenizer without a grid of codes; a
        cascade; and what `Sampler.sample` raises.
    """
    require(
        len(words) == len(images) == len(masks),
        f"words, images and masks are {len(words)}, {len(images)} and {len(masks)}; give one of "
        "each for each picture",
    )
    holes = [editing.laid(*pair, sampler) for pair in zip(images, masks, strict=True)]
    canvases = [Canvas(_encoded(sampler, hole, hole.image), hole.kept) for hole in holes]
    drawn = sampler.sample(words, num, seed, settings, batch_size, canvases, keep)
    return _filled(sampler, holes, drawn, keep or num, editing)


def _encoded(sampler: Sampler, hole: Hole, image: np.ndarray) -> np.ndarray:
    """The codes of a picture where the hole's crop is."""
    return sampler.drawer.encode(resize(hole.crop.of(image), sampler.image_size))


def _filled(
    sampler: Sampler, holes: Sequence[Hole], drawn: Iterator[Picture], each: int, editing: Editing
) -> Iterator[Picture]:
    for number, picture in enumerate(drawn):
        hole = holes[number // each]
        image = hole.filled(picture.image, editing)
        if editing.encode_again:
            codes = _encoded(sampler, hole, image)
            again = sampler.drawer.pixels(codes[None], [picture.asked.row])
            image = hole.filled(again[0], editing)
        yield dataclasses.replace(picture, image=image)
