"""What enlarging.py measures: ways from a small picture to a large one, and their distances."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from cells import Figures

from babeldraw.data.image import to_uint8
from babeldraw.drawing.cascade import Cascade, CodeStage
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.evaluation.intervals import Figure, mean_figure
from babeldraw.evaluation.measures import psnr_db
from babeldraw.evaluation.protocol import figures_json
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.layers.pictures import downsample

LARGE_BATCH = 8
# What the other ways to a large picture are compared with.
SMALL_CODES = "small codes, enlarged"


def large_pictures(
    sampler: Sampler,
    tokenizers: tuple[TokenizerRun, TokenizerRun],
    prompts: Sequence[str],
    images: np.ndarray,
) -> dict[str, np.ndarray]:
    """Each way from a small picture, or its codes, to a large one, uint8 [N, H, W, 3].

    Args:
      sampler: its cascade is direct, then iterative super-resolution.
      tokenizers: of the small and of the large pictures.
      prompts: of each picture.
      images: true large ones, uint8 [N, H, W, 3].
    """
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(images), LARGE_BATCH):
        # The last batch is filled up: another shape would be another compilation.
        rows = np.arange(start, start + LARGE_BATCH) % len(images)
        texts, there = [prompts[row] for row in rows], min(LARGE_BATCH, len(images) - start)
        made = _enlarged(sampler, tokenizers, texts, images[rows], rows)
        for name, pictures in made.items():
            parts.setdefault(name, []).append(pictures[:there])
    return {name: np.concatenate(own) for name, own in parts.items()}


def _enlarged(
    sampler: Sampler,
    tokenizers: tuple[TokenizerRun, TokenizerRun],
    prompts: Sequence[str],
    images: np.ndarray,
    seeds: np.ndarray,
) -> dict[str, np.ndarray]:
    small, large = tokenizers
    times = large.image_size[0] // small.image_size[0]
    # As the stages' training makes them.
    true = np.asarray(downsample(images.astype(np.float32) / 255, times))
    codes = np.asarray(small.encode(true))
    asked, stages = sampler.ask(prompts), sampler.cascade.stages
    likeliest = tuple(
        dataclasses.replace(one, settings=dataclasses.replace(one.settings, temperature=0.0))
        for one in stages
    )

    def drawn(stages: tuple[CodeStage, ...]) -> np.ndarray:
        return Cascade(stages).draw(asked, codes, seeds, len(asked))[1]

    return {
        "small picture, enlarged": _bilinear(true, images.shape),
        SMALL_CODES: _bilinear(small.decode(codes), images.shape),
        "direct": drawn(stages[:1]),
        "direct, then iterative": drawn(stages),
        "direct, the likeliest codes": drawn(likeliest[:1]),
        "direct, then iterative, the likeliest codes": drawn(likeliest),
        "large codes": to_uint8(np.asarray(large.reconstruct(images)[0])),
    }


def _bilinear(images: Any, shape: tuple[int, ...]) -> np.ndarray:
    return to_uint8(np.asarray(jax.image.resize(images, shape, "bilinear")))


def lpips(file: str, network: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS of two sets of pictures, uint8 [N, H, W, 3] each -> float32 [N]."""
    judge = PerceptualNetwork(PerceptualConfig(file=file, network=network))
    params, distance = judge.load(), jax.jit(judge.distance)

    def of(pictures: np.ndarray, images: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(images), LARGE_BATCH):
            rows = np.arange(start, start + LARGE_BATCH) % len(images)
            both = (each[rows].astype(np.float32) / 255 for each in (pictures, images))
            found.append(np.asarray(distance(params, *both)))
        return np.concatenate(found)[: len(images)]

    return of


def of_large(
    pictures: Mapping[str, np.ndarray],
    images: np.ndarray,
    distances: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]],
) -> Figures:
    """PSNR and distances to the true pictures by way, and distances less those of small codes."""

    def squares(own: np.ndarray, true: np.ndarray) -> np.ndarray:
        return np.square((own.astype(np.float64) - true) / 255).mean(axis=(1, 2, 3))

    values = {
        way: {name: of(own, images) for name, of in {"psnr_db": squares, **distances}.items()}
        for way, own in pictures.items()
    }
    found: Figures = {}
    for way, own in values.items():
        figures: dict[str, Figure] = {"psnr_db": mean_figure(own["psnr_db"], psnr_db)}
        for name in distances:
            figures[name] = mean_figure(own[name])
            figures[f"{name}_less"] = mean_figure(own[name] - values[SMALL_CODES][name])
        found[way] = figures_json(figures)
    return found
