"""Trains a tokenizer on real photographs and compares it with k-means on the raw patches.

    pip install -e ".[examples]"
    python docs/examples/photographs.py --workdir=runs/photographs

cuts the photographs inside the scikit-image package into `WORKDIR/crops/{train,test}/*.png`, trains
`WORKDIR/tokenizer` (configs/photographs/tokenizer.py), fits as many k-means centres to the 8 x 8
patches of the same training crops, measures both on the test crops, and writes curves.png,
reconstructions.png and figures.json. What is there already is gone on with or left alone.
`--only_crops` stops after the first part; `babeldraw train` then does the second.

A crop is 128 x 128 pixels at the photograph's own resolution, at a random place; a training crop is
also turned and mirrored at random, and half of them have their red, green and blue in a random
order: the training photographs alone hold hardly any blue. The same seed gives the same crops. No
test crop is from a photograph that a training crop is from.
"""

import argparse
import json
import pathlib

import numpy as np
from PIL import Image

from babeldraw.data.image import save_png, to_grid
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.runs.folder import RunFolder
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars
from babeldraw.train.presets import load_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIDE = 128
PATCH = 8
# Those that the wheel of scikit-image 0.26 carries; it fetches its others when asked for them.
TRAIN_COLOUR = (
    "astronaut.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
)
TRAIN_GREY = ("brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "moon.png")
TEST = ("chelsea.png", "coffee.png", "rocket.jpg")
# One patch in seven: enough for 70 patches to a centre, and k-means stays within minutes.
KMEANS_PATCHES = 150_000
KMEANS_PASSES = 30
SHOWN = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where all goes")
    parser.add_argument("--train", type=int, default=4096, help="training crops")
    parser.add_argument("--test", type=int, default=256, help="test crops")
    parser.add_argument("--only_crops", action="store_true", help="write the crops and stop")
    args = parser.parse_args()
    crops, folder = args.workdir / "crops", args.workdir / "tokenizer"
    write_crops(crops / "train", TRAIN_COLOUR + TRAIN_GREY, args.train, seed=1, varied=True)
    write_crops(crops / "test", TEST, args.test, seed=2, varied=False)
    if args.only_crops:
        return

    config = load_config("configs/photographs/tokenizer.py", ROOT / "pyproject.toml")
    # The run remembers it: the same from wherever this is called.
    config.data.path = str(crops.resolve())
    trained = train(config, str(folder), label="tokenizer")

    originals = read_crops(crops / "test")
    by_tokenizer = reconstructions(str(folder), originals)
    size = config.tokenizer.quantizer.codebook_size
    by_kmeans, used = kmeans(read_crops(crops / "train"), originals, size)
    names = [name.split(".")[0] for name in TEST]
    figures = {
        "codes": size,
        "minutes": trained["seconds"] / 60,
        "tokenizer": {
            **psnr_by_photograph(originals, by_tokenizer, names),
            "codebook_usage": trained["reconstruction/codebook_usage"],
            "perplexity": trained["reconstruction/perplexity"],
        },
        "kmeans": {**psnr_by_photograph(originals, by_kmeans, names), "codebook_usage": used},
    }
    (args.workdir / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw_curves(folder, figures["kmeans"]["all"], args.workdir / "curves.png")
    rows = [pictures[:SHOWN] for pictures in (originals / np.float32(255), by_tokenizer, by_kmeans)]
    save_png(args.workdir / "reconstructions.png", to_grid(np.concatenate(rows), SHOWN))
    print(table(figures))


# ------------------------------------------------------------------ crops


def photographs(names: tuple[str, ...]) -> list[Image.Image]:
    """The named photographs of scikit-image, as RGB."""
    import skimage.data

    folder = pathlib.Path(skimage.data.__file__).parent
    return [Image.open(folder / name).convert("RGB") for name in names]


def crop(picture: Image.Image, rng: np.random.Generator, varied: bool) -> np.ndarray:
    """A random crop of a photograph of at least 128 x 128 pixels: uint8 [128, 128, 3].

    varied: in one of the eight orientations of a square, and half of the time with its colour
      channels in a random order.
    """
    width, height = picture.size
    left, top = int(rng.integers(width - SIDE + 1)), int(rng.integers(height - SIDE + 1))
    pixels = np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))
    if not varied:
        return pixels
    pixels = np.rot90(pixels, int(rng.integers(4)))
    pixels = pixels[:, ::-1] if rng.integers(2) else pixels
    pixels = pixels[..., rng.permutation(3)] if rng.integers(2) else pixels
    return np.ascontiguousarray(pixels)


def write_crops(
    folder: pathlib.Path, names: tuple[str, ...], count: int, seed: int, varied: bool
) -> None:
    """Writes `count` crops, the photographs taken in turn, unless as many are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.png"))) == count:
        return
    pictures, rng = photographs(names), np.random.default_rng(seed)
    for index in range(count):
        which = index % len(pictures)
        name = f"{index:05d}_{names[which].split('.')[0]}.png"
        save_png(folder / name, crop(pictures[which], rng, varied))
    print(f"{folder}: {count} crops of {', '.join(names)}")


def read_crops(folder: pathlib.Path) -> np.ndarray:
    """uint8 [N, 128, 128, 3], in the order of their names."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


# ------------------------------------------------------------------ two ways to 8 x 8 codes


def reconstructions(workdir: str, originals: np.ndarray) -> np.ndarray:
    """uint8 pictures through the tokens of a run and back: float32 in [0, 1]."""
    run = TokenizerRun.open(workdir)
    parts = np.array_split(originals, max(1, len(originals) // 32))
    return np.concatenate([np.asarray(run.reconstruct(part)[0]) for part in parts])


def kmeans(train: np.ndarray, originals: np.ndarray, codes: int) -> tuple[np.ndarray, float]:
    """`originals` with each patch replaced by the nearest of `codes` means of training patches.

    Args:
      train, originals: uint8 [N, height, width, 3].
      codes: how many means.

    Returns:
      float32 [N, height, width, 3] in [0, 1], and the share of the means that occur in it.
    """
    from sklearn.cluster import MiniBatchKMeans

    patches = to_patches(train)
    chosen = np.random.default_rng(0).permutation(len(patches))[:KMEANS_PATCHES]
    model = MiniBatchKMeans(
        codes,
        batch_size=8192,
        n_init=1,
        max_iter=KMEANS_PASSES,
        # All passes, whether or not the last ones gained much.
        max_no_improvement=None,
        random_state=0,
    ).fit(patches[chosen])
    ids = model.predict(to_patches(originals))
    images = from_patches(model.cluster_centers_[ids].astype(np.float32), originals.shape)
    return images, len(np.unique(ids)) / codes


def to_patches(images: np.ndarray) -> np.ndarray:
    """uint8 [N, height, width, 3] -> float32 in [0, 1], [patches, 8 * 8 * 3]."""
    count, height, width, _ = images.shape
    grid = images.reshape(count, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, PATCH * PATCH * 3) / np.float32(255)


def from_patches(patches: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_patches`, for pictures of `shape`; the values stay as they are."""
    count, height, width, _ = shape
    grid = patches.reshape(count, height // PATCH, width // PATCH, PATCH, PATCH, 3)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


# ------------------------------------------------------------------ figures and pictures


def psnr_by_photograph(
    originals: np.ndarray, images: np.ndarray, names: list[str]
) -> dict[str, float]:
    """PSNR in dB of the mean squared error over all crops, `all`, and over those of each name.

    originals: uint8, the crops of the photographs in turn. images: float in [0, 1].
    """
    errors = np.square(images - originals / np.float32(255)).mean(axis=(1, 2, 3))
    parts = {"all": errors, **{n: errors[i :: len(names)] for i, n in enumerate(names)}}
    return {name: float(-10 * np.log10(part.mean())) for name, part in parts.items()}


def draw_curves(folder: pathlib.Path, of_kmeans: float, path: pathlib.Path) -> None:
    """PSNR and code usage of the test crops over training, with k-means' PSNR as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = read_scalars(RunFolder.of(str(folder)))
    lines = [line for line in lines if "reconstruction/psnr_db" in line]
    steps = [line["step"] for line in lines]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(steps, [line["reconstruction/psnr_db"] for line in lines], "o-", label="tokenizer")
    left.axhline(of_kmeans, color="grey", linestyle="--", label="k-means of the patches")
    left.set(title="held-out PSNR, dB", xlabel="step")
    left.legend()
    usage = [100 * line["reconstruction/codebook_usage"] for line in lines]
    right.plot(steps, usage, "o-")
    right.set(title="codes used in 256 test crops, %", xlabel="step", ylim=(0, 100))
    figure.savefig(path, dpi=90)


def table(figures: dict) -> str:
    """The figures as Markdown."""
    both = figures["tokenizer"], figures["kmeans"]
    rows = ["| | tokenizer | k-means |", "|---|---|---|"]
    for name in [key for key in both[1] if key != "codebook_usage"]:
        label = "PSNR, all test crops" if name == "all" else f"PSNR, {name}"
        rows.append(f"| {label} | {both[0][name]:.2f} dB | {both[1][name]:.2f} dB |")
    used = [f"{100 * part['codebook_usage']:.0f} %" for part in both]
    rows.append(f"| codes in use, of {figures['codes']} | {used[0]} | {used[1]} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
