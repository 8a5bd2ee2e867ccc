"""Opens the source that a config names. Imports every source, so no source imports this."""

import dataclasses
import os
from collections.abc import Iterator

from babeldraw.data.captions import with_captions
from babeldraw.data.config import OF_FOLDERS, DataConfig
from babeldraw.data.digits import DigitsSource
from babeldraw.data.fields import named, with_lines
from babeldraw.data.folder import FolderSource
from babeldraw.data.mixture import MixtureSource
from babeldraw.data.records import Source, has_pictures
from babeldraw.data.shape_sources import ShapePairsSource, ShapesSource
from babeldraw.data.shapes import MIN_IMAGE_SIZE
from babeldraw.data.shards import ShardSource
from babeldraw.data.texts import CaptionSource, TextFileSource
from babeldraw.data.tfds import TfdsSource
from babeldraw.data.tokens import TokenSource
from babeldraw.data.webdataset import WebDatasetSource
from babeldraw.errors import UserError

# Sources that are drawn, or come with a package.
WITHOUT_PATH = ("shapes", "shape_pairs", "digits")


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
    config = _expanded(config)
    source = _open(config, split, image_size, seed, require_captions)
    return with_captions(source, config.captions)


def open_texts(config: DataConfig, split: str, seed: int) -> Source:
    """Opens one split of the configured data as texts alone: of pictures, their captions.

    Args:
        config, split, seed: as of `open_source`.

    Raises:
        UserError: no such source or split, or no text there.
    """
    config = _expanded(config)
    return with_captions(_open_texts(config, split, seed), config.captions)


def _open_texts(config: DataConfig, split: str, seed: int) -> Source:
    if config.source == "tfds":
        fields = named(config.caption_fields)
        return TfdsSource(config.path, split, config.data_dir, pictures=False, fields=fields)
    if config.source == "mixture":
        sources = [_open_texts(one, own, seed) for one, own in _parts(config, split)]
        return MixtureSource(sources, [part.weight for part in config.mixture])
    source = _open(config, split, MIN_IMAGE_SIZE, seed, require_captions=True)
    return CaptionSource(source) if has_pictures(source) else source


def _expanded(config: DataConfig) -> DataConfig:
    path, data_dir = (os.path.expanduser(where) for where in (config.path, config.data_dir))
    return dataclasses.replace(config, path=path, data_dir=data_dir)


def _open(
    config: DataConfig, split: str, image_size: int, seed: int, require_captions: bool
) -> Source:
    source = _open_kind(config, split, image_size, seed, require_captions)
    return with_lines(source, config.caption_fields, "data.caption_fields")


def _open_kind(
    config: DataConfig, split: str, image_size: int, seed: int, require_captions: bool
) -> Source:
    fields = named(config.caption_fields)
    if config.source == "shapes":
        return ShapesSource(split, image_size, seed, config.num_examples)
    if config.source == "shape_pairs":
        return ShapePairsSource(split, image_size, seed, config.num_examples)
    if config.source == "digits":
        return DigitsSource(split)
    if config.source == "folder":
        return FolderSource(
            config.path,
            split,
            require_captions,
            language=config.language,
            class_folder=config.class_folder,
            class_caption=config.class_caption,
            fields=fields,
        )
    if config.source == "tfds":
        return TfdsSource(config.path, split, config.data_dir, fields=fields)
    if config.source == "shards":
        return ShardSource(config.path, split)
    if config.source == "webdataset":
        return WebDatasetSource(config.path, split, fields)
    if config.source == "mixture":
        return _open_mixture(config, split, image_size, seed, require_captions)
    if config.source == "tokens":
        return TokenSource(config.path, split, views=config.views)
    if config.source == "texts":
        return TextFileSource(config.path, split)
    raise UserError(
        f"data.source={config.source!r} is unknown; use 'shapes', 'shape_pairs', 'digits', "
        "'folder', 'shards', 'tfds', 'webdataset', 'tokens', 'texts' or 'mixture'"
    )


def _open_mixture(
    config: DataConfig, split: str, image_size: int, seed: int, require_captions: bool
) -> Source:
    """Each part's own split: that to train on where `split` is the config's, else the other."""
    sources = [
        _open(one, own, image_size, seed, require_captions) for one, own in _parts(config, split)
    ]
    return MixtureSource(sources, [part.weight for part in config.mixture])


def _parts(config: DataConfig, split: str) -> Iterator[tuple[DataConfig, str]]:
    """Each part of a mixture as data of its own, and its split."""
    for part in config.mixture:
        own_fields = {"path": part.path, "data_dir": part.data_dir, "mixture": ()}
        own_fields["caption_fields"] = part.caption_fields
        if part.source != "folder":
            own_fields |= {name: getattr(DataConfig, name) for name in OF_FOLDERS}
        one = dataclasses.replace(config, source=part.source, **own_fields)
        yield one, part.split if split == config.split else part.eval_split
