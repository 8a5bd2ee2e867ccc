"""Several views of one picture, made codes once and drawn from in training: ten crops.

The four corners and the centre of a picture resized to 1.1 of the wanted size, and the same
mirrored: what LlamaGen (Sun et al., 2024) and RAR (Yu et al., 2024) train on. LlamaGen stores a
second ten at 1.05; here is one scale. The centre is the first: what evaluation sees.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from babeldraw.data.image import center_crop
from babeldraw.data.records import BadRecord, Record
from babeldraw.errors import UserError

# How many views a record may have.
VIEWS = (1, 10)
FRAME_SCALE = 1.1


def check_views(views: int, name: str) -> None:
    """Raises UserError for a number of views that there is not; the user calls it `name`."""
    if views not in VIEWS:
        raise UserError(
            f"{name} is {views}; 1 or 10 is needed: corners and centre, mirrored and not"
        )


def frame_size(size: tuple[int, int], views: int) -> tuple[int, int]:
    """(h, w) that a picture is brought to, of which views of `size` are cut."""
    return size if views == 1 else (int(FRAME_SCALE * size[0]), int(FRAME_SCALE * size[1]))


def framed(record: Record, size: tuple[int, int], views: int, where: str) -> Record:
    """The record with its picture cut and resized to the frame.

    Raises:
        BadRecord: several views are wanted of a picture that would have to be enlarged.
    """
    frame, shape = frame_size(size, views), record.image.shape[:2]
    if views > 1 and (shape[0] < frame[0] or shape[1] < frame[1]):
        raise BadRecord(
            where,
            f"a picture of {shape[1]} x {shape[0]} is smaller than the {frame[1]} x {frame[0]} "
            f"that {views} views are cut from; store it with one view",
        )
    return dataclasses.replace(record, image=center_crop(record.image, frame))


def cut_views(frame: np.ndarray, size: tuple[int, int], views: int) -> Iterator[np.ndarray]:
    """Views of `size` of a picture uint8 [H, W, 3] of `frame_size`."""
    if views == 1:
        yield frame
        return
    down, right = frame.shape[0] - size[0], frame.shape[1] - size[1]
    corners = [(top, left) for top in (0, down) for left in (0, right)]
    for mirrored in (False, True):
        for top, left in [(down // 2, right // 2), *corners]:
            view = frame[top : top + size[0], left : left + size[1]]
            yield view[:, ::-1] if mirrored else view


def drawn_view(views: int, index: int, epoch: int, seed: int) -> int:
    """Which of a record's views an epoch has, each as likely as another.

    A function of its arguments alone, so a run that goes on sees what it would have seen.
    """
    if views == 1:
        return 0
    digest = hashlib.sha256(f"view/{seed}/{epoch}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % views
