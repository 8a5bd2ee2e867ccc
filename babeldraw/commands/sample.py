"""Draws pictures from prompts, or from classes, with a trained run.

Writes one PNG per picture, a grid and a manifest; each PNG carries its prompt, seed and settings.

Example:
  babeldraw sample --workdir=runs/demo/text_to_image --num=4 --out=pictures \\
      --prompt="a small red circle left of a large blue square on a white background"

By class, from the first two rows of tokens of a picture on:
  babeldraw sample --workdir=runs/digits/vim --class=3,4 --prefix=three.png --prefix_rows=2
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from babeldraw.commands import class_pictures
from babeldraw.commands.flags import make_folder, required
from babeldraw.data.image import save_png, to_grid
from babeldraw.errors import UserError
from babeldraw.sampling.logits import SamplingConfig
from babeldraw.sampling.sampler import Picture, Sampler
from babeldraw.train.progress import ProgressReport, say


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("workdir", None, "A text-to-image run folder.", flag_values=values)
    flags.DEFINE_multi_string("prompt", [], "What to draw; may be repeated.", flag_values=values)
    flags.DEFINE_string("prompts", "", "A text file with a prompt per line.", flag_values=values)
    flags.DEFINE_integer("num", 1, "Pictures per prompt.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of each prompt's first picture.", flag_values=values)
    flags.DEFINE_string(
        "super_resolution", "", "A super-resolution run folder; none: as drawn.", flag_values=values
    )
    flags.DEFINE_string(
        "tokenizer_run",
        "",
        "A tokenizer run folder whose decoder draws; none: the one that the run was trained with.",
        flag_values=values,
    )
    flags.DEFINE_string("out", "pictures", "The folder to write to.", flag_values=values)
    flags.DEFINE_integer("batch_size", 16, "Pictures drawn at a time.", flag_values=values)
    class_pictures.define(values)
    for field in dataclasses.fields(SamplingConfig):
        define_flag = flags.DEFINE_integer if field.type is int else flags.DEFINE_float
        define_flag(
            field.name, None, f"{field.name}; the run's own unless given.", flag_values=values
        )


def run(values: flags.FlagValues) -> int:
    given = {f.name: values[f.name].value for f in dataclasses.fields(SamplingConfig)}
    changed = {name: value for name, value in given.items() if value is not None}
    if values["class"].value:
        _check_counts(values)
        return class_pictures.run(values, changed)
    class_pictures.refuse_without_class(values)
    prompts = read_prompts(values.prompt, values.prompts)
    _check_counts(values)
    sampler = Sampler.from_run(
        required(values, "workdir"),
        super_resolution=values.super_resolution,
        tokenizer_run=values.tokenizer_run,
    )
    settings = dataclasses.replace(sampler.defaults, **changed)
    _say_what_will_differ(sampler, prompts)
    folder = make_folder(Path(values.out), f"--out={values.out}")
    pictures = write_pictures(
        sampler, prompts, folder, values.num, values.seed, settings, values.batch_size
    )
    columns = values.num if values.num > 1 else 8
    grid = to_grid([picture.image for picture in pictures], columns)
    save_png(folder / "grid.png", grid, {"prompts": "\n".join(prompts), **_text(settings)})
    say(f"{len(pictures)} pictures, grid.png and manifest.jsonl in {folder}")
    return 0


def read_prompts(given: list[str], file: str) -> list[str]:
    """Prompts of the flags and of the file's lines; blank lines of a file are no prompts.

    Raises:
      UserError: none at all, an empty file, or one that cannot be read.
    """
    prompts = list(given)
    if file:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompts={file} cannot be read: {error}") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise UserError(f"--prompts={file} holds no prompt; write one per line")
        prompts += found
    if not prompts:
        raise UserError("there is no prompt; give --prompt or --prompts")
    return prompts


def _check_counts(values: flags.FlagValues) -> None:
    for name, least in (("num", 1), ("batch_size", 1), ("seed", 0)):
        value = values[name].value
        if value < least:
            raise UserError(f"--{name} is {value}; at least {least} is needed")
    # Seeds are 32-bit: a larger one would draw the picture of a smaller one.
    if values.seed + values.num > 2**31:
        raise UserError(f"--seed is {values.seed}; at most {2**31 - values.num} is needed")


def _say_what_will_differ(sampler: Sampler, prompts: list[str]) -> None:
    limit = sampler.generator.config.text_length
    for prompt, length in sampler.too_long(prompts):
        say(f"the prompt has {length} tokens and is cut to {limit}: {prompt[:60]!r}...")
    if any(not prompt.strip() for prompt in prompts):
        say("an empty prompt draws without condition")


def write_pictures(
    sampler: Sampler,
    prompts: Sequence[str],
    folder: Path,
    num: int = 1,
    seed: int = 0,
    settings: SamplingConfig | None = None,
    batch_size: int = 16,
) -> list[Picture]:
    """Draws pictures and writes each with a line of manifest.jsonl; see `Sampler.sample`."""
    settings = settings or sampler.defaults
    folder.mkdir(parents=True, exist_ok=True)
    report = ProgressReport("sample", len(prompts) * num, unit="pictures")
    pictures = []
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for picture in sampler.sample(prompts, num, seed, settings, batch_size):
            name = f"{len(pictures):05d}_{_slug(picture.prompt)}_seed{picture.seed}.png"
            text = {"prompt": picture.prompt, "seed": str(picture.seed), **_text(settings)}
            save_png(folder / name, picture.image, text)
            line = {
                "prompt": picture.prompt,
                "file": name,
                "seed": picture.seed,
                "step": sampler.step,
                **dataclasses.asdict(settings),
            }
            manifest.write(json.dumps(line, ensure_ascii=False) + "\n")
            pictures.append(picture)
            report.update(len(pictures))
    report.close()
    return pictures


def _text(settings: SamplingConfig) -> dict[str, str]:
    return {name: str(value) for name, value in dataclasses.asdict(settings).items()}


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "empty"
