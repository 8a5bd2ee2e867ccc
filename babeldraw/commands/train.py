"""Trains one run from one config; goes on by itself where it stopped.

Example:
  babeldraw train --config=configs/demo/tokenizer.py --workdir=runs/tokenizer \\
      --config.train.steps=100
"""

from absl import flags
from ml_collections import config_flags

from babeldraw.commands.flags import define_cache, define_hosts, hosts_of, required, use_cache
from babeldraw.config import to_dict
from babeldraw.hosts.joining import Interrupted, joined
from babeldraw.hosts.presence import GO_ON
from babeldraw.say import say
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A config file; FILE.py:runlocal for a few quick steps; --config.FIELD=VALUE sets a field.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_string("workdir", None, "The run folder.", flag_values=values)
    define_hosts(values)


def run(values: flags.FlagValues) -> int:
    config = required(values, "config")
    workdir = required(values, "workdir")
    place, limits = hosts_of(values)
    try:
        with joined(place, to_dict(parse(config)), limits) as hosts:
            use_cache(values)
            figures = train(config, workdir, hosts=hosts)
    except Interrupted as stopped:
        say(f"stopped after step {stopped.step}, which is saved; the same command goes on from it")
        return GO_ON
    for name, value in figures.items():
        print(f"{name:<40} {value:.6g}")
    return 0
