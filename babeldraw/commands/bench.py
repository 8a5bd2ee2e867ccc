"""Measures this machine, one part at a time: `babeldraw bench input`, the pipeline of pictures.

Example:
  babeldraw bench input --path=my_shards --image_size=256
"""

from types import ModuleType

from absl import flags

from babeldraw.commands import bench_input
from babeldraw.errors import UserError

# Each part has a file of its own, with `define` and `run` as a command has.
PARTS: dict[str, ModuleType] = {"input": bench_input}
FIRST_WORD = "part"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("part", "", f"What to measure: {', '.join(PARTS)}.", flag_values=values)
    for word in argv[1:]:
        part = PARTS.get(word.removeprefix("--part="))
        if part is not None:
            part.define(values, argv)
            return


def run(values: flags.FlagValues) -> int:
    if values.part not in PARTS:
        raise UserError(
            f"{values.part!r} cannot be measured; say `babeldraw bench` and one of "
            f"{', '.join(PARTS)}"
        )
    return PARTS[values.part].run(values)
