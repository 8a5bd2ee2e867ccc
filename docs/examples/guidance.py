"""Guidance fine-tuning: a generator that was trained on every prompt learns what no prompt draws.

    python docs/examples/guidance.py --workdir=runs/guidance

On the shapes world, at the sizes of the demo. Cells, each of which leaves its figures in
docs/reports/guidance and is not made again:

  tokenizer   the demo's
  base        the demo's generator without `condition.dropout`, 1,000 steps of its 2,800
  guided      it goes on for 300 steps with a tenth of the prompts taken away, with fresh moments:
              configs/babeldraw/tune_guidance.py:RUN
  kept        likewise, with the optimizer's moments and its count of steps:
              tune_guidance.py:RUN,kept
  longer      as guided, and no prompt is taken away: what 300 further steps do by themselves

Each is judged by 1,024 prompts of pairs of colour and shape that were seen, and by as many that
never were; the two with dropout with guidance 1.5 and without, the others, which refuse guidance,
without. Some 20 minutes in all on two cores, by estimate. Prints the table and writes it to
WORKDIR/guidance.md.
"""

import argparse
import functools
from typing import Any

from cells import (
    QUICK,
    ROOT,
    Figures,
    arguments,
    cost,
    markdown,
    run_cells,
    set_steps,
    share,
    trained_and_judged,
)

from babeldraw.runs.folder import RunFolder
from babeldraw.train.evaluation import TrainedRun, evaluated
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

STEPS, TUNED_STEPS, QUICK_STEPS = 1000, 300, 2
PROMPTS = 1024
GUIDANCE = 1.5
GUIDED, KEPT, LONGER = "guided", "kept", "longer"
MINUTES = {"tokenizer": 6, "base": 6, GUIDED: 4, KEPT: 4, LONGER: 2}
FIGURES = {"exact_seen": "exact, seen", "exact_unseen": "exact, unseen"}
WITHOUT = "_without_guidance"


def main() -> None:
    args = arguments(__doc__.splitlines()[0]).parse_args()
    cells = {name: (functools.partial(cell, name), minutes) for name, minutes in MINUTES.items()}
    text = table(run_cells(cells, args, "guidance"))
    (args.workdir / "guidance.md").write_text(text)
    print(text)


# ------------------------------------------------------------------ cells


def cell(name: str, args: argparse.Namespace) -> Figures:
    config, folder = configured(name, args), args.workdir / name
    if name == "tokenizer":
        return trained_and_judged(config, folder, ["reconstruction"])[0]
    config.train.eval_every = 0
    config.evaluators.prompts = None
    train(config, str(folder), label=name)
    guidance = GUIDANCE if name in (GUIDED, KEPT) else 1.0
    fields: Figures = {"num_prompts": PROMPTS, "sampling": {"guidance": guidance}}
    if args.quick:
        fields |= {"num_prompts": 2, "batch_size": 2}
    found = evaluated(TrainedRun.open(str(folder)), ["prompts"], {"prompts": fields})["prompts"]
    figures = {**cost(RunFolder.of(str(folder))), "quality": found.record["figures"]}
    return figures | {"guidance": guidance}


def configured(name: str, args: argparse.Namespace) -> Any:
    """A cell's config with this machine's files."""
    if name == "tokenizer":
        return load("demo/tokenizer.py", QUICK if args.quick else "")
    if name == "base":
        config = load("demo/text_to_image.py", QUICK if args.quick else "")
        config.tokenizer_run = str((args.workdir / "tokenizer").resolve())
        config.condition.dropout, config.sampling.guidance = 0.0, 1.0
        if not args.quick:
            set_steps(config, STEPS)
        return config
    run = str((args.workdir / "base").resolve())
    config = load("babeldraw/tune_guidance.py", f"{run},{KEPT}" if name == KEPT else run)
    steps = QUICK_STEPS if args.quick else TUNED_STEPS
    if name == KEPT:
        # Its schedule is the run's own, at whose end it stays.
        config.train.steps = steps
    else:
        set_steps(config, steps)
    if name == LONGER:
        config.condition.dropout, config.sampling.guidance = 0.0, 1.0
    return config


def load(file: str, argument: str) -> Any:
    """A config, open to change."""
    return load_config(file, ROOT / "configs" / "README", argument).unlock()


# ------------------------------------------------------------------ the table


def table(found: dict[str, Figures]) -> str:
    """A row of each run without guidance, and of those that take it one with it."""
    rows = []
    for name, one in found.items():
        if name == "tokenizer":
            continue
        guided = one["guidance"] != 1
        for guidance in (1.0, one["guidance"])[: 1 + guided]:
            suffix = WITHOUT if guided and guidance == 1 else ""
            figures = [share(one["quality"][f"{figure}{suffix}"]) for figure in FIGURES]
            rows.append([name, str(one["steps"]), f"{guidance:g}", *figures])
    heads = ["run", "steps", "guidance", *FIGURES.values()]
    return f"{markdown(heads, rows)}\n\nIn brackets the interval of 95 %.\n"


if __name__ == "__main__":
    main()
