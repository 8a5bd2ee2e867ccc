"""Which codebooks stay alive: five quantizers at three sizes on emoji.

    python docs/examples/codebooks.py --workdir=runs/codebooks

{plain VQ, VQ with l2 and few dimensions, LFQ, FSQ, IBQ} x {1k, 8k codes} of configs/emoji/ibq.py,
IBQ with 8k and without its entropy term, which VQ and FSQ do not have either, or with codes drawn
as small as plain VQ's, and plain VQ and IBQ with 64k: one network, 1,500 steps of 8 pictures each,
nothing that moves idle codes. Cells, each of which leaves its figures in docs/reports/codebooks and
is not made again:

  QUANTIZER_CODES   use of the codebook over all training pictures, after some steps and at the end,
                    beside what as many uniform draws reach; PSNR and SSIM on held-out pictures;
                    peak memory, seconds of a step
  ibq_tables        how far all codes of IBQ's runs are from where they were drawn; under a minute

Some five hours of one core in all. Prints the tables and writes them to WORKDIR/codebooks.md;
WORKDIR/codebooks.png has use over steps and PSNR over codes.

The pictures lie in `--emoji`, a folder as of `babeldraw demo --world=emoji` but of 64 px, and are
rendered into it where they are missing.
"""

import argparse
import functools
import itertools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from cells import (
    QUICK,
    ROOT,
    Cell,
    Figures,
    arguments,
    cost,
    judged,
    markdown,
    run_cells,
    share,
    with_interval,
)

from babeldraw.commands.demo_emoji import EMOJI, PICTURES
from babeldraw.config import require
from babeldraw.data.emoji import read_entries
from babeldraw.data.image import center_crop, decode
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.evaluation.measures import uniform_usage
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

TITLES = {
    "vq": "VQ",
    "vq_l2": "VQ, l2, 8 dimensions",
    "lfq": "LFQ",
    "fsq": "FSQ",
    "ibq": "IBQ",
    "ibq_alone": "IBQ, no entropy term",
    "ibq_uniform": "IBQ, codes drawn small",
}
# Of a cell of so many codes, by estimate.
MINUTES = {"1k": 15, "8k": 17, "64k": 35}
CELLS = (
    *itertools.product(("vq", "vq_l2", "lfq", "fsq", "ibq"), ("1k", "8k")),
    ("ibq_alone", "8k"),
    ("ibq_uniform", "8k"),
    ("vq", "64k"),
    ("ibq", "64k"),
)
# The cell of how far codes have come.
TABLES = "ibq_tables"
# After which shares of the steps the use is counted.
PARTS = (0.05, 0.15, 0.4, 1.0)
# Pictures of a step, half of the config's: 512 codes. Those of counting are as many, so that memory
# is that of training.
BATCH = 8
# Of the pictures, in a quick run.
FEW = 128


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=pathlib.Path, help="WORKDIR/emoji if not given")
    args = parser.parse_args()
    args.emoji = args.emoji or args.workdir / "emoji"
    found = run_cells(all_cells(), args, "codebooks")
    tables = found.pop(TABLES, {})
    parts = [*([table(found)] if found else []), *([moved_table(tables)] if tables else [])]
    text = "\n\n".join([*parts, "In brackets the interval of 95 %."]) + "\n"
    (args.workdir / "codebooks.md").write_text(text)
    draw(found, args.workdir / "codebooks.png")
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    trained = {
        f"{quantizer}_{codes}": (functools.partial(cell, quantizer, codes), MINUTES[codes])
        for quantizer, codes in CELLS
    }
    return trained | {TABLES: (tables_cell, 1)}


def configured(quantizer: str, codes: str, args: argparse.Namespace) -> Any:
    """A cell's config with this machine's files."""
    kind = quantizer.partition("_")[0] if quantizer.startswith("ibq") else quantizer
    variant = ",".join([kind, codes, *([QUICK] if args.quick else [])])
    config = load_config("ibq.py", ROOT / "configs" / "emoji" / "README", variant)
    if quantizer == "ibq_alone":
        config.loss.entropy = 0.0
    elif quantizer == "ibq_uniform":
        config.tokenizer.quantizer.code_init = "uniform"
    EMOJI.configure("tokenizer", args.emoji, config, args.quick)
    config.loss.perceptual, config.train.eval_every = 0.0, 0
    if not args.quick:
        config.train.batch_size = BATCH
    return config


# ------------------------------------------------------------------ a cell


def cell(quantizer: str, codes: str, args: argparse.Namespace) -> Figures:
    config, folder = configured(quantizer, codes, args), args.workdir / f"{quantizer}_{codes}"
    whole, judge = config.train.steps, {"reconstruction": config.evaluators.reconstruction}
    config.evaluators = dict.fromkeys(config.evaluators)
    images, kept = pictures(args, config.tokenizer.image_size), folder / "usage.json"
    # What was counted before a stop was of the weights of then.
    usage = json.loads(kept.read_text()) if kept.exists() else []
    for part in PARTS[len(usage) :]:
        # Only the run's length: the schedule is that of all steps.
        config.train.steps = max(1, round(part * whole))
        train(config, str(folder), label=folder.name)
        usage.append([config.train.steps, used(TokenizerRun.open(str(folder)), images)])
        write_json(kept, usage)
    run = TokenizerRun.open(str(folder))
    quality = judged(folder, judge)
    draws = run.codes.length * len(images)
    return {
        **cost(RunFolder.of(str(folder))),
        "codes": run.codes.vocab_size,
        "usage": usage,
        "uniform": uniform_usage(run.codes.vocab, draws),
        "quality": {name: one.record["figures"] for name, one in quality.items()},
    }


def pictures(args: argparse.Namespace, size: tuple[int, int]) -> np.ndarray:
    """All that is trained on, uint8 [N, height, width, 3]."""
    files = [e.file for e in read_entries(args.emoji / PICTURES) if e.split == "train"]
    files = files[: FEW if args.quick else None]
    return np.stack([center_crop(decode(args.emoji / PICTURES / file), size) for file in files])


def used(run: TokenizerRun, images: np.ndarray) -> float:
    """The share of the codes that occur in all pictures."""
    seen = np.zeros(run.codes.vocab_size, bool)
    for start in range(0, len(images), BATCH):
        # The last batch is filled up: another shape would be another compilation.
        rows = np.arange(start, start + BATCH) % len(images)
        seen[np.asarray(run.encode(images[rows]))] = True
    return float(seen.mean())


def tables_cell(args: argparse.Namespace) -> Figures:
    """Of IBQ's runs that are there, `moved`. Raises `UserError`: there are none."""
    names = [f"{quantizer}_{codes}" for quantizer, codes in CELLS if quantizer.startswith("ibq")]
    folders = {name: args.workdir / name for name in names}
    there = {name: folder for name, folder in folders.items() if folder.exists()}
    # Figures are not made again, so none must not pass for figures.
    require(there, f"none of {', '.join(names)} is in {args.workdir}; make these cells first")
    return {name: moved(str(folder)) for name, folder in there.items()}


def moved(workdir: str) -> Figures:
    """Root mean squares of a code's values at a run's start and end and of their difference.

    And the correlation of the two.
    """
    run, seed = TokenizerRun.open(workdir), RunFolder.of(workdir).read_config()["train"]["seed"]
    began = nn.unbox(jax.jit(run.tokenizer.init)(jax.random.key(seed)))
    began_VQ, ended_VQ = map(run.tokenizer.code_vectors, (began, run.params))
    sides = {"began": began_VQ, "ended": ended_VQ, "moved": ended_VQ - began_VQ}
    return {
        "codes": len(ended_VQ),
        **{name: float(np.sqrt(np.mean(np.square(of_VQ)))) for name, of_VQ in sides.items()},
        "correlation": float(np.corrcoef(began_VQ.ravel(), ended_VQ.ravel())[0, 1]),
    }


# ------------------------------------------------------------------ tables and picture


def table(found: dict[str, Figures]) -> str:
    steps = [step for step, _ in next(iter(found.values()))["usage"]]
    heads = ["quantizer", "codes", *(f"used, step {step}" for step in steps), "uniform draws"]
    heads += ["PSNR, dB", "SSIM", "peak, GiB", "s/step", "minutes"]
    rows = []
    for name, one in found.items():
        quality = one["quality"]["reconstruction"]
        rows.append(
            [
                TITLES[name.rpartition("_")[0]],
                f"{one['codes']:,}",
                *(share({"value": value}) for _, value in one["usage"]),
                share({"value": one["uniform"]}),
                with_interval(quality["psnr_db"], ".2f"),
                with_interval(quality["ssim"], ".3f"),
                f"{one['peak_gib']:.1f}",
                f"{one['step_seconds']:.2f}",
                f"{one['minutes']:.1f}",
            ]
        )
    return markdown(heads, rows)


def moved_table(found: dict[str, Figures]) -> str:
    heads = ["quantizer", "codes", "a value at the start", "at the end", "moved by", "correlation"]
    rows = [
        [
            TITLES[name.rpartition("_")[0]],
            f"{one['codes']:,}",
            *(f"{one[side]:.2f}" for side in ("began", "ended", "moved")),
            f"{one['correlation']:.3f}",
        ]
        for name, one in found.items()
    ]
    return markdown(heads, rows)


def draw(found: dict[str, Figures], file: pathlib.Path) -> None:
    """Use over steps, a plot for each size, and PSNR over codes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = [codes for codes in MINUTES if any(name.endswith(f"_{codes}") for name in found)]
    colors = {quantizer: f"C{number}" for number, quantizer in enumerate(TITLES)}
    figure, axes = plt.subplots(1, len(sizes) + 1, figsize=(4 * len(sizes) + 4, 4))
    for ax, codes in zip(axes, sizes, strict=False):
        for name, one in found.items():
            quantizer, _, own = name.rpartition("_")
            if own == codes:
                look = {"color": colors[quantizer], "label": TITLES[quantizer]}
                ax.plot(*zip(*one["usage"], strict=True), "o-", **look)
                # FSQ has other numbers of codes, and so another bound.
                ax.axhline(one["uniform"], color=colors[quantizer], linewidth=0.6, linestyle=":")
        ax.set(title=f"use of {codes} codes (dotted: uniform draws)", xlabel="step", ylim=(0, 1.02))
        ax.legend(fontsize=8)
    for quantizer in TITLES:
        points = sorted(
            (one["codes"], one["quality"]["reconstruction"]["psnr_db"]["value"])
            for name, one in found.items()
            if name.rpartition("_")[0] == quantizer
        )
        if points:
            look = {"color": colors[quantizer]}
            axes[-1].plot(*zip(*points, strict=True), "o-", **look)
    # Colours as before; a legend would lie on points.
    axes[-1].set(title="PSNR of held-out pictures, dB", xlabel="codes", xscale="log")
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
