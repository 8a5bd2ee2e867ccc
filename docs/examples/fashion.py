"""IBQ's codes by class: LlamaGen's generator on Fashion-MNIST.

    python docs/examples/fashion.py --workdir=runs/fashion

Cells, each of which leaves its figures in docs/reports/fashion and is not made again:

  tokenizer    a small convolutional network, 32 px to 8 x 8 codes of IBQ's 1,024, 7 minutes
  classifier   of true pictures, 3 minutes: the judge of drawn ones
  llama        configs/demo/llama.py by class on these codes, 11 minutes: loss over steps and on
               held-out pictures (nats a code), how many drawn pictures show their class

Some 25 minutes in all on two cores, by estimate. Prints the table and writes it to
WORKDIR/fashion.md; WORKDIR/fashion_grid.png has drawn pictures of each class, fashion_losses.png
the loss over steps.

Fashion-MNIST is that of Debian's package dataset-fashion-mnist, 20,000 of its pictures to train on
and 2,000 of its others, written as PNG files into WORKDIR/pictures.
"""

import argparse
import gzip
import pathlib
from typing import Any

import numpy as np
from cells import QUICK, ROOT, Cell, Figures, arguments, markdown, run_cells
from cells import trained_and_judged as trained

from babeldraw.data.image import save_png
from babeldraw.errors import UserError
from babeldraw.train.presets import complete, load_config

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag")
CLASSES = (*NAMES, "ankle boot")
# Split, the file's name, and pictures of it.
SPLITS = {"train": ("train", 20_000), "test": ("t10k", 2_000)}
SIDE = 32
MINUTES = {"tokenizer": 7, "classifier": 3, "llama": 11}
# Evaluators that look at held-out pictures, and how many: all of them.
JUDGES, JUDGED_BY = ("reconstruction", "classification", "validation_loss"), SPLITS["test"][1]
# Of a class, in the picture of drawn ones.
SHOWN = 16


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--fashion_mnist", type=pathlib.Path, default=FASHION)
    args = parser.parse_args()
    cells: dict[str, tuple[Cell, float]] = {
        "tokenizer": (tokenizer, MINUTES["tokenizer"] + 1),
        "classifier": (classifier, MINUTES["classifier"] + 1),
        "llama": (llama, MINUTES["llama"] + 2),
    }
    found = run_cells(cells, args, "fashion")
    text = table(found)
    (args.workdir / "fashion.md").write_text(text)
    if "llama" in found:
        draw_losses(found["llama"], args.workdir / "fashion_losses.png")
    print(text)


# ------------------------------------------------------------------ data


def pictures(args: argparse.Namespace) -> dict[str, str]:
    """The config section `data`; the pictures are written where they are missing."""
    folder = args.workdir / "pictures"
    for split, (name, count) in SPLITS.items():
        count = 64 if args.quick else count
        whole = args.workdir / f"pictures_{split}_{count}.whole"
        if not whole.exists():
            images, labels = read(args.fashion_mnist, name, count)
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                file = folder / split / CLASSES[label] / f"{number:05}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                save_png(file, image)
            whole.touch()
    splits = {"split": "train/", "eval_split": "test/"}
    return {"source": "folder", "path": str(folder.resolve()), "crop": "center", **splits}


def read(folder: pathlib.Path, name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, SIDE, SIDE, 3], white on black as they are, and classes, int [count]."""
    found = []
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        path = folder / f"{name}-{kind}-ubyte.gz"
        if not path.exists():
            raise UserError(f"--fashion_mnist={folder} has no {path.name}; unpack Debian's package")
        with gzip.open(path) as file:
            found.append(np.frombuffer(file.read(), np.uint8, offset=header))
    images = found[0].reshape(-1, 28, 28)[:count]
    rim = (SIDE - 28) // 2
    padded = np.pad(images, ((0, 0), (rim, rim), (rim, rim)))
    return np.repeat(padded[..., None], 3, axis=-1), found[1][:count].astype(int)


# ------------------------------------------------------------------ cells


def load(file: str, args: argparse.Namespace, argument: str = "") -> Any:
    """A config on these pictures, or the quick variant of it."""
    config = load_config(file, ROOT / "configs" / "README", argument)
    config = complete(config.to_dict(), QUICK if args.quick else "").unlock()
    config.data.update(pictures(args))
    config.data.class_caption = ""
    if not args.quick:
        for name in JUDGES:
            if config.evaluators.get(name):
                config.evaluators[name].update(num_examples=JUDGED_BY, batch_size=100)
        if config.evaluators.get("reconstruction"):
            config.evaluators.reconstruction.usage_batch = JUDGED_BY
    return config


def tokenizer_config(args: argparse.Namespace) -> Any:
    config = load("emoji/ibq.py", args, "ibq,1k")
    config.tokenizer.image_size = (SIDE, SIDE)
    # One halving less: 8 x 8 codes.
    config.tokenizer.network.multipliers = (1, 2, 2)
    return config


def minutes(name: str, args: argparse.Namespace) -> float:
    return 0 if args.quick else MINUTES[name]


def tokenizer(args: argparse.Namespace) -> Figures:
    config, folder = tokenizer_config(args), args.workdir / "tokenizer"
    return trained(config, folder, ["reconstruction"], minutes("tokenizer", args))[0]


def classifier(args: argparse.Namespace) -> Figures:
    config = load("digits/classifier.py", args)
    config.model.update(num_classes=len(CLASSES), image_size=(SIDE, SIDE))
    folder = args.workdir / "classifier"
    return trained(config, folder, ["classification"], minutes("classifier", args))[0]


def llama(args: argparse.Namespace) -> Figures:
    config = load("demo/llama.py", args)
    config.tokenizer = tokenizer_config(args).tokenizer
    config.tokenizer_run = str((args.workdir / "tokenizer").resolve())
    config.condition = {"kind": "class", "num_classes": len(CLASSES), "dropout": 0.1}
    config.evaluators.prompts = None
    judge = str((args.workdir / "classifier").resolve())
    config.evaluators.class_accuracy = {"classifier_run": judge, "num": 2 if args.quick else 64}
    judges = ["validation_loss", "class_accuracy", "samples"]
    config.evaluators.samples = {"num": len(CLASSES), "each": 2 if args.quick else SHOWN}
    figures, found = trained(config, args.workdir / "llama", judges, minutes("llama", args))
    for name, picture in found["samples"].pictures.items():
        save_png(args.workdir / f"fashion_{name}.png", picture)
    return figures


# ------------------------------------------------------------------ table and picture


def table(found: dict[str, Figures]) -> str:
    """Markdown, a line for each cell."""
    rows = []
    for name, one in found.items():
        said = [
            f"{key} {value['value']:.3g}"
            for figures in one["quality"].values()
            for key, value in figures.items()
        ]
        cost = [f"{one['parameters'] / 1e6:.2f}", f"{one['steps']:,}", f"{one['minutes']:.1f}"]
        rows.append([name, ", ".join(said), *cost, f"{one['peak_gib']:.1f}"])
    return markdown(["", "held out", "parameters, M", "steps", "minutes", "peak GiB"], rows) + "\n"


def draw_losses(one: Figures, file: pathlib.Path) -> None:
    """Nats of a code over steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.plot(*zip(*one["losses"], strict=True))
    ax.set(title="loss of a code, nats", xlabel="step")
    figure.savefig(file, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
