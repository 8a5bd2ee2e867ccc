"""Trains a SentencePiece vocabulary on captions, or shows what one makes of a text.

`train` does the first by itself for a new text-to-image run; put the file into the run folder as
text.model to use one of your own.

Examples:
  babeldraw vocabulary --source=folder --path=my_pictures --size=16000 --out=text.model
  babeldraw vocabulary --source=texts --path=corpus.txt --model_type=unigram --bytes=always \\
      --out=text.model
  babeldraw vocabulary --config=configs/demo/text_to_image.py --size=100 --out=text.model
  babeldraw vocabulary --workdir=runs/text_to_image --show="a small red circle"
"""

from absl import flags
from etils import epath
from ml_collections import config_flags

from babeldraw.commands.flags import required
from babeldraw.config import require
from babeldraw.data.captions import CAPTIONS
from babeldraw.data.config import DataConfig
from babeldraw.data.sources import open_texts
from babeldraw.data.text import (
    BYTES_OF,
    MODELS,
    NORMALIZATIONS,
    Vocabulary,
    VocabularyConfig,
    train_vocabulary,
)
from babeldraw.data.vocabularies import vocabulary_of
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse

# Flags of the data, by the names of their fields, and those that --show reads.
OF_DATA = ("source", "path", "split", "data_dir", "captions", "language")
OF_SHOW = ("model", "workdir", "length")


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string(
        "source", "folder", "As config.data.source; texts: of lines of files.", flag_values=values
    )
    flags.DEFINE_string("path", "", "The folder or file, or the TFDS name.", flag_values=values)
    flags.DEFINE_string("split", "train", "The part of the data to read.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "As config.data.data_dir.", flag_values=values)
    flags.DEFINE_enum(
        "captions",
        "in_turn",
        CAPTIONS,
        "As config.data.captions.",
        flag_values=values,
    )
    flags.DEFINE_string("language", "", "As config.data.language.", flag_values=values)
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A config file, whose data are read in place of --source and the like; a mixture too.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_integer("size", 16_000, "Pieces, at most.", flag_values=values)
    flags.DEFINE_enum(
        "model_type", "byte_pair", [*MODELS], "How pieces are found.", flag_values=values
    )
    flags.DEFINE_enum(
        "bytes",
        "auto",
        [*BYTES_OF],
        "Whether characters without a piece are spelt as bytes; auto: where not all have room.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "normalization",
        "nmt_nfkc",
        [*NORMALIZATIONS],
        "SentencePiece's rule for texts before they are cut; it goes with the file.",
        flag_values=values,
    )
    flags.DEFINE_string("out", None, "The file to write.", flag_values=values)
    flags.DEFINE_string("show", None, "A text whose pieces are printed.", flag_values=values)
    flags.DEFINE_string("model", "", "The vocabulary that --show asks.", flag_values=values)
    flags.DEFINE_string("workdir", "", "A run, whose vocabulary --show asks.", flag_values=values)
    flags.DEFINE_integer(
        "length",
        0,
        "Pieces after which --show says that a text is cut; 0: the run's, or none.",
        flag_values=values,
        lower_bound=0,
    )


def run(values: flags.FlagValues) -> int:
    if values.show is not None:
        _show(values)
        return 0
    for name in OF_SHOW:
        require(not values[name].present, f"--{name} is of --show, which is missing: give a text")
    out = required(values, "out")
    require(
        not (epath.Path(out).parent / "checkpoints").exists(),
        f"--out={out} lies in a run that is trained, whose vocabulary stays; name another file",
    )
    recipe = VocabularyConfig(values.size, values.model_type, values.bytes, values.normalization)
    data = _data(values)
    size = train_vocabulary(open_texts(data, data.split, seed=0).captions(), out, recipe)
    fewer = "" if size >= values.size else f" (of {values.size}: the texts carry no more)"
    print(f"{out}: {size} pieces{fewer}, {_how(Vocabulary(out))}")
    return 0


def _data(values: flags.FlagValues) -> DataConfig:
    """Which texts are read, by flags or by a config."""
    if values.config is None:
        return DataConfig(**{name: values[name].value for name in OF_DATA})
    for name in OF_DATA:
        require(
            not values[name].present,
            f"--{name}={values[name].value} and --config, whose data are read: set "
            f"--config.data.{name}",
        )
    return parse(required(values, "config")).data


def _how(vocabulary: Vocabulary) -> str:
    made = vocabulary.made
    rest = "as bytes" if vocabulary.spells_bytes else "as one unknown piece"
    return f"{made['model']}, normalization {made['normalization']}, other characters {rest}"


def _show(values: flags.FlagValues) -> None:
    """Prints the pieces of a text with their ids, and where it is cut."""
    vocabulary, length = _opened(values)
    pieces, text = vocabulary.pieces(values.show), vocabulary.normalized(values.show)
    print(f"{vocabulary.size} pieces, {_how(vocabulary)}")
    if text != values.show:
        print(f"read as {text!r}")
    for place, (piece, number) in enumerate(pieces):
        if length and place == length:
            print(f"cut here: the run reads {length} of {len(pieces)} pieces")
        print(f"{place + 1:>5}  {number:>6}  {piece}")
    if unknown := vocabulary.unknown(values.show):
        print(f"without a piece: {unknown!r}")
    if not pieces:
        print("no pieces: it draws without condition")


def _opened(values: flags.FlagValues) -> tuple[Vocabulary, int]:
    """The vocabulary that is asked, and how many pieces are read of a text; 0: all."""
    if bool(values.model) == bool(values.workdir):
        raise UserError(
            f"--model={values.model!r} and --workdir={values.workdir!r}: --show asks the "
            "vocabulary of one of them, a file or a run"
        )
    if values.model:
        return Vocabulary(values.model), values.length
    folder = RunFolder.to_read(values.workdir)
    experiment = parse(folder.read_config())
    if not experiment.text_length:
        raise UserError(f"--workdir={values.workdir} is a run that reads no texts")
    vocabulary = vocabulary_of(folder, experiment.vocab_size)
    return vocabulary, values.length or experiment.text_length
