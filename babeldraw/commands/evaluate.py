"""Runs evaluators on the newest checkpoints of runs and prints the figures as JSON.

RUN@STEP is an earlier checkpoint, where it was kept (config.train.keep_every).

Each evaluator leaves a JSON in the run's `evaluations/`: figures with intervals, and how they came
about. Of several runs, separated by commas, a table in Markdown and a page are written to --out.

Pictures in files are compared with a reference by --samples and --reference, without a run; with
--prompts each run draws all of a table, such as PartiPrompts.tsv, and a page shows them side by
side; the same command goes on. With --geneval each run draws GenEval's prompts as its own detector
reads them, and --results makes a table of what that found.

Examples:
  babeldraw evaluate --workdir=runs/demo/text_to_image --evaluators=prompts
  babeldraw evaluate --workdir=runs/a,runs/b --evaluators=reconstruction,rfd \\
    --set=rfd.file=vgg_lpips.safetensors,rfd.num_examples=5000 --out=table
  babeldraw evaluate --samples=drawn.npz --reference=VIRTUAL_imagenet256_labeled.npz \\
    --set=files.file=inception.safetensors,files.protocol=adm_imagenet_256
  babeldraw evaluate --workdir=runs/a@1000,runs/a@2000 --evaluators=reconstruction --out=stages
  babeldraw evaluate --workdir=runs/a,runs/b --prompts=PartiPrompts.tsv --out=parti
  babeldraw evaluate --workdir=runs/a --geneval=evaluation_metadata.jsonl --num=4 --out=geneval
  babeldraw evaluate --geneval=evaluation_metadata.jsonl --results=results.jsonl

On several hosts, as for `train`, the first one prints.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from babeldraw.commands.evaluate_geneval import (
    EACH,
    NEEDED,
    draw_tasks,
    results_record,
    write_results,
)
from babeldraw.commands.evaluate_prompts import draw_prompts
from babeldraw.commands.evaluate_table import Judged, write_table
from babeldraw.commands.flags import (
    define_cache,
    define_hosts,
    hosts_of,
    make_folder,
    required,
    use_cache,
)
from babeldraw.config import build
from babeldraw.errors import UserError
from babeldraw.evaluation.files_distance import FilesDistanceConfig, compare_files
from babeldraw.hosts.joining import joined
from babeldraw.runs.folder import write_json
from babeldraw.say import say
from babeldraw.train.evaluation import TrainedRun, check_asked, evaluate_run, evaluated

FILES = {
    "samples": "Pictures to judge, .npz with arr_0 or a folder; --set=files.FIELD=VALUE says how.",
    "reference": "Of --samples: true pictures, or an .npz of their statistics.",
    "prompts": "A table of prompts that each run draws into --out, for a page to be looked at.",
    "geneval": "GenEval's evaluation_metadata.jsonl, all of which each run draws into --out.",
    "results": "Of --geneval: results.jsonl of its detector, or several; pictures are there.",
}
# Each asks for work of its own, which leaves the flags after it out.
ALONE = {
    "samples": ("workdir", "evaluators", "prompts", "geneval", "results", "weights", "num"),
    "prompts": ("evaluators", "geneval", "results", "num"),
    "results": ("workdir", "evaluators", "weights", "num", "set"),
    "geneval": ("evaluators",),
}


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string(
        "workdir", None, "The run folder; several, separated by commas.", flag_values=values
    )
    flags.DEFINE_list(
        "evaluators",
        [],
        "Sections of config.evaluators, separated by commas, also such as the run's config leaves "
        "out; none: all that it lists.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "EVALUATOR.FIELD=VALUE: what is another here in these sections; again for the next one, or "
        "several with commas between.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "weights",
        "",
        "ema or params; none: the average of the weights where the run keeps one.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "out",
        "",
        "A file for the JSON; none: print it. Of several runs the folder of the table.",
        flag_values=values,
    )
    for name, about in FILES.items():
        flags.DEFINE_string(name, "", about, flag_values=values)
    flags.DEFINE_integer(
        "num",
        None,
        f"Of --geneval: pictures of each prompt; {EACH} by default.",
        flag_values=values,
    )
    define_hosts(values)


def run(values: flags.FlagValues) -> int:
    if values.samples or values.reference:
        return _run_files(values)
    if values.prompts:
        return _run_prompts(values)
    if values.results:
        return _run_results(values)
    if values.geneval:
        return _run_geneval(values)
    if values.num is not None:
        raise UserError("--num goes with --geneval alone; --set=EVALUATOR.FIELD=VALUE sets others")
    return _run_evaluators(values)


def _check_alone(values: flags.FlagValues, flag: str) -> None:
    for name in ALONE[flag]:
        if values[name].value not in (None, "", []):
            raise UserError(f"--{name} does not go with --{flag}; leave it out")


def _run_files(values: flags.FlagValues) -> int:
    _check_alone(values, "samples")
    section = FilesDistanceConfig.path
    fields = _fields_alone(values, "samples", section)
    for name in ("samples", "reference"):
        if name in fields:
            raise UserError(f"--set={section}.{name} is the flag --{name}; set it there")
        fields[name] = values[name].value
    config = build(FilesDistanceConfig, fields, section)
    use_cache(values)
    if values.out:
        _check_file(values.out)
    _tell(compare_files(config), values.out)
    return 0


def _run_prompts(values: flags.FlagValues) -> int:
    workdirs = _workdirs(values)
    _check_alone(values, "prompts")
    settings = _fields_alone(values, "prompts", "sampling")
    folder = Path(required(values, "out"))
    make_folder(folder, f"--out={folder}")
    use_cache(values)
    count = draw_prompts(workdirs, values.prompts, folder, values.weights, settings)
    say(f"{count} pictures; look at {folder / 'index.html'}")
    return 0


def _run_geneval(values: flags.FlagValues) -> int:
    workdirs, num = _workdirs(values), EACH if values.num is None else values.num
    _check_alone(values, "geneval")
    if num < 1:
        raise UserError(f"--num is {num}; at least 1 is needed")
    settings = _fields_alone(values, "geneval", "sampling")
    folder = Path(required(values, "out"))
    make_folder(folder, f"--out={folder}")
    use_cache(values)
    count = draw_tasks(workdirs, values.geneval, folder, num, values.weights, settings)
    say(f"{count} pictures; look at {folder / 'index.html'}. To judge each run's folder: {NEEDED}")
    return 0


def _run_results(values: flags.FlagValues) -> int:
    _check_alone(values, "results")
    tasks, files = required(values, "geneval"), [part for part in values.results.split(",") if part]
    if len(files) == 1:
        if values.out:
            _check_file(values.out)
        _tell(results_record(tasks, files[0]), values.out)
        return 0
    folder = Path(required(values, "out"))
    make_folder(folder, f"--out={folder}")
    write_results(tasks, files, folder)
    say(f"{len(files)} results; look at {folder / 'table.md'}")
    return 0


def _workdirs(values: flags.FlagValues) -> list[str]:
    return [part for part in required(values, "workdir").split(",") if part]


def _fields_alone(values: flags.FlagValues, flag: str, section: str) -> dict[str, Any]:
    """What `--set` says of the only section there is.

    Refuses others, and several hosts, which share no work here.
    """
    fields = {section: {}, **_fields(values)}
    for name in fields:
        if name != section:
            raise UserError(f"--set={name} does not go with --{flag}; set {section}.FIELD=VALUE")
    place, _ = hosts_of(values)
    if place is not None and place.count > 1:
        raise UserError(f"--{flag} is done by one host, not {place.count}; start it on one")
    return fields[section]


def _fields(values: flags.FlagValues) -> dict[str, dict[str, Any]]:
    return parsed_fields([word for words in values["set"].value for word in words.split(",")])


def _check_file(out: str) -> None:
    """Raises where the JSON could not be written: before its figures take their time."""
    if Path(out).is_dir():
        raise UserError(f"--out={out} is a folder; name a file for the JSON, such as {out}/a.json")
    make_folder(Path(out).parent, f"--out={out}")


def _tell(figures: Mapping[str, Any], out: str) -> None:
    if out:
        write_json(Path(out), figures)
    else:
        print(json.dumps(figures, indent=2))


def _run_evaluators(values: flags.FlagValues) -> int:
    workdirs = _workdirs(values)
    fields = _fields(values)
    several, out = len(workdirs) > 1, values.out
    if several and not out:
        raise UserError(f"--out is missing; name a folder for the table of {len(workdirs)} runs")
    if out:
        if several:
            make_folder(Path(out), f"--out={out}")
        else:
            _check_file(out)
    place, limits = hosts_of(values)
    asked = {name: values[name].value for name in ("workdir", "evaluators", "set", "weights")}
    with joined(place, asked, limits) as hosts:
        use_cache(values)
        if several:
            runs = _judged(workdirs, values.evaluators, values.weights, fields)
            if hosts.index == 0:
                write_table(Path(out), runs)
                say(f"{len(runs)} runs; look at {Path(out) / 'index.html'}")
            return 0
        figures = evaluate_run(workdirs[0], values.evaluators, values.weights, fields)
    if hosts.index > 0:
        return 0
    _tell(figures, out)
    return 0


def _judged(
    workdirs: Sequence[str],
    evaluators: Sequence[str],
    weights: str,
    fields: Mapping[str, Mapping[str, Any]],
) -> list[Judged]:
    """Each run with what its evaluators find, one after the other."""
    for workdir in workdirs:
        # What is wrong with the last run is said before the first one takes its time.
        check_asked(workdir, evaluators, weights, fields)
    found = []
    for workdir in workdirs:
        say(f"evaluating {workdir}")
        trained = TrainedRun.open(workdir, weights)
        found.append(Judged.of(workdir, trained, evaluated(trained, evaluators, fields)))
    return found


def parsed_fields(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`rfd.num_examples=5000` to {"rfd": {"num_examples": 5000}}; what is no JSON is a text.

    Raises:
      UserError: a word of another form.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        path, equals, text = word.partition("=")
        evaluator, *names = path.split(".")
        if not equals or not names or not all([evaluator, *names]):
            raise UserError(f"--set={word} is not EVALUATOR.FIELD=VALUE, such as rfd.batch_size=32")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        section = found.setdefault(evaluator, {})
        for name in names[:-1]:
            section = section.setdefault(name, {})
        section[names[-1]] = value
    return found
