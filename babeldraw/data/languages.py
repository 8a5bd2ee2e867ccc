"""Captions in several languages, as Tux Paint writes them: a line, and its translations below.

A Sumatran tiger.
fr.utf8=Un tigre de Sumatra.
pt_BR.utf8=Um tigre de Sumatra.
"""

import re
from collections.abc import Iterable
from typing import Any

from absl import logging

from babeldraw.errors import UserError

# The language of a line without a mark; all of them.
PLAIN, ANY = "", "any"
CODE = r"[a-z]{2,3}(?:[_-][A-Za-z]+)?(?:@[a-z]+)?"
_MARKED = re.compile(rf"({CODE})\.utf8=(.*)")


def is_language(name: str) -> bool:
    """Whether it is one that a caption may be asked for in: '', 'any', or a code as 'pt_BR'."""
    return name in (PLAIN, ANY) or re.fullmatch(CODE, name) is not None


def translations(caption: str) -> dict[str, str]:
    """The marked lines, by language, in their order; an empty one is none."""
    found = (_MARKED.fullmatch(line.strip()) for line in caption.split("\n"))
    return {match[1]: match[2].strip() for match in found if match and match[2].strip()}


def in_language(caption: str, language: str) -> str:
    """The caption's lines in a language.

    '': those without a mark; 'any': these and every translation, a line each; a code: its
    translation, or the lines without a mark where there is none. A caption without marks stays as
    it is.
    """
    lines = [line.strip() for line in caption.split("\n")]
    plain = [line for line in lines if not _MARKED.fullmatch(line)]
    if len(plain) == len(lines):
        return caption
    translated = translations(caption)
    if language == ANY:
        plain = list(dict.fromkeys([*plain, *translated.values()]))
    elif language in translated:
        plain = [translated[language]]
    return "\n".join(plain).strip()


def check_language(captions: Iterable[str], language: str, where: Any) -> None:
    """Says how many captions lack a language; where none is asked for, whether there are some.

    Args:
        captions: with all their lines. Without a language only the first is looked at: to read all
            takes long where there are many.
        language: '', 'any' or a code.
        where: the data's path.

    Raises:
        UserError: no caption has it.
    """
    captions = filter(None, captions)
    if language == PLAIN:
        if found := translations(next(captions, "")):
            logging.warning(
                "%s: captions have translations (%s), which are left out; data.language names "
                "one, or 'any'",
                where,
                _some(found),
            )
        return
    found = [translations(caption) for caption in captions]
    lacking = [one for one in found if not (one if language == ANY else language in one)]
    if len(lacking) == len(found):
        known = _some(sorted({name for one in found for name in one})) or "there are none"
        raise UserError(
            f"data.language={language!r} is of no caption of data.path={where}; use '' or one of "
            f"these: {known}"
        )
    if lacking:
        logging.warning(
            "%s: %d of %d captions are not there in data.language=%r; their first line is taken",
            where,
            len(lacking),
            len(found),
            language,
        )


def _some(words: Iterable[str], count: int = 12) -> str:
    words = list(words)
    more = f", ... ({len(words)})" if len(words) > count else ""
    return ", ".join(words[:count]) + more
