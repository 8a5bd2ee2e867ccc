"""The whole path on one machine: makes data, trains both stages, samples, scores, writes a page.

Goes on where it stopped; a finished demo says so.

Example:
  babeldraw demo --workdir=runs/demo
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import babeldraw
from babeldraw.commands.flags import define_cache, make_folder, use_cache
from babeldraw.commands.report import write_report
from babeldraw.commands.sample import Drawing
from babeldraw.config import to_dict
from babeldraw.data.image import decode, save_png, to_grid
from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.evaluation.outlines import OutlinesConfig
from babeldraw.evaluation.prompts import held_out_captions
from babeldraw.hosts.joining import Interrupted
from babeldraw.hosts.presence import GO_ON
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.say import say
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

CONFIGS = Path(babeldraw.__file__).resolve().parent.parent / "configs" / "demo"
NUM_PICTURES = 16


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("workdir", "runs/demo", "The folder of the demo.", flag_values=values)
    flags.DEFINE_string(
        "variant", "", "runlocal for a few quick steps that show the path only.", flag_values=values
    )


def run(values: flags.FlagValues) -> int:
    folder = RunFolder.of(values.workdir)
    page = folder.path / "report.html"
    if folder.report_file.exists() and page.exists():
        say(f"the demo in {folder.path} is finished; look at {page} (or give another --workdir)")
        return 0
    use_cache(values)
    try:
        summary = demo(folder, values.variant)
    except Interrupted as stopped:
        write_report(folder.path)
        say(f"stopped after step {stopped.step}, which is saved; the same command goes on from it")
        return GO_ON
    print(json.dumps(summary, indent=2))
    say(f"look at {page}")
    return 0


def demo(folder: RunFolder, variant: str = "") -> dict[str, Any]:
    """Runs what is not done yet and writes report.json, samples.png and report.html.

    Args:
      folder: gets the run folders `tokenizer` and `text_to_image`.
      variant: of the two configs.

    Returns:
      The content of report.json.
    """
    began = time.monotonic()
    tokenizer_dir, generator_dir = folder.path / "tokenizer", folder.path / "text_to_image"
    if not CONFIGS.exists():
        raise UserError(f"the demo's configs are not in {CONFIGS}; run it from a clone")
    say("1 of 3: the tokenizer learns to turn pictures into tokens and back")
    config = load_config("tokenizer.py", CONFIGS / "demo.py", variant)
    # Not in the config: with other data than shapes it would be refused.
    config.evaluators.outlines = to_dict(OutlinesConfig(num_examples=8 if variant else 256))
    tokenizer = train(config, str(tokenizer_dir), label="tokenizer")
    say("2 of 3: the generator learns to predict tokens from text")
    config = load_config("text_to_image.py", CONFIGS / "demo.py", variant)
    config.tokenizer_run = str(tokenizer_dir)
    generator = train(config, str(generator_dir), label="generator")
    say("3 of 3: pictures and the report")
    drawing = time.monotonic()
    _draw_samples(folder, generator_dir)
    summary = _summary(tokenizer, generator)
    # Restarts included; what a kill lost is not.
    total = tokenizer["seconds"] + generator["seconds"] + time.monotonic() - drawing
    summary["seconds"]["total"] = max(total, time.monotonic() - began)
    write_json(folder.report_file, summary)
    write_report(folder.path)
    return summary


def _draw_samples(folder: RunFolder, generator_dir: Path) -> None:
    """Pictures of prompts that training never saw: half of seen pairs, half of held-out ones."""
    sampler = Sampler.from_run(str(generator_dir))
    half = NUM_PICTURES // 2
    prompts = [*held_out_captions("test", half, 2), *held_out_captions("unseen", half, 2)]
    pictures = make_folder(Path(folder.path) / "samples", "samples")
    Drawing(sampler, pictures).draw(prompts)
    images = [decode(path) for path in sorted(pictures.glob("[0-9]*.png"))]
    grid = to_grid(np.stack(images), 4)
    save_png(folder.path / "samples.png", grid, {"prompts": "\n".join(prompts)})


def _summary(tokenizer: dict[str, float], generator: dict[str, float]) -> dict[str, Any]:
    def part(figures: dict[str, float], name: str) -> dict[str, float]:
        return {k.partition("/")[2]: v for k, v in figures.items() if k.startswith(f"{name}/")}

    return {
        "tokenizer": part(tokenizer, "reconstruction") | part(tokenizer, "outlines"),
        "prompts": part(generator, "prompts"),
        "validation": part(generator, "validation"),
        "seconds": {
            "tokenizer": tokenizer["seconds"],
            "text_to_image": generator["seconds"],
        },
    }
