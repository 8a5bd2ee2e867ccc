"""Shows a config's parameters, shapes, axes and memory, without allocating any.

Example:
  babeldraw inspect --config=configs/babeldraw/3b.py
"""

import jax
from absl import flags
from ml_collections import config_flags

from babeldraw.commands.flags import required
from babeldraw.train.experiment import parse
from babeldraw.train.overview import count, nbytes, overview


def define(values: flags.FlagValues, argv: list[str]) -> None:
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A config file; --config.FIELD=VALUE sets a field.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_integer("depth", 2, "Levels of the parameter tree.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    experiment = parse(required(values, "config"))
    objective = experiment.make_objective()
    abstract = jax.eval_shape(objective.init, jax.random.key(0))
    print(overview(abstract, objective.axes(), values.depth))
    parts = {
        "parameters": abstract.params,
        "optimizer state": abstract.opt_state,
        "frozen": abstract.frozen,
        "one batch": objective.batch_spec(),
    }
    for name, tree in parts.items():
        print(f"{name:<16} {count(tree):>18,} values {nbytes(tree) / 2**20:>14,.1f} MiB")
    per_parameter = nbytes((abstract.params, abstract.opt_state)) / count(abstract.params)
    print(f"{'bytes per trained parameter':<36} {per_parameter:>18.2f}")
    return 0
