"""Code usage of three codebooks: the directions of the ViT-VQGAN paper's Table 4, at toy scale.

    python docs/examples/photographs.py --workdir=runs/photographs --only_crops
    python docs/examples/table4.py --crops=runs/photographs/crops --workdir=runs/table4

trains configs/photographs/table4.py three times, with the same steps, data, seed and optimizer: as
it is (l2-normalised codes of 32 dimensions), without the normalisation, and with 256 dimensions.
Prints the table as Markdown and writes WORKDIR/table4.json and WORKDIR/table4.png. Runs that are
there are gone on with or left alone. Usage is the paper's: the share of the codes that occur in a
batch of 256 test images.
"""

import argparse
import json
import pathlib

from babeldraw.runs.folder import RunFolder
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars
from babeldraw.train.presets import load_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Folder of the run: title, what differs, usage in the paper (Table 4, 8192 codes) in percent.
VARIANTS = {
    "default": ("32-dim codes, l2-normalised", {}, 96),
    "no_l2_norm": ("no l2 norm", {"tokenizer.quantizer.l2_normalized": False}, 2),
    "dim_256": ("256-dim codes", {"tokenizer.quantizer.code_dim": 256}, 4),
}
USAGE = "reconstruction/codebook_usage"
PSNR = "reconstruction/psnr_db"
PERPLEXITY = "reconstruction/perplexity"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", required=True, help="what photographs.py wrote")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where all goes")
    parser.add_argument("--steps", type=int, help="instead of the config's")
    args = parser.parse_args()
    results = {}
    for name, (_, changes, _) in VARIANTS.items():
        config = configured(changes, args.crops, args.steps)
        results[name] = train(config, str(args.workdir / name), label=name)
    (args.workdir / "table4.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(args.workdir)
    print(table(results))


def configured(changes: dict, crops: str, steps: int | None = None):
    """configs/photographs/table4.py with other fields and, given `steps`, another length."""
    config = load_config("configs/photographs/table4.py", ROOT / "pyproject.toml")
    config.update_from_flattened_dict(changes)
    config.data.path = crops
    if steps is not None:
        config.train.steps = config.optimizer.schedule.decay_end = steps
    return config


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown: usage here and in the paper, perplexity, PSNR, and how many times less is used."""
    rows = [
        "| codes | usage | times less | usage in the paper | perplexity | held-out PSNR |",
        "|---|---|---|---|---|---|",
    ]
    best = results["default"][USAGE]
    for name, (title, _, published) in VARIANTS.items():
        figures = results[name]
        cells = [
            title,
            f"{100 * figures[USAGE]:.2f} %",
            f"{best / figures[USAGE]:.1f}",
            f"{published} %",
            f"{figures[PERPLEXITY]:.1f}",
            f"{figures[PSNR]:.2f} dB",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(workdir: pathlib.Path) -> None:
    """Usage and PSNR of the test crops over training, to table4.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for name, (title, _, _) in VARIANTS.items():
        lines = read_scalars(RunFolder.of(str(workdir / name)))
        lines = [line for line in lines if USAGE in line]
        steps = [line["step"] for line in lines]
        left.plot(steps, [100 * line[USAGE] for line in lines], "o-", label=title)
        right.plot(steps, [line[PSNR] for line in lines], "o-", label=title)
    left.set(title="codes used in 256 test crops, %", xlabel="step", yscale="log")
    right.set(title="held-out PSNR, dB", xlabel="step")
    left.legend(fontsize=8)
    figure.savefig(workdir / "table4.png", dpi=90)


if __name__ == "__main__":
    main()
