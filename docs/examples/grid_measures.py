"""What grid.py measures of a trained cell: its speed, its operations, a hole that it fills."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
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
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.models.base import example
from babeldraw.tokenizers.pixels import to_float
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
    sampler: Sampler, texts: list[str], images: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pictures with what is masked drawn anew, and with nothing: uint8 as `images`, each."""
    filled, tokens = [], []
    for seed, (text, image) in enumerate(zip(texts, images, strict=True)):
        canvas = sampler.canvas(image, mask=mask)
        (picture,) = sampler.sample([text], seed=seed, canvas=canvas)
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


# Of two sets of pictures, uint8 [N, height, width, 3], float64 [N].
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def distance(file: Path) -> Distance | None:
    """LPIPS by AlexNet, of which no training knows; None where its weights are not there."""
    if not file.exists():
        return None
    network = PerceptualNetwork(PerceptualConfig(str(file), network="alexnet"))
    params, of = network.load(), jax.jit(network.distance)

    def lpips(pictures: np.ndarray, images: np.ndarray) -> np.ndarray:
        return np.asarray(of(params, to_float(pictures), to_float(images)), np.float64)

    return lpips


def of_filled(
    pictures: np.ndarray,
    scenes: list[shapes.Scene],
    images: np.ndarray,
    mask: np.ndarray,
    lpips: Distance | None,
) -> dict[str, np.ndarray]:
    """By figure, the value of each picture whose masked part was drawn anew, float64 [N].

    What lies outside the mask is taken from `images`, so that the figures are of the hole alone but
    for `exact`, which is of the pictures as they were drawn.
    """
    found = {
        "exact": exactness(pictures, scenes),
        "squared_error": errors(pictures, images, mask),
    }
    if lpips is not None:
        found["lpips"] = lpips(np.where(mask[..., None], pictures, images), images)
    return found


def of_pictures(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The share of exact ones, PSNR in the hole and LPIPS, with their intervals."""
    found = {
        "exact": mean_figure(values["exact"]),
        "psnr_in_hole": mean_figure(values["squared_error"], lambda x: -10 * np.log10(x)),
    }
    if "lpips" in values:
        found["lpips"] = mean_figure(values["lpips"])
    return figures_json(found)


def of_differences(
    values: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The means of what one has more than another of the same pictures."""
    return figures_json({name: mean_figure(values[name] - others[name]) for name in values})


def parameters_of(sampler: Sampler) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(sampler.drawer.params["generator"]))
