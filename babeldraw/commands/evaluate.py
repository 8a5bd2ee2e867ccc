"""Runs a run's evaluators on its newest checkpoint and prints the figures as JSON.

Example:
  babeldraw evaluate --workdir=runs/demo/text_to_image --evaluators=prompts

On several hosts, as for `train`, the first one prints.
"""

import json
from pathlib import Path

from absl import flags

from babeldraw.commands.flags import (
    define_cache,
    define_hosts,
    hosts_of,
    make_folder,
    required,
    use_cache,
)
from babeldraw.hosts.joining import joined
from babeldraw.runs.folder import write_json
from babeldraw.train.evaluation import evaluate_run


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("workdir", None, "The run folder.", flag_values=values)
    flags.DEFINE_list(
        "evaluators",
        [],
        "Sections of config.evaluators, separated by commas, also such as the run's config leaves "
        "out; none: all that it lists.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "weights",
        "",
        "ema or params; none: the average of the weights where the run keeps one.",
        flag_values=values,
    )
    flags.DEFINE_string("out", "", "A file for the JSON; none: print it.", flag_values=values)
    define_hosts(values)


def run(values: flags.FlagValues) -> int:
    workdir = required(values, "workdir")
    if values.out:
        make_folder(Path(values.out).parent, f"--out={values.out}")
    place, limits = hosts_of(values)
    asked = {name: values[name].value for name in ("workdir", "evaluators", "weights")}
    with joined(place, asked, limits) as hosts:
        use_cache(values)
        figures = evaluate_run(workdir, values.evaluators, values.weights)
    if hosts.index > 0:
        return 0
    if values.out:
        write_json(Path(values.out), figures)
    else:
        print(json.dumps(figures, indent=2))
    return 0
