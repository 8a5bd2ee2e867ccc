"""What a text encoder that has read is worth: few pairs, many captions, on the shapes world.

    python docs/examples/pretraining.py --workdir=runs/pretraining

A generator learns from 2,000 pairs. Its text encoder begins fresh (none), from masked language
modelling on 50,000 captions (masked), from contrastive learning on the same 2,000 pairs
(contrastive), or from both at once (both); of each three seeds. Every generator has the same steps,
so what a pretraining takes comes on top. Cells, each of which leaves its figures in
docs/reports/pretraining and is not made again:

  tokenizer          that of the demo, which has seen the whole world's pictures
  encoder_WAY_SEED   the text encoder: held-out captions found by pictures and the other way, and
                     the loss of masked pieces
  WAY_SEED           the generator: pictures that are right, of pairs of colour and shape that were
                     seen and that never were

Some two hours and a quarter in all on two cores, by estimate. Prints the table and writes it to
WORKDIR/pretraining.md.
"""

import argparse
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from cells import (
    QUICK,
    ROOT,
    Cell,
    Figures,
    arguments,
    markdown,
    run_cells,
    set_steps,
    share,
    trained_and_judged,
)

from babeldraw.data.config import DataConfig
from babeldraw.data.sources import open_texts
from babeldraw.data.text import train_vocabulary
from babeldraw.train.presets import complete, load_config

# Weights of the masked and of the contrastive loss.
WAYS = {"none": (0.0, 0.0), "masked": (1.0, 0.0), "contrastive": (0.0, 1.0), "both": (1.0, 1.0)}
SEEDS = (0, 1, 2)
PAIRS, CAPTIONS = 2000, 50_000
STEPS, ENCODER_STEPS = 1400, 1000
MINUTES = {"tokenizer": 5, "encoder": 4, "generator": 8}
FIGURES = {"exact_seen": "exact, seen", "exact_unseen": "exact, unseen"}
# Student's t of 95 % for two degrees of freedom, those of three seeds.
T = 4.303


def main() -> None:
    args = arguments(__doc__.splitlines()[0]).parse_args()
    found = run_cells(all_cells(), args, "pretraining")
    text = table(found)
    (args.workdir / "pretraining.md").write_text(text)
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    cells: dict[str, tuple[Cell, float]] = {"tokenizer": (tokenizer_cell, MINUTES["tokenizer"])}
    for seed in SEEDS:
        for way in WAYS:
            if way != "none":
                cell = functools.partial(encoder_cell, way, seed)
                cells[f"encoder_{way}_{seed}"] = cell, MINUTES["encoder"]
            cell = functools.partial(generator_cell, way, seed)
            cells[f"{way}_{seed}"] = cell, MINUTES["generator"]
    return cells


# ------------------------------------------------------------------ cells


def tokenizer_cell(args: argparse.Namespace) -> Figures:
    config = complete(demo("tokenizer.py"), variant(args))
    return trained_and_judged(config, args.workdir / "tokenizer", ["reconstruction"])[0]


def encoder_cell(way: str, seed: int, args: argparse.Namespace) -> Figures:
    config, folder = encoder_config(way, seed, args), args.workdir / f"encoder_{way}_{seed}"
    masked, contrastive = WAYS[way]
    judges = [*(["retrieval"] * bool(contrastive)), *(["validation_loss"] * bool(masked))]
    give_vocabulary(folder, args)
    return trained_and_judged(config, folder, judges)[0]


def generator_cell(way: str, seed: int, args: argparse.Namespace) -> Figures:
    config, folder = generator_config(way, seed, args), args.workdir / f"{way}_{seed}"
    give_vocabulary(folder, args)
    return trained_and_judged(config, folder, ["prompts"])[0]


def demo(name: str) -> dict[str, Any]:
    """A config of the demo, open to change."""
    return load_config(name, ROOT / "configs" / "demo" / "README").to_dict()


def variant(args: argparse.Namespace) -> str:
    return QUICK if args.quick else ""


def shapes(count: int) -> dict[str, Any]:
    """So many examples of the shapes world; the fewer are among the more."""
    return {"source": "shapes", "num_examples": count}


def encoder_config(way: str, seed: int, args: argparse.Namespace) -> Any:
    masked, contrastive = WAYS[way]
    config = demo("text_encoder.py")
    config["train"]["seed"] = seed
    config["loss"] |= {"masked": masked, "contrastive": contrastive}
    config["data"] = shapes(PAIRS if contrastive else CAPTIONS)
    config["text_data"] = shapes(CAPTIONS) if masked and contrastive else None
    return of_steps(complete(config, variant(args)), ENCODER_STEPS, args)


def generator_config(way: str, seed: int, args: argparse.Namespace) -> Any:
    config = demo("text_to_image.py")
    config["train"]["seed"] = seed
    config["data"] = shapes(PAIRS)
    config["tokenizer_run"] = str((args.workdir / "tokenizer").resolve())
    config["evaluators"]["prompts"]["num_prompts"] = 512
    if way != "none":
        begin = (args.workdir / f"encoder_{way}_{seed}").resolve()
        config["starts"] = ({"run": str(begin), "names": "text_encoder/.*"},)
    return of_steps(complete(config, variant(args)), STEPS, args)


def of_steps(config: Any, steps: int, args: argparse.Namespace) -> Any:
    """A config of so many steps; the quick one keeps its own."""
    if not args.quick:
        set_steps(config, steps)
    return config


def give_vocabulary(folder: pathlib.Path, args: argparse.Namespace) -> None:
    """The same pieces to every run, made of the captions that the pretrainings read."""
    words = args.workdir / "text.model"
    if not words.exists():
        data = DataConfig(**shapes(CAPTIONS))
        train_vocabulary(open_texts(data, data.split, seed=0).captions(), words)
    if not (folder / words.name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / words.name).write_bytes(words.read_bytes())


# ------------------------------------------------------------------ the table


def table(found: dict[str, Figures]) -> str:
    """A row for each way: the mean over its seeds, and what it is above `none`, seed by seed."""
    heads = [
        "text encoder",
        *FIGURES.values(),
        *(f"{name}, above none" for name in FIGURES.values()),
    ]
    heads += ["picture to text", "text to picture", "minutes of pretraining"]
    rows = []
    for way in WAYS:
        seeds = [seed for seed in SEEDS if f"{way}_{seed}" in found]
        if seeds:
            rows.append([way, *scores(found, way, seeds), *pretraining(found, way, seeds)])
    return markdown(heads, rows) + "\n\nIn brackets the interval of 95 %, over seeds.\n"


def scores(found: dict[str, Figures], way: str, seeds: Sequence[int]) -> list[str]:
    def values(way: str, name: str) -> np.ndarray:
        cells = [found[f"{way}_{seed}"] for seed in seeds]
        return np.array([cell["quality"]["prompts"][name]["value"] for cell in cells])

    paired = way != "none" and all(f"none_{seed}" in found for seed in seeds)
    above = [values(way, name) - values("none", name) for name in FIGURES] if paired else []
    return [
        *(share(over_seeds(values(way, name))) for name in FIGURES),
        *(map(share, map(over_seeds, above)) if paired else [""] * len(FIGURES)),
    ]


def pretraining(found: dict[str, Figures], way: str, seeds: Sequence[int]) -> list[str]:
    names = [f"encoder_{way}_{seed}" for seed in seeds]
    cells = [found[name] for name in names if name in found]
    if not cells:
        return ["", "", ""]
    retrieval = [cell["quality"].get("retrieval") for cell in cells]
    shares = ["", ""]
    if all(retrieval):
        shares = [
            share(over_seeds(np.array([one[name]["value"] for one in retrieval])))
            for name in ("image_to_text", "text_to_image")
        ]
    return [*shares, f"{np.mean([cell['minutes'] for cell in cells]):.1f}"]


def over_seeds(values: np.ndarray) -> dict[str, Any]:
    """The mean, with the interval that three seeds give."""
    mean = float(values.mean())
    if len(values) < len(SEEDS):
        return {"value": mean}
    half = T * float(values.std(ddof=1)) / len(values) ** 0.5
    return {"value": mean, "interval": (mean - half, mean + half)}


if __name__ == "__main__":
    main()
