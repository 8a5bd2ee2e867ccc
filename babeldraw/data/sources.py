"""Sources of records: random access to pictures with their captions and labels.

A source answers for every index, in any order, from any thread; what it cannot read it says by
`BadRecord`, and `RecordReader` counts such records, skips them, and stops a run that has too many.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from absl import logging

from babeldraw.data import shapes
from babeldraw.errors import UserError

# How training cuts its pictures; `crops` has them in TensorFlow.
CROPS = ("random", "center", "dalle_tokenizer", "dalle_generator")
# Captions of the endless world come from few templates: this many carry its whole vocabulary.
SHAPES_CAPTIONS = 20_000
# A share of bad records means something only once this many were read.
MIN_READ_FOR_SHARE = 100


@dataclass(frozen=True)
class Record:
    """One example.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        caption: any Unicode text, '' where there is none.
        label: class index, -1 where there is none.
        tokens: stored codes of an image, int32 [T] or [T, factors], or float32 of continuous ones;
            the image is then empty.
        jpeg: the bytes of a JPEG file, to be decoded by the pipeline; the image is then empty.
    """

    image: np.ndarray
    caption: str
    label: int = -1
    tokens: np.ndarray | None = None
    jpeg: bytes = b""


class BadRecord(Exception):
    """A record that cannot be read: where it lies, and why. Not a reason to stop by itself."""

    def __init__(self, where: str, reason: str):
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


class Source(Protocol):
    """Random access to records.

    Attributes:
        name: which data this is; equal names and lengths mean equal data.

    A source with classes has their names besides, `classes`: see `classes_of`.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, 0 to len - 1. Raises BadRecord. Safe to call from threads."""
        ...

    def captions(self) -> Iterator[str]:
        """Captions in order, without decoding a picture; what cannot be read is left out."""
        ...


@dataclass(frozen=True)
class MixturePart:
    """One source of a mixture.

    Attributes:
        source, path, split, eval_split, data_dir: as in `DataConfig`, of one source.
        weight: how many of its records there are, relative to the other parts; above 0.
    """

    source: str
    path: str
    weight: float
    split: str = "train"
    eval_split: str = "test"
    data_dir: str = ""


@dataclass(frozen=True)
class DataConfig:
    """Which data to read.

    Attributes:
        source: 'shapes' (drawn on the fly), 'shape_pairs' (one object, whose colour and shape are
            its class), 'digits' (scikit-learn's), 'folder', 'shards' of `babeldraw prepare`,
            'tfds', 'webdataset', 'tokens' of `babeldraw tokenize`, or 'mixture'.
        path: the folder of pictures, shards or tokens, or the TFDS name such as
            'coco_captions:1.1.0'.
        split: the part to train on. shapes: train, test, unseen; shape_pairs: train, test; others:
            train, test, all; folder also 'NAME/', the pictures in that sub-folder; tfds: any of
            its splits, slices
            such as 'train[:90%]' included.
        eval_split: the part to evaluate on.
        num_examples: length of one epoch of shapes, whose world has no end; others ignore it.
        data_dir: where TFDS keeps prepared data; '' for its default.
        max_bad_share: stop when more than this share of the records read is bad, 0 to 1.
        workers: records read at the same time, at least 1.
        crop: how training cuts its pictures: 'random', 'center', 'dalle_tokenizer' (mirrors) or
            'dalle_generator' (see `crops`).
        mixture: the sources of a 'mixture' with their weights.

    Raises:
        UserError: a value outside its range.
    """

    source: str = "shapes"
    path: str = ""
    split: str = "train"
    eval_split: str = "test"
    num_examples: int = 1_000_000
    data_dir: str = ""
    max_bad_share: float = 0.01
    workers: int = 2
    crop: str = "random"
    mixture: tuple[MixturePart, ...] = ()

    def __post_init__(self):
        if self.crop not in CROPS:
            raise UserError(f"data.crop={self.crop!r} is unknown; use {', '.join(CROPS)}")
        if (self.source == "mixture") != bool(self.mixture):
            raise UserError(
                f"data.source={self.source!r} and data.mixture has {len(self.mixture)} parts; a "
                "mixture needs both, other sources an empty data.mixture"
            )
        if self.num_examples < 1:
            raise UserError(f"data.num_examples={self.num_examples} must be at least 1")
        if not 0 <= self.max_bad_share <= 1:
            raise UserError(f"data.max_bad_share={self.max_bad_share} must lie between 0 and 1")
        if self.workers < 1:
            raise UserError(f"data.workers={self.workers} must be at least 1")


def open_source(
    config: DataConfig, split: str, image_size: int, seed: int, require_captions: bool = True
) -> Source:
    """Opens one split of the configured data.

    Args:
        config: which data.
        split: usually `config.split` or `config.eval_split`.
        image_size: side of the pictures drawn by shapes; other sources keep their own sizes.
        seed: which world shapes draws; other sources ignore it.
        require_captions: whether a folder's pictures without caption are left out, or kept with
            an empty one (a tokenizer needs none).

    Raises:
        UserError: no such source or split, or nothing to read there.
    """
    path, data_dir = (os.path.expanduser(where) for where in (config.path, config.data_dir))
    config = dataclasses.replace(config, path=path, data_dir=data_dir)
    # Each source is imported only when it is the one asked for: TFDS is heavy.
    if config.source == "shapes":
        return ShapesSource(split, image_size, seed, config.num_examples)
    if config.source == "shape_pairs":
        return ShapePairsSource(split, image_size, seed, config.num_examples)
    if config.source == "digits":
        from babeldraw.data.digits import DigitsSource

        return DigitsSource(split)
    if config.source == "folder":
        from babeldraw.data.folder import FolderSource

        return FolderSource(config.path, split, require_captions)
    if config.source == "tfds":
        from babeldraw.data.tfds import TfdsSource

        return TfdsSource(config.path, split, config.data_dir)
    if config.source == "shards":
        from babeldraw.data.shards import ShardSource

        return ShardSource(config.path, split)
    if config.source == "webdataset":
        from babeldraw.data.webdataset import WebDatasetSource

        return WebDatasetSource(config.path, split)
    if config.source == "mixture":
        return _open_mixture(config, split, image_size, seed, require_captions)
    if config.source == "tokens":
        from babeldraw.data.tokens import TokenSource

        return TokenSource(config.path, split)
    raise UserError(
        f"data.source={config.source!r} is unknown; use 'shapes', 'shape_pairs', 'digits', "
        "'folder', 'shards', 'tfds', 'webdataset', 'tokens' or 'mixture'"
    )


def _open_mixture(
    config: DataConfig, split: str, image_size: int, seed: int, require_captions: bool
) -> Source:
    """Each part's own split: that to train on where `split` is the config's, else the other."""
    from babeldraw.data.mixture import MixtureSource

    sources = []
    for part in config.mixture:
        one = dataclasses.replace(
            config, source=part.source, path=part.path, data_dir=part.data_dir, mixture=()
        )
        own = part.split if split == config.split else part.eval_split
        sources.append(open_source(one, own, image_size, seed, require_captions))
    return MixtureSource(sources, [part.weight for part in config.mixture])


class ShapesSource:
    """The synthetic world of `babeldraw.data.shapes`: any index gives a picture and its caption.

    Raises:
        UserError: no such split, too small a picture, or a seed below 0.
    """

    def __init__(self, split: str, image_size: int, seed: int, num_examples: int):
        if split not in shapes.SPLITS:
            raise UserError(
                f"data.split={split!r} is unknown to shapes; use {', '.join(shapes.SPLITS)}"
            )
        if image_size < shapes.MIN_IMAGE_SIZE:
            raise UserError(
                f"image_size={image_size} is too small to draw shapes; use at least "
                f"{shapes.MIN_IMAGE_SIZE}"
            )
        if seed < 0:
            raise UserError(f"seed={seed} must be at least 0")
        self.name = f"shapes/{split}/{image_size}px/seed{seed}"
        self._split, self._image_size, self._seed = split, image_size, seed
        self._num_examples = num_examples

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> Record:
        return Record(*shapes.example(index, self._split, self._image_size, self._seed))

    def captions(self) -> Iterator[str]:
        """The captions of the first 20,000 examples."""
        # A caption comes with its picture; it is the same at the smallest size, and fastest there.
        for index in range(min(len(self), SHAPES_CAPTIONS)):
            yield shapes.example(index, self._split, shapes.MIN_IMAGE_SIZE, self._seed)[1]


class ShapePairsSource:
    """Pictures of one object of `babeldraw.data.shapes`, labelled with their colour and shape.

    Raises:
        UserError: no such split, too small a picture, or a seed below 0.
    """

    classes = tuple(" ".join(pair) for pair in shapes.PAIRS)

    def __init__(self, split: str, image_size: int, seed: int, num_examples: int):
        if seed < 0:
            raise UserError(f"seed={seed} must be at least 0")
        self._draw = functools.partial(
            shapes.pair_example, split=split, image_size=image_size, seed=seed
        )
        self._draw(0)
        self.name = f"shape_pairs/{split}/{image_size}px/seed{seed}"
        self._num_examples = num_examples

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> Record:
        return Record(*self._draw(index))

    def captions(self) -> Iterator[str]:
        """The captions of the first 20,000 examples."""
        return (self[index].caption for index in range(min(len(self), SHAPES_CAPTIONS)))


def classes_of(source: Source) -> tuple[str, ...]:
    """Names of the classes that labels count, where a source has them; else none."""
    return tuple(getattr(source, "classes", ()))


class RecordReader:
    """Reads records of a source; in the place of a bad one it gives the next good one.

    A bad record is logged once, with where it lies and why, and never read again. Which record
    takes its place (the next good index, going round) depends on the data alone, so batches stay
    a function of (seed, step). Safe to call from threads.

    Args:
        source: the data.
        max_bad_share: see below.
        read: gives a record by its index, where that is not `source[index]`.

    Attributes:
        read: how many distinct records were read.
        bad: how many of them were bad.

    Raises (from `read_at` and `try_read_at`):
        UserError: more than `max_bad_share` of at least 100 records read are bad, or all are.
    """

    def __init__(
        self,
        source: Source,
        max_bad_share: float = 0.01,
        read: Callable[[int], Record] | None = None,
    ):
        if len(source) == 0:
            raise UserError(f"{source.name} holds no records; point data.path at data")
        self.source = source
        self._read = read or source.__getitem__
        self.max_bad_share = max_bad_share
        self.read = 0
        self.bad = 0
        self._seen = bytearray(len(source))
        self._bad_indices: set[int] = set()
        self._first_bad = ""
        self._lock = threading.Lock()

    def read_at(self, index: int) -> Record:
        """The record at `index`, or the first good one after it, going round."""
        for step in range(len(self.source)):
            record = self.try_read_at((index + step) % len(self.source))
            if record is not None:
                return record
        raise self._too_many()

    def try_read_at(self, index: int) -> Record | None:
        """The record at `index`, None if it is bad."""
        if index in self._bad_indices:
            return None
        try:
            record = self._read(index)
        except BadRecord as error:
            self._count(index, error)
            return None
        self._count(index, None)
        return record

    def _count(self, index: int, error: BadRecord | None) -> None:
        with self._lock:
            if self._seen[index]:
                return
            self._seen[index] = 1
            self.read += 1
            if error is None:
                return
            self.bad += 1
            self._bad_indices.add(index)
            self._first_bad = self._first_bad or str(error)
            logging.warning("bad record skipped: %s", error)
            if self._stops():
                raise self._too_many()

    def _stops(self) -> bool:
        too_many = self.bad > self.max_bad_share * self.read
        return self.bad == len(self.source) or (too_many and self.read >= MIN_READ_FOR_SHARE)

    def _too_many(self) -> UserError:
        return UserError(
            f"{self.bad} of {self.read} records read from {self.source.name} are bad "
            f"({self.bad / max(1, self.read):.1%}) where data.max_bad_share={self.max_bad_share}; "
            f"mend the data or raise the share; the first: {self._first_bad}"
        )
