"""CogView2's experiments: one model that draws, tells and fills in.

    python docs/examples/cogview2.py --workdir=runs/cogview2

Each training takes the steps that fit into its minutes by the pace of 60 of them on this machine;
those of other maskings take as many.
Cells:

  shapes_tokenizer    the demo's tokenizer, 7 minutes
  shapes_coglm_N      configs/demo/coglm.py with the first N of its maskings (text to image, image
                      to text, text), 11 minutes: exact drawings, texts told of held-out pictures, a
                      hole in the middle filled, losses of codes and of pieces, peak memory
  lopar_speed         3,600 codes of one picture drawn in LoPAR's 6 passes over all of them, and one
                      by one by a CogLM of the same blocks, weights as they begin
  post_selection      of shapes_coglm_3: the best of 8 by the perplexity of their text
  clusters            of the same: clusters of codes, and the likeliest codes
  text_weight         of the same: attention to the text's columns 1 to 2 times as heavy, and by
                      CogView2's own 1.4 and others, which it adds to logits
  emoji_hierarchy     codes of 64 and of 192 px from one codebook, 35 minutes
  emoji_coglm_N       configs/emoji/coglm.py, smaller, on its 8 x 8 codes, stored once, 35 minutes:
                      concept and style of what is drawn, and of what is told
  emoji_coglm_tuned   emoji_coglm_3 goes on with the held-out pairs alone, 5 minutes

Each leaves its figures in docs/reports/cogview2 and is not made again; runs that were stopped go
on. Some four hours in all on two cores, by estimate; `--cells='shapes_*'` names some. Prints the
tables and writes them to WORKDIR/cogview2.md; cogview2.png has the losses, strips/ what was drawn.
Super-resolution is enlarging.py's.

The packages of emoji and the weights of LPIPS lie in `--emoji`, the folder of `babeldraw demo
--world=emoji`, and are fetched into it where they are missing (docs/emoji.md); pictures of 64 and
of 192 px are made of them in WORKDIR once.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import grid
from cells import (
    QUICK,
    ROOT,
    Cell,
    Figures,
    arguments,
    few,
    run_cells,
    set_steps,
    trained_and_judged,
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
from cogview2_measures import (
    curves,
    drawing_seconds,
    emoji_told,
    middle_filled,
    shapes_told,
    untrained,
)
from cogview2_tables import draw_curves, tables
from cogview2_ways import PROMPTS, clusters, post_selection, text_weight

from babeldraw.data.emoji import (
    SEEN,
    read_entries,
)
from babeldraw.data.image import save_png
from babeldraw.drawing.captioning import CaptionerRun
from babeldraw.drawing.sampler import Sampler
from babeldraw.runs.folder import RunFolder
from babeldraw.train.evaluation import Evaluated
from babeldraw.train.presets import complete, load_config

SHAPES = ROOT / "configs" / "demo" / "README"
MASKINGS = ("text_to_image", "image_to_text", "text")
SHAPES_MINUTES, EMOJI_MINUTES, HIERARCHY_MINUTES = 11, 35, 35
TUNING_MINUTES, QUICK_STEPS = 5, 2
# To a small code, and the sides of small and large pictures.
PIXELS, SIDES = "8", (64, 192)
# Pictures told of each kind, and pictures with a hole.
TOLD, HOLES = 256, 128
# 60 x 60 codes at 8 pixels to each.
LONG_SIDE, POSITIONS = 480, 4096


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=pathlib.Path, help="WORKDIR/emoji if not given")
    args = parser.parse_args()
    args.emoji = args.emoji or args.workdir / "emoji"
    found = run_cells(all_cells(), args, "cogview2")
    text = tables(found)
    (args.workdir / "cogview2.md").write_text(text)
    draw_curves(found, args)
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    counts = range(1, len(MASKINGS) + 1)
    shapes = {f"shapes_coglm_{n}": functools.partial(shapes_cell, n) for n in counts}
    emoji = {f"emoji_coglm_{n}": functools.partial(emoji_cell, n) for n in counts}
    return {
        "shapes_tokenizer": (shapes_tokenizer, 8),
        **{name: (cell, SHAPES_MINUTES + 4) for name, cell in shapes.items()},
        "lopar_speed": (speed_cell, 4),
        "post_selection": (of_best_shapes(post_selection), 8),
        "clusters": (of_best_shapes(clusters), 6),
        "text_weight": (of_best_shapes(text_weight), 5),
        "emoji_hierarchy": (hierarchy_cell, HIERARCHY_MINUTES + 5),
        **{name: (cell, EMOJI_MINUTES + 5) for name, cell in emoji.items()},
        "emoji_coglm_tuned": (tuned_cell, TUNING_MINUTES + 5),
    }


def of_best_shapes(measure: Callable[[str, argparse.Namespace], Figures]) -> Cell:
    """A cell of the run of shapes with all three maskings."""
    return lambda args: measure(folder_of("shapes_coglm_3", args), args)


def as_others(config: Any, given: float, world: str, args: argparse.Namespace) -> float:
    """Minutes for a CogLM, or none: it has the steps of one of other maskings where there is one.

    A step of any costs the same, and a pace is never measured twice the same.
    """
    others = sorted(args.workdir.glob(f"{world}_coglm_[0-9]/config.json"))
    if others and not args.quick:
        set_steps(config, RunFolder.of(str(others[0].parent)).read_config()["train"]["steps"])
        return 0
    return minutes(given, args)


# ------------------------------------------------------------------ shapes


def shapes_tokenizer(args: argparse.Namespace) -> Figures:
    config = grid.load_tokenizer("shapes", "vit_vqgan")
    return grid.tokenizer_trained("shapes", "tokenizer", config, args)


def masked(config: Any, count: int) -> None:
    """Leaves a config of CogLM the first so many of its maskings."""
    for name in MASKINGS[count:]:
        config.prediction.odds[name] = 0.0


def shapes_config(count: int, args: argparse.Namespace) -> Any:
    config = load_config("coglm.py", SHAPES).unlock()
    masked(config, count)
    config.tokenizer_run = folder_of("shapes_tokenizer", args)
    return complete(config.to_dict(), QUICK if args.quick else "")


def shapes_cell(count: int, args: argparse.Namespace) -> Figures:
    config, judge = shapes_config(count, args), "prompts"
    folder, given = args.workdir / f"shapes_coglm_{count}", SHAPES_MINUTES
    trained = trained_and_judged(config, folder, [judge], as_others(config, given, "shapes", args))
    return {
        **coglm_figures(folder, judge, trained, args),
        "captions": shapes_told(CaptionerRun.open(str(folder)), few(TOLD, args)),
        "hole": middle_filled(Sampler.from_run(str(folder)), few(HOLES, args)),
    }


def coglm_figures(
    folder: pathlib.Path,
    judge: str,
    trained: tuple[Figures, dict[str, Evaluated]],
    args: argparse.Namespace,
) -> Figures:
    """What a training cost and its judge found, with the losses; its first pictures are kept."""
    figures, found = trained
    if judge in found:
        save_png(grid.strip_of(folder.name, args), found[judge].pictures["samples_seen"])
    return {**figures, "curves": curves(folder)}


# ------------------------------------------------------------------ speed


def long_config(file: str, args: argparse.Namespace) -> Any:
    """A config of emoji, of pictures of LONG_SIDE, or as small as the quick variant makes them."""
    config = load_config(file, EMOJI).unlock()
    config.tokenizer = load_config("hierarchy.py", EMOJI).tokenizer
    config.tokenizer.image_size = (LONG_SIDE // 3, LONG_SIDE // 3)
    config.level, config.model.positions = "8x3", POSITIONS
    return complete(config.to_dict(), QUICK if args.quick else "")


def speed_cell(args: argparse.Namespace) -> Figures:
    files = {"LoPAR": "refiner.py", "one by one": "coglm.py"}
    samplers = {name: untrained(long_config(file, args)) for name, file in files.items()}
    return drawing_seconds(samplers)


# ------------------------------------------------------------------ emoji


def hierarchy_cell(args: argparse.Namespace) -> Figures:
    config = hierarchy_config(PIXELS, SIDES[-1], args)
    folder, given = args.workdir / "emoji_hierarchy", minutes(HIERARCHY_MINUTES, args)
    return trained_and_judged(config, folder, ["reconstruction"], given)[0]


def emoji_config(count: int, args: argparse.Namespace) -> Any:
    config = coglm_config("hierarchy", folder_of("emoji_hierarchy", args), args)
    masked(config, count)
    return config


def emoji_cell(count: int, args: argparse.Namespace) -> Figures:
    config = emoji_config(count, args)
    if args.quick:
        read_pictures(config, SIDES[-1], args, "center")
    else:
        use_stored(config, SIDES[-1], args)
    given = as_others(config, EMOJI_MINUTES, "emoji", args)
    return emoji_figures(config, args.workdir / f"emoji_coglm_{count}", given, args)


def tuned_cell(args: argparse.Namespace) -> Figures:
    """The run of all three maskings goes on with what it was never shown."""
    run = folder_of("emoji_coglm_3", args)
    config = load_config("folder/tune_generator.py", ROOT / "configs" / "README", run)
    read_pictures(config, SIDES[-1], args, "center")
    new = held_out(read_entries(pathlib.Path(config.data.path)))
    config.data.update(split=f"{new}/", eval_split=f"{new}/")
    if args.quick:
        config.train.batch_size = 8
        set_steps(config, QUICK_STEPS)
    given = minutes(TUNING_MINUTES, args)
    return emoji_figures(config, args.workdir / "emoji_coglm_tuned", given, args)


def emoji_figures(
    config: Any, folder: pathlib.Path, given: float, args: argparse.Namespace
) -> Figures:
    """Trains, or goes on with, a CogLM of emoji; what it draws and tells."""
    judges = []
    if file := weights("alexnet_lpips", args):
        judges, world = ["concepts"], str(pictures(SIDES[0], args))
        prompts = {"num_prompts": few(PROMPTS, args), "batch_size": few(64, args)}
        config.evaluators.concepts = {"file": file, "path": world, **prompts}
    trained = trained_and_judged(config, folder, judges, given)
    return {
        **coglm_figures(folder, "concepts", trained, args),
        "captions": captions_of_emoji(CaptionerRun.open(str(folder)), args),
    }


def captions_of_emoji(run: CaptionerRun, args: argparse.Namespace) -> Figures:
    """What is told of pictures that training showed, and of those held out."""
    folder, found = pictures(SIDES[-1], args), {}
    world = read_entries(folder)
    for kind, split in (("seen", SEEN), ("unseen", held_out(world))):
        shown = some(world, split, few(TOLD, args))
        told = emoji_told(run, world, shown, folder)
        found |= {f"{name}_{kind}": figure for name, figure in told.items()}
    return found


if __name__ == "__main__":
    main()
