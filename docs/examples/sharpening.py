"""Tunes a trained decoder of photographs with and without the adversarial term, and compares.

    pip install -e ".[examples]"
    python docs/examples/photographs.py --workdir=runs/photographs
    python docs/examples/sharpening.py --photographs=runs/photographs --workdir=runs/sharpening

trains `WORKDIR/with` and `WORKDIR/without` (configs/photographs/decoder_gan.py, the same steps,
data and seed, from one tokenizer; runs that are there are gone on with or left alone) and writes
curves.png, pictures.png and figures.json, all on the test crops.

Two figures of sharpness. *Gradient*: the mean length of the brightness gradient (forward
differences) over that of the originals. *Finest octave*: the power of the brightness at wavelengths
of 2 to 4 pixels over that of the originals. 1 is as sharp; a blur lowers both.
"""

import argparse
import json
import pathlib

import numpy as np
from adversarial import draw_curves, gradient_length, last_quarter, leave_out
from photographs import read_crops, reconstructions

from babeldraw.data.image import save_png, to_grid
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHOWN, ENLARGED = (0, 3, 4), 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=pathlib.Path, required=True, help="of photographs.py")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where all goes")
    args = parser.parse_args()
    folders = {"not tuned": args.photographs / "tokenizer"}
    for name in ("without", "with"):
        folders[name] = args.workdir / name
        config = load_config("configs/photographs/decoder_gan.py", ROOT / "pyproject.toml")
        config.tokenizer_run = str(folders["not tuned"].resolve())
        config.data.path = str((args.photographs / "crops").resolve())
        if name == "without":
            leave_out(config)
        train(config, str(folders[name]), label=name)

    originals = read_crops(args.photographs / "crops" / "test")
    drawn = {name: reconstructions(str(folder), originals) for name, folder in folders.items()}
    originals = originals / np.float32(255)
    figures = {name: measure(originals, images) for name, images in drawn.items()}
    figures["with"] |= last_quarter(folders["with"])
    (args.workdir / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw_curves({name: folders[name] for name in ("with", "without")}, args.workdir / "curves.png")
    rows = [images[list(SHOWN)] for images in (originals, drawn["without"], drawn["with"])]
    large = np.concatenate(rows).repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    save_png(args.workdir / "pictures.png", to_grid(large, len(SHOWN)))
    print(json.dumps(figures, indent=2))


def measure(originals: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Both figures of sharpness, and PSNR."""
    errors = np.mean(np.square(images - originals), axis=(1, 2, 3))
    lengths = [gradient_length(pictures).mean() for pictures in (images, originals)]
    octaves = [finest_octave(pictures) for pictures in (images, originals)]
    return {
        "gradient": float(lengths[0] / lengths[1]),
        "finest_octave": float(octaves[0] / octaves[1]),
        "psnr_db": float(np.mean(-10 * np.log10(errors))),
    }


def finest_octave(images: np.ndarray) -> float:
    """Power of the brightness at wavelengths of 2 to 4 pixels, over all pictures."""
    height, width = images.shape[1:3]
    power = np.square(np.abs(np.fft.rfft2(images.mean(axis=-1))))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    return float(power[:, (frequency >= 0.25) & (frequency <= 0.5)].sum())


if __name__ == "__main__":
    main()
