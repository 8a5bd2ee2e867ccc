"""What cogview2.py measures: texts that are told, drawings compared, speed."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from cells import Figures
from grid_measures import REPEATS, exactness, fill, held_out, of_filled, of_pictures, operations

from babeldraw.data import shapes
from babeldraw.data.emoji import Entry
from babeldraw.data.image import decode
from babeldraw.drawing.captioning import CaptionerRun
from babeldraw.drawing.drawer import Drawer
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.prompts import SPLITS, held_out_captions
from babeldraw.evaluation.protocol import figures_json
from babeldraw.models.base import example
from babeldraw.models.condition import Lexicon
from babeldraw.prediction.base import Given
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse
from babeldraw.train.metrics import read_scalars

# Of the loss, by the name that a table has for it.
CURVES = {"total": "train/loss", "image": "train/image", "text": "train/text"}
# Of prompts and of pictures that are told; another than the evaluators'.
SEED = 3
BATCH = 64


def curves(folder: pathlib.Path) -> dict[str, list[list[float]]]:
    """[step, value] of each part of a run's loss."""
    lines = read_scalars(RunFolder.of(str(folder)))
    return {
        name: [[line["step"], line[key]] for line in lines if key in line]
        for name, key in CURVES.items()
    }


# ------------------------------------------------------------------ texts that are told


def shapes_told(run: CaptionerRun, count: int) -> Figures:
    """Of so many pictures of each kind that training never shows; see `scenes_told`."""
    found: Figures = {}
    for kind, split in SPLITS.items():
        scenes, images = held_out(count, run.tokenizer.image_size[0], split)
        texts = [caption.text for caption in run.caption([*images], batch_size=BATCH)]
        found |= {f"{name}_{kind}": one for name, one in scenes_told(texts, scenes).items()}
    return found


def scenes_told(texts: Sequence[str], scenes: Sequence[shapes.Scene]) -> Figures:
    """The shares of texts that the grammar reads, and of those that tell the very scene.

    Two objects may be told from either side: a picture does not say which.
    """
    read = [shapes.parse_caption(text) for text in texts]
    pairs = zip(read, scenes, strict=True)
    right = [own is not None and own.canonical() == scene.canonical() for own, scene in pairs]
    of_grammar = [own is not None for own in read]
    return figures_json({"grammar": mean_figure(of_grammar), "exact": mean_figure(right)})


def emoji_told(
    run: CaptionerRun, world: Sequence[Entry], shown: Sequence[Entry], folder: pathlib.Path
) -> Figures:
    """What the texts told of pictures of a world of emoji say; see `entries_told`."""
    images = [decode(folder / entry.file) for entry in shown]
    texts = [caption.text for caption in run.caption(images, batch_size=BATCH)]
    limit = run.captioner.codes.length

    def as_told(captions: Sequence[str]) -> list[str]:
        """As far as the network reads them, in the letters that its pieces have."""
        return [run.vocabulary.decode(ids) for ids in run.vocabulary.encode(captions, limit)]

    said = {entry.file: as_told(entry.caption) for entry in world}
    return entries_told(texts, shown, world, said)


def entries_told(
    texts: Sequence[str],
    shown: Sequence[Entry],
    world: Sequence[Entry],
    said: Mapping[str, Sequence[str]],
) -> Figures:
    """The shares of texts that are some caption of the world, of the right concept, and style.

    Args:
      texts: told of `shown`.
      shown: the pictures.
      world: all pictures.
      said: the captions of each, by its file.
    """
    meant: dict[str, list[Entry]] = {}
    for entry in world:
        for text in said[entry.file]:
            meant.setdefault(text, []).append(entry)
    found = [meant.get(text, []) for text in texts]
    pairs = [*zip(found, shown, strict=True)]
    figures = {
        "caption": [bool(of) for of in found],
        "concept": [any(one.concept == own.concept for one in of) for of, own in pairs],
        "style": [any(one.style == own.style for one in of) for of, own in pairs],
    }
    return figures_json({name: mean_figure(right) for name, right in figures.items()})


# ------------------------------------------------------------------ a hole


def middle_filled(sampler: Sampler, count: int) -> Figures:
    """Of pictures whose middle is drawn anew, text given: exact ones, and PSNR in the hole."""
    size = sampler.image_size[0]
    scenes, images = held_out(count, size)
    mask = np.zeros((size, size), bool)
    mask[size // 4 : -size // 4, size // 4 : -size // 4] = True
    filled, kept = fill(sampler, [scene.caption() for scene in scenes], images, mask)
    ways = {"filled": filled, "encoded and decoded": kept}
    return {
        name: of_pictures(of_filled(pictures, scenes, images, mask, None))
        for name, pictures in ways.items()
    }


# ------------------------------------------------------------------ drawings compared


def prompts_of(count: int) -> dict[str, list[str]]:
    """So many prompts of each kind that training never shows."""
    return {kind: held_out_captions(split, count, SEED) for kind, split in SPLITS.items()}


def apart(prompts: Sequence[str], num: int = 1) -> range:
    """The first seed of each of so many prompts, so that none shares its noise with another."""
    return range(0, num * len(prompts), num)


def compared(
    sampler: Sampler,
    ways: Mapping[str, dict[str, Any]],
    count: int,
    against: Mapping[str, str] | None = None,
) -> Figures:
    """Shares of exact drawings by way, and what each has more than another.

    Each prompt has a seed of its own, the same in all ways.

    Args:
      sampler: of shapes.
      ways: fields of the settings that are others than the run's, by name.
      count: prompts of each kind.
      against: which earlier way one is compared with, by name; the first where it does not say.
    """
    exact: dict[str, dict[str, np.ndarray]] = {}
    found: Figures = {}
    for name, fields in ways.items():
        settings = dataclasses.replace(sampler.defaults, **fields)
        exact[name], figures = {}, {}
        other = (against or {}).get(name, next(iter(ways)))
        for kind, prompts in prompts_of(count).items():
            how = {"settings": settings, "batch_size": BATCH}
            drawn = sampler.sample(prompts, seed=apart(prompts), **how)
            own = exact[name][kind] = exact_drawn([one.image for one in drawn], prompts)
            figures[f"exact_{kind}"] = mean_figure(own)
            figures[f"gain_{kind}"] = mean_figure(own - exact[other][kind])
        found[name] = {"settings": fields, "against": other, **figures_json(figures)}
    return found


def exact_drawn(images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
    """Whether each picture shows its prompt exactly, float64 [N]."""
    return exactness(np.stack(images), [shapes.parse_caption(prompt) for prompt in prompts])


def selected(sampler: Sampler, num: int, count: int) -> Figures:
    """The best of `num` by the sampler's judge, by kind of prompt; see `of_selection`."""
    found: Figures = {}
    for kind, prompts in prompts_of(count).items():
        drawn = [*sampler.sample(prompts, num=num, seed=apart(prompts, num), batch_size=BATCH)]
        exact = exact_drawn([one.image for one in drawn], [one.prompt for one in drawn])
        seeds, ranks = (np.array([getattr(p, n) for p in drawn]) for n in ("seed", "rank"))
        rows = (array.reshape(count, num) for array in (exact, seeds % num, ranks))
        found[kind] = of_selection(*rows)
    return found


def of_selection(exact: np.ndarray, seeds: np.ndarray, ranks: np.ndarray) -> Figures:
    """Shares of exact ones of the first, of all and of the best, and what the best has more.

    Args:
      exact: float64 [prompts, num].
      seeds: of each picture, counted from the first one's, 0.
      ranks: of each picture, the best one's 0.
    """
    first, best = (np.sum(exact * (of == 0), axis=1) for of in (seeds, ranks))
    mean = exact.mean(axis=1)
    values = {"first": first, "mean": mean, "best": best, "any": exact.max(axis=1)}
    values |= {"best_less_first": best - first, "best_less_mean": best - mean}
    return figures_json({name: mean_figure(value) for name, value in values.items()})


# ------------------------------------------------------------------ speed


def untrained(config: Any) -> Sampler:
    """Of a generator's config, with weights as they begin; its tokenizer has none."""
    experiment = parse(config)
    generator, tokenizer = experiment.generator, experiment.made_codes_by
    key = jax.random.key(0)
    params = jax.jit(lambda key: nn.unbox(generator.init(key)))(key)
    shapes_of = nn.unbox(jax.eval_shape(tokenizer.init, key))
    parts = {"generator": generator.for_decoding(params), "tokenizer": shapes_of}
    drawer = Drawer(generator, experiment.prediction, tokenizer, parts)
    settings = dataclasses.replace(experiment.sampling, guidance=1.0)
    return Sampler(drawer, Lexicon(), settings, 0)


def drawing_seconds(samplers: Mapping[str, Sampler]) -> Figures:
    """Seconds of drawing the codes of one picture, by name, of the quickest of a few turns."""
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(1 + REPEATS):
        for name, sampler in samplers.items():
            began = time.perf_counter()
            draw_codes(sampler)
            seconds[name].append(time.perf_counter() - began)
    found: Figures = {}
    for name, sampler in samplers.items():
        drawer, parts = sampler.drawer, operations(sampler)
        rows = example(drawer.generator.condition, 1)
        found[name] = {
            # The first turn compiled.
            "seconds": min(seconds[name][1:]),
            "turns": seconds[name][1:],
            "tokens": drawer.generator.codes.length,
            "passes": drawer.prediction.step(
                drawer.generator, drawer.params["generator"], rows, 1, sampler.defaults
            )[2],
            "operations": parts["read"] + parts["steps"],
        }
    return found


def draw_codes(sampler: Sampler) -> np.ndarray:
    """One picture's codes; where some must be there before, they are all 0."""
    drawer = sampler.drawer
    text = jax.tree.map(np.ones_like, jax.device_get(example(drawer.generator.condition, 1)))
    given = None
    if not drawer.prediction.begins:
        codes = np.zeros((1, *drawer.generator.codes.each), np.int32)
        nowhere = np.zeros(codes.shape[:2], bool)
        given = Given(codes, kept=nowhere, again=~nowhere)
    return drawer.drawn(text, np.zeros(1, np.int64), sampler.defaults, given)
