"""Each run draws all prompts of a table, such as PartiPrompts.tsv; pages show them side by side.

The table's columns Category and Challenge group the pages. Pictures are drawn as `babeldraw sample`
draws them, with the seed 0, and the same command goes on where it was broken off.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from babeldraw.commands.sample import Drawing
from babeldraw.data.image import write_whole
from babeldraw.drawing.album import Album, slug
from babeldraw.drawing.prompts import Prompt, read_prompts
from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.pages import render
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import check_kind
from babeldraw.say import say
from babeldraw.train.evaluation import check_asked

# Columns by which prompts are grouped: PartiPrompts', and GenEval's.
GROUPS = ("Category", "Challenge", "Tag")


@dataclasses.dataclass(frozen=True)
class Page:
    """Attributes:
    column, value: which prompts are on it.
    prompts: their numbers in the table.
    """

    column: str
    value: str
    prompts: Sequence[int]

    @property
    def file(self) -> str:
        return f"{slug(self.column)}_{slug(self.value)}.html"


def draw_prompts(
    workdirs: Sequence[str],
    file: str,
    folder: Path,
    weights: str = "",
    settings: Mapping[str, Any] | None = None,
) -> int:
    """Draws what is not there yet and writes index.html and a page for each group.

    Args:
      workdirs: of runs that draw from texts.
      file: the table.
      folder: of the pages; it is there. Each run's pictures lie in a folder of its own in it.
      weights: `ema` or `params`; empty: the average where a run keeps one.
      settings: of how to draw, in place of each run's own.

    Returns:
      How many pictures there are.

    Raises:
      UserError: the table cannot be read, or a run does not draw from texts.
    """
    prompts = read_prompts(file)
    lines = drawn_by_each(workdirs, prompts, folder, weights, settings)
    write_pages(folder, prompts, lines)
    return sum(map(len, lines.values()))


def drawn_by_each(
    workdirs: Sequence[str],
    prompts: Sequence[Prompt],
    folder: Path,
    weights: str = "",
    settings: Mapping[str, Any] | None = None,
    **how: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Each run draws what is not there yet, into a folder of its own.

    Args:
      workdirs, folder, weights, settings: see `draw_prompts`.
      how: further fields of `Drawing`.

    Returns:
      The lines of each run's manifest, by the name of its folder.
    """
    for workdir in workdirs:
        # What is wrong with the last run is said before the first one takes its time.
        check_asked(workdir, (), weights)
        check_kind(workdir, RunFolder.to_read(workdir).read_config(), ("generator",))
    found: dict[str, list[dict[str, Any]]] = {}
    for workdir, name in zip(workdirs, run_names(workdirs), strict=True):
        say(f"{name}: {len(prompts)} prompts")
        sampler = Sampler.from_run(workdir, weights=weights)
        texts = [prompt.text for prompt in prompts]
        words = sampler.condition.asked_by({"text": texts, "class": []}, sampler.lexicon)
        recorded = {"weights": weights} if weights else {}
        changed = _changed(sampler, settings or {})
        Drawing(sampler, folder / name, settings=changed, recorded=recorded, **how).draw(
            words, prompts
        )
        found[name] = Album(folder / name, {}, texts, 1).lines()
    return found


def _changed(sampler: Sampler, settings: Mapping[str, Any]) -> Any:
    own = [field.name for field in dataclasses.fields(sampler.defaults)]
    unknown = [name for name in settings if name not in own]
    if unknown:
        raise UserError(f"sampling.{unknown[0]} is no setting; those are {', '.join(own)}")
    return dataclasses.replace(sampler.defaults, **settings)


def run_names(workdirs: Sequence[str]) -> list[str]:
    """A folder's name for each run: the last part of its path, with a number where it is taken."""
    found: list[str] = []
    for workdir in workdirs:
        name = slug(Path(workdir).name)
        same = sum(other == name or other.startswith(f"{name}_") for other in found)
        found.append(f"{name}_{same + 1}" if same else name)
    return found


def pages_of(prompts: Sequence[Prompt]) -> Iterator[Page]:
    """A page for each value of each column that groups, in the table's order; all where none do."""
    grouped = False
    for column in GROUPS:
        by_value: dict[str, list[int]] = {}
        for number, prompt in enumerate(prompts):
            if prompt.columns.get(column):
                by_value.setdefault(prompt.columns[column], []).append(number)
        for value, numbers in by_value.items():
            grouped = True
            yield Page(column, value, numbers)
    if not grouped:
        yield Page("Prompts", "all", range(len(prompts)))


def write_pages(
    folder: Path, prompts: Sequence[Prompt], lines: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """index.html and the page of each group; they open offline beside the pictures.

    Args:
      lines: of each run's manifest, by the name of its folder.
    """
    files = {
        name: {line["number"]: line["file"] for line in of_run} for name, of_run in lines.items()
    }
    pages = [*pages_of(prompts)]
    for page in pages:
        rows = [(prompts[n], [(name, files[name].get(n)) for name in files]) for n in page.prompts]
        text = render("prompts.html", page=page, names=[*files], rows=rows)
        write_whole(folder / page.file, text.encode(errors="replace"))
    columns = {column: [p for p in pages if p.column == column] for column in _columns(pages)}
    text = render("prompts_index.html", columns=columns, names=[*files], count=len(prompts))
    write_whole(folder / "index.html", text.encode(errors="replace"))


def _columns(pages: Sequence[Page]) -> list[str]:
    return list(dict.fromkeys(page.column for page in pages))
