"""What a text encoder that has read is worth, where pairs are few and captions many.

    bash launch/local.sh demo --world=emoji
    python docs/examples/pretraining.py --demo=runs/emoji --workdir=runs/pretraining

A generator learns from 2,000 pairs. Its text encoder begins fresh (none), from masked language
modelling on 50,000 captions (masked), from contrastive learning on the same 2,000 pairs
(contrastive), or from both at once (both); of each three seeds. Every generator of a world has the
same steps, so what a pretraining takes comes on top. On emoji the captions are names in six
languages, the pairs' are English alone; the network is a smaller one than the demo's. Cells, each
of which leaves its figures in docs/reports/pretraining and is not made again:

  shapes_tokenizer         that of the demo, which has seen the whole world's pictures
  WORLD_encoder_WAY_SEED   the text encoder: held-out captions found by pictures and the other way,
                           and the loss of masked pieces
  WORLD_WAY_SEED           the generator: on shapes pictures that are right, of pairs of colour and
                           shape that were seen and that never were; on emoji concepts that are
                           right, of pairs that were seen and of concepts in a style not seen

Some three hours in all on two cores, by estimate; `--cells='shapes_*'` names some, and two
processes with a core each (`taskset`) take two thirds of that. Prints the tables and writes them to
WORKDIR/pretraining.md.

`--demo` is the folder of the emoji demo, whose pictures, tokenizer and weights of AlexNet the cells
of emoji use; names in other languages are fetched by pip (0.6 MB).
"""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cells import (
    QUICK,
    ROOT,
    Cell,
    Figures,
    arguments,
    markdown,
    run_cells,
    set_steps,
    share,
    trained_and_judged,
)
from emoji_world import (
    BATCH,
    LANGUAGES,
    PIECES,
    REST,
    at_split,
    concepts_right,
    copy_vocabulary,
    smaller,
    stored_tokens,
    write_world,
)
from ml_collections import ConfigDict

from babeldraw.commands.demo_emoji import PACKAGES, PICTURES
from babeldraw.data.config import DataConfig
from babeldraw.data.emoji import SEEN, UNSEEN_PAIRS, Entry, read_entries
from babeldraw.data.emoji_names import read_names
from babeldraw.data.sources import open_texts
from babeldraw.data.text import train_vocabulary
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.concepts import Gallery
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import figures_json
from babeldraw.runs.folder import RunFolder
from babeldraw.train.presets import complete, load_config

# Weights of the masked and of the contrastive loss.
WAYS = {"none": (0.0, 0.0), "masked": (1.0, 0.0), "contrastive": (0.0, 1.0), "both": (1.0, 1.0)}
SEEDS = (0, 1, 2)
PAIRS, CAPTIONS, HELD_OUT = 2000, 50_000, 256
MINUTES = {"tokenizer": 5, "encoder": 4, "generator": 5}
# Student's t of 95 % for two degrees of freedom, those of three seeds.
T = 4.303

Section = dict[str, Any]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--demo", type=pathlib.Path, help="of the emoji demo's run")
    args = parser.parse_args()
    found = run_cells(all_cells(), args, "pretraining")
    text = tables(found)
    (args.workdir / "pretraining.md").write_text(text)
    print(text)


# ------------------------------------------------------------------ the worlds


@dataclasses.dataclass(frozen=True)
class World:
    """Where pairs and captions come from, and who judges.

    Attributes:
      configs: their folder.
      pairs, captions: config sections `data` of the few and of the many, by the arguments.
      tokenizer: the folder of its run, by the arguments.
      change: makes a config of `configs` one of this experiment.
      tokens: the pairs as a generator reads them, by the arguments.
      judge: trains a generator, and judges it; its figures are under `quality`.
      figures: of the judge, that the table shows, with their heads.
      steps, encoder_steps: of a generator; of a text encoder.
    """

    configs: str
    pairs: Callable[[argparse.Namespace], Section]
    captions: Callable[[argparse.Namespace], Section]
    tokenizer: Callable[[argparse.Namespace], pathlib.Path]
    change: Callable[[ConfigDict, argparse.Namespace], None]
    tokens: Callable[[argparse.Namespace], Section]
    judge: Callable[[ConfigDict, pathlib.Path, argparse.Namespace], Figures]
    figures: Mapping[str, str]
    steps: int
    encoder_steps: int


def shapes(count: int) -> Section:
    """So many examples of the shapes world; the fewer are among the more."""
    return {"source": "shapes", "num_examples": count}


def more_prompts(config: ConfigDict, args: argparse.Namespace) -> None:
    if "prompts" in config.evaluators and not args.quick:
        config.evaluators.prompts.num_prompts = 512


def emoji_pairs(args: argparse.Namespace) -> Section:
    write_emoji(args)
    splits = {"split": f"{SEEN}/", "eval_split": f"{UNSEEN_PAIRS}/"}
    return {"source": "folder", "path": str(emoji_folder(args)), "crop": "center", **splits}


def emoji_tokens(args: argparse.Namespace) -> Section:
    write_emoji(args)
    tokenizer, world = (args.demo / "tokenizer").resolve(), emoji_folder(args)
    return stored_tokens(tokenizer, world, world.with_name("emoji_tokens"))


def emoji_captions(args: argparse.Namespace) -> Section:
    write_emoji(args)
    return {"source": "texts", "path": str(emoji_folder(args).with_suffix(".txt"))}


def emoji_folder(args: argparse.Namespace) -> pathlib.Path:
    return (args.workdir / "emoji").resolve()


def write_emoji(args: argparse.Namespace) -> None:
    """The demo's pictures, 2,000 of them to train on; and 50,000 captions of all not judged by."""
    world = emoji_folder(args)
    split_of = split_emoji(read_entries(args.demo / PICTURES))
    entries = write_world(args.demo, world, lambda e: at_split(e, split_of[e.file]))
    texts = world.with_suffix(".txt")
    if not texts.exists():
        names = read_names(args.demo / PACKAGES, LANGUAGES)
        told = [
            line
            for entry in entries
            if entry.split != UNSEEN_PAIRS
            for line in (
                *entry.caption,
                *(f"{name}, {entry.style}" for name in names.get(entry.concept, {}).values()),
            )
        ]
        order = np.random.default_rng(0).permutation(len(told))[:CAPTIONS]
        texts.write_text("".join(f"{told[i]}\n" for i in order), encoding="utf-8")


def split_emoji(entries: Sequence[Entry]) -> dict[str, str]:
    """By file: pairs to learn from, others of their concepts to judge by, the rest; by seed 0."""
    rng = np.random.default_rng(0)
    order = [entries[i] for i in rng.permutation(len(entries))]
    # At most a fifth is held out where there are few pictures.
    count = min(PAIRS, len(order) // 2)
    seen, others = order[:count], order[count:]
    known = {entry.concept for entry in seen}
    unseen = [entry for entry in others if entry.concept in known][: min(HELD_OUT, count // 5)]
    found = {entry.file: REST for entry in others}
    found |= {entry.file: UNSEEN_PAIRS for entry in unseen}
    return found | {entry.file: SEEN for entry in seen}


def small_emoji(config: ConfigDict, args: argparse.Namespace) -> None:
    tokenizer = RunFolder.of(str(args.demo / "tokenizer")).read_config()["tokenizer"]
    if not args.quick:
        smaller(config)
    if config.objective == "text_encoder":
        config.model.image_size = tuple(tokenizer["image_size"])
        config.model.patch_size = tokenizer["patch_size"]
        config.evaluators.retrieval = {"num_examples": HELD_OUT}
    else:
        # The tokenizer's sizes are those of the run.
        config.tokenizer.update(tokenizer)
        config.train.batch_size = 2 if args.quick else BATCH


def judged_by_prompts(
    config: ConfigDict, folder: pathlib.Path, args: argparse.Namespace
) -> Figures:
    del args
    figures = trained_and_judged(config, folder, ["prompts"])[0]
    return {**figures, "quality": figures["quality"]["prompts"]}


def judged_by_concepts(
    config: ConfigDict, folder: pathlib.Path, args: argparse.Namespace
) -> Figures:
    figures = trained_and_judged(config, folder, [])[0]
    gallery = Gallery.read(emoji_folder(args), str(args.demo / "alexnet_lpips.safetensors"))
    sampler, found = Sampler.from_run(str(folder)), {}
    for kind, split in (("seen", SEEN), ("unseen", UNSEEN_PAIRS)):
        those = np.random.default_rng(0).permutation(gallery.of(split))
        asked = np.sort(those[: 8 if args.quick else HELD_OUT])
        prompts = [gallery.entries[index].caption[0] for index in asked]
        for guidance, suffix in ((None, ""), (1.0, "_without_guidance")):
            right, _ = concepts_right(sampler, gallery, asked, prompts, guidance)
            found |= {f"{name}_{kind}{suffix}": mean_figure(r) for name, r in right.items()}
    return {**figures, "quality": figures_json(found)}


WORLDS = {
    "shapes": World(
        configs="demo",
        pairs=lambda args: shapes(PAIRS),
        captions=lambda args: shapes(CAPTIONS),
        tokenizer=lambda args: args.workdir / "shapes_tokenizer",
        change=more_prompts,
        tokens=lambda args: shapes(PAIRS),
        judge=judged_by_prompts,
        figures={
            "exact_seen": "exact, seen",
            "exact_unseen": "exact, unseen",
            "exact_seen_without_guidance": "seen, without guidance",
            "exact_unseen_without_guidance": "unseen, without guidance",
        },
        steps=1400,
        encoder_steps=1000,
    ),
    "emoji": World(
        configs="emoji",
        pairs=emoji_pairs,
        captions=emoji_captions,
        tokenizer=lambda args: args.demo / "tokenizer",
        change=small_emoji,
        tokens=emoji_tokens,
        judge=judged_by_concepts,
        figures={
            "concept_seen": "concept, seen",
            "concept_unseen": "concept, unseen",
            "concept_top5_unseen": "unseen, of five",
            "concept_seen_without_guidance": "seen, without guidance",
            "concept_unseen_without_guidance": "unseen, without guidance",
        },
        steps=1300,
        encoder_steps=600,
    ),
}


# ------------------------------------------------------------------ cells


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    cells: dict[str, tuple[Cell, float]] = {
        "shapes_tokenizer": (tokenizer_cell, MINUTES["tokenizer"])
    }
    for name in WORLDS:
        for seed in SEEDS:
            for way in WAYS:
                if way != "none":
                    cell = functools.partial(encoder_cell, name, way, seed)
                    cells[f"{name}_encoder_{way}_{seed}"] = cell, MINUTES["encoder"]
                cell = functools.partial(generator_cell, name, way, seed)
                cells[f"{name}_{way}_{seed}"] = cell, MINUTES["generator"]
    return cells


def tokenizer_cell(args: argparse.Namespace) -> Figures:
    config = complete(loaded("demo", "tokenizer.py"), variant(args))
    return trained_and_judged(config, args.workdir / "shapes_tokenizer", ["reconstruction"])[0]


def encoder_cell(name: str, way: str, seed: int, args: argparse.Namespace) -> Figures:
    config = encoder_config(name, way, seed, args)
    folder, (masked, contrastive) = encoder_folder(name, way, seed, args), WAYS[way]
    judges = [*(["retrieval"] * bool(contrastive)), *(["validation_loss"] * bool(masked))]
    give_vocabulary(name, folder, args)
    return trained_and_judged(config, folder, judges)[0]


def generator_cell(name: str, way: str, seed: int, args: argparse.Namespace) -> Figures:
    config, folder = generator_config(name, way, seed, args), args.workdir / f"{name}_{way}_{seed}"
    give_vocabulary(name, folder, args)
    return WORLDS[name].judge(config, folder, args)


def encoder_folder(name: str, way: str, seed: int, args: argparse.Namespace) -> pathlib.Path:
    return args.workdir / f"{name}_encoder_{way}_{seed}"


def loaded(configs: str, file: str) -> Section:
    """A config, open to change."""
    return load_config(file, ROOT / "configs" / configs / "README").to_dict()


def variant(args: argparse.Namespace) -> str:
    return QUICK if args.quick else ""


def encoder_config(name: str, way: str, seed: int, args: argparse.Namespace) -> ConfigDict:
    world, (masked, contrastive) = WORLDS[name], WAYS[way]
    config = loaded(world.configs, "text_encoder.py")
    config["loss"] |= {"masked": masked, "contrastive": contrastive}
    data = (world.pairs if contrastive else world.captions)(args)
    texts = world.captions(args) if masked and contrastive else None
    return finished(world, config, seed, world.encoder_steps, args, data=data, text_data=texts)


def generator_config(name: str, way: str, seed: int, args: argparse.Namespace) -> ConfigDict:
    world = WORLDS[name]
    config = loaded(world.configs, "text_to_image.py")
    config["tokenizer_run"] = str(world.tokenizer(args).resolve())
    if way != "none":
        begin = encoder_folder(name, way, seed, args).resolve()
        config["starts"] = ({"run": str(begin), "names": "text_encoder/.*"},)
    return finished(world, config, seed, world.steps, args, data=world.tokens(args))


def finished(
    world: World,
    config: Section,
    seed: int,
    steps: int,
    args: argparse.Namespace,
    **data: Section | None,
) -> ConfigDict:
    """A config with this experiment's seed, steps and data; the quick one keeps its own steps."""
    config["train"]["seed"] = seed
    found = complete(config | data, variant(args)).unlock()
    # A quick variant has another world's data.
    found.update({name: section for name, section in data.items() if section})
    world.change(found, args)
    if not args.quick:
        set_steps(found, steps)
    return found


def give_vocabulary(name: str, folder: pathlib.Path, args: argparse.Namespace) -> None:
    """The same pieces to every run, made of the captions that the pretrainings read."""
    words = args.workdir / f"{name}.model"
    if not words.exists():
        data = DataConfig(**WORLDS[name].captions(args))
        train_vocabulary(open_texts(data, data.split, seed=0).captions(), words, PIECES)
    copy_vocabulary(words, folder)


# ------------------------------------------------------------------ the tables


def tables(found: dict[str, Figures]) -> str:
    """One of each world that has figures."""
    there = [name for name in WORLDS if any(cell.startswith(name) for cell in found)]
    text = "\n\n".join(f"{name}:\n\n{table(name, found)}" for name in there)
    return f"{text}\n\nIn brackets the interval of 95 %, over seeds.\n"


def table(name: str, found: dict[str, Figures]) -> str:
    """Of each way the means over its seeds; what they are above `none`, seed by seed; encoders."""
    world = WORLDS[name]
    seeds = {way: [s for s in SEEDS if f"{name}_{way}_{s}" in found] for way in WAYS}

    def values(way: str, figure: str, of: Sequence[int]) -> np.ndarray:
        cells = [found[f"{name}_{way}_{seed}"] for seed in of]
        return np.array([cell["quality"][figure]["value"] for cell in cells])

    scores, above, encoders = [], [], []
    for way, those in seeds.items():
        if those:
            found_here = [over_seeds(values(way, figure, those)) for figure in world.figures]
            scores.append([way, *map(share, found_here)])
        if paired := [seed for seed in those if way != "none" and seed in seeds["none"]]:
            gains = [values(way, f, paired) - values("none", f, paired) for f in world.figures]
            above.append([way, *map(share, map(over_seeds, gains))])
        cells = [found[f"{name}_encoder_{way}_{s}"] for s in those if way != "none"]
        if cells:
            encoders.append([way, *pretraining(cells)])
    heads = ["text encoder", *world.figures.values()]
    of_encoders = ["text encoder", "picture to text", "text to picture", "masked loss", "minutes"]
    parts = ((heads, scores), (["above none", *heads[1:]], above), (of_encoders, encoders))
    return "\n\n".join(markdown(head, rows) for head, rows in parts if rows)


def pretraining(cells: Sequence[Figures]) -> list[str]:
    """Retrieval both ways, the loss of masked pieces and the minutes; means over seeds."""
    quality = [cell["quality"] for cell in cells]
    shares, loss = ["", ""], ""
    if retrieval := [one["retrieval"] for one in quality if "retrieval" in one]:
        shares = [
            share(over_seeds(np.array([one[figure]["value"] for one in retrieval])))
            for figure in ("image_to_text", "text_to_image")
        ]
    if losses := [one["masked"]["loss"]["value"] for one in quality if "masked" in one]:
        loss = f"{np.mean(losses):.2f}"
    return [*shares, loss, f"{np.mean([cell['minutes'] for cell in cells]):.1f}"]


def over_seeds(values: np.ndarray) -> dict[str, Any]:
    """The mean, with the interval that three seeds give."""
    mean = float(values.mean())
    if len(values) < len(SEEDS):
        return {"value": mean}
    half = T * float(values.std(ddof=1)) / len(values) ** 0.5
    return {"value": mean, "interval": (mean - half, mean + half)}


if __name__ == "__main__":
    main()
