"""What the demo of a world is made of, and what its page shows of it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Card:
    """A drawn picture on the page.

    Attributes:
        prompt: what was asked for.
        picture: uint8 [height, width, 3].
        judged: whether a rule says what is wrong with it.
        wrong: what is not as asked; empty too where it is not judged.
        held_out: whether training never shows the pair.
        original: the true picture of the prompt, where there is one.
    """

    prompt: str
    picture: np.ndarray
    judged: bool = False
    wrong: tuple[str, ...] = ()
    held_out: bool = False
    original: np.ndarray | None = None


# Prompt and drawn picture -> card.
MakeCard = Callable[[str, np.ndarray], Card]


@dataclasses.dataclass(frozen=True)
class World:
    """A world of captioned pictures that a demo learns.

    Attributes:
        name: for `--world`.
        configs: the folder in configs/ of its tokenizer.py and text_to_image.py.
        about: what the page says first.
        tiles: (label, figure, note), each with the names of figures in braces.
        scores: (name of a figure for `seen` and `unseen`, label, what it asks for): shares.
        scores_text: sentences above them; one whose figures are missing is left out.
        quality: (name of a figure, title) of the curve over minutes.
        evaluator: that scores the drawn pictures.
        configure: (stage, demo's folder, a stage's config, whether it is a quick one) fits the
            config to this machine: its data and what is measured; called before each stage.
        prompts: (demo's folder) -> what the page shows drawn.
        cards: (demo's folder) -> what makes a card.
        columns: of the page's cards; 0: as many as fit.
        notice: what a page with such pictures has to say of where they come from.
    """

    name: str
    configs: str
    about: str
    tiles: tuple[tuple[str, str, str], ...]
    scores: tuple[tuple[str, str, str], ...]
    scores_text: tuple[str, ...]
    quality: tuple[str, str]
    evaluator: str
    configure: Callable[[str, Path, Any, bool], None]
    prompts: Callable[[Path], list[str]]
    cards: Callable[[Path], MakeCard]
    columns: int = 0
    notice: str = ""


# By `seen` and `unseen` in the names of figures.
KINDS: Mapping[str, str] = {"seen": "seen pairs", "unseen": "held-out pairs"}
