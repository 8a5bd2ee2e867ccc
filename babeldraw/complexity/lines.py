"""Files of JSON lines that grow as the work goes on, and are gone on with after a kill.

The first line says what the others are of. A last line that a kill has cut short is written anew.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from babeldraw.errors import UserError


class Lines:
    """What is kept so far, and the way to keep more.

    Args:
        path: the file; its folder is made if need be.
        head: the first line.
        name: how the user calls the file.

    Attributes:
        rows: those there are.

    Raises:
        UserError: the file is of something else, or cannot be read.
    """

    def __init__(self, path: str | os.PathLike, head: Mapping[str, Any], name: str):
        self._path = Path(path)
        self.rows: list[dict[str, Any]] = []
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write([head], "w")
            return
        before, self.rows = read_lines(path, name)
        if before != head:
            field = next(key for key in {**head, **before} if before.get(key) != head.get(key))
            raise UserError(
                f"{name}={path} is of {field} {before.get(field)!r}, not {head.get(field)!r}; name "
                "another file, or remove that one"
            )
        # Without what a kill has left of a line.
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text("".join(map(_line, [head, *self.rows])), encoding="utf-8")
        partial.replace(self._path)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keeps more rows; they are on the disk when this returns."""
        added = [dict(row) for row in rows]
        self._write(added, "a")
        self.rows += added

    def _write(self, rows: Iterable[Mapping[str, Any]], mode: str) -> None:
        with self._path.open(mode, encoding="utf-8") as file:
            file.writelines(map(_line, rows))
            file.flush()
            os.fsync(file.fileno())


def read_lines(path: str | os.PathLike, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first line of a file, and the others.

    Raises:
        UserError: it cannot be read, or a line that is not the last one is no JSON object.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{name}={path} cannot be read: {error.strerror}") from error
    # What stands behind the last line feed is empty, or was cut short.
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{name}={path}: line {number} is no JSON object; remove that file")
        rows.append(row)
    if not rows:
        raise UserError(f"{name}={path} is empty; remove that file")
    return rows[0], rows[1:]


def _line(row: Mapping[str, Any]) -> str:
    # Lone surrogates, which captions may hold, have no UTF-8: JSON escapes them.
    return json.dumps(row) + "\n"
