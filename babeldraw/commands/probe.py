"""Probes what a VIM has understood: a softmax layer on the frozen features of each block.

Prints a table over blocks and writes the curve to the run's samples/. The data are the run's own,
which must have classes; settings are those of its config unless given.

Example:
  babeldraw probe --workdir=runs/digits/vim_0 --epochs=200 --pixels=8
"""

import dataclasses
from pathlib import Path

from absl import flags

from babeldraw.commands.flags import define_cache, make_folder, required, use_cache
from babeldraw.config import build, to_dict
from babeldraw.errors import UserError
from babeldraw.evaluation.linear_probe import LinearProbeConfig
from babeldraw.runs.folder import write_json
from babeldraw.say import say
from babeldraw.train.understanding import open_with_features, probe_run


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("workdir", None, "The run folder of a VIM.", flag_values=values)
    flags.DEFINE_string("out", "", "A file for the figures as JSON.", flag_values=values)
    flags.DEFINE_list(
        "blocks", None, "Blocks, separated by commas; the config's.", flag_values=values
    )
    kinds = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
    for field in dataclasses.fields(LinearProbeConfig):
        if field.name != "blocks":
            define_flag = kinds[field.type]
            define_flag(
                field.name, None, f"{field.name}; the config's unless given.", flag_values=values
            )


def run(values: flags.FlagValues) -> int:
    workdir = required(values, "workdir")
    if values.out:
        make_folder(Path(values.out).parent, f"--out={values.out}")
    given = {f.name: values[f.name].value for f in dataclasses.fields(LinearProbeConfig)}
    changed = {name: value for name, value in given.items() if value is not None}
    if "blocks" in changed:
        changed["blocks"] = _numbers(changed["blocks"])
    use_cache(values)
    trained = open_with_features(workdir)
    own = to_dict(trained.experiment.evaluators.linear_probe or LinearProbeConfig())
    config = build(LinearProbeConfig, {**own, **changed}, "config.evaluators.linear_probe")
    for sentence in trained.experiment.what_saw_labels():
        say(sentence)
    figures = probe_run(trained, config)
    print(table(figures))
    if values.out:
        write_json(Path(values.out), figures)
    return 0


def _numbers(words: list[str]) -> tuple[int, ...]:
    if not all(word.strip().isdigit() for word in words):
        raise UserError(f"--blocks={','.join(words)}: whole numbers separated by commas are needed")
    return tuple(int(word) for word in words)


def table(figures: dict[str, float]) -> str:
    """A line per block, raw pixels, and the best."""
    lines = []
    for name, top1 in figures.items():
        kind = name.removeprefix("linear_probe/")
        if not kind.startswith("top1_"):
            continue
        top5 = figures.get(name.replace("top1", "top5"))
        shown = f"{kind.removeprefix('top1_').replace('_', ' '):<12} top-1 {100 * top1:6.2f} %"
        lines.append(shown + (f"   top-5 {100 * top5:6.2f} %" if top5 is not None else ""))
    best = int(figures["linear_probe/best_block"])
    return "\n".join([*lines, f"best: block {best}"])
