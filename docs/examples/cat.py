"""CAT's experiments: as many codes as a picture needs, against sixteen pixels to a code for all.

    pip install -e ".[examples]"
    python docs/examples/cat.py --workdir=runs/cat

Pictures of 128 px, made or fetched here (cat_data.py): emoji, photographs, text and charts. Each
training takes the steps that fit into its minutes by the pace of 60 of them on this machine. Cells:

  nested, fixed       a nested VAE at 8, 16 and 32 pixels to a code; the same network with 16 alone
  errors              of each picture at each level; a scorer of captions trained on them, JPEG size
                      and variance beside it; PSNR and LPIPS of levels chosen by each at the codes
                      that 16 pixels have, with intervals; what words say a generator's data need
  captioned           the nested VAE again, each picture trained at the level of its caption
  captioned_errors    what levels by captions give with that one
  dit_cat, dit_fixed  a DiT on stored codes of the nested VAE, each picture at the level of its
                      caption, and one on the fixed VAE's: pictures/s and operations of training and
                      drawing, and the distance of what is drawn of the test's captions
  WORLD_TOKENIZER, WORLD_TOKENIZER_dit
                      the grid's continuous column: a DiT over TiTok's VAE and over a nested VAE, on
                      shapes and emoji, by the minutes and judges of grid.py

Each leaves its figures in docs/reports/cat and is not made again; runs that were stopped go on.
Some five hours in all on two cores, by estimate; `--cells='dit_*'` names some. Prints
the tables and writes them to WORKDIR/cat.md. Packages of emoji and the weights of LPIPS lie in
`--emoji`, the folder of `babeldraw demo --world=emoji`, or are fetched into it.
"""

import argparse
import functools
import pathlib
import time
from typing import Any

import grid
import jax
import numpy as np
from cat_data import TESTED, TRAIN, make_data
from cat_levels import (
    OF_CODES,
    captioned_errors_cell,
    errors_cell,
    listed,
    measured,
    records_of,
    some,
    weights,
    write_levels,
)
from cat_tables import tables
from cells import (
    QUICK,
    ROOT,
    Cell,
    Figures,
    arguments,
    run_cells,
    trained_and_judged,
)
from grid_measures import operations

from babeldraw import cli
from babeldraw.commands.demo_emoji import PACKAGES
from babeldraw.complexity.choosing import level_chooser
from babeldraw.complexity.regressor import RegressorRun
from babeldraw.config import require
from babeldraw.data.complexity import LevelThresholds
from babeldraw.data.image import save_png, to_grid
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.intervals import kernel_figure
from babeldraw.evaluation.protocol import figures_json
from babeldraw.judges.features import network
from babeldraw.train.evaluation import TrainedRun
from babeldraw.train.presets import complete, load_config

EMOJI = ROOT / "configs" / "emoji" / "README"
# Pixels to a code, by tokenizer.
STRIDES = {"nested": (8, 16, 32), "fixed": (16,), "captioned": (8, 16, 32)}
VAE_MINUTES, DIT_MINUTES = 24, 18
SIDE = 128
# Captions that are drawn.
DRAWN = 300
# The grid's: 8 pixels of three levels, 64 codes of shapes' 64 px and 36 of emoji's 48.
GRID_STRIDES, GRID_LEVEL = (4, 8, 16), "8"
# Of the nested VAE's first width: in the 7 minutes of shapes the emoji's network has 280 steps.
GRID_CHANNELS = {"shapes": 8, "emoji": 16}
COLUMN = ("titok_vae", "cat")


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=pathlib.Path, help="WORKDIR/emoji if not given")
    args = parser.parse_args()
    args.emoji = args.emoji or args.workdir / "emoji"
    text = tables(run_cells(all_cells(), args, "cat"))
    (args.workdir / "cat.md").write_text(text)
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    cells: dict[str, tuple[Cell, float]] = {
        name: (functools.partial(vae_cell, name), VAE_MINUTES + 3) for name in ("nested", "fixed")
    }
    cells["errors"] = errors_cell, 10
    cells["captioned"] = functools.partial(vae_cell, "captioned"), VAE_MINUTES + 3
    cells["captioned_errors"] = captioned_errors_cell, 5
    cells |= {
        f"dit_{name}": (functools.partial(dit_cell, name), DIT_MINUTES + 5)
        for name in ("cat", "fixed")
    }
    for world, part in grid.PARTS.items():
        for tokenizer in COLUMN:
            own = f"{world}_{tokenizer}"
            cell = functools.partial(column_tokenizer, world, tokenizer)
            cells[own] = cell, part.tokenizer_minutes + 1
            cells[f"{own}_dit"] = functools.partial(column_dit, world, tokenizer), part.minutes + 4
    return cells


# ------------------------------------------------------------------ tokenizers


def vae_section(strides: tuple[int, ...], size: int) -> dict[str, Any]:
    """The section of a nested VAE: the emoji's network, as deep as the last stride."""
    section = load_config("cat.py", EMOJI).tokenizer.to_dict()
    depth = (strides[-1] // section["network"]["patch_size"]).bit_length()
    section["network"]["multipliers"] = section["network"]["multipliers"][:depth]
    return section | {"strides": strides, "image_size": (size, size)}


def vae_config(name: str, args: argparse.Namespace) -> Any:
    config = load_config("cat.py", EMOJI).unlock()
    config.tokenizer = vae_section(STRIDES[name], SIDE)
    # VGG16 sees one picture of each step: at 128 px it costs more than a picture's own network.
    config.train.batch_size = config.perceptual.every = 16
    config = complete(config.to_dict(), QUICK if args.quick else "")
    if name == "captioned":
        config.tokenizer.routing = "data"
    data = str((args.workdir / "data").resolve())
    config.data.update(source="folder", path=data, split=f"{TRAIN}/", eval_split=f"{TESTED}/")
    if file := weights("vgg_lpips", args):
        config.perceptual.file = file
        config.evaluators.reconstruction.num_examples = 200
    else:
        config.loss.perceptual = 0.0
    return config


def vae_cell(name: str, args: argparse.Namespace) -> Figures:
    make_data(args.workdir / "data", args.emoji / PACKAGES, args.quick)
    if name == "captioned":
        # As many codes on average as it is compared at.
        write_levels(measured(args)["codes"], 1.0, args)
    minutes = 0 if args.quick else VAE_MINUTES
    config = vae_config(name, args)
    return trained_and_judged(config, args.workdir / name, ["reconstruction"], minutes)[0]


# ------------------------------------------------------------------ generators on stored codes


def command(*words: Any) -> None:
    """A command of babeldraw, in this process."""
    try:
        cli.main([str(word) for word in words])
    except SystemExit as stopped:
        require(not stopped.code, f"babeldraw {words[0]} ended with status {stopped.code}")


def dit_config(name: str, drawing: Figures, args: argparse.Namespace) -> Any:
    adaptive = name == "cat"
    tokenizer = "nested" if adaptive else "fixed"
    config = load_config("cat_dit.py", EMOJI, "all" if adaptive else "16").unlock()
    config.tokenizer = vae_section(STRIDES[tokenizer], SIDE)
    config.prediction.sampled = False
    config.evaluators.validation_loss.num_examples = 128
    config = complete(config.to_dict(), QUICK if args.quick else "").unlock()
    config.tokenizer_run = str((args.workdir / tokenizer).resolve())
    path = str((args.workdir / f"codes_{name}").resolve())
    config.data.update(source="tokens", path=path, split="train", eval_split="test")
    if adaptive:
        config.levels.counts = tuple(drawing["counts"])
    config.train.batch_size = sum(drawing["counts"]) * max(3, jax.device_count())
    return config


def dit_cell(name: str, args: argparse.Namespace) -> Figures:
    drawing = write_levels(measured(args)["codes"], OF_CODES, args)
    level = "all" if name == "cat" else "16"
    tokenizer = args.workdir / ("nested" if name == "cat" else "fixed")
    words = (f"--workdir={tokenizer}", f"--path={args.workdir / 'data'}", f"--split={TRAIN}/")
    command("tokenize", *words, f"--level={level}", f"--out={args.workdir / f'codes_{name}'}")
    folder, minutes = args.workdir / f"dit_{name}", 0 if args.quick else DIT_MINUTES
    config = dit_config(name, drawing, args)
    figures, _ = trained_and_judged(config, folder, ["validation_loss"], minutes)
    flops = TrainedRun.open(str(folder)).experiment.flops()
    return {
        **figures,
        "batch_size": config.train.batch_size,
        "operations_of_training": flops.parts,
        **drawn_figures(name, drawing, args),
    }


def drawn_figures(name: str, drawing: Figures, args: argparse.Namespace) -> Figures:
    """Of the test's captions, drawn; the level, where there are several, is of the words alone."""
    sampler = Sampler.from_run(str(args.workdir / f"dit_{name}"))
    rows = some(listed(args), TESTED, 4 if args.quick else DRAWN)
    captions, level_of = [row["caption"] for row in rows], None
    at, shares = {"": sampler}, [1.0]
    if name == "cat":
        at = {level: sampler.at(level) for level in map(str, STRIDES["nested"])}
        scorer = RegressorRun.open(str(args.workdir / "scorer"))
        level_of = level_chooser(scorer, LevelThresholds(tuple(at), tuple(drawing["thresholds"])))
        levels = [level_of(asked) for asked in sampler.ask(captions)]
        # Those of a level are drawn together.
        captions = [captions[i] for i in np.argsort(levels, kind="stable")]
        shares = [levels.count(level) / len(levels) for level in at]
    # Compiled before it is timed.
    [*sampler.sample(captions, seed=range(len(captions)), level_of=level_of)]
    began = time.perf_counter()
    drawn = [*sampler.sample(captions, seed=range(len(captions)), level_of=level_of)]
    seconds = time.perf_counter() - began
    images = np.stack([picture.image for picture in drawn])
    save_png(args.workdir / f"dit_{name}.png", to_grid(images[:32], 8))
    each = [sum(operations(one).values()) for one in at.values()]
    codes = [one.drawer.generator.codes.length for one in at.values()]
    found = {
        "pictures_per_second": len(drawn) / seconds,
        "operations_of_drawing": float(np.dot(shares, each)),
        "codes": float(np.dot(shares, codes)),
        "shares": dict(zip(at, shares, strict=True)),
    }
    if file := weights("alexnet_lpips", args):
        true = np.stack([record.image for record in records_of(rows, sampler.image_size, args)])
        found["quality"] = figures_json({"kd_alexnet": distance(file, images, true)})
    return found


def distance(file: str, drawn: np.ndarray, true: np.ndarray) -> float:
    """The kernel distance in the features of AlexNet, which no loss has seen.

    Its 1,152 features are more than there are captions to draw, too many for a Fréchet distance.
    """
    features = network("alexnet", file)
    vectors = jax.jit(lambda f, images: f(images))
    parts = [
        np.concatenate([np.asarray(vectors(features, part)) for part in np.array_split(one, 10)])
        for one in (drawn, true)
    ]
    return kernel_figure(*parts)


# ------------------------------------------------------------------ the grid's continuous column


def column_config(world: str, tokenizer: str) -> Any:
    """The tokenizer's config: TiTok's VAE, or the nested one with the losses of that."""
    config = grid.load(world, "titok.py", "vae")
    if tokenizer == "cat":
        size = config.tokenizer.image_size[0]
        section = vae_section(GRID_STRIDES, size)
        section["network"]["channels"] = GRID_CHANNELS[world]
        config.tokenizer = section
    return config


def column_tokenizer(world: str, tokenizer: str, args: argparse.Namespace) -> Figures:
    return grid.tokenizer_trained(world, tokenizer, column_config(world, tokenizer), args)


def column_dit(world: str, tokenizer: str, args: argparse.Namespace) -> Figures:
    config = grid.load(world, "dit.py")
    config.tokenizer = column_config(world, tokenizer).tokenizer
    config.tokenizer_run = str((args.workdir / f"{world}_{tokenizer}").resolve())
    config.level = GRID_LEVEL if tokenizer == "cat" else ""
    if grid.PARTS[world].stored:
        # What is stored of codes is their means.
        config.prediction.sampled = False
    config = grid.configured(world, config, "text_to_image", args)
    return grid.generator_trained(world, f"{world}_{tokenizer}_dit", config, args)


if __name__ == "__main__":
    main()
