"""The worlds of emoji of cogview2.py and enlarging.py, and the configs that both begin with."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from cells import QUICK, ROOT
from emoji_world import PIECES, smaller, stored_tokens, write_world

from babeldraw.commands.demo_emoji import PACKAGES, PICTURES, lpips_weights
from babeldraw.commands.emoji import find_packs
from babeldraw.data.emoji import (
    SEEN,
    UNSEEN_CONCEPTS,
    UNSEEN_PAIRS,
    Entry,
    read_entries,
    write_folder,
)
from babeldraw.train.presets import complete, load_config

EMOJI = ROOT / "configs" / "emoji" / "README"
# With the demo's 32 pictures a step there would be few steps.
HIERARCHY_BATCH = 16
# Pictures of the emoji demo in a quick run, about.
FEW = 320


def minutes(count: float, args: argparse.Namespace) -> float:
    return 0 if args.quick else count


def folder_of(cell: str, args: argparse.Namespace) -> str:
    return str((args.workdir / cell).resolve())


def pictures(side: int, args: argparse.Namespace) -> pathlib.Path:
    """The folder of emoji of a side, which is made once; of a quick run a few of the demo's."""
    if args.quick:
        # Odd, so that no style is left out.
        every = len(read_entries(args.emoji / PICTURES)) // FEW | 1
        write_world(args.emoji, args.workdir / "emoji_few", lambda entry: entry, every)
        return (args.workdir / "emoji_few").resolve()
    packages, out = args.emoji / PACKAGES, args.workdir / f"emoji_{side}"
    write_folder(find_packs(packages), packages, out, side)
    return out.resolve()


def weights(kind: str, args: argparse.Namespace) -> str:
    """The file of an LPIPS network; empty where it cannot be had."""
    args.emoji.mkdir(parents=True, exist_ok=True)
    return lpips_weights(args.emoji, args.emoji / PACKAGES, kind)


def held_out(world: Sequence[Entry]) -> str:
    """The split that is judged by: concepts in a style that training never shows.

    Of one style alone, as where there is no npm, no pair can be held out.
    """
    return UNSEEN_PAIRS if any(e.split == UNSEEN_PAIRS for e in world) else UNSEEN_CONCEPTS


def some(world: Sequence[Entry], split: str, count: int) -> list[Entry]:
    """At most so many pictures of a split, always the same."""
    own = [entry for entry in world if entry.split == split]
    return [own[row] for row in sorted(np.random.default_rng(0).permutation(len(own))[:count])]


def read_pictures(config: Any, side: int, args: argparse.Namespace, crop: str) -> None:
    """Has a config learn from the pictures of a side."""
    folder = pictures(side, args)
    splits = {"split": f"{SEEN}/", "eval_split": f"{held_out(read_entries(folder))}/"}
    config.data.update(source="folder", path=str(folder), crop=crop, **splits)


def use_stored(config: Any, side: int, args: argparse.Namespace) -> None:
    """Has a config learn from its tokenizer's codes of the pictures of a side, stored once."""
    run, level = pathlib.Path(config.tokenizer_run), config.level
    out = args.workdir.resolve() / f"emoji_codes_{level}"
    config.data = stored_tokens(run, pictures(side, args), out, level)


def hierarchy_config(pixels: str, side: int, args: argparse.Namespace) -> Any:
    """Of a hierarchy of so many pixels to a code, trained on pictures of a side."""
    own = load_config("hierarchy.py", EMOJI, pixels).to_dict()
    config = complete(own, QUICK if args.quick else "")
    read_pictures(config, side, args, "random")
    config.perceptual.file = "" if args.quick else weights("vgg_lpips", args)
    if not config.perceptual.file:
        config.loss.perceptual = 0.0
    if not args.quick:
        config.train.batch_size = HIERARCHY_BATCH
    return config


def coglm_config(argument: str, hierarchy: str, args: argparse.Namespace) -> Any:
    """Of a small CogLM on the codes of a hierarchy's run; `argument` is its config's."""
    config = load_config("coglm.py", EMOJI, argument).unlock()
    config.tokenizer_run = hierarchy
    # Of the demo's size there would be some 350 steps, most of their work in the table of words.
    smaller(config)
    config.condition.vocab_size = PIECES
    return complete(config.to_dict(), QUICK if args.quick else "")
