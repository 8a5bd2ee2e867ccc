"""The demo's world of shapes: made on the fly, judged by a program that knows what it asked for."""

from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.commands.demo_world import Card, MakeCard, World
from babeldraw.config import to_dict
from babeldraw.data import shapes
from babeldraw.errors import UserError
from babeldraw.evaluation.outlines import OutlinesConfig
from babeldraw.evaluation.prompts import held_out_captions
from babeldraw.evaluation.shapes_scorer import score_batch

NUM_PICTURES = 16


def _configure(stage: str, folder: Path, config: Any, quick: bool) -> None:
    # Not in the config: with other data than shapes it would be refused.
    if stage == "tokenizer":
        config.evaluators.outlines = to_dict(OutlinesConfig(num_examples=8 if quick else 256))


def _prompts(folder: Path) -> list[str]:
    """Prompts that training never saw: half of seen pairs, half of held-out ones."""
    half = NUM_PICTURES // 2
    return [*held_out_captions("test", half, 2), *held_out_captions("unseen", half, 2)]


def _cards(folder: Path) -> MakeCard:
    return card


def card(prompt: str, picture: np.ndarray) -> Card:
    """With what is wrong, where the prompt is one of this world's."""
    try:
        answers = score_batch(picture[None], [prompt])
    except UserError:
        return Card(prompt, picture)
    wrong = tuple(name for name, right in answers.items() if not right and name != "exact")
    held_out = shapes.parse_caption(prompt).split() == "unseen"
    return Card(prompt, picture, judged=True, wrong=wrong, held_out=held_out)


SHAPES = World(
    name="shapes",
    configs="demo",
    about="An image tokenizer and a text-to-image transformer, trained from scratch on captioned "
    "pictures of shapes. A program reads each picture and compares it with its prompt; exact is "
    "the share right in everything.",
    tiles=(
        ("reconstruction", "{psnr_db:.1f} dB", "PSNR on held-out pictures"),
        ("codebook in use", "{codebook_usage:.0%}", "of its codes, in one batch"),
        (
            "exact, seen pairs",
            "{exact_seen:.0%}",
            "{exact_seen_without_guidance:.0%} without guidance",
        ),
        (
            "exact, held-out pairs",
            "{exact_unseen:.0%}",
            "{exact_unseen_without_guidance:.0%} without guidance",
        ),
        ("crisp, seen pairs", "{crisp_seen:.0%}", "{crisp:.0%} of reconstructions"),
        ("minutes", "{total:.1f}", "tokenizer {tokenizer:.1f}, generator {text_to_image:.1f}"),
    ),
    scores=(
        ("number_{}", "number", "as many objects as asked for"),
        ("colour_{}", "colour", "of every object"),
        ("shape_{}", "shape", "of every object"),
        ("size_{}", "size", "of every object"),
        ("relation_{}", "relation", "left of, above, …; always right where there is one object"),
        ("background_{}", "background", "white, black or gray"),
        ("exact_{}", "exact", "all of these at once"),
        ("crisp_{}", "crisp", "every object there, its sides straight, corners sharp, holes open"),
        ("exact_{}_without_guidance", "exact", "without guidance"),
    ),
    scores_text=(
        "Training shows none of the scenes asked for; a held-out pair is a colour and a shape that "
        "it never shows together.",
        "Guidance is {guidance:g}.",
        "{num_prompts:,} prompts of each kind leave a share uncertain by up to {error:.1f} points "
        "(one standard error).",
    ),
    quality=("exact", "Generator: % of prompts exact"),
    evaluator="prompts",
    configure=_configure,
    prompts=_prompts,
    cards=_cards,
)
