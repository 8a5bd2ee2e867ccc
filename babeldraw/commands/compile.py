"""Compiles a config's training step for a TPU pod, without the pod: does it fit, how fast is it?

The real step goes through the real compiler (libtpu, on any x86_64 Linux machine). Printed are the
memory of each chip, the work, the communication, the pipelines' schedules and an estimate of the
time that a step takes. docs/compile.md says what each line means and how good the estimate is.

Example:
  babeldraw compile --config=configs/babeldraw/20b.py --topology=v4:8x8x16 --json=20b.json

Drawing 16 pictures of one prompt, guided, with the weights split over all chips:
  babeldraw compile --config=configs/babeldraw/3b.py --topology=v4:2x2x1 --mode=decode

The program kept, and estimated again later, by another version, without compiling:
  babeldraw compile --config=configs/babeldraw/20b.py --topology=v4:8x8x16 --keep=20b.hlo.gz
  babeldraw compile --from=20b.hlo.gz

Two reports side by side:
  babeldraw compile --compare 20b.json other.json
"""

import dataclasses
import json

from absl import flags
from etils import epath
from ml_collections import config_flags

from babeldraw.commands.compile_decode import compile_decode
from babeldraw.commands.compile_kept import keep, kept
from babeldraw.commands.compile_report import compare, describe
from babeldraw.commands.compile_train import Report, compile_step
from babeldraw.commands.flags import required
from babeldraw.errors import UserError
from babeldraw.say import say
from babeldraw.train.experiment import parse

# Words that are no flags belong to this flag.
WORDS = "compare"


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
    flags.DEFINE_enum(
        "mode", "train", ["train", "decode"], "The training step, or drawing.", flag_values=values
    )
    flags.DEFINE_integer(
        "samples", 16, "Pictures of one prompt, for decode.", flag_values=values, lower_bound=1
    )
    flags.DEFINE_string("json", None, "File for the report as JSON.", flag_values=values)
    flags.DEFINE_string(
        "keep", None, "File for the compiled program, gzipped text.", flag_values=values
    )
    flags.DEFINE_string(
        "from", None, "File of --keep: estimated again, nothing compiled.", flag_values=values
    )
    flags.DEFINE_list("compare", [], "Two files of --json, shown side by side.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    if values.compare:
        print(_compared(values.compare))
        return 0
    if values["from"].value:
        report = _again(values)
    else:
        report = _compiled(values)
    print(describe(report))
    if values.json:
        text = json.dumps(dataclasses.asdict(report), indent=2)
        epath.Path(values.json).write_text(text + "\n")
    return 0


def _again(values: flags.FlagValues) -> Report:
    # What a program was compiled for stands in its file.
    for name in ("config", "topology", "slices", "mode", "samples", "keep"):
        if values[name].present:
            raise UserError(f"--from estimates a program as it was compiled; leave out --{name}")
    return kept(values["from"].value)


def _compiled(values: flags.FlagValues) -> Report:
    experiment = parse(required(values, "config"))
    topology = required(values, "topology")
    if values.mode == "decode":
        if values.slices > 1:
            raise UserError(f"--slices is {values.slices}; one slice draws: 1 is needed")
        report, program = compile_decode(experiment, topology, values.samples)
    else:
        # A step trains, of a run that begins; what draws may be older than a check.
        experiment.check_new()
        report, program = compile_step(experiment, topology, values.slices)
    if values.keep:
        if program is None:
            say(f"--keep={values.keep} is not written: what does not fit is not compiled")
        else:
            keep(values.keep, report, program)
    return report


def _compared(files: list[str]) -> str:
    if len(files) != 2:
        raise UserError(f"--compare has {len(files)} file(s), {' '.join(files)}; two are needed")
    reports = []
    for name in files:
        try:
            reports.append(json.loads(epath.Path(name).read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"--compare cannot read {name}: {error}") from error
    return compare((files[0], files[1]), (reports[0], reports[1]))
