"""The part of `babeldraw sample` that draws classes."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from babeldraw.commands.flags import make_folder, required
from babeldraw.data.image import decode
from babeldraw.drawing.album import MOST_IN_GRID, Album, slug
from babeldraw.drawing.class_sampler import ClassPicture, ClassSampler
from babeldraw.errors import UserError
from babeldraw.say import ProgressReport, say
from babeldraw.sharding.mesh import MeshConfig

# What each picture depends on beside its class and seed: these flags go into the manifest.
RECORDED = (
    "image",
    "rows",
    "mask",
    "classifier_run",
    "super_resolution",
    "tokenizer_run",
    "weights",
)


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "class",
        [],
        "Classes by name or number, separated by commas; or all, or none.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "classifier_run", "", "With --class: a classifier's run folder.", flag_values=values
    )
    flags.DEFINE_float(
        "acceptance",
        1.0,
        "With --class: share of the pictures that is kept, by --classifier_run.",
        flag_values=values,
    )


def refuse_without_class(values: flags.FlagValues) -> None:
    """Raises `UserError` for flags that only classes go with."""
    if values.classifier_run or values.acceptance != 1:
        raise UserError("--classifier_run and --acceptance go with --class; give one")


def run(
    values: flags.FlagValues,
    image: np.ndarray | None,
    mask: np.ndarray | None,
    mesh: MeshConfig | None,
    changed: dict[str, Any],
) -> int:
    """Draws what is not there yet.

    Args:
      values: of all flags.
      image, mask: a picture to go on from, and what of it is drawn anew, as the flags name them.
      mesh: devices that share the generator.
      changed: the sampling settings that flags give.
    """
    for name in ("prompt", "prompts", "rerank", "keep"):
        if values[name].value:
            raise UserError(f"--{name} does not go with --class; leave one out")
    sampler = ClassSampler.from_run(
        required(values, "workdir"),
        super_resolution=values.super_resolution,
        tokenizer_run=values.tokenizer_run,
        classifier_run=values.classifier_run,
        mesh=mesh,
        weights=values.weights,
    )
    classes = read_classes(values["class"].value, sampler.num_classes, sampler.names)
    settings = dataclasses.replace(sampler.defaults, **changed)
    sampler.check(classes, settings, values.acceptance)
    canvas = None
    if image is not None:
        grey = None if mask is None else mask.max(axis=-1)
        canvas = sampler.drawer.canvas(image, rows=values.rows, mask=grey)
    recorded = {name: values[name].value for name in RECORDED if values[name].value}
    fixed = {"step": sampler.step, "num": values.num, "first_seed": values.seed}
    fixed |= {"acceptance": values.acceptance, **dataclasses.asdict(settings), **recorded}
    folder = make_folder(Path(values.out), f"--out={values.out}")
    names = [class_name(label, sampler.num_classes, sampler.names) for label in classes]
    album = Album(folder, fixed, names, values.num)
    left = album.open()
    report = ProgressReport("sample", len(left) * values.num, unit="pictures")
    for done, number in enumerate(left, start=1):
        drawn = sampler.sample(
            [classes[number]],
            values.num,
            values.seed,
            settings,
            values.batch_size,
            canvas,
            values.acceptance,
        )
        entries = [_entry(number, names[number], sampler.names, picture) for picture in drawn]
        album.add(number, entries)
        report.update(done * values.num)
    report.close()
    lines = album.lines()
    shown = [decode(folder / line["file"]) for line in lines[:MOST_IN_GRID]]
    album.write_grid(shown, values.num if values.num > 1 else 8)
    say(f"{len(lines)} pictures, grid.png and manifest.jsonl in {folder}")
    return 0


def class_name(label: int, num_classes: int, names: Sequence[str] = ()) -> str:
    """How a class is called in file names and manifests."""
    if label == num_classes:
        return "no class"
    return f"class {label} {names[label]}" if names else f"class {label}"


def read_classes(words: list[str], num_classes: int, names: Sequence[str] = ()) -> list[int]:
    """Numbers of classes.

    Args:
      words: each a class by its name or number; `#3` is a number only. `all` is each class once,
        `none` the no-class.
      num_classes: of the model.
      names: of the classes, where the run kept them.

    Raises:
      UserError: a word that is none of these, or could be two of them, or `all` of no classes.
    """
    classes: list[int] = []
    for word in words:
        meant = {word: names.index(word)} if word in names else {}
        plain = word.removeprefix("#")
        if word == "all":
            meant["all classes"] = -1
        elif word == "none":
            meant["no class"] = num_classes
        elif plain.isascii() and plain.isdigit():
            meant["number"] = int(plain)
        if len(set(meant.values())) > 1:
            number = meant[word]
            raise UserError(
                f"--class={word} is the name of class {number} and something else besides; write "
                f"#{number} for that class"
                + (f", #{plain} for class {plain}" if "number" in meant else "")
            )
        if not meant:
            raise UserError(f"--class={word}: {_choices(word, names)} is needed")
        (number,) = set(meant.values())
        classes += range(num_classes) if number < 0 else [number]
    if not classes:
        raise UserError("--class=all: the model knows no class; take none")
    return classes


def _choices(word: str, names: Sequence[str]) -> str:
    if not names:
        return "a number, all or none"
    near = difflib.get_close_matches(word, names, 3, 0.4) or names[:3]
    return f"a name (such as {', '.join(near)}), a number, all or none"


def _entry(
    number: int, name: str, names: Sequence[str], picture: ClassPicture
) -> tuple[np.ndarray, dict[str, Any]]:
    file = f"{number:05d}_{slug(name)}_seed{picture.seed}.png"
    entry: dict[str, Any] = {"file": file, "class": picture.label, "seed": picture.seed}
    if picture.label < len(names):
        entry["name"] = names[picture.label]
    if picture.score is not None:
        entry["score"] = round(picture.score, 6)
    return picture.image, entry
