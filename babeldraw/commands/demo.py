"""The whole path on one machine: makes data, trains both stages, samples, scores, writes a page.

The world is one of shapes, made on the fly, or one of emoji, whose drawings are fetched once from
npm or pip (docs/emoji.md). Goes on where it stopped; a finished demo says so.

Examples:
  babeldraw demo --workdir=runs/demo
  babeldraw demo --world=emoji --workdir=runs/emoji
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import babeldraw
from babeldraw.commands.demo_shapes import SHAPES
from babeldraw.commands.demo_world import World
from babeldraw.commands.flags import define_cache, make_folder, use_cache
from babeldraw.commands.report import WORLD_FILE, WORLDS, write_report
from babeldraw.commands.sample import Drawing
from babeldraw.data.image import decode, save_png, to_grid
from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.hosts.joining import Interrupted
from babeldraw.hosts.presence import GO_ON
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.say import say
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

CONFIGS = Path(babeldraw.__file__).resolve().parent.parent / "configs"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_enum("world", "shapes", list(WORLDS), "What is learnt.", flag_values=values)
    flags.DEFINE_string(
        "workdir", None, "The folder of the demo; runs/demo, or runs/WORLD.", flag_values=values
    )
    flags.DEFINE_string(
        "variant", "", "runlocal for a few quick steps that show the path only.", flag_values=values
    )


def run(values: flags.FlagValues) -> int:
    world = WORLDS[values.world]
    if not values.workdir:
        values.workdir = f"runs/{world.configs}"
    folder = RunFolder.of(values.workdir)
    page = folder.path / "report.html"
    if folder.report_file.exists() and page.exists():
        say(f"the demo in {folder.path} is finished; look at {page} (or give another --workdir)")
        return 0
    use_cache(values)
    try:
        summary = demo(folder, values.variant, world)
    except Interrupted as stopped:
        write_report(folder.path)
        say(f"stopped after step {stopped.step}, which is saved; the same command goes on from it")
        return GO_ON
    print(json.dumps(summary, indent=2))
    say(f"look at {page}")
    return 0


def demo(folder: RunFolder, variant: str = "", world: World = SHAPES) -> dict[str, Any]:
    """Runs what is not done yet and writes report.json, samples.png and report.html.

    Args:
      folder: gets the run folders `tokenizer` and `text_to_image`.
      variant: of the two configs.
      world: what is learnt.

    Returns:
      The content of report.json.

    Raises:
      UserError: the folder is of another world, or there are no configs.
    """
    began = time.monotonic()
    tokenizer_dir, generator_dir = folder.path / "tokenizer", folder.path / "text_to_image"
    if not CONFIGS.exists():
        raise UserError(f"the demo's configs are not in {CONFIGS}; run it from a clone")
    _settle(folder, world)

    def config_of(stage: str) -> Any:
        config = load_config(f"{stage}.py", CONFIGS / world.configs / "demo.py", variant)
        world.configure(stage, Path(folder.path), config, bool(variant))
        return config

    say("1 of 3: the tokenizer learns to turn pictures into tokens and back")
    tokenizer = train(config_of("tokenizer"), str(tokenizer_dir), label="tokenizer")
    say("2 of 3: the generator learns to predict tokens from text")
    config = config_of("text_to_image")
    config.tokenizer_run = str(tokenizer_dir)
    generator = train(config, str(generator_dir), label="generator")
    say("3 of 3: pictures and the report")
    drawing = time.monotonic()
    _draw_samples(folder, generator_dir, world)
    summary = _summary(tokenizer, generator, world)
    # Restarts included; what a kill lost is not.
    total = tokenizer["seconds"] + generator["seconds"] + time.monotonic() - drawing
    summary["seconds"]["total"] = max(total, time.monotonic() - began)
    write_json(folder.report_file, summary)
    write_report(folder.path)
    return summary


def _settle(folder: RunFolder, world: World) -> None:
    """Says in the folder which world it is of."""
    path = folder.path / WORLD_FILE
    if path.exists():
        other = json.loads(path.read_text())["world"]
        if other != world.name:
            raise UserError(
                f"{folder.path} holds the demo of --world={other}; name another --workdir"
            )
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(path, {"world": world.name})


def _draw_samples(folder: RunFolder, generator_dir: Path, world: World) -> None:
    sampler = Sampler.from_run(str(generator_dir))
    prompts = world.prompts(Path(folder.path))
    pictures = make_folder(Path(folder.path) / "samples", "samples")
    Drawing(sampler, pictures).draw(prompts)
    images = [decode(path) for path in sorted(pictures.glob("[0-9]*.png"))]
    grid = to_grid(np.stack(images), 4)
    save_png(folder.path / "samples.png", grid, {"prompts": "\n".join(prompts)})


def _summary(
    tokenizer: dict[str, float], generator: dict[str, float], world: World
) -> dict[str, Any]:
    def part(figures: dict[str, float], name: str) -> dict[str, float]:
        return {k.partition("/")[2]: v for k, v in figures.items() if k.startswith(f"{name}/")}

    return {
        "tokenizer": part(tokenizer, "reconstruction") | part(tokenizer, "outlines"),
        "prompts": part(generator, world.evaluator),
        "validation": part(generator, "validation"),
        "seconds": {
            "tokenizer": tokenizer["seconds"],
            "text_to_image": generator["seconds"],
        },
    }
