"""Tunes the decoder of a coarse tokenizer with and without the adversarial term, and compares.

    python docs/examples/sharpening.py --workdir=runs/sharpening --out=runs/sharpening/pictures

trains `WORKDIR/coarse` (configs/demo/tokenizer_coarse.py), tunes its decoder in `WORKDIR/with` and
`WORKDIR/without` (configs/demo/decoder_gan.py; runs that are there are gone on with or left alone)
and writes pictures.png and figures.json to OUT.

Two figures of sharpness, both on the length of the brightness gradient (forward differences).
*Edges* looks at the pixels where the original has an edge, as in adversarial.py: an edge that is
sharp but a pixel away counts as none. *Steepest* looks at as many pixels of the reconstruction as
the original has edge pixels, the steepest ones, wherever they are; their mean length over that of
the original's edges. A blur lowers both.
"""

import argparse
import json
import pathlib

import numpy as np
from adversarial import (
    EDGE,
    WITHOUT,
    draw_pictures,
    gradient_length,
    held_out,
    last_quarter,
    measure,
    reconstructions,
)

from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="where the three runs lie")
    parser.add_argument("--out", required=True, help="where pictures and figures go")
    parser.add_argument("--examples", type=int, default=512, help="held-out pictures to measure")
    args = parser.parse_args()
    workdir, out = pathlib.Path(args.workdir), pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    coarse = load_config("configs/demo/tokenizer_coarse.py", ROOT / "pyproject.toml")
    train(coarse, str(workdir / "coarse"), label="coarse")
    for name, changes in (("with", {}), ("without", WITHOUT)):
        config = load_config("configs/demo/decoder_gan.py", ROOT / "pyproject.toml")
        config.update_from_flattened_dict({"tokenizer_run": str(workdir / "coarse"), **changes})
        train(config, str(workdir / name), label=name)

    originals = held_out(coarse, args.examples)
    drawn = {name: reconstructions(str(workdir / name), originals) for name in ("without", "with")}
    figures = {
        name: {**measure(originals, images), "steepest": steepest(originals, images)}
        for name, images in drawn.items()
    }
    figures["with"] |= last_quarter(workdir / "with")
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw_pictures(originals, drawn, out / "pictures.png")
    print(json.dumps(figures, indent=2))


def steepest(originals: np.ndarray, images: np.ndarray) -> float:
    """The steepest gradients of each picture over its original's, mean over pictures."""
    shares = []
    for there, here in zip(gradient_length(originals), gradient_length(images), strict=True):
        count = int(np.sum(there > EDGE))
        mean_there, mean_here = (np.sort(a.ravel())[-count:].mean() for a in (there, here))
        shares.append(mean_here / mean_there)
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
