"""Datasets prepared by TensorFlow Datasets as array_record files, read by random access."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from babeldraw.data.image import decode
from babeldraw.data.records import NO_PICTURE, BadRecord, Record
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

    Raises:
        UserError: no such dataset or split, no image (or no text) in it, or it is not prepared with
            random access.
    """

    def __init__(self, name: str, split: str, data_dir: str = "", pictures: bool = True):
        import tensorflow_datasets as tfds

        builder = _builder(name, data_dir)
        features = builder.info.features
        self.texts_alone = not pictures
        self._image = _feature(features, "image", tfds.features.Image) if pictures else None
        self._caption = next((path for path in CAPTION_FEATURES if _has(features, path)), None)
        wanted, found = ("image", self._image) if pictures else ("text", self._caption)
        if found is None:
            raise UserError(f"data.path={name!r} has no {wanted} feature; it has {list(features)}")
        self._label = _feature(features, "label", tfds.features.ClassLabel)
        self.classes = tuple(features[self._label].names) if self._label is not None else ()
        self._features = _only(features, [self._image, self._caption, self._label])
        self._records = _open(builder, name, split, data_dir)
        self.name = f"tfds/{builder.info.full_name}/{split}"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        if self.texts_alone:
            return Record(NO_PICTURE, self._text(self._example(index), index))
        data, caption, label = self.encoded(index)
        return Record(decode(data, self.where(index)), caption, label)

    def encoded(self, index: int) -> tuple[bytes, str, int]:
        """The picture still in its file's bytes, the caption and the label."""
        example = self._example(index)
        label = -1 if self._label is None else int(example[self._label])
        return bytes(example[self._image]), self._text(example, index), label

    def captions(self) -> Iterator[str]:
        """The captions in order, without decoding a picture; nothing where there are none."""
        for index in range(len(self) if self._caption is not None else 0):
            try:
                yield self._text(self._example(index), index)
            except BadRecord as error:
                logging.warning("caption skipped: %s", error)

    def _example(self, index: int) -> dict[str, Any]:
        import tensorflow_datasets as tfds

        try:
            # The picture is decoded by `image.decode`, as everywhere, and only where it is wanted.
            skip = {self._image: tfds.decode.SkipDecoding()} if self._image else None
            data = _strip(self._records[index], tuple(self._features))
            return self._features.deserialize_example_np(data, decoders=skip)
        except Exception as error:  # Readers and decoders of TFDS raise many types.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadRecord(self.where(index), reason) from error

    def _text(self, example: dict[str, Any], index: int) -> str:
        if self._caption is None:
            return ""
        try:
            value = example
            for key in self._caption.split("/"):
                value = value[key]
            return _texts(value)
        except UnicodeDecodeError as error:
            raise BadRecord(self.where(index), "the caption is not UTF-8") from error

    def where(self, index: int) -> str:
        """What to call a record."""
        return f"{self.name}[{index}]"


def _builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError:
        where = data_dir or "its default folder"
        raise UserError(
            f"data.path={name!r} is no TFDS dataset and none is prepared under that name in "
            f"{where}; see tensorflow.org/datasets/catalog, or set data.data_dir"
        ) from None
    except (ValueError, AssertionError) as error:
        raise UserError(f"data.path={name!r} cannot be opened: {_line(error)}") from error


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


def _only(features: Any, paths: list[str | None]) -> Any:
    """The specification of these features alone: others are not even parsed."""
    import tensorflow_datasets as tfds

    wanted = {}
    for path in filter(None, paths):
        key, _, rest = path.partition("/")
        inner = features[key]
        wanted[key] = tfds.features.Sequence(_only(inner.feature, [rest])) if rest else inner
    return tfds.features.FeaturesDict(wanted)


def _strip(data: bytes, names: tuple[str, ...]) -> bytes:
    """The serialised example without other features: TFDS trips over ragged ones among them."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(data)
    fields = example.features.feature
    kept = [path for path in CAPTION_FEATURES if path.partition("/")[0] in names]
    prefixes = tuple(f"{path}/" for path in kept)
    for key in list(fields):
        if key not in names and not key.startswith(prefixes):
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
