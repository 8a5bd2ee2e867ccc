"""Measures this machine: see `--help` of `bench train`, `decode`, `input`, `attention`, `codebook`.

Each kind compares within one run and prints ratios.

Example:
  babeldraw bench train --config=configs/folder/tokenizer.py
  babeldraw bench decode --config=configs/demo/text_to_image.py --batches=1,16
  babeldraw bench attention --grid=60,60 --window=9,5
  babeldraw bench input --path=my_shards --image_size=256
  babeldraw bench codebook --codes=16384
"""

from absl import flags

from babeldraw.errors import UserError


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """There are no flags without a kind."""


def run(values: flags.FlagValues) -> int:
    raise UserError(
        "say what to measure: babeldraw bench train --help, babeldraw bench decode --help, "
        "babeldraw bench input --help, babeldraw bench attention --help, babeldraw bench codebook "
        "--help"
    )
