"""Draws pictures from prompts, or from classes, with a trained run.

Writes one PNG per picture, a grid and a manifest; each PNG carries its prompt, seed and settings.
The same command goes on where it was broken off.

Example:
  babeldraw sample --workdir=runs/demo/text_to_image --num=4 --out=pictures \\
      --prompt="a small red circle left of a large blue square on a white background"

The best 2 of 16, as a contrastive captioner sees it (configs/demo/coca.py trains one):
  babeldraw sample --workdir=runs/demo/text_to_image --prompts=prompts.tsv --num=16 --keep=2 \\
      --rerank=runs/coca

From the upper half of a picture on, and with a hole in a picture filled:
  babeldraw sample --workdir=runs/demo/text_to_image --prompt="a red circle" --image=a.png --rows=4
  babeldraw sample --workdir=runs/demo/text_to_image --prompt="a red circle" --image=a.png \\
      --mask=hole.png

By class, the half that a classifier holds for likeliest (docs/vim.md):
  babeldraw sample --workdir=runs/digits/vim --class=3,4 --num=8 --acceptance=0.5 \\
      --classifier_run=runs/digits/classifier
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from babeldraw.commands import class_pictures
from babeldraw.commands.flags import make_folder, required
from babeldraw.data.image import decode
from babeldraw.data.records import BadRecord
from babeldraw.drawing.album import MOST_IN_GRID, Album, slug
from babeldraw.drawing.editing import Canvas
from babeldraw.drawing.prompts import Prompt, read_prompts
from babeldraw.drawing.reranking import CoCaScorer, Scorer, best
from babeldraw.drawing.sampler import Picture, Sampler
from babeldraw.errors import UserError
from babeldraw.prediction.logits import GUIDANCE_SCHEDULES, SamplingConfig
from babeldraw.say import ProgressReport, say
from babeldraw.sharding.mesh import MeshConfig

# What each picture depends on beside its prompt and seed: these flags go into the manifest.
RECORDED = ("image", "rows", "mask", "rerank", "super_resolution", "tokenizer_run", "weights")
STRINGS = {
    "workdir": (None, "A text-to-image run folder."),
    "prompts": ("", "A text file with a prompt per line, or a .tsv table with a column Prompt."),
    "super_resolution": ("", "A super-resolution run folder; none: as drawn."),
    "tokenizer_run": (
        "",
        "A tokenizer run folder whose decoder draws; none: the one that the run was trained with.",
    ),
    "rerank": ("", "A contrastive captioner's run folder, whose scores --keep goes by."),
    "image": ("", "A picture to go on from; give --rows or --mask too."),
    "mask": ("", "A picture of --image's size: what is white is drawn anew, the rest is kept."),
    "weights": ("", "ema or params; none: the average of the weights where the run keeps one."),
    "out": ("pictures", "The folder to write to."),
}
INTEGERS = {
    "num": (1, "Pictures per prompt."),
    "keep": (None, "Of these, the best are kept, by --rerank; all of them unless given."),
    "rows": (None, "Rows of tokens of --image that are kept."),
    "seed": (0, "Seed of each prompt's first picture."),
    "batch_size": (16, "Pictures drawn at a time."),
    "model_parallel": (1, "Devices that share the generator."),
}


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_multi_string("prompt", [], "What to draw; may be repeated.", flag_values=values)
    for name, (default, text) in STRINGS.items():
        flags.DEFINE_string(name, default, text, flag_values=values)
    for name, (number, text) in INTEGERS.items():
        flags.DEFINE_integer(name, number, text, flag_values=values)
    class_pictures.define(values)
    for field in dataclasses.fields(SamplingConfig):
        text = f"{field.name}; the run's own unless given."
        if field.name == "guidance_schedule":
            text = f"{', '.join(GUIDANCE_SCHEDULES)}; the run's own unless given."
        makers = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
        makers[field.type](field.name, None, text, flag_values=values)


def run(values: flags.FlagValues) -> int:
    _check(values)
    image, mask = (_read_image(values, name) for name in ("image", "mask"))
    mesh = _mesh(values.model_parallel)
    given = {f.name: values[f.name].value for f in dataclasses.fields(SamplingConfig)}
    changed = {name: value for name, value in given.items() if value is not None}
    if values["class"].value:
        return class_pictures.run(values, image, mask, mesh, changed)
    class_pictures.refuse_without_class(values)
    prompts = [Prompt(text) for text in values.prompt]
    prompts += read_prompts(values.prompts) if values.prompts else []
    if not prompts:
        raise UserError("there is no prompt; give --prompt or --prompts")
    sampler = Sampler.from_run(
        required(values, "workdir"),
        super_resolution=values.super_resolution,
        tokenizer_run=values.tokenizer_run,
        mesh=mesh,
        weights=values.weights,
    )
    scorer = CoCaScorer.from_run(values.rerank) if values.rerank else None
    settings = dataclasses.replace(sampler.defaults, **changed)
    canvas = None
    if image is not None:
        grey = None if mask is None else mask.max(axis=-1)
        canvas = sampler.canvas(image, rows=values.rows, mask=grey)
    texts = [prompt.text for prompt in prompts]
    _say_what_will_differ(sampler, texts)
    recorded = {name: values[name].value for name in RECORDED if values[name].value}
    drawing = Drawing(
        sampler,
        make_folder(Path(values.out), f"--out={values.out}"),
        num=values.num,
        seed=values.seed,
        settings=settings,
        batch_size=values.batch_size,
        canvas=canvas,
        scorer=scorer,
        keep=values.keep,
        recorded=recorded,
    )
    count = drawing.draw(prompts)
    say(f"{count} pictures, grid.png and manifest.jsonl in {drawing.folder}")
    return 0


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Draws prompts into a folder. For all but the following see `Sampler.sample`.

    Attributes:
      folder: where to; it exists.
      scorer, keep: of each prompt's `num` pictures the best `keep` are written, best first.
      recorded: what else made these pictures, for the manifest.
    """

    sampler: Sampler
    folder: Path
    num: int = 1
    seed: int = 0
    settings: SamplingConfig | None = None
    batch_size: int = 16
    canvas: Canvas | None = None
    scorer: Scorer | None = None
    keep: int | None = None
    recorded: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def draw(self, prompts: Sequence[Prompt]) -> int:
        """Draws what is not there yet, and the grid. Returns the number of pictures there."""
        texts = [prompt.text for prompt in prompts]
        settings = self.settings or self.sampler.defaults
        each = self.keep or self.num
        fixed = {"step": self.sampler.step, "num": self.num, "first_seed": self.seed}
        album = Album(
            self.folder, {**fixed, **dataclasses.asdict(settings), **self.recorded}, texts, each
        )
        left = album.open()
        if len(left) < len(texts):
            say(f"{self.folder}: {len(texts) - len(left)} of {len(texts)} prompts are drawn")
        report = ProgressReport("sample", len(left) * self.num, unit="pictures")
        drawn: list[Picture] = []
        pictures = self.sampler.sample(
            [texts[number] for number in left],
            self.num,
            self.seed,
            settings,
            self.batch_size,
            self.canvas,
        )
        for done, picture in enumerate(pictures, start=1):
            drawn.append(picture)
            report.update(done)
            if len(drawn) == self.num:
                number = left[done // self.num - 1]
                album.add(number, self._entries(number, prompts[number], drawn))
                drawn = []
        report.close()
        lines = album.lines()
        shown = [decode(self.folder / line["file"]) for line in lines[:MOST_IN_GRID]]
        album.write_grid(shown, each if each > 1 else 8)
        return len(lines)

    def _entries(self, number: int, prompt: Prompt, pictures: Sequence[Picture]):
        entries = []
        scores, chosen = None, range(len(pictures))
        if self.scorer is not None:
            images = np.stack([picture.image for picture in pictures]).astype(np.float32) / 255
            scores = self.scorer.score(images, [prompt.text] * len(images))
            chosen = best(scores, self.keep or self.num)
        for rank, i in enumerate(chosen):
            name = f"{number:05d}_{slug(prompt.text)}_seed{pictures[i].seed}.png"
            entry = {"file": name, "seed": pictures[i].seed}
            if scores is not None:
                entry |= {"score": round(float(scores[i]), 6), "rank": rank}
            if prompt.columns:
                entry["columns"] = dict(prompt.columns)
            entries.append((pictures[i].image, entry))
        return entries


def _check(values: flags.FlagValues) -> None:
    for name, least in (("num", 1), ("batch_size", 1), ("seed", 0), ("model_parallel", 1)):
        value = values[name].value
        if value < least:
            raise UserError(f"--{name} is {value}; at least {least} is needed")
    # Seeds are 32-bit: a larger one would draw the picture of a smaller one.
    if values.seed + values.num > 2**31:
        raise UserError(f"--seed is {values.seed}; at most {2**31 - values.num} is needed")
    if values.keep is not None and not 1 <= values.keep <= values.num:
        raise UserError(f"--keep is {values.keep} and --num {values.num}; give 1 to {values.num}")
    if (values.keep or values.num) < values.num and not values.rerank:
        raise UserError(
            f"--keep is {values.keep} of {values.num} and nothing says which are best; give "
            "--rerank"
        )
    ways = sum((values.rows is not None, bool(values.mask)))
    if values.image and ways != 1:
        raise UserError(f"--image={values.image} needs one of --rows and --mask: what is kept")
    if ways and not values.image:
        raise UserError("--rows and --mask say what is kept of --image; give one")


def _read_image(values: flags.FlagValues, name: str) -> np.ndarray | None:
    file = values[name].value
    try:
        return decode(file, f"--{name}={file}") if file else None
    except BadRecord as error:
        raise UserError(f"{error}; give a picture (PNG, JPEG, WebP)") from error


def _mesh(model: int) -> MeshConfig | None:
    if model == 1:
        return None
    return MeshConfig(data=1, model=model, rules="in_layer_serving")


def _say_what_will_differ(sampler: Sampler, prompts: Sequence[str]) -> None:
    for prompt, length in sampler.too_long(prompts):
        limit = sampler.text_length
        say(f"the prompt has {length} tokens and is cut to {limit}: {prompt[:60]!r}...")
    for prompt in prompts:
        if unknown := sampler.unknown(prompt):
            say(
                f"{unknown[:20]!r} of the prompt {prompt[:60]!r} are not in the run's vocabulary: "
                "they draw as one unknown piece"
            )
    if any(not prompt.strip() for prompt in prompts):
        say("an empty prompt draws without condition")
