"""Measures this machine: `babeldraw bench decode --help`.

Each kind compares within one run and prints ratios.

Example:
  babeldraw bench decode --config=configs/demo/text_to_image.py --batches=1,16
"""

from absl import flags

from babeldraw.errors import UserError


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """There are no flags without a kind."""


def run(values: flags.FlagValues) -> int:
    raise UserError("say what to measure: babeldraw bench decode --help")
