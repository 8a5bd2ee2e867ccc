"""CogView2's experiments: one model that draws, tells, fills in and enlarges.

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
  emoji_hierarchy     codes of 32 and of 96 px from one codebook, 14 minutes
  emoji_coglm_N       configs/emoji/coglm.py, smaller, on its 8 x 8 codes, stored once, 14 minutes:
                      concept and style of what is drawn, and of what is told
  emoji_coglm_tuned   emoji_coglm_3 goes on with the held-out pairs alone, 5 minutes
  emoji_enlarger, emoji_refiner
                      direct and iterative super-resolution from emoji_coglm_3, 42 minutes each
  emoji_larger        of both, from true small pictures' codes: PSNR and LPIPS to the true large
                      ones, beside the small ones enlarged, and the large codes decoded

Each leaves its figures in docs/reports/cogview2 and is not made again; runs that were stopped go
on. Some five hours in all on two cores, by estimate; `--cells='shapes_*'` names some. Prints the
tables and writes them to WORKDIR/cogview2.md; cogview2.png has the losses, strips/ what was drawn
and, as emoji_larger.png, true pictures above what each way makes of them.

The packages of emoji and the weights of LPIPS lie in `--emoji`, the folder of `babeldraw demo
--world=emoji`, and are fetched into it where they are missing (docs/emoji.md); pictures of 32 and
of 96 px are made of them in WORKDIR once.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import grid
import numpy as np
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
from cogview2_measures import (
    curves,
    drawing_seconds,
    emoji_told,
    large_pictures,
    lpips,
    middle_filled,
    of_large,
    shapes_told,
    untrained,
)
from cogview2_tables import draw_curves, tables
from cogview2_ways import PROMPTS, clusters, post_selection, text_weight
from emoji_world import PIECES, smaller, stored_tokens, write_world

from babeldraw.commands.demo_emoji import PACKAGES, PICTURES, lpips_weights
from babeldraw.commands.emoji import find_packs
from babeldraw.data.emoji import (
    SEEN,
    UNSEEN_CONCEPTS,
    UNSEEN_PAIRS,
    Entry,
    read_entries,
    write_folder,
)
from babeldraw.data.image import center_crop, decode, save_png, to_grid
from babeldraw.drawing.captioning import CaptionerRun
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.runs.folder import RunFolder
from babeldraw.train.evaluation import Evaluated
from babeldraw.train.presets import complete, load_config

SHAPES, EMOJI = (ROOT / "configs" / world / "README" for world in ("demo", "emoji"))
MASKINGS = ("text_to_image", "image_to_text", "text")
SHAPES_MINUTES, EMOJI_MINUTES, HIERARCHY_MINUTES, STAGE_MINUTES = 11, 14, 14, 42
TUNING_MINUTES, QUICK_STEPS = 5, 2
# Of the tokenizer's, of 32 and of 96 px.
SMALL, LARGE = "4", "4x3"
SIDES = (32, 96)
# Stages in their order, and whether one learns from the large codes alone, which can be stored.
STAGES = {"enlarger": False, "refiner": True}
# A picture has 576 large codes: with the demo's 32 pictures a step there would be few steps.
STAGE_BATCH, STAGE_LOG = 8, 20
HIERARCHY_BATCH = 16
# Pictures told of each kind, and pictures with a hole.
TOLD, HOLES = 256, 128
SHOWN = 8
# 60 x 60 codes at 8 pixels to each.
LONG_SIDE, POSITIONS = 480, 4096
# Pictures of the emoji demo in a quick run, about.
FEW = 320


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
    stages = {f"emoji_{name}": functools.partial(stage_cell, name) for name in STAGES}
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
        **{name: (cell, STAGE_MINUTES + 5) for name, cell in stages.items()},
        "emoji_larger": (larger_cell, 6),
    }


def of_best_shapes(measure: Callable[[str, argparse.Namespace], Figures]) -> Cell:
    """A cell of the run of shapes with all three maskings."""
    return lambda args: measure(folder_of("shapes_coglm_3", args), args)


def minutes(count: float, args: argparse.Namespace) -> float:
    return 0 if args.quick else count


def as_others(config: Any, given: float, world: str, args: argparse.Namespace) -> float:
    """Minutes for a CogLM, or none: it has the steps of one of other maskings where there is one.

    A step of any costs the same, and a pace is never measured twice the same.
    """
    others = sorted(args.workdir.glob(f"{world}_coglm_[0-9]/config.json"))
    if others and not args.quick:
        set_steps(config, RunFolder.of(str(others[0].parent)).read_config()["train"]["steps"])
        return 0
    return minutes(given, args)


def folder_of(cell: str, args: argparse.Namespace) -> str:
    return str((args.workdir / cell).resolve())


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


def pictures(side: int, args: argparse.Namespace) -> pathlib.Path:
    """The folder of emoji of a side, which is made once; of a quick run a few of the demo's."""
    if args.quick:
        # Odd, so that no style is left out.
        every = len(read_entries(args.emoji / PICTURES)) // FEW | 1
        write_world(args.emoji, args.workdir / "emoji_few", lambda entry: entry, every)
        return (args.workdir / "emoji_few").resolve()
    packages, out = args.emoji / PACKAGES, args.workdir / f"emoji_{side}"
    write_folder(find_packs(packages), packages, out, side)
    return out.resolve()


def weights(kind: str, args: argparse.Namespace) -> str:
    """The file of an LPIPS network; empty where it cannot be had."""
    args.emoji.mkdir(parents=True, exist_ok=True)
    return lpips_weights(args.emoji, args.emoji / PACKAGES, kind)


def held_out(world: Sequence[Entry]) -> str:
    """The split that is judged by: concepts in a style that training never shows.

    Of one style alone, as where there is no npm, no pair can be held out.
    """
    return UNSEEN_PAIRS if any(e.split == UNSEEN_PAIRS for e in world) else UNSEEN_CONCEPTS


def read_pictures(config: Any, args: argparse.Namespace, crop: str) -> None:
    """Has a config learn from the large pictures."""
    folder = pictures(SIDES[-1], args)
    splits = {"split": f"{SEEN}/", "eval_split": f"{held_out(read_entries(folder))}/"}
    config.data.update(source="folder", path=str(folder), crop=crop, **splits)


def use_stored(config: Any, args: argparse.Namespace) -> None:
    """Has a config learn from its tokenizer's codes of the large pictures, stored once."""
    run, level = pathlib.Path(config.tokenizer_run), config.level
    out = args.workdir.resolve() / f"emoji_codes_{level}"
    config.data = stored_tokens(run, pictures(SIDES[-1], args), out, level)


def hierarchy_cell(args: argparse.Namespace) -> Figures:
    config = complete(
        load_config("hierarchy.py", EMOJI, SMALL).to_dict(), QUICK if args.quick else ""
    )
    read_pictures(config, args, "random")
    file = "" if args.quick else weights("vgg_lpips", args)
    config.perceptual.file = file
    if not file:
        config.loss.perceptual = 0.0
    if not args.quick:
        # VGG16 is slow at 32 px, and would be half of each step.
        config.train.batch_size = config.perceptual.every = HIERARCHY_BATCH
    folder, given = args.workdir / "emoji_hierarchy", minutes(HIERARCHY_MINUTES, args)
    return trained_and_judged(config, folder, ["reconstruction"], given)[0]


def emoji_config(count: int, args: argparse.Namespace) -> Any:
    config = load_config("coglm.py", EMOJI, f"hierarchy_{SMALL}").unlock()
    masked(config, count)
    config.tokenizer_run = folder_of("emoji_hierarchy", args)
    # Of the demo's size there would be some 350 steps, most of their work in the table of words.
    smaller(config)
    config.condition.vocab_size = PIECES
    return complete(config.to_dict(), QUICK if args.quick else "")


def emoji_cell(count: int, args: argparse.Namespace) -> Figures:
    config = emoji_config(count, args)
    if args.quick:
        read_pictures(config, args, "center")
    else:
        use_stored(config, args)
    given = as_others(config, EMOJI_MINUTES, "emoji", args)
    return emoji_figures(config, args.workdir / f"emoji_coglm_{count}", given, args)


def tuned_cell(args: argparse.Namespace) -> Figures:
    """The run of all three maskings goes on with what it was never shown."""
    run = folder_of("emoji_coglm_3", args)
    config = load_config("folder/tune_generator.py", ROOT / "configs" / "README", run)
    read_pictures(config, args, "center")
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


def some(world: Sequence[Entry], split: str, count: int) -> list[Entry]:
    """At most so many pictures of a split, always the same."""
    own = [entry for entry in world if entry.split == split]
    return [own[row] for row in sorted(np.random.default_rng(0).permutation(len(own))[:count])]


# ------------------------------------------------------------------ large emoji


def stage_config(name: str, args: argparse.Namespace) -> Any:
    """From the run of all three maskings; a quick one's is as small as that."""
    return load_config(f"{name}.py", EMOJI, folder_of("emoji_coglm_3", args))


def stage_cell(name: str, args: argparse.Namespace) -> Figures:
    config = stage_config(name, args)
    config.train.batch_size, config.train.log_every = STAGE_BATCH, STAGE_LOG
    if STAGES[name] and not args.quick:
        use_stored(config, args)
    else:
        read_pictures(config, args, "center")
    folder = args.workdir / f"emoji_{name}"
    return trained_and_judged(config, folder, [], minutes(STAGE_MINUTES, args))[0]


def larger_cell(args: argparse.Namespace) -> Figures:
    """Of pictures held out."""
    run, stages = folder_of("emoji_coglm_3", args), [f"emoji_{name}" for name in STAGES]
    sampler = Sampler.from_run(run, stages=[folder_of(stage, args) for stage in stages])
    hierarchy = folder_of("emoji_hierarchy", args)
    tokenizers = tuple(TokenizerRun.open(hierarchy, level=level) for level in (SMALL, LARGE))
    folder = pictures(SIDES[-1], args)
    world = read_entries(folder)
    own = some(world, held_out(world), few(len(world), args))
    size = tokenizers[1].image_size
    images = np.stack([center_crop(decode(folder / entry.file), size) for entry in own])
    made = large_pictures(sampler, tokenizers, [entry.caption[0] for entry in own], images)
    save_png(grid.strip_of("emoji_larger", args), sheet([images, *made.values()]))
    kinds = {"lpips_alexnet": ("alexnet_lpips", "alexnet"), "lpips_vgg16": ("vgg_lpips", "vgg16")}
    distances = {}
    for name, (kind, network) in kinds.items():
        if file := weights(kind, args):
            distances[name] = lpips(file, network)
    return {"pictures": len(images), "ways": of_large(made, images, distances)}


def sheet(rows: list[np.ndarray]) -> np.ndarray:
    """The first pictures of each row, one row below the other."""
    columns = min(SHOWN, len(rows[0]))
    return to_grid(np.concatenate([row[:columns] for row in rows]), columns)


if __name__ == "__main__":
    main()
