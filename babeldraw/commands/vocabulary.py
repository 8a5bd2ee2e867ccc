"""Trains a SentencePiece vocabulary on captions.

`train` does this by itself for a new text-to-image run; put the file into the run folder as
text.model to use one of your own.

Example:
  babeldraw vocabulary --source=folder --path=my_pictures --size=16000 --out=text.model
"""

from absl import flags

from babeldraw.commands.flags import required
from babeldraw.data.captions import CAPTIONS
from babeldraw.data.config import DataConfig
from babeldraw.data.sources import open_source
from babeldraw.data.text import train_vocabulary


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("source", "folder", "shapes, folder or tfds.", flag_values=values)
    flags.DEFINE_string("path", "", "The folder, or the TFDS name.", flag_values=values)
    flags.DEFINE_string("split", "train", "The part of the data to read.", flag_values=values)
    flags.DEFINE_enum(
        "captions",
        "in_turn",
        CAPTIONS,
        "As config.data.captions.",
        flag_values=values,
    )
    flags.DEFINE_string("language", "", "As config.data.language.", flag_values=values)
    flags.DEFINE_integer("size", 16_000, "Pieces, at most.", flag_values=values)
    flags.DEFINE_string("out", None, "The file to write.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    out = required(values, "out")
    data = DataConfig(
        source=values.source,
        path=values.path,
        split=values.split,
        captions=values.captions,
        language=values.language,
    )
    source = open_source(data, values.split, image_size=32, seed=0)
    size = train_vocabulary(source.captions(), out, values.size)
    print(f"{out}: {size} pieces")
    return 0
