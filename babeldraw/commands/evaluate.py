"""Runs a run's evaluators on its newest checkpoint and prints the figures as JSON.

Example:
  babeldraw evaluate --workdir=runs/demo/text_to_image --only=prompts
"""

import json

from absl import flags

from babeldraw.commands.flags import required
from babeldraw.train.evaluation import evaluate_run


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("workdir", None, "The run folder.", flag_values=values)
    flags.DEFINE_list(
        "only", [], "Names of evaluators, separated by commas; none: all.", flag_values=values
    )
    flags.DEFINE_string("out", "", "A file for the JSON; none: print it.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    figures = evaluate_run(required(values, "workdir"), values.only)
    text = json.dumps(figures, indent=2)
    if values.out:
        with open(values.out, "w") as file:
            file.write(text + "\n")
    else:
        print(text)
    return 0
