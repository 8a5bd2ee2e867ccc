"""Datasets prepared by TensorFlow Datasets as array_record files, read by random access."""

import pathlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from babeldraw.data.fields import Fields, as_caption, choices_of, no_record_has
from babeldraw.data.image import decode
from babeldraw.data.records import NO_PICTURE, BadRecord, Record, checked_label
from babeldraw.data.rows import lines_of
from babeldraw.errors import UserError

# Text features that describe the picture; others are ids, file names and the like. The last is that
# of ref_coco, whose objects have expressions that refer to them.
CAPTION_FEATURES = ("caption", "captions", "text", "objects/refexp/raw")


class TfdsSource:
    """One split of a TFDS dataset with an image, and a caption or a label if it has them.

    The image is the feature 'image', else the first image there is. The caption is the feature
    'caption', 'captions' or 'text', or what ref_coco says of its objects; the first one of several.
    The label is the feature 'label', else the first class label, -1 without any. Nothing else of a
    record is decoded.

    Args:
        name: as TFDS knows it, 'coco_captions' or 'coco_captions:1.1.0'.
        split: one of the dataset's, or a slice such as 'train[:90%]'.
        data_dir: where it was prepared; '' for the default of TFDS.
        pictures: whether records have them; else they are texts alone, as of 'c4/en'.
        fields: kinds of captions in place of one: features, of texts or of classes, whose names are
            then the texts; '/' leads into sequences, as in 'objects/label'.

    Raises:
        UserError: no such dataset or split, no image (or no text) or field in it, or it is not
            prepared with random access.
    """

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str = "",
        pictures: bool = True,
        fields: Fields = (),
    ):
        import tensorflow_datasets as tfds

        builder = _builder(name, data_dir)
        features = builder.info.features
        self.texts_alone = not pictures
        self._image = _feature(features, "image", tfds.features.Image) if pictures else None
        self._caption = next((path for path in CAPTION_FEATURES if _has(features, path)), None)
        wanted, found = ("image", self._image) if pictures else ("text", self._caption or fields)
        if not found:
            raise UserError(f"data.path={name!r} has no {wanted} feature; it has {list(features)}")
        self._label = _feature(features, "label", tfds.features.ClassLabel)
        self.classes = tuple(features[self._label].names) if self._label is not None else ()
        for field in fields:
            if not _has(features, field.name):
                there = ", ".join(features)
                raise no_record_has(field.name, "data.caption_fields", name, there)
        self._fields = fields
        self._texts_in = [field.name for field in fields] or [*filter(None, [self._caption])]
        self._classes_in = {
            path: leaf.names
            for path in self._texts_in
            if isinstance(leaf := _leaf(features, path), tfds.features.ClassLabel)
        }
        self._features = _only(features, [self._image, *self._texts_in, self._label])
        self._records = _open(builder, name, split, data_dir)
        self.name = f"tfds/{builder.info.full_name}/{split}"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        example, image = self._example(index), NO_PICTURE
        if not self.texts_alone:
            image = decode(bytes(example[self._image]), self.where(index))
        choices = choices_of(self._kinds(example, index), self._fields) if self._fields else ()
        return Record(
            image, self._text(example, index), self._class(example, index), choices=choices
        )

    def encoded(self, index: int) -> tuple[bytes, str, int]:
        """The picture still in its file's bytes, the caption and the label."""
        example = self._example(index)
        text = self._text(example, index)
        return bytes(example[self._image]), text, self._class(example, index)

    def captions(self) -> Iterator[str]:
        """The captions in order, without decoding a picture; nothing where there are none."""
        for index in range(len(self) if self._texts_in else 0):
            try:
                yield self._text(self._example(index), index)
            except BadRecord as error:
                logging.warning("caption skipped: %s", error)

    def _example(self, index: int) -> dict[str, Any]:
        import tensorflow_datasets as tfds

        try:
            # The picture is decoded by `image.decode`, as everywhere, and only where it is wanted.
            skip = {self._image: tfds.decode.SkipDecoding()} if self._image else None
            data = _strip(self._records[index], tuple(self._features), self._texts_in)
            return self._features.deserialize_example_np(data, decoders=skip)
        except Exception as error:  # Readers and decoders of TFDS raise many types.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadRecord(self.where(index), reason) from error

    def _text(self, example: dict[str, Any], index: int) -> str:
        if self._fields:
            return as_caption(self._kinds(example, index))
        return "".join(self._said(example, path, index) for path in self._texts_in)

    def _kinds(self, example: dict[str, Any], index: int) -> tuple[str, ...]:
        """Of each kind of caption what a record says."""
        return tuple(f.text(self._said(example, f.name, index)) for f in self._fields)

    def _said(self, example: dict[str, Any], path: str, index: int) -> str:
        """The texts of a feature, or the names of its classes, one a line."""
        value: Any = example
        for key in path.split("/"):
            value = value[key]
        if path in self._classes_in:
            names = self._classes_in[path]
            return "\n".join(names[label] for label in np.ravel(value) if label >= 0)
        try:
            return _texts(value)
        except UnicodeDecodeError as error:
            raise BadRecord(self.where(index), "the caption is not UTF-8") from error

    def _class(self, example: dict[str, Any], index: int) -> int:
        if self._label is None:
            return -1
        return checked_label(int(example[self._label]), self.classes, self.where(index))

    def where(self, index: int) -> str:
        """What to call a record."""
        return f"{self.name}[{index}]"


def _builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    folder = "; of a folder the data.source is 'folder'" if pathlib.Path(name).is_dir() else ""
    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError:
        where = data_dir or "its default folder"
        raise UserError(
            f"data.path={name!r} is no TFDS dataset and none is prepared under that name in "
            f"{where}; see tensorflow.org/datasets/catalog, or set data.data_dir{folder}"
        ) from None
    except (ValueError, AssertionError) as error:
        said = _line(error).rstrip(".")
        raise UserError(f"data.path={name!r} cannot be opened: {said}{folder}") from error


def _open(builder: Any, name: str, split: str, data_dir: str) -> Any:
    """The records as serialised examples."""
    import tensorflow_datasets as tfds

    try:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split=split, deserialize_method=raw)
    except (ValueError, NotImplementedError, AssertionError) as error:
        splits = list(builder.info.splits)
        if builder.is_prepared() and splits and not isinstance(error, NotImplementedError):
            raise UserError(
                f"data.split={split!r} is not a split of {name}; use one of {splits}, or a slice "
                f"such as '{splits[0]}[:90%]'"
            ) from error
        raise UserError(
            f"data.path={name!r} is not prepared with random access in {builder.data_dir}; run "
            f'`python -c "{_preparation(name, data_dir)}"` (give another data_dir where it lies '
            "there in another format)"
        ) from error


def _preparation(name: str, data_dir: str) -> str:
    # Not `tfds build`: that needs Apache Beam even for datasets that do not.
    where = f"data_dir='{data_dir}', " if data_dir else ""
    return (
        "import tensorflow_datasets as tfds; "
        f"tfds.builder('{name}', {where}file_format='array_record').download_and_prepare()"
    )


def _has(features: Any, path: str) -> bool:
    """Whether there is a feature at the end of a path through dictionaries and sequences."""
    for key in path.split("/"):
        inner = getattr(features, "feature", features)
        if not hasattr(inner, "keys") or key not in inner.keys():
            return False
        features = inner[key]
    return True


def _leaf(features: Any, path: str) -> Any:
    """The feature at the end of a path, of a sequence what it is of."""
    for key in path.split("/"):
        features = getattr(features, "feature", features)[key]
    return getattr(features, "feature", features)


def _only(features: Any, paths: list[str | None]) -> Any:
    """The specification of these features alone: others are not even parsed."""
    import tensorflow_datasets as tfds

    wanted, inside = {}, defaultdict(list)
    for path in filter(None, paths):
        key, _, rest = path.partition("/")
        wanted[key] = features[key]
        inside[key] += [rest] if rest else []
    for key, rests in inside.items():
        if rests:
            wanted[key] = tfds.features.Sequence(_only(features[key].feature, rests))
    return tfds.features.FeaturesDict(wanted)


def _strip(data: bytes, names: tuple[str, ...], texts: list[str]) -> bytes:
    """The serialised example without other features: TFDS trips over ragged ones among them."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(data)
    fields = example.features.feature
    prefixes = tuple(f"{path}/" for path in texts)
    for key in list(fields):
        if key not in (*names, *texts) and not key.startswith(prefixes):
            del fields[key]
    return example.SerializeToString()


def _feature(features: Any, preferred: str, kind: type) -> str | None:
    keys = [key for key, feature in features.items() if type(feature) is kind]
    return preferred if preferred in keys else next(iter(keys), None)


def _texts(value: Any) -> str:
    """The captions, each once and on its line, of: a string, several, or {'text': either}."""
    if isinstance(value, dict):
        value = value.get("text", "")
    return lines_of(list(dict.fromkeys(_flat(value))) or [""])


def _flat(value: Any) -> Iterator[str]:
    """Texts of arrays and lists of them, of any depth and lengths."""
    if isinstance(value, bytes):
        yield value.decode("utf-8")
    elif isinstance(value, np.ndarray):
        yield from _flat(value.tolist())
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _flat(one)
    else:
        yield str(value)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
