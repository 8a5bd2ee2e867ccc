"""GenEval: each run draws all of its prompts for its own detector, whose results become a table.

Pictures lie as its `evaluate_images.py` reads them, NNNNN/samples/0000.png and metadata.jsonl
beside it, in a folder for each run. They are drawn as `babeldraw sample` draws them, of each prompt
with the seeds 0 to n - 1, and the same command goes on where it was broken off.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.commands.evaluate_prompts import drawn_by_each, write_pages
from babeldraw.commands.evaluate_table import figure_rows, markdown
from babeldraw.config import require
from babeldraw.data.image import save_png, to_grid, write_whole
from babeldraw.drawing.album import Album
from babeldraw.drawing.prompts import Prompt
from babeldraw.drawing.sampler import Picture
from babeldraw.evaluation import geneval, protocol
from babeldraw.evaluation.feature_sets import sha256
from babeldraw.evaluation.geneval import Task
from babeldraw.runs.folder import write_json

# Pictures of each prompt, as in the paper.
EACH = 4
GRID = "grid.png"
NEEDED = (
    "GenEval's own evaluate_images.py, with mmdetection 2, Mask2Former's and CLIP's weights, "
    "PyTorch and a CUDA GPU, none of which is here"
)


def draw_tasks(
    workdirs: Sequence[str],
    file: str,
    folder: Path,
    num: int = EACH,
    weights: str = "",
    settings: Mapping[str, Any] | None = None,
) -> int:
    """Draws what is not there yet, and writes index.html and a page for each tag.

    Args:
      workdirs, weights, settings: see `evaluate_prompts.draw_prompts`.
      file: `evaluation_metadata.jsonl`.
      folder: of the pages; it is there. Each run's pictures lie in a folder of its own in it.
      num: pictures of each prompt.

    Returns:
      How many pictures there are.

    Raises:
      UserError: a line of the file has another shape, a run does not draw from texts, or a picture
        that was drawn is damaged.
    """
    tasks = geneval.read_tasks(file)
    prompts = [Prompt(task.prompt, {"Tag": task.tag}) for task in tasks]
    drawn = drawn_by_each(
        workdirs, prompts, folder, weights, settings, num=num, file_of=_sample_file
    )
    grids = {}
    for name, lines in drawn.items():
        grids[name] = [
            {"number": number, "file": _lay(folder / name, number, task, lines)}
            for number, task in enumerate(tasks)
        ]
    write_pages(folder, prompts, grids)
    return sum(map(len, drawn.values()))


def _sample_file(number: int, picture: Picture) -> str:
    return f"{number:05d}/samples/{picture.seed:04d}.png"


def _lay(folder: Path, number: int, task: Task, lines: Sequence[Mapping[str, Any]]) -> str:
    """Writes what stands beside the samples of a prompt. Returns where its grid is."""
    own, grid = f"{number:05d}", f"{number:05d}/{GRID}"
    write_whole(folder / own / "metadata.jsonl", f"{task.line}\n".encode())
    if not (folder / grid).exists():
        album = Album(folder, {}, [task.prompt], 1)
        pictures = [album.picture(line) for line in lines if line["number"] == number]
        save_png(folder / grid, to_grid(np.stack(pictures), 2))
    return grid


def results_record(tasks_file: str, results_file: str) -> dict[str, Any]:
    """A record of figures with how they came about, as those of runs in `evaluations/`.

    Args:
      tasks_file: `evaluation_metadata.jsonl`.
      results_file: `results.jsonl` of GenEval's `evaluate_images.py`.

    Raises:
      UserError: see `geneval.read_results`.
    """
    by_tag = geneval.read_results(results_file, geneval.read_tasks(tasks_file))
    each = len(next(iter(by_tag.values()))[0])
    return {
        "evaluator": "geneval",
        "figures": protocol.figures_json(geneval.figures(by_tag)),
        "protocol": {
            "results": {"file": results_file, "sha256": sha256(results_file)},
            "prompts": {"file": tasks_file, "sha256": sha256(tasks_file)},
            "pictures_of_each": each,
            "judged_by": NEEDED,
            "overall": "mean over tags",
        },
        "versions": protocol.versions(),
    }


def write_results(tasks_file: str, results_files: Sequence[str], folder: Path) -> None:
    """Writes table.md, a column for each file of results, and figures.json.

    Raises:
      UserError: see `results_record`; or a file is named twice.
    """
    require(
        len(set(results_files)) == len(results_files),
        f"--results={','.join(results_files)} names a file twice",
    )
    records = {file: results_record(tasks_file, file) for file in results_files}
    rows = [*figure_rows([[record] for record in records.values()])]
    write_whole(folder / "table.md", markdown([*records], rows).encode(errors="replace"))
    write_json(folder / "figures.json", records)
