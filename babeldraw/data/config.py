"""The config section `data`: which records a run reads, and how it cuts their pictures."""

from dataclasses import dataclass

from babeldraw.data.captions import CAPTIONS
from babeldraw.data.crops import CROPS
from babeldraw.data.fields import CaptionField, check_fields
from babeldraw.data.folder import CLASS, CLASS_FOLDERS
from babeldraw.data.languages import is_language
from babeldraw.data.views import check_views
from babeldraw.errors import UserError

# Fields that no other source than a folder reads.
OF_FOLDERS = ("language", "class_folder", "class_caption")
# Of CAPTIONS those that take one of several texts.
DRAWN = ("in_turn", "random")


@dataclass(frozen=True)
class MixturePart:
    """One source of a mixture.

    Attributes:
        source, path, split, eval_split, data_dir: as in `DataConfig`, of one source.
        weight: how many of its records there are, relative to the other parts; above 0.
        caption_fields: as in `DataConfig`, of one source.
    """

    source: str
    path: str
    weight: float
    split: str = "train"
    eval_split: str = "test"
    data_dir: str = ""
    caption_fields: tuple[CaptionField, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """Which data to read.

    Attributes:
        source: 'shapes' (drawn on the fly), 'shape_pairs' (one object, whose colour and shape are
            its class), 'digits' (scikit-learn's), 'folder', 'shards' of `babeldraw prepare`,
            'tfds', 'webdataset', 'tokens' of `babeldraw tokenize`, 'texts' without pictures, a line
            each, or 'mixture'.
        path: the folder of pictures (or a .zip of one), shards or tokens, the file of texts or a
            folder of them, or the TFDS name such as 'coco_captions:1.1.0'.
        split: the part to train on. shapes: train, test, unseen; shape_pairs: train, test; others:
            train, test, all; folder also 'NAME/', the pictures in that sub-folder; tfds: any of
            its splits, slices
            such as 'train[:90%]' included.
        eval_split: the part to evaluate on.
        num_examples: length of one epoch of shapes, whose world has no end; others ignore it.
        data_dir: where TFDS keeps prepared data; '' for its default.
        max_bad_share: stop when more than this share of the records read is bad, 0 to 1.
        workers: records read at the same time, at least 1.
        crop: how training cuts its pictures: 'random' (0.8 to 1 of the largest crop, anywhere),
            'center', 'window' (the largest, anywhere), each also with '_mirrored' (half of the
            time), 'dalle_tokenizer' (mirrors) or 'dalle_generator' (see `crops`).
        mixture: the sources of a 'mixture' with their weights.
        captions: of several captions of a picture, a line each, training takes the next one with
            each epoch ('in_turn'), one drawn anew by seed and step ('random'), the first alone
            ('first') or all as one text ('joined'). Evaluation takes the first, or all as one.
        caption_fields: kinds of captions, of which each example reads one by their odds; of that
            one `captions` says which text. Evaluation takes the first kind that a record has.
            Empty: a record's caption has one kind. A mixture has those of each source.
        language: of a folder whose captions have translations (lines 'fr.utf8=...'): '' reads the
            lines without a mark, a code such as 'fr' its translations, and those lines where
            there is none; 'any' reads all, each a caption of its own.
        class_folder: which folder is the class of a folder's picture: the one that holds it
            ('inner') or the topmost ('outer').
        class_caption: of a folder: what is said of pictures without a caption, such as 'a photo
            of a {class}'; '' leaves them out.
        views: of stored tokens: how many views of a picture each record must have, of which each
            epoch draws one, 10 where a recipe is published so; 0: as many as are there.

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
    captions: str = "in_turn"
    caption_fields: tuple[CaptionField, ...] = ()
    language: str = ""
    class_folder: str = "inner"
    class_caption: str = ""
    views: int = 0

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
        if self.captions not in CAPTIONS:
            raise UserError(
                f"data.captions={self.captions!r} is unknown; use {', '.join(CAPTIONS)}"
            )
        if self.views:
            self._check_views()
        self._check_fields()
        self._check_folder()

    def tiny(self) -> "DataConfig":
        """The same for a first run: the shapes world."""
        return DataConfig(source="shapes", num_examples=1000)

    def _check_views(self) -> None:
        check_views(self.views, "data.views")
        if self.source != "tokens":
            raise UserError(
                f"data.views={self.views} is of data.source='tokens' alone, and here that is "
                f"{self.source!r}; set it to 0"
            )

    def _check_fields(self) -> None:
        check_fields(self.caption_fields, self.source, "data.caption_fields")
        for part in self.mixture:
            check_fields(part.caption_fields, part.source, "data.mixture's caption_fields")
        if not (self.caption_fields or any(part.caption_fields for part in self.mixture)):
            return
        if self.captions not in DRAWN:
            raise UserError(
                f"data.captions={self.captions!r} and data.caption_fields says what is drawn; use "
                f"{' or '.join(DRAWN)}, and joined=True in a field whose texts make one"
            )
        if self.language:
            raise UserError(
                f"data.language={self.language!r} is of the captions that data.caption_fields "
                "replaces; leave one of them out"
            )

    def _check_folder(self) -> None:
        if not is_language(self.language):
            raise UserError(
                f"data.language={self.language!r} is no language; use a code such as 'fr' or "
                "'pt_BR', 'any', or ''"
            )
        if self.class_folder not in CLASS_FOLDERS:
            raise UserError(
                f"data.class_folder={self.class_folder!r} is unknown; use "
                f"{', '.join(CLASS_FOLDERS)}"
            )
        if self.class_caption and CLASS not in self.class_caption:
            raise UserError(
                f"data.class_caption={self.class_caption!r} has no {CLASS}; write it where the "
                f"class's name shall stand, as in 'a photo of a {CLASS}'"
            )
        if "folder" in (self.source, *(part.source for part in self.mixture)):
            return
        for name in OF_FOLDERS:
            if getattr(self, name) != getattr(DataConfig, name):
                raise UserError(
                    f"data.{name}={getattr(self, name)!r} is of data.source='folder' alone, and "
                    f"here that is {self.source!r}; leave it out"
                )
