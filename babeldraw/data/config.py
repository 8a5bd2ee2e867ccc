"""The config section `data`: which records a run reads, and how it cuts their pictures."""

from dataclasses import dataclass

from babeldraw.data.crops import CROPS
from babeldraw.errors import UserError


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
