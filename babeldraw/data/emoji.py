"""A world of real pictures with captions: the same things as up to four projects draw them.

A concept ("firefighter") in a style ("Noto") is a picture. Some pairs of a concept and a style are
held out while other styles show the concept, so that drawing them means to combine; and some
concepts are held out whole. Private code points, where OpenMoji keeps logos and marks of others,
are left out.
"""

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from babeldraw.data.emoji_names import Names
from babeldraw.data.emoji_packs import Icon, Pack
from babeldraw.data.image import save_png
from babeldraw.errors import UserError
from babeldraw.say import ProgressReport

# Sub-folders, which are splits of a folder.
SEEN, UNSEEN_PAIRS, UNSEEN_CONCEPTS = SPLITS = ("train", "unseen_pairs", "unseen_concepts")
# Of the concepts that stand in every style one in so many has one style held out; of all concepts
# one in so many is held out whole.
PAIRS_ONE_IN, CONCEPTS_ONE_IN = 10, 50
# The first is what prompts are written in.
WORDINGS = (
    "{a} {name}, in the style of {style}",
    "{style} emoji of {a} {name}",
    "{name}, drawn by {style}",
    "{style}: {name}",
)
# Of a name in another language, as `languages` has translations.
TRANSLATED = "{language}.utf8={name}, {style}"
LIST, SETTINGS, CREDITS = "captions.jsonl", "emoji.json", "CREDITS.md"
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Entry:
    """A picture of the world.

    Attributes:
        file: relative to the folder.
        caption: its wordings, and one in each further language.
        concept: an `Icon`'s.
        name: in words, the same for every style.
        style: a `Pack`'s.
    """

    file: str
    caption: tuple[str, ...]
    concept: str
    name: str
    style: str

    @property
    def split(self) -> str:
        """Which of SPLITS holds it."""
        return self.file.partition("/")[0]


def write_folder(
    packs: list[Pack], packages: Path, out: Path, size: int, names: Names | None = None
) -> list[Entry]:
    """Renders the packs into a folder that the source 'folder' reads; one that is whole stays.

    Args:
        packs: at least one.
        packages: the folder that holds their packages.
        out: gets SPLITS/*.png, captions.jsonl, CREDITS.md and emoji.json, which is written last.
        size: side of the pictures, in pixels.
        names: of concepts in other languages; None: English alone.

    Raises:
        UserError: the folder is of another world or size, or there is no renderer.
    """
    settings = {"size": size, "packages": [p.sha256 for pack in packs for p in pack.packages]}
    if names:
        settings["languages"] = sorted({language for told in names.values() for language in told})
    whole = out / SETTINGS
    if whole.exists():
        if json.loads(whole.read_text()) != settings:
            raise UserError(
                f"{out} holds emoji of another size or other packages or languages; name another"
            )
        return read_entries(out)
    drawings = {pack.style: pack.icons(packages) for pack in packs}
    chosen = [_translated(entry, names or {}) for entry in entries(drawings)]
    for split in SPLITS:
        (out / split).mkdir(parents=True, exist_ok=True)
    svgs = {(style, icon.concept): icon.svg for style in drawings for icon in drawings[style]}
    report = ProgressReport("drawing", len(chosen), unit="pictures")

    def draw(entry: Entry) -> None:
        save_png(out / entry.file, render(svgs[entry.style, entry.concept], size))

    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(pool.map(draw, chosen), 1):
            report.update(done)
    report.close()
    rows = (json.dumps(asdict(entry), ensure_ascii=False) for entry in chosen)
    (out / LIST).write_text("\n".join(rows) + "\n", encoding="utf-8")
    (out / CREDITS).write_text(credits_of(packs), encoding="utf-8")
    whole.write_text(json.dumps(settings, indent=2) + "\n")
    return chosen


def read_entries(folder: Path) -> list[Entry]:
    """The pictures of a folder that `write_folder` wrote.

    Raises:
        UserError: it is none.
    """
    try:
        lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [Entry(**row | {"caption": tuple(row["caption"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} is no folder of `babeldraw emoji`: {error}") from error


def entries(drawings: dict[str, list[Icon]]) -> list[Entry]:
    """All pictures, in the order of their concepts and styles.

    Args:
        drawings: icons by style.
    """
    styles = list(drawings)
    concepts: dict[str, dict[str, Icon]] = defaultdict(dict)
    for style in styles:
        for icon in drawings[style]:
            if not _private(icon.concept):
                concepts[icon.concept][style] = icon
    return [
        entry
        for concept, by_style in sorted(concepts.items())
        for entry in _of_concept(concept, by_style, len(styles))
    ]


def _of_concept(concept: str, by_style: dict[str, Icon], styles: int) -> Iterator[Entry]:
    # Projects name a few things in other words; the first style's serve for all.
    name = next(iter(by_style.values())).name
    rank = _rank(concept)
    held_out = list(by_style)[rank // PAIRS_ONE_IN % styles] if len(by_style) == styles > 1 else ""
    for style in by_style:
        split = SEEN
        if rank // 1000 % CONCEPTS_ONE_IN == 0:
            split = UNSEEN_CONCEPTS
        elif rank % PAIRS_ONE_IN == 0 and style == held_out:
            split = UNSEEN_PAIRS
        file = f"{split}/{name.replace(' ', '-')}_{concept}_{style}.png"
        yield Entry(file, captions(name, style), concept, name, style)


def _translated(entry: Entry, names: Names) -> Entry:
    if entry.concept not in names:
        return entry
    told = (
        TRANSLATED.format(language=language, name=name, style=entry.style)
        for language, name in names[entry.concept].items()
    )
    return replace(entry, caption=(*entry.caption, *told))


def _rank(concept: str) -> int:
    return int.from_bytes(hashlib.sha256(concept.encode()).digest()[:6], "big")


def _private(concept: str) -> bool:
    return any(0xE000 <= int(point, 16) <= 0xF8FF for point in concept.split("-"))


def captions(name: str, style: str) -> tuple[str, ...]:
    """What a picture is called, in the order of WORDINGS.

    >>> captions("owl", "Noto")[0]
    'an owl, in the style of Noto'
    """
    said = name.lower()
    like_you = said.startswith(("uni", "eu", "one ", "uf"))
    vowel = said[0] in "aeiou" and not like_you
    article = "an" if vowel or said.startswith("hour") else "a"
    # "hearts" takes none, "glass", "bus" and "face" do.
    plural = name.endswith("s") and not name.endswith(("ss", "us", "is"))
    words = {"a": "" if plural else article, "name": name, "style": style}
    return tuple(" ".join(wording.format(**words).split()) for wording in WORDINGS)


def render(svg: str, size: int) -> np.ndarray:
    """A drawing in the middle of a white square: uint8 [size, size, 3].

    Raises:
        UserError: resvg-py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise UserError('drawing SVG needs resvg-py: pip install "babeldraw[emoji]"') from error
    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, skip_system_fonts=True))
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    picture.thumbnail((size, size))
    square = Image.new("RGBA", (size, size), (*WHITE, 255))
    offset = ((size - picture.width) // 2, (size - picture.height) // 2)
    square.alpha_composite(picture, offset)
    return np.asarray(square.convert("RGB"))


def credits_of(packs: list[Pack]) -> str:
    """Whom pages and papers that show these pictures have to name: Markdown, a line a pack."""
    lines = [f"* {p.style}: {p.author}, {p.licence}, <{p.url}>" for p in packs]
    return "Pictures are drawn from, and models trained on, these:\n\n" + "\n".join(lines) + "\n"
