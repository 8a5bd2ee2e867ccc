"""The page of a demo: its figures, pictures and curves in one HTML file that opens offline."""

import contextlib
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from babeldraw.commands.demo_emoji import EMOJI
from babeldraw.commands.demo_shapes import SHAPES
from babeldraw.commands.demo_world import KINDS, World
from babeldraw.data.image import decode, write_whole
from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError
from babeldraw.pages import render
from babeldraw.runs.folder import RunFolder
from babeldraw.train.metrics import read_scalars

# In a demo's folder: which world it is of.
WORLD_FILE = "demo.json"
WORLDS = {world.name: world for world in (SHAPES, EMOJI)}

Points = list[tuple[float, float]]


def write_report(folder: str | os.PathLike) -> epath.Path:
    """Writes report.html beside what a demo left, which may be only a part.

    A part that is missing or cannot be read leaves a note in its place.

    Args:
        folder: local or any path etils knows. It may hold the run folders `tokenizer/` and
            `text_to_image/`, the summary `report.json`, the grid `samples.png`, and `samples/`
            with `manifest.jsonl`: {"prompt", "file"} of one picture a line.

    Returns:
        The path of the page. Pictures and style are inside it; it holds no script.

    Raises:
        UserError: the folder does not exist.
    """
    path = epath.Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"the demo folder {path} does not exist; name one that demo made")
    world = WORLDS.get(_read_json(path / WORLD_FILE).get("world"), SHAPES)
    demo = _Demo.read(path, world)
    card = world.cards(Path(path))
    cards = [card(prompt, picture) for prompt, picture in demo.samples()]
    text = render(
        "report.html",
        world=world,
        tiles=_tiles(demo),
        cards=cards,
        grid=None if cards else _grid(demo),
        kinds=KINDS.values(),
        scores=_scores(demo),
        scores_text=" ".join(_filled(template, demo.figures) for template in world.scores_text),
        pairs=_latest_pairs(demo.tokenizer),
        charts=_charts(demo),
        configs=_configs(demo),
    )
    page = path / "report.html"
    write_whole(page, text.encode(errors="replace"))
    return page


# ------------------------------------------------------------------ what the folder holds


@dataclasses.dataclass(frozen=True)
class _Run:
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    samples: epath.Path

    @classmethod
    def read(cls, path: epath.Path) -> "_Run":
        folder = RunFolder(path)
        return cls(_read_json(folder.config_file), read_scalars(folder), folder.samples)

    def curve(self, figure: str, over: str = "step") -> Points:
        """A figure over steps, or over another column."""
        rows = [(line.get(over), line.get(figure)) for line in self.lines]
        return [(x, y) for x, y in rows if _is_number(x) and _is_number(y)]

    def figures(self, evaluator: str) -> dict[str, float]:
        """The last value of each figure of an evaluator."""
        pairs = [pair for line in self.lines for pair in line.items()]
        return _numbers({k.partition("/")[2]: v for k, v in pairs if k.startswith(f"{evaluator}/")})


@dataclasses.dataclass(frozen=True)
class _Demo:
    """`figures`: those of the summary, else the last of the runs; parts and total in minutes."""

    folder: epath.Path
    world: World
    tokenizer: _Run
    generator: _Run
    figures: dict[str, float]

    @classmethod
    def read(cls, folder: epath.Path, world: World) -> "_Demo":
        runs = {name: _Run.read(folder / name) for name in ("tokenizer", "text_to_image")}
        tokenizer, generator = runs.values()
        figures = tokenizer.figures("reconstruction") | tokenizer.figures("outlines")
        figures |= generator.figures(world.evaluator)
        with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
            count = generator.config["evaluators"][world.evaluator]["num_prompts"]
            figures |= {"num_prompts": count, "error": 50 / math.sqrt(count)}
        summary = _read_json(folder / "report.json")
        figures |= _numbers(summary.get("tokenizer")) | _numbers(summary.get("prompts"))
        seconds = {name: run.lines[-1]["seconds"] for name, run in runs.items() if run.lines}
        seconds |= {"total": sum(seconds.values())} if seconds else {}
        seconds |= _numbers(summary.get("seconds"))
        figures |= {name: value / 60 for name, value in seconds.items()}
        return cls(folder, world, tokenizer, generator, figures)

    def samples(self) -> Iterator[tuple[str, np.ndarray]]:
        """Prompt and picture of each line of the manifest that can be read."""
        manifest = self.folder / "samples" / "manifest.jsonl"
        text = manifest.read_bytes().decode(errors="replace") if manifest.exists() else ""
        for line in text.split("\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError, BadRecord):
                sample = json.loads(line)
                # The name alone: no line of a manifest reads a file from elsewhere.
                path = manifest.parent / epath.Path(sample["file"]).name
                yield str(sample["prompt"]), decode(path)


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers(values: Any) -> dict[str, float]:
    values = values if isinstance(values, dict) else {}
    return {name: value for name, value in values.items() if _is_number(value)}


# ------------------------------------------------------------------ what the page shows


def _tiles(demo: _Demo) -> list[tuple[str, str, str]]:
    """Label, figure and note of each tile whose figure there is."""
    tiles = [
        (label, *(_filled(template, demo.figures) for template in templates))
        for label, *templates in demo.world.tiles
    ]
    return [(label, value, note) for label, value, note in tiles if value]


def _grid(demo: _Demo) -> np.ndarray | None:
    with contextlib.suppress(BadRecord):
        return decode(demo.folder / "samples.png")
    return None


def _scores(demo: _Demo) -> list[tuple[str, str, list[float | None]]]:
    """Label, note and the share of each kind, of the rows that have one."""
    rows = [
        (label, note, [demo.figures.get(name.format(kind)) for kind in KINDS])
        for name, label, note in demo.world.scores
    ]
    return [(label, note, shares) for label, note, shares in rows if shares != [None, None]]


def _latest_pairs(run: _Run) -> list[tuple[np.ndarray, np.ndarray]]:
    """Originals with their reconstructions, cut from the latest grid, whose rows alternate.

    Empty without a grid, or without a config that tells the size of its pictures.
    """
    try:
        grid = decode(max(run.samples.glob("reconstruction_reconstructions_*.png")))
        height, width = run.config["tokenizer"]["image_size"]
        cells = grid.reshape(-1, 2, height, grid.shape[1] // width, width, 3)
    except (BadRecord, KeyError, TypeError, ValueError, ZeroDivisionError):
        return []
    return [(row[0, :, at], row[1, :, at]) for row in cells for at in range(cells.shape[3])]


def _charts(demo: _Demo) -> list["_Chart"]:
    """The charts that have a point."""
    tokenizer, generator = demo.tokenizer.curve, demo.generator.curve
    psnr = tokenizer("train/psnr_db"), tokenizer("reconstruction/psnr_db")
    loss = generator("train/loss"), generator("validation/loss")
    (figure, title), evaluator = demo.world.quality, demo.world.evaluator
    quality = (
        [(x / 60, 100 * y) for x, y in generator(f"{evaluator}/{figure}_{kind}", "seconds")]
        for kind in KINDS
    )
    losses, kinds = ("training", "held-out"), tuple(KINDS.values())
    charts = (
        _chart("Tokenizer: loss", "steps", losses, [tokenizer("train/loss")], log=True),
        _chart("Tokenizer: PSNR in dB", "steps", losses, psnr),
        _chart("Generator: loss in nats per token", "steps", losses, loss),
        _chart(title, "minutes of its training", kinds, quality),
    )
    return [chart for chart in charts if chart.legend]


def _configs(demo: _Demo) -> dict[str, str]:
    runs = {"tokenizer": demo.tokenizer, "generator": demo.generator}
    return {
        name: json.dumps(run.config, indent=2, ensure_ascii=False)
        for name, run in runs.items()
        if run.config
    }


def _filled(template: str, figures: dict[str, float]) -> str:
    """Empty where a figure of the template is missing."""
    try:
        return template.format_map(figures)
    except KeyError:
        return ""


# ------------------------------------------------------------------ charts


@dataclasses.dataclass(frozen=True)
class _Chart:
    """`legend`: the label and the last value of each curve."""

    title: str
    legend: list[tuple[str, float]]
    svg: str


def _chart(
    title: str, x: str, labels: tuple, curves: Iterable[Points], log: bool = False
) -> _Chart:
    """An inline SVG in the page's own colours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    legend = []
    with rc_context(_CHART_STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 2.2), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none", yscale="log" if log else "linear")
        drawn = [pair for pair in zip(labels, curves, strict=False) if pair[1]]
        for colour, (label, points) in zip(_CURVES, drawn, strict=False):
            dot = "o" if len(points) < 30 else ""
            axes.plot(*zip(*points, strict=True), f"{dot}-", color=colour)
            legend.append((label, points[-1][1]))
        axes.set_xlabel(x, loc="right")
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", which="both", length=0)
        if log:
            axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return _Chart(title, legend, svg[svg.index("<svg") :])


# Stand-ins for variables of the style sheet: charts are light or dark as the page is.
_COLOURS = {"#00000a": "quiet", "#00000b": "rule", "#00000c": "first", "#00000d": "second"}
_QUIET, _RULE, *_CURVES = _COLOURS
_CHART_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "lines.linewidth": 1.4,
    "lines.markersize": 3,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _RULE,
    **dict.fromkeys((f"axes.spines.{side}" for side in ("left", "right", "top")), False),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _QUIET),
}
