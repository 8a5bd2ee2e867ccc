"""Trains the demo's tokenizer with and without the adversarial term, and compares.

    python docs/examples/adversarial.py --workdir=runs/adversarial --out=runs/adversarial/pictures

trains `WORKDIR/with` and `WORKDIR/without` (configs/demo/tokenizer_gan.py, the same steps, data and
seed; runs that are there are gone on with or left alone) and writes curves.png, pictures.png and
figures.json to OUT. On two cores of a shared machine it takes about half an hour.

Sharpness is measured at the edges of the originals: among the pixels where the length of the
brightness gradient (forward differences) is above 0.1, the mean length in the reconstruction over
the mean length in the original. 1 is as sharp; a blur spreads an edge, so less. What the network
adds in flat areas (gradient below 0.01 in the original) is given beside it, in steps of 1/255.
"""

import argparse
import json
import pathlib

import jax
import matplotlib
import numpy as np

from babeldraw.data.image import save_png, to_grid
from babeldraw.data.pipeline import eval_batches
from babeldraw.data.sources import open_source
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse, switch_kind
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars
from babeldraw.train.presets import load_config

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
EDGE, FLAT = 0.1, 0.01
SHOWN, ENLARGED = 8, 3
PANELS = (
    ("psnr_db", "PSNR of the training batch, dB"),
    ("l2", "L2"),
    ("r1", "R1 penalty"),
    ("adversarial", "adversarial, generator"),
    ("discriminator", "discriminator"),
    ("accuracy", "discriminator's accuracy"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="where the two runs lie")
    parser.add_argument("--out", required=True, help="where pictures and figures go")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=512, help="held-out pictures to measure")
    args = parser.parse_args()
    workdir, out = pathlib.Path(args.workdir), pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    folders = {"with": workdir / "with", "without": workdir / "without"}
    for name in ("with", "without"):
        config = configured(args.steps)
        if name == "without":
            leave_out(config)
        train(config, str(folders[name]), label=name)
    draw_curves(folders, out / "curves.png")
    originals = held_out(configured(args.steps), args.examples)
    drawn = {name: reconstructions(str(folder), originals) for name, folder in folders.items()}
    figures = {name: measure(originals, images) for name, images in drawn.items()}
    figures["with"] |= last_quarter(folders["with"])
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw_pictures(originals, drawn, out / "pictures.png")
    print(table(figures))


def configured(steps: int):
    """configs/demo/tokenizer_gan.py with other steps."""
    config = load_config("configs/demo/tokenizer_gan.py", ROOT / "pyproject.toml")
    config.train.steps = steps
    for section in (config.optimizer, config.discriminator_optimizer):
        section.schedule.decay_end = steps
    return config


def leave_out(config) -> None:
    """Takes the adversarial term from a config."""
    config.loss.adversarial = 0.0
    switch_kind(config, ("discriminator",), "none")


def held_out(config, count: int) -> np.ndarray:
    """float32 [N, height, width, 3] in [0, 1], that no run of this config trains on."""
    experiment = parse(config)
    data, size = experiment.data, experiment.image_size
    source = open_source(data, data.eval_split, max(size), experiment.train.seed)
    batches = eval_batches(source, batch_size=64, image_size=size, num_examples=count)
    images = [batch["image"][batch["mask"]] for batch in batches]
    return np.concatenate(images).astype(np.float32) / 255


def reconstructions(workdir: str, originals: np.ndarray) -> np.ndarray:
    """`originals` through the tokens of a run and back."""
    run = TokenizerRun.open(workdir)
    reconstruct = jax.jit(lambda params, images: run.tokenizer.reconstruct(params, images)[0])
    return np.concatenate(
        [np.asarray(reconstruct(run.params, part)) for part in np.split(originals, 8)]
    )


def gradient_length(images: np.ndarray) -> np.ndarray:
    """Of the brightness, by forward differences, [N, height - 1, width - 1]."""
    brightness = images.mean(axis=-1)
    down = brightness[:, 1:, :-1] - brightness[:, :-1, :-1]
    right = brightness[:, :-1, 1:] - brightness[:, :-1, :-1]
    return np.hypot(down, right)


def measure(originals: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Sharpness at edges, what is added in flat areas, PSNR."""
    there, here = gradient_length(originals), gradient_length(images)
    edges, flat = there > EDGE, there < FLAT
    errors = np.mean(np.square(images - originals), axis=(1, 2, 3))
    return {
        "edge_sharpness": float(here[edges].mean() / there[edges].mean()),
        "flat_gradient": float(255 * here[flat].mean()),
        "psnr_db": float(np.mean(-10 * np.log10(errors))),
    }


def last_quarter(folder: pathlib.Path) -> dict[str, float]:
    """Means of the discriminator's figures over the last quarter of the run."""
    lines = [line for line in training_metrics(folder) if "discriminator" in line]
    tail = lines[-max(1, len(lines) // 4) :]
    names = ("discriminator", "real_accuracy", "fake_accuracy", "adversarial")
    return {name: float(np.mean([line[name] for line in tail])) for name in names}


def training_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """The lines of a run's metrics, without the `train/` before each name."""
    lines = read_scalars(RunFolder.of(str(folder)))
    return [{name.removeprefix("train/"): value for name, value in line.items()} for line in lines]


def draw_curves(folders: dict[str, pathlib.Path], path: pathlib.Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.4), layout="constrained")
    for (name, title), ax in zip(PANELS, axes.flat, strict=True):
        for label, folder in folders.items():
            lines = training_metrics(folder)
            parts = ("real_accuracy", "fake_accuracy") if name == "accuracy" else (name,)
            for part in parts:
                points = [(line["step"], line[part]) for line in lines if part in line]
                if points:
                    shown = part.removesuffix("_accuracy") if name == "accuracy" else label
                    ax.plot(*zip(*points, strict=True), label=shown, linewidth=1)
        ax.set_title(title, fontsize=8)
        ax.tick_params(labelsize=7)
        ax.legend(fontsize=7)
        if name == "l2":
            ax.set_yscale("log")
        if name == "accuracy":
            ax.set_ylim(-0.02, 1.02)
    figure.savefig(path, dpi=110)


def draw_pictures(originals: np.ndarray, drawn: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Rows: originals, without, with the adversarial term."""
    rows = [originals[:SHOWN], drawn["without"][:SHOWN], drawn["with"][:SHOWN]]
    large = np.concatenate(rows).repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    save_png(path, to_grid(large, SHOWN))


def table(figures: dict[str, dict[str, float]]) -> str:
    lines = [
        "| adversarial term | edge sharpness | gradient in flat areas, 1/255 | PSNR, dB |",
        "|---|---|---|---|",
    ]
    for name in ("without", "with"):
        f = figures[name]
        cells = f"{f['edge_sharpness']:.3f} | {f['flat_gradient']:.2f} | {f['psnr_db']:.2f}"
        lines.append(f"| {name} | {cells} |")
    f = figures["with"]
    lines.append(
        f"\nDiscriminator over the last quarter: loss {f['discriminator']:.2f} (2 ln 2 = 1.39 "
        f"where it cannot tell), right on {f['real_accuracy']:.0%} of originals and "
        f"{f['fake_accuracy']:.0%} of reconstructions."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
