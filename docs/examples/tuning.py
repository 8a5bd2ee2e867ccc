"""Tuning on one's own pictures: 200 emoji that a run has never seen; what it keeps, what it learns.

    bash launch/local.sh demo --world=emoji
    python docs/examples/tuning.py --demo=runs/emoji --workdir=runs/tuning

200 pictures, of whole concepts, are held back: those of the demo's held-out concepts, and further
ones by seed 0. `--demo` is the folder of the demo, whose pictures, tokenizer and weights of AlexNet
are used; that tokenizer has seen some of the 200, the generator none. Cells, each of which leaves
its figures in docs/reports/tuning and is not made again:

  base      configs/emoji/text_to_image.py without the 200
  alone     the base goes on with the 200 alone: configs/folder/tune_generator.py
  mixed     with the 200 and, three times as often, the pictures that it knows
  frozen    as alone, and the text encoder stays as it is

Each is asked for 256 of the pictures that the base has seen and for the 200: whether the nearest
true picture of all is of the concept asked for, or one of the five nearest
(evaluation/concepts.py). Some 90 minutes in all on two cores, by estimate, an hour of them the
base. Prints the table and writes it to WORKDIR/tuning.md.
"""

import argparse
import functools
import json
import os
import pathlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from cells import QUICK, ROOT, Cell, Figures, arguments, cost, markdown, run_cells, set_steps, share

from babeldraw.data.emoji import LIST, SEEN, SETTINGS, UNSEEN_CONCEPTS, Entry, read_entries
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.concepts import Gallery
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import figures_json
from babeldraw.runs.folder import RunFolder
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

NEW, COUNT, OLD_ASKED = "new", 200, 256
JUDGED = ("concept", "concept_top5")
# Of tuning; in a quick run.
STEPS, QUICK_STEPS = 500, 2
# Words whose vectors stay, and with them the rest of the encoder.
FROZEN = {"names": "text_encoder", "rate": 0.0}
MINUTES = {"base": 60, "alone": 8, "mixed": 10, "frozen": 8}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--demo", type=pathlib.Path, required=True, help="of the demo's run")
    args = parser.parse_args()
    write_world(args)
    found = run_cells(all_cells(), args, "tuning")
    text = table(found)
    (args.workdir / "tuning.md").write_text(text + "\n")
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    return {name: (functools.partial(cell, name), minutes) for name, minutes in MINUTES.items()}


# ------------------------------------------------------------------ the pictures


def write_world(args: argparse.Namespace) -> None:
    """The demo's folder once more, its pictures linked, the 200 in a split of their own."""
    demo, world = args.demo / "emoji", args.workdir / "emoji"
    if (world / SETTINGS).exists():
        return
    entries = read_entries(demo)
    held_back = new_concepts(entries)
    moved = [at_split(e, NEW) if e.concept in held_back else e for e in entries]
    for before, now in zip(entries, moved, strict=True):
        (world / now.file).parent.mkdir(parents=True, exist_ok=True)
        if not (world / now.file).exists():
            os.symlink((demo / before.file).resolve(), world / now.file)
    rows = "\n".join(json.dumps(asdict(entry), ensure_ascii=False) for entry in moved)
    (world / LIST).write_text(rows + "\n", encoding="utf-8")
    (world / SETTINGS).write_text((demo / SETTINGS).read_text())


def new_concepts(entries: list[Entry], count: int = COUNT) -> set[str]:
    """Concepts of some `count` pictures: those held out already, then others by seed 0."""
    number = {e.concept: sum(o.concept == e.concept for o in entries) for e in entries}
    out = {e.concept for e in entries if e.split == UNSEEN_CONCEPTS}
    others = sorted(set(number) - out)
    order = [*sorted(out), *(others[i] for i in np.random.default_rng(0).permutation(len(others)))]
    chosen, have = set(), 0
    for concept in order:
        if have + number[concept] <= count:
            chosen.add(concept)
            have += number[concept]
    return chosen


def at_split(entry: Entry, split: str) -> Entry:
    return replace(entry, file=f"{split}/{pathlib.PurePosixPath(entry.file).name}")


# ------------------------------------------------------------------ a cell


def configured(name: str, args: argparse.Namespace) -> Any:
    """A cell's config with this machine's files."""
    world = str((args.workdir / "emoji").resolve())
    if name == "base":
        return base_config(world, args)
    run = str((args.workdir / "base").resolve())
    config = load_config("configs/folder/tune_generator.py", ROOT / "README.md", run)
    set_steps(config, QUICK_STEPS if args.quick else STEPS)
    config.train.eval_every = 0
    config.train.batch_size = 8 if args.quick else config.train.batch_size
    config.data.path, config.data.split, config.data.eval_split = world, f"{NEW}/", f"{NEW}/"
    if name == "frozen":
        # In place of the run's own group, which is of words.
        config.optimizer.groups = (FROZEN,)
    if name == "mixed":
        shares = {NEW: 1.0, SEEN: 3.0}
        config.data.source, config.data.path = "mixture", ""
        config.data.mixture = tuple(
            {
                "source": "folder",
                "path": world,
                "split": f"{split}/",
                "eval_split": f"{NEW}/",
                "weight": weight,
            }
            for split, weight in shares.items()
        )
    return config


def base_config(world: str, args: argparse.Namespace) -> Any:
    whole = load_config("configs/emoji/text_to_image.py", ROOT / "README.md")
    config = whole
    if args.quick:
        config = load_config("configs/emoji/text_to_image.py", ROOT / "README.md", QUICK)
        config.data = whole.data
    # The tokenizer's sizes are those of the run.
    run = args.demo / "tokenizer"
    tokenizer = RunFolder.of(str(run)).read_config()["tokenizer"]
    config.tokenizer.update(tokenizer)
    config.tokenizer_run, config.data.path = str(run.resolve()), world
    config.train.eval_every = 0
    return config


def cell(name: str, args: argparse.Namespace) -> Figures:
    folder = args.workdir / name
    train(configured(name, args), str(folder), label=name)
    gallery = Gallery.read(args.workdir / "emoji", str(args.demo / "alexnet_lpips.safetensors"))
    sampler, figures = Sampler.from_run(str(folder)), {}
    for kind, split, count in (("old", SEEN, OLD_ASKED), ("new", NEW, COUNT)):
        those = np.random.default_rng(0).permutation(gallery.of(split))[:count]
        asked = np.sort(those[:8] if args.quick else those)
        prompts = [gallery.entries[index].caption[0] for index in asked]
        drawn = sampler.sample(prompts, seed=0)
        images = np.stack([picture.image for picture in drawn])
        right = gallery.judge(images, asked)
        figures |= {f"{what}_{kind}": mean_figure(right[what]) for what in JUDGED}
    return {**cost(RunFolder.of(str(folder))), "quality": figures_json(figures)}


# ------------------------------------------------------------------ the table


def table(found: dict[str, Figures]) -> str:
    """A row a cell: concepts right of the old pictures and of the new."""
    heads = ["cell", "steps", "minutes"]
    names = [f"{what}_{kind}" for kind in ("old", "new") for what in JUDGED]
    rows = [
        [cell, str(one["steps"]), f"{one['minutes']:.1f}"]
        + [share(one["quality"][name]) for name in names]
        for cell, one in found.items()
    ]
    return markdown([*heads, "old", "old, of five", "new", "new, of five"], rows)


if __name__ == "__main__":
    main()
