"""One object of a picture of shapes replaced by a text: what stays, and what the text gets.

    python docs/examples/editing.py --workdir=runs/editing --generator=runs/maskgit

Of scenes of two objects that training never shows the first is masked, by a box of half the
picture's sides, and drawn anew by the text of such a scene with another object there. The scorer of
the shapes world says whether the picture shows that scene, and every pixel outside the box is
compared. Cells, each of which leaves its figures in docs/reports/editing and is not made again:

  given          the pictures as they were: what the scorer says of the new texts without any edit
  drawn          the new texts drawn from nothing: what the generator can at all
  exact, blend, decoder
                 the pictures edited with each way to put back what was drawn
  encode_again   as exact, encoded and decoded once more
  larger         pictures of four scenes of one object, of twice the model's sides, in which one
                 object is replaced; its own quarter is scored

The generator is one of shapes, such as of configs/demo/maskgit.py; its settings of sampling are its
own. Prints the table and writes it to WORKDIR/editing.md; WORKDIR/CELL.png has pictures, each above
what was made of it.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from cells import Cell, Figures, arguments, markdown, run_cells, share

from babeldraw.data import shapes
from babeldraw.data.image import save_png, to_grid
from babeldraw.drawing.editing import SEAMS, Editing, edit
from babeldraw.drawing.holes import Crop, box_hole
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import figures_json
from babeldraw.evaluation.shapes_scorer import score_batch

# Pictures of each cell, their seed, and how many are shown.
COUNT, QUICK_COUNT = 512, 3
SEED = 11
SHOWN = 16
MINUTES = 10
WAYS = {seam: Editing(seam) for seam in SEAMS} | {"encode_again": Editing(encode_again=True)}
# What the table has of the scorer's answers.
ANSWERS = ("exact", "number", "colour", "shape", "relation")


@dataclasses.dataclass(frozen=True)
class Case:
    """A picture, uint8 [S, S, 3], its hole, bool [S, S], the text, and where its scene is."""

    image: np.ndarray
    hole: np.ndarray
    text: str
    scene: Crop


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--generator", required=True, help="run folder of a generator of shapes")
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    text = table(run_cells(all_cells(), args, "editing"))
    (args.workdir / "editing.md").write_text(text + "\n")
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    cells: dict[str, Cell] = {"given": given, "drawn": drawn}
    cells |= {name: functools.partial(edited, name) for name in (*WAYS, "larger")}
    return {name: (cell, MINUTES) for name, cell in cells.items()}


# ------------------------------------------------------------------ cells


def given(args: argparse.Namespace) -> Figures:
    """The pictures as they were."""
    sampler = Sampler.from_run(args.generator)
    cases = pairs(count(args), sampler.image_size[0])
    return {"step": sampler.step, **figures(cases, [case.image for case in cases])}


def drawn(args: argparse.Namespace) -> Figures:
    """The texts drawn from nothing; of pixels there is nothing to compare."""
    sampler = Sampler.from_run(args.generator)
    cases = pairs(count(args), sampler.image_size[0])
    pictures = [
        picture.image
        for picture in sampler.sample([case.text for case in cases], seed=range(len(cases)))
    ]
    show(args, "drawn", cases, pictures)
    return {"step": sampler.step, "quality": quality(cases, pictures)}


def edited(name: str, args: argparse.Namespace) -> Figures:
    """One object of each picture drawn anew."""
    sampler = Sampler.from_run(args.generator)
    make = quarters if name == "larger" else pairs
    cases = make(count(args), sampler.image_size[0])
    texts, images, holes = zip(*((c.text, c.image, c.hole) for c in cases), strict=True)
    way = WAYS.get(name, WAYS["exact"])
    pictures = [
        one.image
        for one in edit(sampler, texts, images, holes, seed=range(len(cases)), editing=way)
    ]
    show(args, name, cases, pictures)
    return {"step": sampler.step, **figures(cases, pictures)}


def count(args: argparse.Namespace) -> int:
    return QUICK_COUNT if args.quick else COUNT


# ------------------------------------------------------------------ pictures


def pairs(count: int, side: int) -> list[Case]:
    """Pictures of two objects, the first of which goes."""
    rng, cases = np.random.default_rng(SEED), []
    while len(cases) < count:
        old, new = (shapes.sample_scene(rng, "test") for _ in range(2))
        wanted = replaced(old, new.objects[0])
        if old.relation is None or wanted.split() != "test" or not differs(old, wanted):
            continue
        centre = 0.5 + shapes.PAIR_OFFSET * np.array(shapes.RELATIONS[old.relation])
        image, whole = shapes.render(old, side, rng), Crop(0, 0, side, side)
        cases.append(
            Case(image, hole_at(centre * side, side, (side, side)), wanted.caption(), whole)
        )
    return cases


def quarters(count: int, side: int) -> list[Case]:
    """Pictures of four scenes of one object on one background; the object of one of them goes."""
    rng, cases = np.random.default_rng(SEED), []
    while len(cases) < count:
        new, *others = (shapes.sample_scene(rng, "test") for _ in range(5))
        scenes = [shapes.Scene(one.objects[:1], None, new.background) for one in others]
        wanted = shapes.Scene(new.objects[:1], None, new.background)
        which = int(rng.integers(4))
        if not differs(scenes[which], wanted):
            continue
        image = to_grid(np.stack([shapes.render(one, side, rng) for one in scenes]), 2)
        top, left = (side * at for at in divmod(which, 2))
        hole = hole_at((left + side / 2, top + side / 2), side, image.shape[:2])
        cases.append(Case(image, hole, wanted.caption(), Crop(top, left, side, side)))
    return cases


def replaced(scene: shapes.Scene, thing: shapes.Object) -> shapes.Scene:
    """The scene with another first object."""
    return dataclasses.replace(scene, objects=(thing, *scene.objects[1:]))


def differs(old: shapes.Scene, new: shapes.Scene) -> bool:
    """Whether the first object is of another colour and of another shape."""
    before, after = old.objects[0], new.objects[0]
    return before.colour != after.colour and before.shape != after.shape


def hole_at(centre: Sequence[float], side: int, shape: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: a box of half a scene's sides, which holds any object with its jitter."""
    x, y = (round(float(at) - side / 4) for at in centre)
    return box_hole((x, y, x + side // 2, y + side // 2), shape)


# ------------------------------------------------------------------ figures


def figures(cases: Sequence[Case], pictures: Sequence[np.ndarray]) -> Figures:
    """What the scorer says, and what changed outside the holes."""
    pairs = zip(cases, pictures, strict=True)
    changed = [(case.image != picture).any(-1)[~case.hole].mean() for case, picture in pairs]
    outside = {
        "identical": mean_figure(np.array(changed) == 0),
        "changed_pixels": mean_figure(changed),
    }
    return {"outside": figures_json(outside), "quality": quality(cases, pictures)}


def quality(cases: Sequence[Case], pictures: Sequence[np.ndarray]) -> dict[str, Any]:
    """The scorer's answers of the scenes that were asked for."""
    scenes = [case.scene.of(picture) for case, picture in zip(cases, pictures, strict=True)]
    return figures_json(score_batch(np.stack(scenes), [case.text for case in cases]))


def show(
    args: argparse.Namespace, name: str, cases: Sequence[Case], pictures: Sequence[np.ndarray]
) -> None:
    """WORKDIR/CELL.png: pictures above what was made of them."""
    pairs = zip(cases[:SHOWN], pictures, strict=False)
    columns = [np.concatenate([case.image, picture]) for case, picture in pairs]
    save_png(args.workdir / f"{name}.png", to_grid(np.stack(columns), SHOWN // 2))


def table(found: dict[str, Figures]) -> str:
    """Markdown."""
    heads = ["pictures", "untouched outside", "pixels changed outside", *ANSWERS]
    rows = []
    for name, cell in found.items():
        outside = (
            [share(one) for one in cell["outside"].values()] if "outside" in cell else ["", ""]
        )
        answers = [share(cell["quality"][answer]) for answer in ANSWERS]
        rows.append([name.replace("_", " "), *outside, *answers])
    return markdown(heads, rows)


if __name__ == "__main__":
    main()
