"""Damages real photographs step by step and shows which figures tell of it.

    pip install -e ".[examples]"
    python docs/examples/photographs.py --workdir=runs/photographs --only_crops
    python docs/examples/damage.py --crops=runs/photographs/crops --vgg=vgg_lpips.safetensors \\
      --out=runs/damage

Blur, noise and lost colours in five strengths each, on squares cut at random from the crops. Paired
figures are means over the pictures; `fd_vgg16` compares the damaged pictures with others of the
same photographs that are whole, as a generator's are compared. Writes figures.json and damage.png;
what figures.json holds already is not measured again.
"""

import argparse
import json
import pathlib

import jax
import numpy as np
from PIL import Image
from scipy import ndimage

from babeldraw.data.image import decode, to_grid
from babeldraw.evaluation import measures
from babeldraw.evaluation.distances import Gaussian, frechet_distance
from babeldraw.evaluation.moments import Moments
from babeldraw.judges import similarity
from babeldraw.judges.features import network
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.runs.folder import write_json

# Deviation of the blur in pixels of 64, deviation of the noise, share of the colour that is lost.
STRENGTHS = {
    "blur": (0.3, 0.6, 1.0, 1.6, 2.5),
    "noise": (0.02, 0.04, 0.08, 0.16, 0.3),
    "colour": (0.2, 0.4, 0.6, 0.8, 1.0),
}
# Whether more of it is better.
FIGURES = {"psnr_db": True, "ssim": True, "ms_ssim": True, "lpips": False, "fd_vgg16": False}
BATCH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=pathlib.Path, required=True, help="of photographs.py")
    parser.add_argument("--vgg", required=True, help="by babeldraw import --kind=vgg_lpips")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where all goes")
    parser.add_argument("--num", type=int, default=600, help="pictures; at least 512")
    parser.add_argument("--paired", type=int, default=100, help="of these, for paired figures")
    parser.add_argument("--side", type=int, default=64, help="of the squares, in pixels")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    whole, others = cut(args.crops, args.num, args.side, 0), cut(args.crops, args.num, args.side, 1)
    found, file = {}, args.out / "figures.json"
    if file.exists():
        found = json.loads(file.read_text())
    measure = Measure(args.vgg, others, args.paired)
    for kind, strengths in STRENGTHS.items():
        for strength in (0.0, *strengths):
            # Of no damage there is one.
            name = f"{kind} {strength:g}" if strength else "none"
            if name not in found:
                found[name] = measure(whole, damaged(whole, kind, strength))
                write_json(file, found)
                print(name, found[name], flush=True)
    plot(found, whole, args.out / "damage.png")


def cut(crops: pathlib.Path, num: int, side: int, seed: int) -> np.ndarray:
    """float32 [num, side, side, 3] in [0, 1]: squares at random places of all crops in turn."""
    files, rng = sorted(crops.rglob("*.png")), np.random.default_rng(seed)
    pictures = []
    for index in range(num):
        picture = decode(files[index % len(files)])
        # Twice as large and halved: the photographs' own grain is not what is measured.
        top, left = (int(rng.integers(0, size - 2 * side + 1)) for size in picture.shape[:2])
        square = Image.fromarray(picture[top : top + 2 * side, left : left + 2 * side])
        pictures.append(np.asarray(square.resize((side, side), Image.Resampling.BOX)))
    return np.stack(pictures).astype(np.float32) / 255


def damaged(images: np.ndarray, kind: str, strength: float, seed: int = 0) -> np.ndarray:
    """The same pictures, rounded to 8 bits; 0 leaves them as they are."""
    if kind == "blur":
        deviation = strength * images.shape[1] / 64
        made = ndimage.gaussian_filter(images, (0, deviation, deviation, 0), mode="reflect")
    elif kind == "noise":
        made = images + np.random.default_rng(seed).normal(0, strength, images.shape)
    else:
        grey = images.mean(-1, keepdims=True)
        made = images + strength * (grey - images)
    return (np.round(made.clip(0, 1) * 255) / 255).astype(np.float32)


class Measure:
    """All figures of damaged pictures.

    Args:
      vgg: file of weights.
      true: pictures that `fd_vgg16` compares with.
      paired: pictures of which the paired figures are.
    """

    def __init__(self, vgg: str, true: np.ndarray, paired: int):
        distance = PerceptualNetwork(PerceptualConfig(vgg))
        self._params, self._paired = distance.load(), paired
        self._features = network("vgg16", vgg)
        self._of = jax.jit(lambda features, images: features(images))

        @jax.jit
        def pairs(params, images, originals):
            return {
                "l2": measures.l2(images, originals),
                "ssim": similarity.ssim(images, originals),
                "ms_ssim": similarity.ms_ssim(images, originals),
                "lpips": distance.distance(params, images, originals),
            }

        self._pairs, self._true = pairs, self._gaussian(true)

    def __call__(self, whole: np.ndarray, images: np.ndarray) -> dict[str, float | None]:
        parts = [
            self._pairs(self._params, images[start : start + BATCH], whole[start : start + BATCH])
            for start in range(0, self._paired, BATCH)
        ]
        found = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        psnr = measures.psnr_db(found.pop("l2"))
        distance = frechet_distance(self._gaussian(images), self._true)
        return {"psnr_db": psnr if np.isfinite(psnr) else None, **found, "fd_vgg16": distance}

    def _gaussian(self, images: np.ndarray) -> Gaussian:
        starts = range(0, len(images), BATCH)
        parts = [np.asarray(self._of(self._features, images[s : s + BATCH])) for s in starts]
        return Gaussian.of(Moments.of(np.concatenate(parts)))


def curves(found: dict[str, dict[str, float | None]], figure: str) -> dict[str, list[float]]:
    """Of each kind of damage a figure at each strength, from none; NaN for no error at all."""

    def at(name: str) -> float:
        value = found[name][figure]
        return np.nan if value is None else value

    return {
        kind: [at("none"), *(at(f"{kind} {strength:g}") for strength in strengths)]
        for kind, strengths in STRENGTHS.items()
    }


def plot(found: dict[str, dict[str, float | None]], whole: np.ndarray, file: pathlib.Path) -> None:
    """A picture of one square in all its states over a curve for each figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig = plt.figure(figsize=(12, 7.5), layout="constrained")
    upper, lower = fig.subfigures(2, 1, height_ratios=(3, 2))
    states = [
        damaged(whole[1:2], kind, strength)[0]
        for kind, strengths in STRENGTHS.items()
        for strength in (0.0, *strengths)
    ]
    axes = upper.subplots()
    axes.imshow(to_grid(np.stack(states), 6))
    side = whole.shape[1]
    axes.set_yticks([side * (row + 0.5) for row in range(3)], STRENGTHS)
    axes.set_xticks([side * (column + 0.5) for column in range(6)], range(6))
    for own, figure in zip(lower.subplots(1, len(FIGURES)), FIGURES, strict=True):
        for kind, values in curves(found, figure).items():
            own.plot(range(6), values, marker="o", markersize=3, label=kind)
        own.set_title(figure, fontsize=10)
        own.set_xlabel("strength")
    own.legend(fontsize=8)
    fig.savefig(file, dpi=80)


if __name__ == "__main__":
    main()
