"""The pictures of cat.py: emoji, photographs, rendered text and charts, 128 px, with captions.

Text and charts are drawn here, with the font that Pillow carries. Photographs are crops of those
inside the scikit-image package (photographs.py), emoji those of docs/emoji.md.
"""

import json
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from photographs import TEST, TRAIN_COLOUR, TRAIN_GREY, crop, photographs
from PIL import Image, ImageDraw, ImageFont

from babeldraw.commands.emoji import find_packs
from babeldraw.data.emoji import SEEN, UNSEEN_CONCEPTS, read_entries, write_folder
from babeldraw.data.image import save_png

SIDE = 128
LIST = "captions.jsonl"
TRAIN, TESTED = "train", "test"
# Pictures of each kind.
COUNTS = {
    TRAIN: {"emoji": 1400, "photograph": 900, "text": 600, "chart": 600},
    TESTED: {"emoji": 150, "photograph": 150, "text": 150, "chart": 150},
}
QUICK_COUNTS = {TRAIN: {"text": 24, "chart": 24}, TESTED: {"text": 12, "chart": 12}}
# What is more than one plain thing on plain ground.
DETAILED = ("photograph", "text", "chart")
SEEDS = {TRAIN: 1, TESTED: 2}
PHOTOGRAPHS = {
    "astronaut": "an astronaut in an orange suit before a flag",
    "hubble_deep_field": "hundreds of galaxies in a black sky",
    "ihc": "stained cells under a microscope",
    "motorcycle_left": "a motorcycle in a workshop full of tools",
    "motorcycle_right": "a motorcycle in a workshop full of tools",
    "retina": "the vessels of a retina",
    "brick": "a brick wall",
    "camera": "a man with a camera on a meadow",
    "coins": "old coins on dark cloth",
    "grass": "grass from above",
    "gravel": "gravel",
    "moon": "the surface of the moon",
    "chelsea": "the fur and face of a cat",
    "coffee": "a cup of coffee on a wooden table",
    "rocket": "a rocket on its launch pad at night",
}
WORDS = (
    "river stone garden winter market engine letter window bridge silver morning forest travel "
    "paper summer island music harbour valley orange kitchen cloud meadow train lantern thunder "
    "pepper castle ribbon planet"
).split()
COLOURS = {
    "red": (190, 30, 40),
    "blue": (30, 60, 180),
    "green": (20, 120, 60),
    "black": (20, 20, 20),
    "purple": (110, 40, 140),
}
SUBJECTS = ("rainfall", "sales", "visitors", "speed", "prices", "births")
# A picture and its caption.
Drawn = tuple[np.ndarray, str]


def make_data(folder: pathlib.Path, packages: pathlib.Path, quick: bool) -> None:
    """Writes `FOLDER/{train,test}/*.png` and FOLDER/captions.jsonl, unless that is there.

    Args:
      folder: of the pictures; emoji lie beside it.
      packages: where those of emoji lie or go.
      quick: a few texts and charts alone, for which nothing is fetched.
    """
    if (folder / LIST).exists():
        return
    lines = []
    for split, counts in (QUICK_COUNTS if quick else COUNTS).items():
        for kind, count in counts.items():
            drawn = pictures(kind, split, count, folder.parent, packages)
            for number, (picture, caption) in enumerate(drawn):
                name = f"{split}/{kind}_{number:05d}.png"
                save_png(folder / name, picture)
                lines.append(json.dumps({"file": name, "caption": caption}) + "\n")
    (folder / LIST).write_text("".join(lines))


def kind_of(file: str) -> str:
    """The kind of a picture, by its path."""
    return pathlib.PurePath(file).name.partition("_")[0]


def pictures(
    kind: str, split: str, count: int, beside: pathlib.Path, packages: pathlib.Path
) -> Iterator[Drawn]:
    """So many of a kind, the same each time."""
    rng = np.random.default_rng([SEEDS[split], *kind.encode()])
    if kind == "emoji":
        return emoji(split, count, rng, beside / "emoji_128", packages)
    if kind == "photograph":
        return crops(split, count, rng)
    draw: Callable[[np.random.Generator], Drawn] = {"text": text, "chart": chart}[kind]
    return (draw(rng) for _ in range(count))


# ------------------------------------------------------------------ what others drew or took


def emoji(
    split: str,
    count: int,
    rng: np.random.Generator,
    folder: pathlib.Path,
    packages: pathlib.Path,
) -> Iterator[Drawn]:
    """Those of the test are of concepts that training never shows."""
    if not (folder / "captions.jsonl").exists():
        write_folder(find_packs(packages), packages, folder, SIDE)
    own = SEEN if split == TRAIN else UNSEEN_CONCEPTS
    entries = [entry for entry in read_entries(folder) if entry.split == own]
    for index in rng.permutation(len(entries))[:count]:
        entry = entries[index]
        yield np.asarray(Image.open(folder / entry.file).convert("RGB")), entry.caption[0]


def crops(split: str, count: int, rng: np.random.Generator) -> Iterator[Drawn]:
    names = TRAIN_COLOUR + TRAIN_GREY if split == TRAIN else TEST
    sources = photographs(names)
    for index in range(count):
        name = names[index % len(names)].partition(".")[0]
        picture = crop(sources[index % len(names)], rng, varied=False)
        yield picture, f"a photograph of {PHOTOGRAPHS[name]}"


# ------------------------------------------------------------------ what is drawn here


def paper(rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(c) for c in rng.integers(225, 256, 3)))
    return image, ImageDraw.Draw(image)


def ink(rng: np.random.Generator) -> tuple[str, tuple[int, int, int]]:
    name = str(rng.choice([*COLOURS]))
    return name, COLOURS[name]


def text(rng: np.random.Generator) -> Drawn:
    """A sign of a word or two, a note of some lines, or a page of small print."""
    (image, draw), (colour, fill) = paper(rng), ink(rng)
    kind = str(rng.choice(["sign", "note", "page"]))
    size, lines, width = {"sign": (30, 2, 1), "note": (14, 5, 2), "page": (8, 12, 5)}[kind]
    lines = int(rng.integers(1, lines + 1)) if kind == "sign" else lines
    words = [" ".join(rng.choice(WORDS, width)) for _ in range(lines)]
    font, step = ImageFont.load_default(size), (SIDE - 8) // max(lines, 3)
    for number, line in enumerate(words):
        draw.text((5, 5 + number * step), line, fill, font)
    said = {
        "sign": f"a sign that says {' '.join(words)} in large {colour} letters",
        "note": f"a note of {lines} lines of {colour} writing, of {words[0]}",
        "page": f"a page of dense small {colour} print about {words[0].split()[0]}",
    }
    return np.asarray(image), said[kind]


def chart(rng: np.random.Generator) -> Drawn:
    """Bars, lines, points or a table, of few values or many, with a grid and numbers or without."""
    (image, draw), subject = paper(rng), str(rng.choice(SUBJECTS))
    kind, many = str(rng.choice(["bar chart", "line chart", "scatter plot"])), rng.random() < 0.5
    count = int(rng.integers(14, 25) if many else rng.integers(3, 7))
    value_N, detailed = rng.uniform(15, 95, count), rng.random() < 0.5
    x_N, y_N = np.linspace(28, 112, count), 112 - value_N
    if detailed:
        _grid(draw)
    draw.line([(16, 8), (16, 112), (124, 112)], fill=(40, 40, 40))
    _marks(draw, kind, x_N, y_N, ink(rng)[1])
    draw.text((30, 2), subject, (20, 20, 20), ImageFont.load_default(10))
    what = {"bar chart": "bars", "line chart": "turns", "scatter plot": "points"}[kind]
    said = f"a {kind} of {subject} with {count} {what}"
    return np.asarray(image), said + (", with a grid and small numbers" if detailed else "")


def _grid(draw: ImageDraw.ImageDraw) -> None:
    font = ImageFont.load_default(7)
    for number, place in enumerate(range(16, 113, 12)):
        draw.line([(16, place), (124, place)], fill=(200, 200, 200))
        draw.text((2, place - 4), f"{10 * (8 - number)}", (60, 60, 60), font)
        draw.text((place + 8, 115), f"{number}", (60, 60, 60), font)


def _marks(
    draw: ImageDraw.ImageDraw,
    kind: str,
    x_N: np.ndarray,
    y_N: np.ndarray,
    fill: tuple[int, int, int],
) -> None:
    half = max(1.0, 30 / len(x_N))
    if kind == "line chart":
        draw.line([*zip(x_N, y_N, strict=True)], fill=fill, width=2)
        return
    for x, y in zip(x_N, y_N, strict=True):
        if kind == "bar chart":
            draw.rectangle((x - half, y, x + half, 112), fill=fill)
        else:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=fill)
