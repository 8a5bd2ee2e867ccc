"""Super-resolution by codes on emoji: 8 x 8 codes to 24 x 24, 32 px to 96 px, direct and iterative.

    python docs/examples/enlarging.py --workdir=runs/enlarging

CogView2's cascade whole, of configs/emoji/{hierarchy,coglm,enlarger,refiner}.py with 4 pixels to a
code, a quarter of the work of the 8 that these have by themselves. Each training takes the steps
that fit into its minutes by the pace of 60 of them on this machine. Cells:

  hierarchy          codes of both sizes from one codebook, 14 minutes
  coglm              a small CogLM on the small codes, 14 minutes: its losses
  direct, iterative  each stage from that CogLM, 42 minutes, of 8 pictures a step
  larger             of both, from true small pictures' codes: PSNR and LPIPS to the true large ones
                     of held-out pictures, beside small ones enlarged, and the large codes decoded

Each leaves its figures in docs/reports/enlarging and is not made again; runs that were stopped go
on. Some two hours and a half in all on two cores. Prints the tables and writes them to
WORKDIR/enlarging.md; strips/larger.png has true pictures above what each way makes of them.

The packages of emoji and the weights of LPIPS lie in `--emoji`, the folder of `babeldraw demo
--world=emoji`, and are fetched into it where they are missing (docs/emoji.md).
"""

import argparse
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import grid
import numpy as np
from cells import (
    Cell,
    Figures,
    arguments,
    few,
    markdown,
    run_cells,
    trained_and_judged,
    with_interval,
)
from cogview2_emoji import (
    EMOJI,
    coglm_config,
    folder_of,
    held_out,
    hierarchy_config,
    minutes,
    pictures,
    read_pictures,
    some,
    use_stored,
    weights,
)
from cogview2_tables import cost_table
from enlarging_measures import large_pictures, lpips, of_large
from grid_tables import tokenizers_table

from babeldraw.data.emoji import read_entries
from babeldraw.data.image import center_crop, decode, save_png, to_grid
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.train.presets import load_config

# To a code, and the sides of small and large pictures.
PIXELS, SIDES = "4", (32, 96)
SMALL, LARGE = PIXELS, f"{PIXELS}x3"
MINUTES = {"hierarchy": 14, "coglm": 14, "direct": 42, "iterative": 42}
# Of one picture of 16; at 32 px all of VGG16 would be half of a step.
PERCEPTUAL_EVERY = 16
# By stage its config, and whether it learns from the large codes alone, which can be stored.
STAGES = {"direct": ("enlarger.py", False), "iterative": ("refiner.py", True)}
# A picture has 576 large codes: with the demo's 32 pictures a step there would be few steps.
STAGE_BATCH, STAGE_LOG = 8, 20
JUDGES = {"lpips_alexnet": ("alexnet_lpips", "alexnet"), "lpips_vgg16": ("vgg_lpips", "vgg16")}
SHOWN = 8


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=pathlib.Path, help="WORKDIR/emoji if not given")
    args = parser.parse_args()
    args.emoji = args.emoji or args.workdir / "emoji"
    text = tables(run_cells(all_cells(), args, "enlarging"))
    (args.workdir / "enlarging.md").write_text(text)
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    return {
        "hierarchy": (hierarchy_cell, MINUTES["hierarchy"] + 5),
        "coglm": (coglm_cell, MINUTES["coglm"] + 5),
        **{name: (functools.partial(stage_cell, name), MINUTES[name] + 5) for name in STAGES},
        "larger": (larger_cell, 6),
    }


# ------------------------------------------------------------------ trainings


def hierarchy_cell(args: argparse.Namespace) -> Figures:
    config = hierarchy_config(PIXELS, SIDES[-1], args)
    if not args.quick:
        config.perceptual.every = PERCEPTUAL_EVERY
    return trained("hierarchy", config, args, judges=["reconstruction"])


def coglm_cell(args: argparse.Namespace) -> Figures:
    config = coglm_config(f"hierarchy_{PIXELS}", folder_of("hierarchy", args), args)
    learn_from(config, True, args)
    return trained("coglm", config, args)


def stage_cell(name: str, args: argparse.Namespace) -> Figures:
    """From the CogLM; a quick one's is as small as that."""
    file, stored = STAGES[name]
    config = load_config(file, EMOJI, folder_of("coglm", args))
    config.train.batch_size, config.train.log_every = STAGE_BATCH, STAGE_LOG
    learn_from(config, stored, args)
    return trained(name, config, args)


def learn_from(config: Any, stored: bool, args: argparse.Namespace) -> None:
    """Has a config learn from pictures, or from their codes, which no quick run stores."""
    if stored and not args.quick:
        use_stored(config, SIDES[-1], args)
    else:
        read_pictures(config, SIDES[-1], args, "center")


def trained(
    name: str, config: Any, args: argparse.Namespace, judges: tuple[str, ...] | list[str] = ()
) -> Figures:
    return trained_and_judged(config, args.workdir / name, judges, minutes(MINUTES[name], args))[0]


# ------------------------------------------------------------------ what they make


def larger_cell(args: argparse.Namespace) -> Figures:
    """Of pictures held out."""
    stages = [folder_of(stage, args) for stage in STAGES]
    sampler = Sampler.from_run(folder_of("coglm", args), stages=stages)
    hierarchy = folder_of("hierarchy", args)
    tokenizers = tuple(TokenizerRun.open(hierarchy, level=level) for level in (SMALL, LARGE))
    folder = pictures(SIDES[-1], args)
    world = read_entries(folder)
    own = some(world, held_out(world), few(len(world), args))
    size = tokenizers[1].image_size
    images = np.stack([center_crop(decode(folder / entry.file), size) for entry in own])
    made = large_pictures(sampler, tokenizers, [entry.caption[0] for entry in own], images)
    save_png(grid.strip_of("larger", args), sheet([images, *made.values()]))
    distances = {
        name: lpips(file, network)
        for name, (kind, network) in JUDGES.items()
        if (file := weights(kind, args))
    }
    return {"pictures": len(images), "ways": of_large(made, images, distances)}


def sheet(rows: list[np.ndarray]) -> np.ndarray:
    """The first pictures of each row, one row below the other."""
    columns = min(SHOWN, len(rows[0]))
    return to_grid(np.concatenate([row[:columns] for row in rows]), columns)


# ------------------------------------------------------------------ tables


def tables(found: Mapping[str, Figures]) -> str:
    """Markdown of all cells that there are."""
    parts = []
    if "hierarchy" in found:
        parts.append(tokenizers_table({"emoji, 32 px": found["hierarchy"]}))
    if networks := {name: found[name] for name in ("coglm", *STAGES) if name in found}:
        parts.append(cost_table("emoji", networks))
    if "larger" in found:
        parts.append(larger_table(found["larger"]))
    return "\n\n".join([*parts, "In brackets the interval of 95 %."]) + "\n"


def larger_table(found: Figures) -> str:
    """Markdown: ways to a large picture by their distance from the true one."""
    ways = found["ways"]
    names = [name for name in next(iter(ways.values())) if name.startswith("lpips")]
    whole = [name for name in names if not name.endswith("_less")]
    rows = []
    for way, one in ways.items():
        row = [way, with_interval(one["psnr_db"], ".2f")]
        for name in whole:
            row += [with_interval(one[name], ".3f"), with_interval(one[f"{name}_less"], "+.3f")]
        rows.append(row)
    heads = [head for name in whole for head in (name, "less that of small codes")]
    return markdown(["emoji, 32 to 96 px", "PSNR, dB", *heads], rows)


if __name__ == "__main__":
    main()
