"""How many tokens a picture needs: TiTok of three sizes and three numbers of tokens on emoji.

    python docs/examples/tokens.py --workdir=runs/tokens

{tiny, small, base} x {16, 32, 64 tokens} of configs/emoji/titok.py, and ViT-VQGAN's 64 codes
(configs/emoji/tokenizer.py) beside them, 7 minutes of training each, all without the perceptual
term: its network has seen labels, and would tell a probe what the pictures show. Cells, each of
which leaves its figures in docs/reports/tokens and is not made again:

  SIZE_TOKENS, vit_vqgan   PSNR, LPIPS and the Frechet distance of VGG16's features on held-out
                           pictures, use of the codebook, the loss over steps, pictures encoded and
                           decoded per second; and how often a softmax layer on the mean of the
                           encoder's output is right: of what Fashion-MNIST's pictures show, which
                           no tokenizer here has seen, and of the group of a concept of emoji

Some hour and three quarters in all on two cores, by estimate. Prints the table and writes it to
WORKDIR/tokens.md; WORKDIR/tokens.png has figures over tokens and losses over steps, pictures.png
held-out pictures above what each makes of them, in the table's order.

The pictures, their packages and the weights of VGG16 lie in `--emoji`, the folder of `babeldraw
demo --world=emoji`, and are fetched into it where they are missing. Fashion-MNIST is that of
Debian's package dataset-fashion-mnist; without it its column stays empty.
"""

import argparse
import functools
import gzip
import json
import pathlib
import tarfile
import time
from typing import Any

import jax
import numpy as np
from cells import (
    QUICK,
    ROOT,
    Cell,
    Figures,
    arguments,
    markdown,
    run_cells,
    share,
    trained_and_judged,
)

from babeldraw.commands.demo_emoji import EMOJI, PACKAGES, PICTURES
from babeldraw.data.emoji import read_entries
from babeldraw.data.emoji_packs import concept_of
from babeldraw.data.image import center_crop, decode, save_png, to_grid, to_uint8
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.evaluation.linear_probe import LinearProbeConfig, probe
from babeldraw.tokenizers.pixels import to_float
from babeldraw.train.presets import load_config

SIZES, TOKENS = ("tiny", "small", "base"), (16, 32, 64)
BESIDE = "vit_vqgan"
MINUTES, JUDGING = 7, 3
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
# Of each of the two sets that a probe learns from and is judged by.
PROBED = 5_000
# Of the concepts one in so many is judged by; none of these teaches the probe, in any style.
HELD_OUT_ONE_IN = 5
WARMUP = 50
SHOWN = 8
# Pictures of a step of training, and of all else.
TRAINED, BATCH = 8, 64


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=pathlib.Path, help="WORKDIR/emoji if not given")
    parser.add_argument("--fashion_mnist", type=pathlib.Path, default=FASHION)
    args = parser.parse_args()
    args.emoji = args.emoji or args.workdir / "emoji"
    found = run_cells(all_cells(), args, "tokens")
    text = table(found)
    (args.workdir / "tokens.md").write_text(text)
    draw(found, args)
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    names = [f"{size}_{tokens}" for size in SIZES for tokens in TOKENS]
    return {n: (functools.partial(cell, n), MINUTES + JUDGING) for n in (*names, BESIDE)}


def configured(name: str, args: argparse.Namespace) -> Any:
    """A cell's config with this machine's files, without the perceptual term."""
    words = [] if name == BESIDE else name.split("_")
    file = "tokenizer.py" if name == BESIDE else "titok.py"
    variant = ",".join([*words, *([QUICK] if args.quick else [])])
    config = load_config(file, ROOT / "configs" / "emoji" / "README", variant)
    EMOJI.configure("tokenizer", args.emoji, config, args.quick)
    config.loss.perceptual = 0.0
    if not args.quick:
        # More steps in the same minutes, which is what so short a training lacks.
        config.train.batch_size = TRAINED
        config.train.log_every, config.optimizer.schedule.warmup_steps = 50, WARMUP
    if config.perceptual.file:
        # On training pictures: those held out are fewer than the network has features.
        seen = {"split": "train/", "num_examples": 2048, "resamples": 20}
        config.evaluators.rfd = {"file": config.perceptual.file, **seen}
    return config


# ------------------------------------------------------------------ a cell


def cell(name: str, args: argparse.Namespace) -> Figures:
    config, folder = configured(name, args), args.workdir / name
    judges = ["reconstruction", *(["rfd"] if config.evaluators.rfd else [])]
    figures, _ = trained_and_judged(config, folder, judges, 0 if args.quick else MINUTES)
    run = TokenizerRun.open(str(folder))
    strips = args.workdir / "strips"
    strips.mkdir(exist_ok=True)
    save_png(strips / f"{name}.png", strip(run, args))
    return {
        **figures,
        "tokens": run.codes.length,
        "pictures_per_second": speed(run),
        "probes": probes(run, args),
    }


def strip(run: TokenizerRun, args: argparse.Namespace) -> np.ndarray:
    """Held-out pictures above what the tokenizer makes of them, uint8."""
    pictures = args.emoji / PICTURES
    held_out = [entry for entry in read_entries(pictures) if entry.split != "train"]
    chosen = np.random.default_rng(0).permutation(len(held_out))[:SHOWN]
    originals = np.stack([decode(pictures / held_out[index].file) for index in chosen])
    originals = sized(originals, run)
    made = to_uint8(np.asarray(run.reconstruct(originals)[0]))
    return to_grid(np.concatenate([originals, made]), len(originals))


def sized(images: np.ndarray, run: TokenizerRun) -> np.ndarray:
    """uint8 [N, height, width, 3], as the tokenizer takes them."""
    return np.stack([center_crop(image, run.image_size) for image in images])


def speed(run: TokenizerRun) -> dict[str, float]:
    """Pictures per second, in batches, of the quickest of three."""
    images = np.zeros((BATCH, *run.image_size, 3), np.uint8)
    codes = run.encode(images)

    def quickest(work: Any, *inputs: Any) -> float:
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            jax.block_until_ready(work(*inputs))
            seconds.append(time.perf_counter() - began)
        return BATCH / min(seconds[1:])

    return {"encode": quickest(run.encode, images), "decode": quickest(run.decode, codes)}


# ------------------------------------------------------------------ what a tokenizer has understood


def probes(run: TokenizerRun, args: argparse.Namespace) -> Figures:
    """By set of pictures, how often a softmax layer on the tokenizer's features is right."""
    config = LinearProbeConfig(epochs=1, batch_size=8) if args.quick else LinearProbeConfig()
    found = {}
    for name, read in (("fashion_mnist", fashion_mnist), ("emoji_groups", emoji_groups)):
        sets = read(args)
        if sets is None:
            print(f"{name}: not in {args.fashion_mnist}; its probe is left out")
            continue
        (train, train_label), (test, test_label) = sets
        classes = int(train_label.max()) + 1
        features = [features_of(run, images) for images in (train, test)]
        right = probe(features[0], train_label, features[1], test_label, classes, config)
        found[name] = {"value": float(right["top1"][0]), "n": len(test), "classes": classes}
    return found


def features_of(run: TokenizerRun, images: np.ndarray) -> np.ndarray:
    """float32 [N, 1, D]."""
    features = jax.jit(lambda params, x: run.tokenizer.features(params, to_float(x)))
    found = []
    for start in range(0, len(images), BATCH):
        # The last batch is filled up: another shape would be another compilation.
        rows = np.arange(start, start + BATCH) % len(images)
        found.append(np.asarray(features(run.params, sized(images[rows], run))))
    return np.concatenate(found)[: len(images), None]


Labelled = tuple[np.ndarray, np.ndarray]


def fashion_mnist(args: argparse.Namespace) -> tuple[Labelled, Labelled] | None:
    """Pictures, uint8 [N, 28, 28, 3], and what they show, of both splits; None: not there."""
    if not args.fashion_mnist.exists():
        return None
    count, found = 64 if args.quick else PROBED, []
    for split in ("train", "t10k"):
        with gzip.open(args.fashion_mnist / f"{split}-images-idx3-ubyte.gz") as file:
            grey = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
        with gzip.open(args.fashion_mnist / f"{split}-labels-idx1-ubyte.gz") as file:
            label = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int32)
        found.append((grey[:count].repeat(3, axis=-1), label[:count]))
    return found[0], found[1]


def emoji_groups(args: argparse.Namespace) -> tuple[Labelled, Labelled]:
    """Emoji and their groups, of concepts that teach the probe and of others."""
    pictures, group_of = args.emoji / PICTURES, groups(args.emoji / PACKAGES)
    names = sorted(set(group_of.values()))
    entries = [entry for entry in read_entries(pictures) if entry.concept in group_of]
    entries = entries[:: len(entries) // 128 + 1] if args.quick else entries
    order = {concept: i for i, concept in enumerate(sorted({e.concept for e in entries}))}
    held_out = np.array([order[e.concept] % HELD_OUT_ONE_IN == 0 for e in entries])
    images = np.stack([decode(pictures / entry.file) for entry in entries])
    label = np.array([names.index(group_of[entry.concept]) for entry in entries], np.int32)
    return (images[~held_out], label[~held_out]), (images[held_out], label[held_out])


def groups(packages: pathlib.Path) -> dict[str, str]:
    """The group of each concept, such as `Animals & Nature`, as Iconify's packages say."""
    found: dict[str, str] = {}
    for path in sorted(packages.glob("iconify-json-*.tgz")):
        with tarfile.open(path) as archive:
            chars, metadata = (
                json.load(archive.extractfile(f"package/{name}.json"))
                for name in ("chars", "metadata")
            )
        group_of = {name: group for group, of in metadata["categories"].items() for name in of}
        for points, name in chars.items():
            if name in group_of:
                found.setdefault(concept_of(points), group_of[name])
    return found


# ------------------------------------------------------------------ table and picture


def table(found: dict[str, Figures]) -> str:
    heads = ["tokenizer", "tokens", "parameters, M", "PSNR, dB", "LPIPS", "FD, VGG16", "usage"]
    heads += ["Fashion-MNIST", "emoji's groups", "steps/s", "encoded/s", "decoded/s", "minutes"]
    rows = []
    for name, one in found.items():
        title = "ViT-VQGAN" if name == BESIDE else f"TiTok, {name.partition('_')[0]}"
        quality, rates = one["quality"]["reconstruction"], one["pictures_per_second"]
        rows.append(
            [
                title,
                str(one["tokens"]),
                f"{one['parameters'] / 1e6:.2f}",
                f"{quality['psnr_db']['value']:.2f}",
                number(quality, "lpips", ".3f"),
                number(one["quality"].get("rfd", {}), "fd_vgg16", ".1f"),
                share(quality["codebook_usage"]),
                *(
                    share(one["probes"][name]) if name in one["probes"] else ""
                    for name in ("fashion_mnist", "emoji_groups")
                ),
                f"{1 / one['step_seconds']:.2f}",
                *(f"{rates[work]:.0f}" for work in ("encode", "decode")),
                f"{one['minutes']:.1f}",
            ]
        )
    return markdown(heads, rows) + "\n"


def number(figures: Figures, name: str, form: str) -> str:
    """A figure in words; empty where it was not measured."""
    return f"{figures[name]['value']:{form}}" if name in figures else ""


def draw(found: dict[str, Figures], args: argparse.Namespace) -> None:
    """Figures over tokens and losses over steps to tokens.png, pictures of each to pictures.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    curves = {
        "PSNR of held-out pictures, dB": lambda one: one["quality"]["reconstruction"]["psnr_db"],
        "right of Fashion-MNIST": lambda one: one["probes"].get("fashion_mnist"),
        "right of emoji's groups": lambda one: one["probes"].get("emoji_groups"),
    }
    for ax, (title, figure_of) in zip(axes.flat, curves.items(), strict=False):
        for size in (*SIZES, BESIDE):
            points = [
                (one["tokens"], figure_of(one)) for name, one in found.items() if size in name
            ]
            points = [(tokens, value["value"]) for tokens, value in points if value]
            if points:
                ax.plot(*zip(*points, strict=True), "o-", label=size)
        ax.set(title=title, xlabel="tokens", xscale="log", xticks=TOKENS, xticklabels=TOKENS)
        ax.minorticks_off()
        ax.legend(fontsize=8)
    for name, one in found.items():
        axes[1, 1].plot(*zip(*one["losses"], strict=True), label=name)
    axes[1, 1].set(title="loss", xlabel="step", yscale="log")
    axes[1, 1].legend(fontsize=8)
    figure.savefig(args.workdir / "tokens.png", dpi=90)
    plt.close(figure)
    # Figures outlive the runs, on another machine or in a fresh clone.
    files = [args.workdir / "strips" / f"{name}.png" for name in found]
    strips = [decode(file) for file in files if file.exists()]
    if strips:
        half = len(strips[0]) // 2
        rows = [strips[0][:half], *(strip[half:] for strip in strips)]
        save_png(args.workdir / "pictures.png", np.concatenate(rows))


if __name__ == "__main__":
    main()
