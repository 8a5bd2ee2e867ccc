"""GenEval's files: the prompts with what must be seen in their pictures, and what was seen.

Ghosh et al., "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment", 2023.
Its detector is not here; what it reads is written, and what it finds is read.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.config import require
from babeldraw.errors import UserError
from babeldraw.evaluation.intervals import Figure, mean_figure

# What is to be there, and in which number not; each names a class of objects and a count.
CLAUSES = ("include", "exclude")


@dataclasses.dataclass(frozen=True)
class Task:
    """Attributes:
    prompt: what to draw.
    tag: the kind of task, such as counting.
    line: of the file, as it is.
    """

    prompt: str
    tag: str
    line: str


def read_tasks(file: str) -> list[Task]:
    """The prompts of GenEval's `evaluation_metadata.jsonl`, or of a file like it.

    Raises:
      UserError: it cannot be read, holds no prompt, or a line has another shape.
    """
    tasks = []
    for where, line, found in _objects(file):
        prompt, tag = (_text(found, name, where) for name in ("prompt", "tag"))
        require("include" in found, f"{where} has no include, which says what must be seen")
        for name in CLAUSES:
            _check_clauses(found.get(name, []), name, where)
        tasks.append(Task(prompt, tag, line))
    require(bool(tasks), f"{file} holds no prompt")
    return tasks


def read_results(file: str, tasks: Sequence[Task]) -> dict[str, list[list[bool]]]:
    """Which pictures are right, from the `results.jsonl` of GenEval's `evaluate_images.py`.

    Args:
      file: its path.
      tasks: those that pictures were drawn of.

    Returns:
      By tag, in the tasks' order, a list for each prompt with a truth for each of its pictures.

    Raises:
      UserError: it cannot be read, a line has another shape or is of a prompt that is none of the
        tasks', or a prompt has no pictures or fewer than others.
    """
    tags = {task.prompt: task.tag for task in tasks}
    right: dict[str, list[bool]] = {prompt: [] for prompt in tags}
    for where, _, found in _objects(file):
        prompt, tag = (_text(found, name, where) for name in ("prompt", "tag"))
        require(
            tags.get(prompt) == tag,
            f"{where} is of {prompt!r} ({tag}), which is no prompt of --geneval; name the file "
            "that pictures were drawn of",
        )
        correct = found.get("correct")
        require(type(correct) is bool, f"{where} has the field correct {correct!r}; true or false")
        right[prompt].append(correct)
    require(any(right.values()), f"{file} holds no results; name what evaluate_images.py wrote")
    times = Counter(task.prompt for task in tasks)
    most = max(len(right[prompt]) // times[prompt] for prompt in right)
    for prompt, of_prompt in right.items():
        wanted = most * times[prompt]
        require(
            0 < len(of_prompt) == wanted,
            f"{file} holds {len(of_prompt)} pictures of {prompt!r} where by the others there are "
            f"{wanted}; draw all, and judge them again",
        )
    by_tag: dict[str, list[list[bool]]] = {tag: [] for tag in tags.values()}
    for prompt, of_prompt in right.items():
        by_tag[tags[prompt]].append(of_prompt)
    return by_tag


def figures(by_tag: Mapping[str, Sequence[Sequence[bool]]]) -> dict[str, Figure]:
    """The share of right pictures of each tag, and `overall`, the mean over tags, as GenEval's.

    In intervals prompts are drawn again, with all of their pictures: these are alike.
    """
    found = {}
    for tag, prompts in by_tag.items():
        share = mean_figure([np.mean(of_prompt) for of_prompt in prompts])
        found[tag] = Figure(share, share.interval, sum(map(len, prompts)))
    number = sum(figure.num for figure in found.values())
    return {**found, "overall": Figure(float(np.mean([*found.values()])), None, number)}


def _objects(file: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where each line stands, itself, and what it holds; blank ones are none."""
    try:
        # Not `splitlines`, which cuts at what a JSON text may hold.
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the file {file} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        where = f"{file}, line {number},"
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where} is no JSON: {error}") from error
        require(isinstance(found, dict), f"{where} is no object but {line.strip()[:60]!r}")
        yield where, line.strip(), found


def _text(found: Mapping[str, Any], name: str, where: str) -> str:
    value = found.get(name)
    require(
        isinstance(value, str) and bool(value.strip()),
        f"{where} has the field {name} {value!r}; a text is needed",
    )
    return value


def _check_clauses(clauses: Any, name: str, where: str) -> None:
    right = isinstance(clauses, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("class"), str)
        and type(one.get("count")) is int
        for one in clauses
    )
    require(
        right, f"{where} has the field {name} {clauses!r}; a list of objects with class and count"
    )
