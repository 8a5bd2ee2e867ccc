"""Best of 16 by CoCa against the first picture, judged by the program that knows the shapes world.

    python docs/examples/reranking.py --generator=runs/demo/text_to_image --captioner=runs/coca \\
        --out=docs/images

draws 16 pictures of each of `--prompts` held-out prompts of two kinds (colour-shape pairs that
training showed, and pairs that it never did), scores them with the captioner, and asks the exact
scorer whether the picture that the captioner likes best shows its prompt exactly. Prints the table
as Markdown and writes OUT/reranking.json and OUT/reranking.png: 16 pictures with their scores. The
settings of sampling are those of the run.

A single picture's share is the mean over all 16, its best estimate; what is gained is the mean
over prompts of (best of 16) - (that mean), with a 95 % interval from 10,000 bootstrap samples of
prompts. `any` is the share of prompts of which at least one picture is exact, which no scorer can
beat.
"""

import argparse
import json
import pathlib

import matplotlib
import numpy as np

from babeldraw.data import shapes
from babeldraw.drawing.judging import Judge, best, open_judge
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.prompts import SPLITS, held_out_captions
from babeldraw.evaluation.shapes_scorer import score
from babeldraw.models.condition import Asked

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NUM = 16
TRIED = (2, 4, 8, 16)
# Of the prompts; another than that of the evaluator and of the demo's pictures.
SEED = 3
BATCH_SIZE = 64
BOOTSTRAPS = 10_000
RIGHT, WRONG = "#1a7f37", "#c62828"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", required=True, help="run folder of a generator")
    parser.add_argument("--captioner", required=True, help="run folder of contrastive_captioner")
    parser.add_argument("--prompts", type=int, default=256, help="of each kind")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sampler, scorer = Sampler.from_run(args.generator), open_judge(args.captioner)
    results, shown = {}, {}
    for kind, split in SPLITS.items():
        prompts = held_out_captions(split, args.prompts, SEED)
        images = draw(sampler, prompts)
        exact, scores = judge(images, prompts), score_all(scorer, images, prompts)
        results[kind] = figures(exact, scores)
        example = most_mixed(exact)
        shown[kind] = prompts[example], images[example], exact[example], scores[example]
    (args.out / "reranking.json").write_text(json.dumps(results, indent=2) + "\n")
    draw_examples(shown, args.out / "reranking.png")
    print(table(results))


def draw(sampler: Sampler, prompts: list[str]) -> np.ndarray:
    """uint8 [prompts, NUM, height, width, 3]."""
    pictures = sampler.sample(prompts, num=NUM, batch_size=BATCH_SIZE)
    images = np.stack([picture.image for picture in pictures])
    return images.reshape(len(prompts), NUM, *images.shape[1:])


def judge(images: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Whether each picture is exact, bool [prompts, NUM]."""
    scenes = [shapes.parse_caption(prompt) for prompt in prompts]
    return np.array(
        [
            [score(image, scene).exact for image in row]
            for row, scene in zip(images, scenes, strict=True)
        ]
    )


def score_all(scorer: Judge, images: np.ndarray, prompts: list[str]) -> np.ndarray:
    """The captioner's scores, float32 [prompts, NUM]."""
    flat = images.reshape(-1, *images.shape[2:]).astype(np.float32) / 255
    repeated = [prompt for prompt in prompts for _ in range(NUM)]
    asked = [Asked(prompt, None, text=prompt) for prompt in repeated]
    return scorer.score(flat, asked).reshape(len(prompts), NUM)


def figures(exact: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Shares in [0, 1] and the gain with its interval; see the head of this file."""
    single = exact.mean(axis=1)
    chosen = {n: picked(exact[:, :n], scores[:, :n]) for n in TRIED}
    gain = chosen[NUM] - single
    low, high = bootstrap(gain)
    return {
        "prompts": len(exact),
        "single": float(single.mean()),
        "first": float(exact[:, 0].mean()),
        **{f"best_of_{n}": float(values.mean()) for n, values in chosen.items()},
        "any": float(exact.any(axis=1).mean()),
        "gain": float(gain.mean()),
        "gain_low": low,
        "gain_high": high,
    }


def picked(exact: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Whether the picture of the highest score is exact, float [prompts]."""
    rows = zip(exact, scores, strict=True)
    return np.array([float(row[best(own, 1)[0]]) for row, own in rows])


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of the mean."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(values), size=(BOOTSTRAPS, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def most_mixed(exact: np.ndarray) -> int:
    """The first prompt whose pictures are nearest to half right, half wrong."""
    return int(np.abs(exact.mean(axis=1) - 0.5).argmin())


def draw_examples(shown: dict[str, tuple], path: pathlib.Path) -> None:
    """A block of pictures for each kind of prompt, the best score first, framed by being exact."""
    figure = plt.figure(figsize=(8.4, 3.1 * len(shown)), layout="constrained")
    blocks = np.atleast_1d(figure.subfigures(len(shown), 1))
    for block, (prompt, images, exact, scores) in zip(blocks, shown.values(), strict=True):
        block.suptitle(prompt, fontsize=9)
        axes = block.subplots(2, NUM // 2)
        for ax, index in zip(axes.flat, best(scores, NUM), strict=True):
            ax.imshow(images[index], interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            colour = RIGHT if exact[index] else WRONG
            for side in ax.spines.values():
                side.set_color(colour)
                side.set_linewidth(2.5)
            ax.set_xlabel(f"{scores[index]:.3f}", fontsize=8, color=colour)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    columns = ["single", *(f"best_of_{n}" for n in TRIED), "any"]
    heads = [name.replace("_", " ") for name in columns]
    lines = [
        f"| prompts | {' | '.join(heads)} | gain, 95 % interval |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for kind, f in results.items():
        cells = " | ".join(f"{f[name]:.1%}" for name in columns)
        gain = f"{100 * f['gain']:+.1f} points [{100 * f['gain_low']:+.1f}, "
        lines.append(f"| {f['prompts']} {kind} | {cells} | {gain}{100 * f['gain_high']:+.1f}] |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
