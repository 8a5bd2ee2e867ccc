"""Compiles a config's training step for a TPU pod, without the pod: does it fit?

The real step goes through the real compiler (libtpu, on any x86_64 Linux machine). Printed are the
memory of each chip, the communication in the program and the pipelines' schedules. No estimate of
the time that a step takes is made yet.

Example:
  babeldraw compile --config=configs/babeldraw/20b.py --topology=v4:8x8x16
"""

import dataclasses
import json

from absl import flags
from etils import epath
from ml_collections import config_flags

from babeldraw.commands.flags import required
from babeldraw.train.compile import compile_step, describe
from babeldraw.train.experiment import parse
from babeldraw.train.progress import say


def define(values: flags.FlagValues, argv: list[str]) -> None:
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A config file; --config.FIELD=VALUE sets a field.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_string(
        "topology", None, "Generation and chips of a slice, as v4:4x4x8.", flag_values=values
    )
    flags.DEFINE_integer("slices", 1, "Number of such slices.", flag_values=values, lower_bound=1)
    flags.DEFINE_string("json", None, "File for the report as JSON.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    experiment = parse(required(values, "config"))
    topology = required(values, "topology")
    say(f"compiling for {topology}; a model of 20B takes some minutes")
    report = compile_step(experiment, topology, values.slices)
    print(describe(report))
    if values.json:
        text = json.dumps(dataclasses.asdict(report), indent=2)
        epath.Path(values.json).write_text(text + "\n")
    return 0
