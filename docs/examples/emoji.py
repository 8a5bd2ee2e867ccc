"""The emoji world beyond its demo: the perceptual term, the figures beside eyes, two hours.

    bash launch/local.sh demo --world=emoji
    python docs/examples/emoji.py --demo=runs/emoji --workdir=runs/emoji_table

`--demo` is the folder of the demo, whose pictures and weights of VGG16 and AlexNet are used. Cell
by cell, each of which writes its figures to OUT (docs/reports) as emoji_CELL.json and is left
alone where they are there:

  tokenizers   configs/emoji/tokenizer.py without the perceptual term and with five times of it,
               beside the demo's own; PSNR, SSIM, LPIPS, the Fréchet distance of VGG16's features,
               how many true pictures are still recognized behind the tokenizer, and a picture of
               all. 45 minutes on two cores.
  ranking      whether figures rank as eyes do: the tokenizer without the term at five stages of its
               training, the demo's generator without guidance and with it, and a picture of both.
               10 minutes.
  long         a generator of 2.5 times the demo's steps on the demo's tokenizer, its figures
               over minutes. 75 minutes.
  sheet        what the generator draws for the prompts of the demo's page, chosen by seed 0:
               concepts side by side, of which the right half has a style that training never
               showed with it, and styles below each other. Of the long run where that is there,
               else of the demo; a minute.
  released     the generator as plain files for `babeldraw import --kind=run`, its tokenizer with
               it, in float16: of the long run where that is there, else of the demo.

A run that was stopped goes on; two hours and a quarter in all, by estimate.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from babeldraw.commands.demo_emoji import shown
from babeldraw.convert.run import export_run
from babeldraw.data.emoji import read_entries
from babeldraw.data.image import decode, save_png, to_grid
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.evaluation.concepts import SPLITS, Gallery
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.runs.folder import RunFolder
from babeldraw.train.evaluation import evaluate_run
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars
from babeldraw.train.presets import load_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHOWN = 8
LONGER = 2.5
RECOGNIZED, BATCH = 256, 64
CURVE = ("concept_seen", "concept_unseen", "style_seen", "style_unseen")
# Weights of the perceptual term beside the demo's.
OTHERS = {"without": 0.0, "heavier": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "reports")
    parser.add_argument("--cells", default="tokenizers,ranking,long,sheet,released")
    args = parser.parse_args()
    cells = {
        "tokenizers": tokenizers,
        "ranking": ranking,
        "long": long,
        "sheet": sheet,
        "released": released,
    }
    for name in args.cells.split(","):
        file = args.out / f"emoji_{name}.json"
        if file.exists():
            print(f"{file} is there")
            continue
        figures = cells[name](args)
        file.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"{file}: {json.dumps(figures)}")


def config_of(name: str, args: argparse.Namespace) -> Any:
    """A config of the emoji world with this machine's files."""
    config = load_config(f"configs/emoji/{name}.py", ROOT / "pyproject.toml")
    config.data.path = str((args.demo / "emoji").resolve())
    if name == "tokenizer":
        config.perceptual.file = vgg16(args)
    else:
        config.evaluators.concepts = {"file": alexnet(args)}
    return config


def seen(args: argparse.Namespace) -> dict[str, Any]:
    """How sets are compared: on training pictures; those held out are fewer than features."""
    return {"file": vgg16(args), "split": "train/", "num_examples": 2048, "resamples": 20}


def vgg16(args: argparse.Namespace) -> str:
    return str((args.demo / "vgg_lpips.safetensors").resolve())


def alexnet(args: argparse.Namespace) -> str:
    return str((args.demo / "alexnet_lpips.safetensors").resolve())


def lengthen(config: Any) -> Any:
    config.train.steps = int(LONGER * config.train.steps)
    config.optimizer.schedule.decay_end = config.train.steps
    return config


# ------------------------------------------------------------------ with and without the term


def tokenizers(args: argparse.Namespace) -> dict[str, Any]:
    folders = {"demo": args.demo / "tokenizer"}
    for name, weight in OTHERS.items():
        config = config_of("tokenizer", args)
        config.loss.perceptual = weight
        config.train.keep_every = config.train.checkpoint_every
        folders[name] = args.workdir / f"tokenizer_{name}"
        train(config, str(folders[name]), label=f"perceptual {weight:g}")
    fields = {"reconstruction": {"lpips": vgg16(args)}, "rfd": seen(args)}
    found = {
        name: evaluate_run(str(folder), [*fields], fields=fields) | recognized(args, folder)
        for name, folder in folders.items()
    }
    save_png(args.out.parent / "images" / "emoji_perceptual.png", side_by_side(args, folders))
    return found


def recognized(args: argparse.Namespace, run: pathlib.Path) -> dict[str, float]:
    """What the judge says of true pictures behind a tokenizer: no generator on it does better."""
    gallery = Gallery.read(args.demo / "emoji", alexnet(args))
    tokenizer, found = TokenizerRun.open(str(run)), {}
    for kind, split in SPLITS.items():
        asked = np.random.default_rng(0).permutation(gallery.of(split))[:RECOGNIZED]
        given = [
            np.asarray(tokenizer.decode(tokenizer.encode(gallery.images[part])))
            for part in np.split(asked, range(BATCH, len(asked), BATCH))
        ]
        judged = gallery.judge(np.rint(np.concatenate(given) * 255).astype(np.uint8), asked)
        found |= {f"{name}_{kind}": float(np.mean(right)) for name, right in judged.items()}
    return found


def side_by_side(args: argparse.Namespace, folders: dict[str, pathlib.Path]) -> np.ndarray:
    """Rows: held-out pictures, and what each tokenizer gives back, enlarged twice."""
    rows = reconstructions(args, map(str, folders.values()))
    return to_grid(np.concatenate(rows), SHOWN).repeat(2, axis=0).repeat(2, axis=1)


def reconstructions(args: argparse.Namespace, runs: Iterable[str]) -> list[np.ndarray]:
    """Held-out pictures chosen by seed 0, and what the tokenizer of each run gives back."""
    held_out = [e for e in read_entries(args.demo / "emoji") if e.split == "unseen_pairs"]
    chosen = np.random.default_rng(0).permutation(len(held_out))[:SHOWN]
    originals = np.stack([decode(args.demo / "emoji" / held_out[index].file) for index in chosen])
    rows = [originals / np.float32(255)]
    for run in runs:
        tokenizer = TokenizerRun.open(run)
        rows.append(np.asarray(tokenizer.decode(tokenizer.encode(originals))))
    return rows


# ------------------------------------------------------------------ figures beside eyes


def ranking(args: argparse.Namespace) -> dict[str, Any]:
    folder = args.workdir / "tokenizer_without"
    checkpoints = RunFolder.of(str(folder)).checkpoints.iterdir()
    stages = [f"{folder}@{step}" for step in sorted(int(path.name) for path in checkpoints)]
    fields = {"reconstruction": {"lpips": vgg16(args)}, "rfd": seen(args)}
    found = {run: evaluate_run(run, [*fields], fields=fields) for run in stages}
    generator = args.demo / "text_to_image"
    asked = {"fd": seen(args), "concepts": config_of("text_to_image", args).evaluators.concepts}
    drawn = evaluate_run(str(generator), [*asked], fields=asked)
    rows = reconstructions(args, stages)
    labels = ["true pictures"] + [
        f"step {own['step']}: PSNR {own['reconstruction/psnr_db']:.1f} dB, "
        f"LPIPS {own['reconstruction/lpips']:.3f}, fd_vgg16 {own['rfd/fd_vgg16']:.0f}"
        for own in found.values()
    ]
    sampler = Sampler.from_run(str(generator))
    prompts = [entry.caption[0] for entry in shown(read_entries(args.demo / "emoji"))[:SHOWN]]
    settings = SamplingConfig(**config_of("text_to_image", args).sampling)
    for guidance, suffix in ((1.0, "_without_guidance"), (settings.guidance, "")):
        own = dataclasses.replace(settings, guidance=guidance)
        pictures = sampler.sample(prompts, seed=0, settings=own)
        rows.append(np.stack([picture.image for picture in pictures]) / np.float32(255))
        labels.append(
            f"drawn, guidance {guidance:g}: fd_vgg16 {drawn[f'fd/fd_vgg16{suffix}']:.0f}, "
            f"concept {drawn[f'concepts/concept_seen{suffix}']:.1%}"
        )
    plot(rows, labels, args.out.parent / "images" / "ranking.png")
    return {"tokenizer": [*found.values()], "generator": drawn}


def plot(rows: list[np.ndarray], labels: list[str], file: pathlib.Path) -> None:
    """Each row of pictures under its figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(rows), 1, figsize=(7, 1.05 * len(rows)), layout="constrained")
    for own, row, label in zip(axes, rows, labels, strict=True):
        own.imshow(to_grid(row, SHOWN))
        own.set_axis_off()
        own.set_title(label, fontsize=8, loc="left")
    figure.savefig(file, dpi=100)


# ------------------------------------------------------------------ a longer run


def long(args: argparse.Namespace) -> dict[str, Any]:
    config, folder = lengthen(config_of("text_to_image", args)), args.workdir / "text_to_image"
    tokenizer = args.demo / "tokenizer"
    config.tokenizer_run = str(tokenizer.resolve())
    generator = train(config, str(folder))
    before = json.loads(RunFolder.of(str(tokenizer)).report_file.read_text())["seconds"]
    curve = [
        {
            "step": line["step"],
            "minutes": (before + line["seconds"]) / 60,
            **{name: line[f"concepts/{name}"] for name in CURVE},
        }
        for line in read_scalars(RunFolder.of(str(folder)))
        if "concepts/concept_seen" in line
    ]
    drawn = evaluate_run(str(folder), ["fd"], fields={"fd": seen(args)})
    return {"generator": generator | drawn, "curve": curve}


def best(args: argparse.Namespace) -> str:
    """The generator's run folder."""
    longer = args.workdir / "text_to_image"
    return str(longer if longer.exists() else args.demo / "text_to_image")


def sheet(args: argparse.Namespace) -> dict[str, Any]:
    entries = shown(read_entries(args.demo / "emoji"))
    styles = len({entry.style for entry in entries})
    settings = SamplingConfig(**config_of("text_to_image", args).sampling)
    sampler, prompts = Sampler.from_run(best(args)), [entry.caption[0] for entry in entries]
    drawn = sampler.sample(prompts, seed=0, settings=settings)
    images = np.stack([picture.image for picture in drawn])
    # From a row for each concept to a column.
    images = images.reshape(-1, styles, *images.shape[1:]).swapaxes(0, 1)
    images = images.reshape(-1, *images.shape[2:])
    grid = to_grid(images, len(images) // styles).repeat(2, axis=0).repeat(2, axis=1)
    save_png(args.out.parent / "images" / "emoji_drawn.png", grid)
    return {"concepts": [entry.name for entry in entries[::styles]], "seed": 0}


def released(args: argparse.Namespace) -> dict[str, Any]:
    folder = args.workdir / "released"
    # The generator's holds its tokenizer.
    export_run(best(args), folder, half=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"folder": folder.name, "megabytes": size / 1e6}


if __name__ == "__main__":
    main()
