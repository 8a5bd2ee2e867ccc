"""The grid: ways of predicting x tokenizers, trained for equal minutes and judged alike.

    python docs/examples/grid.py --workdir=runs/grid

On shapes {Babeldraw, MaskGIT, RAR, a text before the picture (VIM), LlamaGen} x {ViT-VQGAN, TiTok},
11 minutes of training each; on emoji {Babeldraw, MaskGIT, LlamaGen} x {ViT-VQGAN, TiTok, a
convolutional network with 8,192 of IBQ's codes}, 25 minutes each. A cell has as many steps as fit
into its minutes by the pace of 60 of them on this machine. Emoji are seen whole and
always alike, so their generators learn from codes that are stored once. Cells:

  WORLD_TOKENIZER              the tokenizer: 7 minutes on shapes, 25 on emoji, where ViT-VQGAN and
                               TiTok make the demo's 1,250 steps; of shapes how many are exact once
                               encoded and decoded, which no generator can exceed
  WORLD_TOKENIZER_GENERATOR    quality, pictures per second at batches 1 and 16 from a text to
                               pixels, operations of drawing one, minutes, peak memory
  WORLD_speed                  of all of them, in one run and in turn, pictures per second from a
                               text to pixels at batches 1 and 16, beside operations of one
  shapes_orders                MaskGIT's next codes by confidence or in Halton's order, at 4, 8 and
                               16 steps, on ViT-VQGAN's grid
  shapes_hole, shapes_upper    the middle of a picture, or its upper half, drawn anew, text given:
                               by MaskGIT, which sees all that is kept, and by those that draw in
                               raster order and see what stands before; LPIPS by AlexNet where its
                               weights lie in `--emoji`
  shapes_untold                the upper half with nothing told

Each leaves its figures in docs/reports/grid and is not made again; runs that were stopped go on.
Some ten hours in all on two cores, by estimate; `--cells='shapes_*'` names some. Prints
the tables, and writes them to WORKDIR/grid.md, with pictures to WORKDIR/{shapes,emoji}.{html,png}.

The emoji world's pictures, and the weights that judge them, lie in `--emoji`, the folder of
`babeldraw demo --world=emoji`, and are fetched into it where they are missing (docs/emoji.md).
"""

import argparse
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
from cells import (
    QUICK,
    ROOT,
    Cell,
    Figures,
    arguments,
    folder_of_figures,
    markdown,
    run_cells,
    set_steps,
    trained_and_judged,
)
from emoji_world import stored_tokens
from grid_drawing import HOLE_TITLES, HOLES, hole_cell, orders_cell
from grid_measures import (
    exact_again,
    operations,
    speed,
    speeds,
)
from grid_tables import hole_table, orders_table, speed_table, tokenizers_table, world_rows

from babeldraw.commands.demo_emoji import EMOJI, PICTURES
from babeldraw.commands.demo_shapes import SHAPES
from babeldraw.commands.demo_world import World
from babeldraw.config import require
from babeldraw.data.image import decode, save_png
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.pages import render
from babeldraw.train.presets import complete, load_config

# A world's config and its argument.
TOKENIZERS = {
    "vit_vqgan": ("tokenizer.py", ""),
    "titok": ("titok.py", ""),
    "ibq": ("ibq.py", "ibq,8k"),
}
GENERATORS = {
    "babeldraw": "text_to_image.py",
    "maskgit": "maskgit.py",
    "rar": "rar.py",
    "vim": "decoder_only.py",
    "llama": "llama.py",
}
TITLES = {
    "vit_vqgan": "ViT-VQGAN",
    "titok": "TiTok",
    "ibq": "IBQ",
    "babeldraw": "Babeldraw",
    "maskgit": "MaskGIT",
    "rar": "RAR",
    "vim": "VIM, text prefix",
    "llama": "LlamaGen",
}
BATCHES = (1, 16)


@dataclasses.dataclass(frozen=True)
class Part:
    """A world's part of the grid.

    Attributes:
      world: whose data and judge it has.
      tokenizers, generators: keys of TOKENIZERS and of GENERATORS.
      minutes: of training a generator.
      tokenizer_minutes: of training a tokenizer.
      steps: of tokenizers that make so many instead, and the minutes of these by estimate.
      stored: whether generators learn from stored codes of the emoji demo's pictures.
      figures: of the judge, that the table shows, with their heads.
    """

    world: World
    tokenizers: tuple[str, ...]
    generators: tuple[str, ...]
    minutes: float
    tokenizer_minutes: float
    stored: bool
    figures: dict[str, str]
    steps: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)


PARTS = {
    "shapes": Part(
        SHAPES,
        ("vit_vqgan", "titok"),
        tuple(GENERATORS),
        11,
        7,
        False,
        {"exact_seen": "exact, seen", "exact_unseen": "exact, unseen", "crisp_seen": "crisp"},
    ),
    "emoji": Part(
        EMOJI,
        tuple(TOKENIZERS),
        ("babeldraw", "maskgit", "llama"),
        25,
        25,
        True,
        {
            "concept_seen": "concept, seen",
            "concept_unseen": "concept, unseen",
            "style_seen": "style, seen",
            "style_unseen": "style, unseen",
        },
        # The demo's own for its ViT-VQGAN.
        steps={"vit_vqgan": (1250, 46), "titok": (1250, 66)},
    ),
}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=pathlib.Path, help="WORKDIR/emoji if not given")
    args = parser.parse_args()
    args.emoji = args.emoji or args.workdir / "emoji"
    found = run_cells(all_cells(), args, "grid")
    print(write_pages(found, args))


def generator_cells(name: str) -> dict[str, tuple[str, str]]:
    """The tokenizer and the generator of each cell of a world."""
    return {
        f"{name}_{tokenizer}_{generator}": (tokenizer, generator)
        for tokenizer in PARTS[name].tokenizers
        for generator in PARTS[name].generators
    }


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate: its training, and four of judging."""
    cells: dict[str, tuple[Cell, float]] = {}
    for name, part in PARTS.items():
        for tokenizer in part.tokenizers:
            cell = functools.partial(tokenizer_cell, name, tokenizer)
            _, minutes = part.steps.get(tokenizer, (0, part.tokenizer_minutes))
            cells[f"{name}_{tokenizer}"] = cell, minutes + 1
        for key, choice in generator_cells(name).items():
            cells[key] = functools.partial(generator_cell, name, *choice), part.minutes + 4
        cells[f"{name}_speed"] = functools.partial(speed_cell, name), 3
    holes = {f"shapes_{name}": (functools.partial(hole_cell, name), 5.0) for name in HOLES}
    return cells | {"shapes_orders": (orders_cell, 20), **holes}


# ------------------------------------------------------------------ cells


def configured(name: str, config: Any, stage: str, args: argparse.Namespace) -> Any:
    """A config with this machine's files, or the quick variant of it."""
    config = complete(config.to_dict(), QUICK if args.quick else "")
    PARTS[name].world.configure(stage, args.emoji, config, args.quick)
    return config


def load(name: str, file: str, argument: str = "") -> Any:
    """A config of a world, open to change."""
    world = PARTS[name].world
    return load_config(file, ROOT / "configs" / world.configs / "README", argument).unlock()


def load_tokenizer(name: str, tokenizer: str) -> Any:
    """The config of a tokenizer of the grid."""
    config = load(name, *TOKENIZERS[tokenizer])
    if tokenizer == "ibq":
        # The pictures of the other ones, and LPIPS in their share of the loss: at 20 dB twice L1,
        # which this config has, is some ten times the squared error.
        other = load(name, *TOKENIZERS["vit_vqgan"])
        config.tokenizer.image_size = other.tokenizer.image_size
        config.loss.perceptual = 10 * other.loss.perceptual
    return config


def tokenizer_cell(name: str, tokenizer: str, args: argparse.Namespace) -> Figures:
    return tokenizer_trained(name, tokenizer, load_tokenizer(name, tokenizer), args)


def tokenizer_trained(name: str, tokenizer: str, config: Any, args: argparse.Namespace) -> Figures:
    """The figures of a tokenizer in a world, by its config as `load` gives it."""
    config = configured(name, config, "tokenizer", args)
    folder, minutes = args.workdir / f"{name}_{tokenizer}", PARTS[name].tokenizer_minutes
    if args.quick:
        minutes = 0
    elif tokenizer in PARTS[name].steps:
        set_steps(config, PARTS[name].steps[tokenizer][0])
        minutes = 0
    figures = trained_and_judged(config, folder, ["reconstruction"], minutes)[0]
    if name == "shapes":
        run = TokenizerRun.open(str(folder))
        figures["exact_again"] = exact_again(run, 2 if args.quick else 256)
    return figures


def generator_config(name: str, tokenizer: str, generator: str, args: argparse.Namespace) -> Any:
    config = load(name, GENERATORS[generator])
    config.tokenizer = load_tokenizer(name, tokenizer).tokenizer
    config.tokenizer_run = str((args.workdir / f"{name}_{tokenizer}").resolve())
    if generator == "babeldraw" and tokenizer == "titok":
        # Codes in one dimension have no neighbours above them.
        config.model.attention.pattern = "causal"
    return configured(name, config, "text_to_image", args)


def generator_cell(name: str, tokenizer: str, generator: str, args: argparse.Namespace) -> Figures:
    config = generator_config(name, tokenizer, generator, args)
    made = folder_of_figures(args, "grid") / f"{name}_{tokenizer}.json"
    require(
        pathlib.Path(config.tokenizer_run).exists() or not made.exists(),
        f"{config.tokenizer_run} is missing, for figures outlive a run; remove {made} and make the "
        f"cell {name}_{tokenizer} again",
    )
    return generator_trained(name, f"{name}_{tokenizer}_{generator}", config, args)


def generator_trained(name: str, cell: str, config: Any, args: argparse.Namespace) -> Figures:
    """The figures of a generator in a world, by its config as `configured` gives it."""
    part = PARTS[name]
    folder, judge = args.workdir / cell, part.world.evaluator
    minutes = 0 if args.quick else part.minutes
    if part.stored and not args.quick:
        use_stored_codes(config, args)
    figures, found = trained_and_judged(config, folder, [judge], minutes)
    sampler = Sampler.from_run(str(folder))
    # Of the first row, the same prompts for all cells.
    drawn = found[judge].pictures["samples_seen"][: sampler.image_size[0]]
    save_png(strip_of(cell, args), drawn)
    prompts = part.world.prompts(args.emoji)[: BATCHES[-1]]
    return {
        **figures,
        "tokens": sampler.drawer.generator.codes.length,
        "operations": operations(sampler),
        "pictures_per_second": {str(n): speed(sampler, prompts[:n]) for n in BATCHES},
    }


def speed_cell(name: str, args: argparse.Namespace) -> Figures:
    """By cell of a world that is trained, pictures per second and operations of a picture."""
    folders = {cell: args.workdir / cell for cell in generator_cells(name)}
    trained = {cell: str(folder) for cell, folder in folders.items() if folder.exists()}
    samplers = {cell: Sampler.from_run(folder) for cell, folder in trained.items()}
    prompts = PARTS[name].world.prompts(args.emoji)
    found = {str(n): speeds(samplers, prompts[:n]) for n in BATCHES}
    return {
        cell: {
            "operations": operations(sampler),
            "pictures_per_second": {n: of_all[cell] for n, of_all in found.items()},
        }
        for cell, sampler in samplers.items()
    }


def use_stored_codes(config: Any, args: argparse.Namespace) -> None:
    """Has a config learn from the codes of its tokenizer's run in place of the emoji themselves."""
    tokenizer, pictures = pathlib.Path(config.tokenizer_run), (args.emoji / PICTURES).resolve()
    out = args.workdir.resolve() / f"{tokenizer.name}_codes"
    config.data = stored_tokens(tokenizer, pictures, out, config.get("level", ""))
    if config.evaluators.concepts:
        config.evaluators.concepts = {**config.evaluators.concepts, "path": str(pictures)}


def strip_of(cell: str, args: argparse.Namespace) -> pathlib.Path:
    """The file of a cell's pictures."""
    folder = args.workdir / "strips"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{cell}.png"


# ------------------------------------------------------------------ tables and pictures


def write_pages(found: dict[str, Figures], args: argparse.Namespace) -> str:
    """Writes grid.md, and of each world a page and a picture. Returns the Markdown."""
    tables = [
        write_world(name, there, args) for name in PARTS if (there := generators_of(name, found))
    ]
    trained = {f"{n}_{t}": f"{n}, {TITLES[t]}" for n in PARTS for t in PARTS[n].tokenizers}
    if there := {title: found[cell] for cell, title in trained.items() if cell in found}:
        tables.append(tokenizers_table(there))
    for name in PARTS:
        if f"{name}_speed" in found:
            tables.append(speed_table(found[f"{name}_speed"], cell_titles(name)))
    if "shapes_orders" in found:
        tables.append(orders_table(found["shapes_orders"]))
    for name, title in HOLE_TITLES.items():
        if f"shapes_{name}" in found:
            tables.append(hole_table(found[f"shapes_{name}"], TITLES, title))
    text = "\n\n".join([*tables, "In brackets the interval of 95 %."]) + "\n"
    (args.workdir / "grid.md").write_text(text)
    return text


def generators_of(name: str, found: dict[str, Figures]) -> dict[str, Figures]:
    """A world's generators, their speeds those of one run where there is one."""
    speeds = found.get(f"{name}_speed", {})
    cells = [cell for cell in generator_cells(name) if cell in found]
    return {cell: found[cell] | speeds.get(cell, {"pictures_per_second": {}}) for cell in cells}


def cell_titles(name: str) -> dict[str, str]:
    """Of a world's generators, by cell."""
    cells = generator_cells(name).items()
    return {cell: " + ".join(TITLES[one] for one in reversed(choice)) for cell, choice in cells}


def write_world(name: str, found: dict[str, Figures], args: argparse.Namespace) -> str:
    """Writes NAME.html and NAME.png. Returns the table, in Markdown."""
    part, titles = PARTS[name], {cell: cell_titles(name)[cell] for cell in found}
    rows = world_rows([*found.values()], part.world.evaluator, part.figures)
    # Figures outlive the runs, on another machine or in a fresh clone.
    files = {title: strip_of(cell, args) for cell, title in titles.items()}
    strips = [(title, decode(file)) for title, file in files.items() if file.exists()]
    if strips:
        save_png(args.workdir / f"{name}.png", np.concatenate([strip for _, strip in strips]))
    shown = [("the same prompts in every row", strips)]
    page = render("runs.html", names=[*titles.values()], rows=rows, notes=[], strips=shown)
    (args.workdir / f"{name}.html").write_text(page)
    heads, columns = zip(*rows, strict=True)
    return markdown(["", *heads], [*zip(titles.values(), *columns, strict=True)])


if __name__ == "__main__":
    main()
