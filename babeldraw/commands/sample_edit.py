"""Inpainting and completion by `babeldraw sample`: flags, and pictures one after another."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from babeldraw.commands.flags import as_flags
from babeldraw.config import require
from babeldraw.data.image import decode
from babeldraw.data.records import BadRecord
from babeldraw.drawing.album import slug
from babeldraw.drawing.canvas import keep_rows, size_of
from babeldraw.drawing.editing import SEAMS, Editing, edit
from babeldraw.drawing.holes import Crop, box_hole, central, lower_hole
from babeldraw.drawing.sampler import Picture, Sampler
from babeldraw.errors import UserError
from babeldraw.evaluation.picture_sets import is_picture
from babeldraw.say import say

# What says which part of a picture is drawn anew, and how it is put back.
WAYS = {
    "mask": "A picture of --image's size, or a folder with one of each name: what is white is "
    "drawn anew.",
    "box": "x0,y0,x1,y1 in pixels of --image: what is inside is drawn anew.",
    "complete": "The upper share of --image that is kept, such as 0.5; of a picture of another "
    "shape than the model's, the middle is taken.",
    "rows": "The same in rows of tokens.",
}
HOW = {
    "seam": "exact: outside the hole every pixel is --image's; blend: that too, and inside it what "
    "was there fades out; decoder: all is as the decoder draws it.",
    "feather": "Pixels over which --seam=blend fades.",
    "scale": "Pixels of --image to one of the model's; none: 1, or more where the hole needs it.",
    "encode_again": "What was filled is encoded and decoded once more, which hides the seam.",
}
NOT_GIVEN = (None, "", [])
# From a file and its picture to what of it is edited, uint8 [H, W, 3], and a mask of that [H, W].
Part = Callable[[epath.Path, np.ndarray], tuple[np.ndarray, np.ndarray]]


def define_editing(values: flags.FlagValues) -> None:
    """The flags of editing."""
    text = "A picture to go on from, or a folder of them; give --mask, --box or --complete too."
    flags.DEFINE_string("image", "", text, flag_values=values)
    flags.DEFINE_string("mask", "", WAYS["mask"], flag_values=values)
    flags.DEFINE_list("box", [], WAYS["box"], flag_values=values)
    flags.DEFINE_float("complete", None, WAYS["complete"], flag_values=values)
    flags.DEFINE_integer("rows", None, WAYS["rows"], flag_values=values)
    flags.DEFINE_enum("seam", Editing.seam, SEAMS, HOW["seam"], flag_values=values)
    flags.DEFINE_integer("feather", Editing.feather, HOW["feather"], flag_values=values)
    flags.DEFINE_float("scale", None, HOW["scale"], flag_values=values)
    flags.DEFINE_boolean("encode_again", False, HOW["encode_again"], flag_values=values)


def check_editing(values: flags.FlagValues) -> None:
    """Raises `UserError` where flags of editing do not go together."""
    ways = [f"--{name}" for name in WAYS if values[name].value not in NOT_GIVEN]
    given = ways + [f"--{name}" for name in HOW if values[name].present]
    require(
        bool(values.image) or not given,
        f"{given and given[0]} says how --image is changed and there is none; give a picture, or a "
        "folder of pictures",
    )
    require(
        not values.image or len(ways) == 1,
        f"--image={values.image} is given with {' and '.join(ways) or 'no hole'}; give one of "
        f"{', '.join(f'--{name}' for name in WAYS)}: what is drawn anew",
    )
    require(
        not values["feather"].present or values.seam == "blend",
        f"--feather={values.feather} is of --seam=blend and the seam is {values.seam}; give that "
        "too, or leave it out",
    )


def recorded_editing(values: flags.FlagValues) -> dict[str, Any]:
    """What the pictures depend on, for the manifest."""
    given = {name: values[name].value for name in ("image", *WAYS, *HOW)}
    return {name: value for name, value in given.items() if values.image and value not in NOT_GIVEN}


class UnreadableError(UserError):
    """A picture that is none."""


@dataclasses.dataclass(frozen=True)
class Edits:
    """Given pictures, each read when it is its turn.

    Attributes:
      files: of each thing that is drawn.
      part: what of a picture is edited.
      editing: how.
    """

    files: Sequence[epath.Path]
    part: Part
    editing: Editing

    @classmethod
    def of(cls, values: flags.FlagValues, sampler: Sampler) -> "Edits | None":
        """What the flags ask for, when every picture was looked at; None: there is no --image.

        Pictures of a folder that cannot be read are left out, and said.

        Raises:
          UserError: there is no picture, or one has a hole that cannot be drawn.
        """
        if not values.image:
            return None
        with as_flags({name: name for name in (*WAYS, *HOW)}):
            editing = Editing(**{name: values[name].value for name in HOW})
            files = _files("image", values.image)
            edits = cls(files, _part(values, sampler), editing)
            if not epath.Path(values.image).is_dir():
                edits._say_scale(sampler)
                return edits
            files = [file for n, file in enumerate(files) if edits._is_read(n, sampler)]
            require(bool(files), f"--image={values.image} has no picture that can be read")
            return dataclasses.replace(edits, files=files)

    def for_each(self, count: int) -> "Edits":
        """The same with so many things of each picture, one after the other."""
        files = [file for file in self.files for _ in range(count)]
        return dataclasses.replace(self, files=files)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the pictures' names, pixels and masks."""
        found = hashlib.sha256()
        for number, file in enumerate(self.files):
            found.update(file.name.encode("utf-8", "surrogateescape"))
            for array in self._read(number):
                found.update(array.tobytes())
        return found.hexdigest()[:16]

    def file_of(self, number: int, picture: Picture) -> str:
        """The name of what was made of picture `number`."""
        of = slug(self.files[number].stem)
        return f"{number:05d}_{of}_{slug(picture.asked.name)}_seed{picture.seed}.png"

    def check(self, sampler: Sampler, *how: Any) -> None:
        """Raises `UserError` where no picture can be drawn so.

        Args:
          sampler: of the run.
          how: as `edit` takes them, from `num` on.
        """
        edit(sampler, (), (), (), *how, self.editing)

    def draw(
        self,
        sampler: Sampler,
        words: Sequence[Any],
        numbers: Sequence[int],
        batch_size: int,
        **how: Any,
    ) -> Iterator[Picture]:
        """Draws pictures by their numbers among `files`, as `editing.edit` does, a few at a time.

        Args:
          sampler: of the run.
          words: of each of these pictures.
          numbers: of the pictures.
          batch_size: pictures at a time, also of those that are held in memory.
          how: the other arguments of `edit`.
        """
        for start in range(0, len(numbers), batch_size):
            part = slice(start, start + batch_size)
            pairs = [self._read(number) for number in numbers[part]]
            images, masks = zip(*pairs, strict=True)
            more = {"batch_size": batch_size, "editing": self.editing, **how}
            yield from edit(sampler, words[part], images, masks, **more)

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What of a picture is edited, and its mask."""
        file = self.files[number]
        return self.part(file, _decoded("image", file, UnreadableError))

    def _crop(self, number: int, sampler: Sampler) -> Crop:
        """What of a picture is drawn. Raises `UserError` where its hole cannot be."""
        try:
            return self.editing.laid(*self._read(number), sampler).crop
        except UnreadableError:
            raise
        except UserError as error:
            raise UserError(f"{self.files[number]}: {error}") from error

    def _is_read(self, number: int, sampler: Sampler) -> bool:
        try:
            self._crop(number, sampler)
        except UnreadableError as error:
            say(f"{error}; it is left out")
            return False
        return True

    def _say_scale(self, sampler: Sampler) -> None:
        crop, size = self._crop(0, sampler), sampler.image_size
        if crop.shape != size:
            say(f"the model draws {size_of(crop.shape)} around the hole, as {size_of(size)}")


def _files(flag: str, given: str) -> list[epath.Path]:
    path = epath.Path(given)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if is_picture(file))
    require(bool(files), f"--{flag}={path} holds no picture; give a folder with some in it")
    return files


def _decoded(flag: str, file: epath.Path, error: type[UserError] = UserError) -> np.ndarray:
    """A picture, uint8 [H, W, 3]. Raises `error` where it is none."""
    try:
        return decode(file, f"--{flag}={file}")
    except BadRecord as reason:
        raise error(f"{reason}; give a picture (PNG, JPEG, WebP)") from reason


# ------------------------------------------------------------------ what of a picture


def _part(values: flags.FlagValues, sampler: Sampler) -> Part:
    if values.mask:
        return _masked(epath.Path(values.mask))
    if values.box:
        return _boxed(values.box)
    if values.complete is not None:
        return _completed(values.complete, sampler)
    kept = keep_rows(values.rows, sampler.drawer.generator.codes)
    more = "nothing is left to draw; give fewer"
    require(not kept.all(), f"rows is {values.rows} and a picture has no more: {more}")
    return _completed(kept.sum() / kept.size, sampler)


def _masked(mask: epath.Path) -> Part:
    # By their names without endings: masks are PNG files where pictures are not.
    there = {file.stem: file for file in _files("mask", str(mask))} if mask.is_dir() else {}

    def part(file: epath.Path, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = there.get(file.stem) if there else mask
        require(own is not None, f"--mask={mask} has no {file.stem}.png; give a mask of each")
        return image, _decoded("mask", own).max(axis=-1)

    return part


def _boxed(words: Sequence[str]) -> Part:
    try:
        x0, y0, x1, y1 = map(int, words)
    except ValueError as error:
        text = ",".join(words)
        raise UserError(f"--box is {text}; four whole numbers x0,y0,x1,y1 are needed") from error
    return lambda file, image: (image, box_hole((x0, y0, x1, y1), image.shape[:2]))


def _completed(share: float, sampler: Sampler) -> Part:
    def part(file: epath.Path, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image = central(picture, sampler.image_size)
        return image, lower_hole(share, image.shape[:2])

    return part
