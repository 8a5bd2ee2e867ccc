"""Cells of the grid that train nothing: in which order codes come, and holes that are filled."""

import argparse

import numpy as np
from cells import Figures
from grid_measures import (
    distance,
    fill,
    held_out,
    of_differences,
    of_filled,
    of_pictures,
    parameters_of,
)

from babeldraw.drawing.sampler import Sampler
from babeldraw.train.evaluation import TrainedRun, evaluated

ORDERS, STEPS = ("probability", "logit", "halton"), (4, 8, 16)
# Whose codes have rows and columns.
HOLE_IN = "shapes_vit_vqgan"
# Those that are compared in filling a hole.
FILLING = ("babeldraw", "maskgit", "rar", "vim")
# Rows and columns of what is drawn anew, as shares of the sides, and whether the text is told.
UPPER = ((0.0, 0.5), (0.0, 1.0))
HOLES = {
    "hole": (((0.25, 0.75), (0.25, 0.75)), True),
    "upper": (UPPER, True),
    "untold": (UPPER, False),
}
HOLE_TITLES = {
    "hole": "a hole in the middle",
    "upper": "the upper half",
    "untold": "the upper half, nothing told",
}
# Whose eyes see how far a filled picture is from the true one.
ALEXNET = "alexnet_lpips.safetensors"


# ------------------------------------------------------------------ which codes come next


def orders_cell(args: argparse.Namespace) -> Figures:
    run = TrainedRun.open(str(args.workdir / "shapes_vit_vqgan_maskgit"))
    found: Figures = {}
    for steps in STEPS[:1] if args.quick else STEPS:
        for order in ORDERS:
            fields = {"sampling": {"order": order, "steps": steps}}
            if args.quick:
                fields |= {"num_prompts": 2, "batch_size": 2}
            one = evaluated(run, ["prompts"], {"prompts": fields})["prompts"]
            found[f"{order}_{steps}"] = one.record["figures"]
    return found


# ------------------------------------------------------------------ a hole


def hole_cell(name: str, args: argparse.Namespace) -> Figures:
    """Of each generator, and of the tokenizer, which draws nothing; MaskGIT less each of them."""
    samplers = {g: Sampler.from_run(str(args.workdir / f"{HOLE_IN}_{g}")) for g in FILLING}
    size = samplers["maskgit"].image_size[0]
    scenes, images = held_out(2 if args.quick else 128, size)
    box, told = HOLES[name]
    mask = np.zeros((size, size), bool)
    mask[tuple(slice(round(a * size), round(b * size)) for a, b in box)] = True
    texts = [scene.caption() if told else "" for scene in scenes]
    lpips = distance(args.emoji / ALEXNET)
    measured: dict[str, dict[str, np.ndarray]] = {}
    found: Figures = {}
    for generator, sampler in samplers.items():
        filled, kept = fill(sampler, texts, images, mask)
        for who, pictures in ((generator, filled), ("tokenizer", kept)):
            measured[who] = of_filled(pictures, scenes, images, mask, lpips)
        found[generator] = {"parameters": parameters_of(sampler), "pictures": len(scenes)}
    for who, values in measured.items():
        found[who] = found.get(who, {}) | of_pictures(values)
        found[who]["maskgit_less_it"] = of_differences(measured["maskgit"], values)
    return found
