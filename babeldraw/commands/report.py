"""The page of a demo: its figures, pictures and curves in one HTML file that opens offline."""

import base64
import contextlib
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from babeldraw.data import shapes
from babeldraw.data.image import decode, write_whole
from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError
from babeldraw.evaluation.shapes_scorer import score_batch
from babeldraw.runs.folder import RunFolder
from babeldraw.train.metrics import read_scalars

KINDS = {"seen": "seen pairs", "unseen": "held-out pairs"}
# Under each label a figure and a note.
TILES = {
    "reconstruction": ("{psnr_db:.1f} dB", "PSNR on held-out pictures"),
    "codebook in use": ("{codebook_usage:.0%}", "of its codes, in one batch"),
    "exact, seen pairs": ("{exact_seen:.0%}", "{exact_seen_without_guidance:.0%} without guidance"),
    "exact, held-out pairs": (
        "{exact_unseen:.0%}",
        "{exact_unseen_without_guidance:.0%} without guidance",
    ),
    "minutes": ("{total:.1f}", "tokenizer {tokenizer:.1f}, generator {text_to_image:.1f}"),
}
# Row by row: the name of a figure, its label, what it asks for.
SCORES = (
    ("number_{}", "number", "as many objects as asked for"),
    ("colour_{}", "colour", "of every object"),
    ("shape_{}", "shape", "of every object"),
    ("size_{}", "size", "of every object"),
    ("relation_{}", "relation", "left of, above, …; always right where there is one object"),
    ("background_{}", "background", "white, black or gray"),
    ("exact_{}", "exact", "all of these at once"),
    ("exact_{}_without_guidance", "exact", "without guidance"),
)
SCORES_TEXT = (
    "Training shows none of the scenes asked for; a held-out pair is a colour and a shape that it "
    "never shows together.",
    "Guidance is {guidance:g}.",
    "{num_prompts:,} prompts of each kind leave a share uncertain by up to {error:.1f} points "
    "(one standard error).",
)

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
    demo = _Demo.read(path)
    sections = _headline, _pictures, _scores, _reconstructions, _training, _configs
    body = "\n".join(section(demo) for section in sections)
    page = path / "report.html"
    text = f"{_HEAD}<body><main>\n{body}\n</main></body>\n</html>\n"
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
    tokenizer: _Run
    generator: _Run
    figures: dict[str, float]

    @classmethod
    def read(cls, folder: epath.Path) -> "_Demo":
        runs = {name: _Run.read(folder / name) for name in ("tokenizer", "text_to_image")}
        tokenizer, generator = runs.values()
        figures = tokenizer.figures("reconstruction") | generator.figures("prompts")
        with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
            count = generator.config["evaluators"]["prompts"]["num_prompts"]
            figures |= {"num_prompts": count, "error": 50 / math.sqrt(count)}
        summary = _read_json(folder / "report.json")
        figures |= _numbers(summary.get("tokenizer")) | _numbers(summary.get("prompts"))
        seconds = {name: run.lines[-1]["seconds"] for name, run in runs.items() if run.lines}
        seconds |= {"total": sum(seconds.values())} if seconds else {}
        seconds |= _numbers(summary.get("seconds"))
        figures |= {name: value / 60 for name, value in seconds.items()}
        return cls(folder, tokenizer, generator, figures)

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


# ------------------------------------------------------------------ sections


def _headline(demo: _Demo) -> str:
    tiles = ""
    for label, templates in TILES.items():
        value, note = (_filled(template, demo.figures) for template in templates)
        if value:
            tiles += f"<dl><dt>{label}</dt><dd>{value}</dd><dd>{note}</dd></dl>\n"
    return (
        "<header><h1>babeldraw demo</h1>\n<p>An image tokenizer and a text-to-image transformer, "
        "trained from scratch on captioned pictures of shapes. A program reads each picture and "
        "compares it with its prompt; exact is the share right in everything.</p></header>\n"
        f'<div class="tiles">{tiles or "<p>There are no figures yet.</p>"}</div>'
    )


def _pictures(demo: _Demo) -> str:
    cards = "".join(_card(prompt, picture) for prompt, picture in demo.samples())
    body = f'<div class="cards">{cards}</div>' if cards else ""
    if not cards:
        with contextlib.suppress(BadRecord):
            body = _img(decode(demo.folder / "samples.png"), "drawn pictures")
    return _section("Pictures", body, "No pictures have been drawn for prompts yet.")


def _card(prompt: str, picture: np.ndarray) -> str:
    caption = f"<figcaption>{escape(prompt)}{_verdict(prompt, picture)}</figcaption>"
    return f"<figure>{_img(picture, prompt)}{caption}</figure>\n"


def _verdict(prompt: str, picture: np.ndarray) -> str:
    """What is wrong in the picture; empty for a prompt or a picture that cannot be judged."""
    try:
        answers = score_batch(picture[None], [prompt])
    except UserError:
        return ""
    wrong = [name for name, right in answers.items() if not right and name != "exact"]
    answer = f"✗ {', '.join(wrong)}" if wrong else "<b>✓ as asked</b>"
    held_out = shapes.parse_caption(prompt).split() == "unseen"
    return f"<small>{answer}{' · held-out pair' if held_out else ''}</small>"


def _scores(demo: _Demo) -> str:
    rows = ""
    for name, label, note in SCORES:
        shares = [demo.figures.get(name.format(kind)) for kind in KINDS]
        if shares != [None, None]:
            cells = "".join(map(_share_cell, shares))
            rows += f'<tr><th scope="row">{label}<small>{note}</small></th>{cells}</tr>\n'
    text = " ".join(_filled(template, demo.figures) for template in SCORES_TEXT)
    heads = "".join(f'<th scope="col">{label}</th>' for label in KINDS.values())
    table = f"<table><thead><tr><th>right in</th>{heads}</tr></thead>\n{rows}</table>"
    body = f"<p>{text}</p>\n{table}" if rows else ""
    return _section("Scores", body, "No prompts have been scored yet.")


def _share_cell(share: float | None) -> str:
    if share is None:
        return "<td>–</td>"
    return f'<td>{share:.0%}<i style="width: {100 * share:.1f}%"></i></td>'


def _reconstructions(demo: _Demo) -> str:
    body = "".join(
        f"<div>{_img(original, 'original')}{_img(image, 'reconstruction')}</div>\n"
        for original, image in _latest_pairs(demo.tokenizer)
    )
    if body:
        text = "Left a held-out picture, right what the tokenizer gives back from its tokens."
        body = f'<p>{text}</p>\n<div class="cards pairs">{body}</div>'
    return _section("Reconstructions", body, "The tokenizer has not been evaluated yet.")


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


def _training(demo: _Demo) -> str:
    tokenizer, generator = demo.tokenizer.curve, demo.generator.curve
    psnr = tokenizer("train/psnr_db"), tokenizer("reconstruction/psnr_db")
    loss = generator("train/loss"), generator("validation/loss")
    exact = (
        [(x / 60, 100 * y) for x, y in generator(f"prompts/exact_{kind}", "seconds")]
        for kind in KINDS
    )
    losses, kinds = ("training", "held-out"), tuple(KINDS.values())
    body = (
        _chart("Tokenizer: loss", "steps", losses, [tokenizer("train/loss")], log=True)
        + _chart("Tokenizer: PSNR in dB", "steps", losses, psnr)
        + _chart("Generator: loss in nats per token", "steps", losses, loss)
        + _chart("Generator: % of prompts exact", "minutes of its training", kinds, exact)
    )
    body = f'<div class="charts">{body}</div>' if body else ""
    return _section("Training", body, "No steps have been recorded yet.")


def _configs(demo: _Demo) -> str:
    body = ""
    for name, run in (("tokenizer", demo.tokenizer), ("generator", demo.generator)):
        if run.config:
            text = escape(json.dumps(run.config, indent=2, ensure_ascii=False))
            body += f"<details><summary>{name}</summary><pre>{text}</pre></details>\n"
    return _section("Configs", body, "No run has been started yet.")


# ------------------------------------------------------------------ pieces of HTML


def _section(title: str, body: str, otherwise: str) -> str:
    """`otherwise`: the note where the body is empty."""
    return f"<section><h2>{title}</h2>\n{body or f'<p>{otherwise}</p>'}</section>"


def _filled(template: str, figures: dict[str, float]) -> str:
    """Empty where a figure of the template is missing."""
    try:
        return template.format_map(figures)
    except KeyError:
        return ""


def _img(picture: np.ndarray, alt: str) -> str:
    """A picture, uint8 [H, W, 3], inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _chart(title: str, x: str, labels: tuple, curves: Iterable[Points], log: bool = False) -> str:
    """A figure with an inline SVG in the page's own colours; empty without a point."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    legend = ""
    with rc_context(_CHART_STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 2.2), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none", yscale="log" if log else "linear")
        drawn = [pair for pair in zip(labels, curves, strict=False) if pair[1]]
        for colour, (label, points) in zip(_CURVES, drawn, strict=False):
            dot = "o" if len(points) < 30 else ""
            axes.plot(*zip(*points, strict=True), f"{dot}-", color=colour)
            legend += f"<small>{label} {points[-1][1]:.3g}</small>"
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
    caption = f"<figcaption>{title}{legend}</figcaption>"
    return f"<figure>{caption}{svg[svg.index('<svg') :]}</figure>\n" if legend else ""


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

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>babeldraw demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1d1f23; --quiet: #666a73;
  --rule: #e1e1dc; --first: #2a63b8; --second: #c25a12; --good: #24763c }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e6e6e3; --quiet: #9a9ea7;
  --rule: #34383e; --first: #7cb0f5; --second: #f2a25f; --good: #7ccb90 } }
* { box-sizing: border-box; margin: 0; padding: 0 }
body { background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
main { max-width: 62rem; margin: auto; padding: clamp(1.25rem, 5vw, 3.5rem) 1.1rem 4rem }
h1, h2 { font-size: 1.2rem; font-weight: 650; margin: 3.2rem 0 .6rem }
h1 { font-size: 1.9rem; letter-spacing: -.02em; margin: 0 }
p { max-width: 42rem; margin-bottom: 1rem; text-wrap: pretty }
p, dl, small, th, summary { color: var(--quiet); font-weight: 400 }
small { display: block; font-size: .8rem }
img, svg { display: block; width: 100%; height: auto }
img { image-rendering: pixelated; border-radius: 3px; outline: 1px solid var(--rule) }
.tiles, .cards, .charts { display: grid; gap: 1.2rem 1rem }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin-top: 1.6rem }
dl { border-top: 2px solid var(--ink); padding-top: .5rem; font-size: .85rem; line-height: 1.35 }
dt + dd { color: var(--ink); font-size: 1.9rem; font-weight: 600; letter-spacing: -.02em }
.cards { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }
.cards figcaption { font-size: .88rem; line-height: 1.35; margin-top: .45rem }
.cards b { color: var(--good); font-weight: 400 }
.pairs div { display: flex; gap: 3px }
table { border-collapse: collapse; width: 100%; max-width: 42rem; text-align: left }
th, td { border-bottom: 1px solid var(--rule); padding: .4rem 1rem .4rem 0; vertical-align: top }
th[scope=row] { color: var(--ink) }
td { font-variant-numeric: tabular-nums; width: 28% }
td i { display: block; height: 4px; background: var(--first) }
td + td i { background: var(--second) }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 2rem }
.charts text { font-family: inherit !important }
.charts figcaption { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 1rem }
.charts small { color: var(--first) }
.charts small + small { color: var(--second) }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.4; padding: .5rem 0 1rem }
</style>
</head>
"""
