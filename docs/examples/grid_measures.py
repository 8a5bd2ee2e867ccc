"""What grid.py measures of a trained cell: its speed, its operations, a hole that it fills."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from babeldraw.data import shapes
from babeldraw.data.image import to_uint8
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import figures_json
from babeldraw.evaluation.shapes_scorer import score
from babeldraw.models.base import example
from babeldraw.train.traced_flops import traced_flops

REPEATS = 3


def speed(sampler: Sampler, prompts: list[str]) -> float:
    """Pictures per second, texts to pixels, of the quickest of some batches of all these."""
    return speeds({"": sampler}, prompts)[""]


def speeds(samplers: Mapping[str, Sampler], prompts: list[str]) -> dict[str, float]:
    """The same of several, by name, which take turns: what else the machine does is shared."""
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(1 + REPEATS):
        for name, sampler in samplers.items():
            began = time.perf_counter()
            drawn = [*sampler.sample(prompts, batch_size=len(prompts))]
            seconds[name].append(time.perf_counter() - began)
    # The first turn compiled.
    return {name: len(drawn) / min(one[1:]) for name, one in seconds.items()}


def operations(sampler: Sampler) -> dict[str, int]:
    """Multiplications and additions of drawing one picture, by part."""
    drawer, settings = sampler.drawer, sampler.defaults
    generator, params = drawer.generator, drawer.params["generator"]
    condition = example(generator.condition, 2 if settings.guided else 1)
    step, inputs, times = drawer.prediction.step(generator, params, condition, 1, settings)
    codes = generator.codes.spec(1)
    return {
        "read": traced_flops(generator.read, params, condition),
        "steps": times * traced_flops(step, params, *inputs),
        "pixels": traced_flops(drawer.tokenizer.decode, drawer.params["tokenizer"], codes),
    }


# ------------------------------------------------------------------ a hole


def held_out(count: int, size: int, split: str = "test") -> tuple[list[shapes.Scene], np.ndarray]:
    """Scenes that training never shows and their pictures, uint8 [N, size, size, 3]."""
    rng = np.random.default_rng(5)
    scenes = [shapes.sample_scene(rng, split) for _ in range(count)]
    return scenes, np.stack([shapes.render(scene, size, rng) for scene in scenes])


def fill(
    sampler: Sampler, scenes: list[shapes.Scene], images: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pictures with what is masked drawn anew, and with nothing: uint8 as `images`, each."""
    filled, tokens = [], []
    for seed, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        canvas = sampler.canvas(image, mask=mask)
        (picture,) = sampler.sample([scene.caption()], seed=seed, canvas=canvas)
        filled.append(picture.image)
        tokens.append(canvas.tokens)
    return np.stack(filled), sampler.drawer.pixels(np.stack(tokens))


def exact_again(run: TokenizerRun, count: int) -> dict[str, Any]:
    """The share of exact ones of scenes that training never shows, encoded and decoded."""
    scenes, images = held_out(count, run.image_size[0])
    pictures = to_uint8(np.asarray(run.reconstruct(images)[0]))
    return figures_json({"exact": mean_figure(exactness(pictures, scenes))})["exact"]


def exactness(pictures: np.ndarray, scenes: list[shapes.Scene]) -> np.ndarray:
    """Whether each shows its scene exactly, float64 [N]."""
    pairs = zip(pictures, scenes, strict=True)
    return np.array([float(score(picture, scene).exact) for picture, scene in pairs])


def errors(pictures: np.ndarray, images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean square of the difference where it was drawn anew, of values in [0, 1]: float64 [N]."""
    differences = (pictures[:, mask].astype(np.float64) - images[:, mask]) / 255
    return np.square(differences).mean(axis=(1, 2))


def of_pictures(exact: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """The share of exact ones, and PSNR in the hole, with their intervals."""
    psnr = mean_figure(error, lambda mean: -10 * np.log10(mean))
    return figures_json({"exact": mean_figure(exact), "psnr_in_hole": psnr})


def of_differences(exact: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """The means of what one has more than another of the same pictures."""
    return figures_json({"exact": mean_figure(exact), "squared_error": mean_figure(error)})


def parameters_of(sampler: Sampler) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(sampler.drawer.params["generator"]))
