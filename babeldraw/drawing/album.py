"""A folder of drawn pictures: PNG files, and a manifest that a broken-off drawing goes on from."""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.data.image import decode, save_png, to_grid, write_whole
from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError

# A grid of more pictures than these is no longer looked at.
MOST_IN_GRID = 256


@dataclasses.dataclass(frozen=True)
class Album:
    """Attributes:
    folder: where all lies; it exists.
    settings: what every picture here was drawn with, as JSON can hold it.
    prompts: what is asked for, in order.
    each: pictures of each prompt that are kept.
    levels: of a tokenizer, into which each is drawn; none where all are drawn alike.
    """

    folder: Path
    settings: Mapping[str, Any]
    prompts: Sequence[str]
    each: int
    levels: Sequence[str] = ()

    def open(self) -> list[int]:
        """Makes the folder ready. Returns the numbers of the prompts still to be drawn.

        Pictures of prompts that were not finished, or of which one is no longer there, are drawn
        again.

        Raises:
          UserError: the folder holds pictures of other settings or prompts, or cannot be written.
        """
        settings_file = self.folder / "settings.json"
        wanted = json.loads(json.dumps(dict(self.settings)))
        lines = self.lines()
        if settings_file.exists():
            self._compare(json.loads(settings_file.read_text(encoding="utf-8")), wanted)
        elif lines:
            raise UserError(f"{self.folder} holds a manifest without its settings; name another")
        for line in lines:
            number = line["number"]
            if number >= len(self.prompts) or self.prompts[number] != line["prompt"]:
                raise UserError(
                    f"{self.folder} holds a picture of {line['prompt']!r} as prompt {number}, "
                    "which is not asked for now; name another folder"
                )
            if self.levels and self.levels[number] != line.get("level", ""):
                raise UserError(
                    f"{self.folder} holds a picture of {line['prompt']!r} at level "
                    f"{line.get('level')} and now it is {self.levels[number]}; name another folder"
                )
        there = [line["number"] for line in lines if (self.folder / line["file"]).exists()]
        counts = np.bincount(there, minlength=len(self.prompts))
        left = [number for number, count in enumerate(counts) if count < self.each]
        whole = [line for line in lines if line["number"] not in set(left)]
        self._write("settings.json", json.dumps(wanted, indent=2) + "\n")
        self._write("manifest.jsonl", "".join(map(_line, whole)))
        return left

    def add(self, number: int, entries: Sequence[tuple[np.ndarray, Mapping[str, Any]]]) -> None:
        """Writes the pictures of one prompt, then their lines.

        Args:
          number: of the prompt.
          entries: picture, uint8 [H, W, 3], and what else its line shall say; `file` names it.

        Raises:
          UserError: the disk does not take them; no line tells of a picture that is not there.
        """
        lines = []
        for image, entry in entries:
            line = {"number": number, "prompt": self.prompts[number], **entry}
            text = {name: _text(value) for name, value in line.items() if name != "file"}
            text |= {name: _text(value) for name, value in self.settings.items()}
            self._attempt(entry["file"], lambda path, i=image, t=text: save_png(path, i, t))
            lines.append(_line({**line, **self.settings}))

        def append(path):
            with path.open("a", encoding="utf-8") as manifest:
                manifest.write("".join(lines))

        self._attempt("manifest.jsonl", append)

    def lines(self) -> list[dict[str, Any]]:
        """The manifest; a last line that was cut short is left out."""
        manifest = self.folder / "manifest.jsonl"
        if not manifest.exists():
            return []
        found = []
        # At line feeds alone: a prompt may hold what else ends a line for Python.
        for line in manifest.read_text(encoding="utf-8").split("\n"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found

    def picture(self, line: Mapping[str, Any]) -> np.ndarray:
        """uint8 [H, W, 3], of a line of the manifest. Raises `UserError` where it is damaged."""
        try:
            return decode(self.folder / line["file"])
        except BadRecord as error:
            raise UserError(f"{error}; remove it, and the same command draws it again") from error

    def write_grid(self, images: Sequence[np.ndarray], columns: int) -> None:
        """grid.png, with the prompts in it."""
        shown = to_grid(np.stack(images), columns)
        text = {"prompts": "\n".join(self.prompts)}
        text |= {name: _text(value) for name, value in self.settings.items()}
        self._attempt("grid.png", lambda path: save_png(path, shown, text))

    def _compare(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for name in {**found, **wanted}:
            if found.get(name) != wanted.get(name):
                raise UserError(
                    f"{self.folder} holds pictures with {name} {found.get(name)!r} and now it is "
                    f"{wanted.get(name)!r}; name another folder"
                )

    def _write(self, name: str, text: str) -> None:
        self._attempt(name, lambda path: write_whole(path, text.encode()))

    def _attempt(self, name: str, write) -> None:
        try:
            write(self.folder / name)
        except OSError as error:
            raise UserError(
                f"{self.folder / name} cannot be written: {error.strerror or error}; make room or "
                "name another folder: the same command goes on where this one stopped"
            ) from error


def _line(entry: Mapping[str, Any]) -> str:
    return _json(entry) + "\n"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # Bytes of a command line that are no UTF-8 come as lone surrogates, which no file takes.
    return text if _encodes(text) else json.dumps(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def slug(prompt: str) -> str:
    """A part of a file's name that tells of the prompt, in its own letters; 'empty' of none."""
    words = re.sub(r"\W+", "-", unicodedata.normalize("NFC", prompt).lower()).strip("-")
    # A name may have 255 bytes with all that stands around this.
    cut = words.encode("utf-8", "ignore")[:90].decode("utf-8", "ignore")[:60].strip("-")
    return cut or ("prompt" if prompt.strip() else "empty")
