"""Tuning on one's own pictures: 200 emoji that a run has never seen; what it keeps, what it learns.

    bash launch/local.sh demo --world=emoji
    python docs/examples/tuning.py --demo=runs/emoji --workdir=runs/tuning

The run is the emoji demo's generator. The 200 are pictures that it never saw: 125 of the concepts
that the demo holds out whole, and further ones of its held-out pairs, by seed 0; the tokenizer has
not seen them either. Cells, each of which leaves its figures in docs/reports/tuning and is not made
again:

  before    the generator as the demo left it
  alone     it goes on with the 200 alone: configs/folder/tune_generator.py
  mixed     with the 200 and, three times as often, the pictures that it knows
  frozen    as alone, and the text encoder stays as it is

Each is asked for 256 of the pictures that the demo has seen, for the 200, and for the held-out
pairs that are not among them: whether the nearest true picture of all is of the concept asked for,
or one of the five nearest (evaluation/concepts.py). Some 25 minutes in all on two cores.
Prints the table and writes it to WORKDIR/tuning.md, and what was drawn for eight of each kind,
below the true pictures, to WORKDIR/CELL.png and, of all cells side by side, WORKDIR/tuning.png.
"""

import argparse
import functools
import pathlib
from typing import Any

import numpy as np
from cells import ROOT, Cell, Figures, arguments, cost, markdown, run_cells, set_steps, share
from emoji_world import at_split, concepts_right, write_world

from babeldraw.commands.demo_emoji import PICTURES
from babeldraw.data.emoji import SEEN, UNSEEN_CONCEPTS, UNSEEN_PAIRS, Entry, read_entries
from babeldraw.data.image import decode, save_png, to_grid
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.concepts import Gallery
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import figures_json
from babeldraw.runs.folder import RunFolder
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

NEW, COUNT, OLD_ASKED = "new", 200, 256
# Splits that each cell is asked for, and how many of each at most.
ASKED = {"old": (SEEN, OLD_ASKED), "new": (NEW, COUNT), "unseen": (UNSEEN_PAIRS, COUNT)}
JUDGED = ("concept", "concept_top5", "style")
BEFORE = "before"
SHOWN = 8
# Of tuning; in a quick run.
STEPS, QUICK_STEPS = 500, 2
# Words whose vectors stay, and with them the rest of the encoder.
FROZEN = {"names": "text_encoder", "rate": 0.0}
MINUTES = {BEFORE: 3, "alone": 7, "mixed": 8, "frozen": 7}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--demo", type=pathlib.Path, required=True, help="of the demo's run")
    args = parser.parse_args()
    write_pictures(args)
    found = run_cells(all_cells(), args, "tuning")
    text = table(found)
    (args.workdir / "tuning.md").write_text(text + "\n")
    print(text)
    sheets = [decode(file) for name in MINUTES if (file := args.workdir / f"{name}.png").exists()]
    if sheets:
        save_png(args.workdir / "tuning.png", to_grid(np.stack(sheets), len(sheets)))


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    return {name: (functools.partial(cell, name), minutes) for name, minutes in MINUTES.items()}


# ------------------------------------------------------------------ the pictures


def write_pictures(args: argparse.Namespace) -> None:
    """The demo's folder once more, the 200 in a split of their own."""
    new = new_pictures(read_entries(args.demo / PICTURES), COUNT)
    write_world(
        args.demo, args.workdir / "emoji", lambda e: at_split(e, NEW) if e.file in new else e
    )


def new_pictures(entries: list[Entry], count: int) -> set[str]:
    """Files of those never seen: all of held-out concepts, then of held-out pairs by seed 0."""
    whole = [entry.file for entry in entries if entry.split == UNSEEN_CONCEPTS]
    pairs = [entry.file for entry in entries if entry.split == UNSEEN_PAIRS]
    further = np.random.default_rng(0).permutation(len(pairs))
    return {*([*whole, *(pairs[i] for i in further)][:count])}


# ------------------------------------------------------------------ a cell


def configured(name: str, args: argparse.Namespace) -> Any:
    """A tuning's config with this machine's files."""
    world = str((args.workdir / "emoji").resolve())
    run = str((args.demo / "text_to_image").resolve())
    config = load_config("configs/folder/tune_generator.py", ROOT / "README.md", run)
    # As the demo has written it, it hangs on where the demo was begun.
    config.tokenizer_run = str((args.demo / "tokenizer").resolve())
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


def cell(name: str, args: argparse.Namespace) -> Figures:
    folder = args.demo / "text_to_image" if name == BEFORE else args.workdir / name
    if name != BEFORE:
        train(configured(name, args), str(folder), label=name)
    gallery = Gallery.read(args.workdir / "emoji", str(args.demo / "alexnet_lpips.safetensors"))
    sampler, figures, shown = Sampler.from_run(str(folder)), {}, []
    for kind, (split, count) in ASKED.items():
        those = np.random.default_rng(0).permutation(gallery.of(split))[:count]
        asked = np.sort(those[:8] if args.quick else those)
        prompts = [gallery.entries[index].caption[0] for index in asked]
        right, images = concepts_right(sampler, gallery, asked, prompts)
        figures |= {f"{what}_{kind}": mean_figure(right[what]) for what in JUDGED}
        few = np.linspace(0, len(asked) - 1, SHOWN, dtype=int)
        shown += [gallery.images[asked[few]], images[few]]
    save_png(args.workdir / f"{name}.png", to_grid(np.concatenate(shown), SHOWN))
    return {**cost(RunFolder.of(str(folder))), "quality": figures_json(figures)}


# ------------------------------------------------------------------ the table


def table(found: dict[str, Figures]) -> str:
    """A row a cell: concepts right, or one of five, and the style: old, new, never seen."""
    heads = ["cell", "steps", "minutes"]
    names = [f"{what}_{kind}" for kind in ASKED for what in JUDGED]
    rows = [
        [cell, str(one["steps"]), f"{one['minutes']:.1f}"]
        + [share(one["quality"][name]) for name in names]
        for cell, one in found.items()
    ]
    words = {"concept": "", "concept_top5": ", of five", "style": ", style"}
    return markdown([*heads, *(f"{kind}{words[what]}" for kind in ASKED for what in JUDGED)], rows)


if __name__ == "__main__":
    main()
