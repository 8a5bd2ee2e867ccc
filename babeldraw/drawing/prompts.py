"""Lists of prompts from files: text with one per line, or a table like PartiPrompts.tsv."""

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from babeldraw.errors import UserError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Attributes:
    text: what to draw; empty draws without condition.
    columns: what else its table says of it, such as Category and Challenge in PartiPrompts.
    """

    text: str
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def level(self) -> str:
        """What the table's column Level says, in any case; empty where there is none."""
        named = (text for name, text in self.columns.items() if name.strip().lower() == "level")
        return next(named, "").strip()


def read_prompts(file: str) -> list[Prompt]:
    """The prompts of a file; blank lines are none.

    A file whose name ends in .tsv has a first line of column names, one of them Prompt, in any
    case; the others are kept.

    Raises:
      UserError: it cannot be read, holds no prompt, or is a table without that column.
    """
    try:
        with Path(file).open(encoding="utf-8-sig", newline="") as opened:
            is_table = file.lower().endswith(".tsv")
            found = _table(file, opened) if is_table else _lines(opened)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the file {file} cannot be read: {error}") from error
    if not found:
        raise UserError(f"the file {file} holds no prompt; write one per line")
    return found


def _lines(opened) -> list[Prompt]:
    # Not `splitlines`, which cuts at U+2028 and others that text from web pages holds.
    return [Prompt(line.strip()) for line in opened.read().split("\n") if line.strip()]


def _table(file: str, opened) -> list[Prompt]:
    reader = csv.DictReader(opened, delimiter="\t", quoting=csv.QUOTE_NONE)
    names = reader.fieldnames or []
    column = next((name for name in names if name.strip().lower() == "prompt"), None)
    if column is None:
        raise UserError(
            f"the file {file} has the columns {', '.join(names) or 'none'}; one must be Prompt"
        )
    prompts = []
    for row in reader:
        text = (row[column] or "").strip()
        others = {name: row[name] or "" for name in names if name != column}
        if text:
            prompts.append(Prompt(text, others))
    return prompts
