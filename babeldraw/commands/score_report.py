"""Compares scorers: which caption got which level, and how well scores tell the real error.

Writes figures.json and the page index.html, which opens offline, from the errors of `score measure`
and the scores of the same records. Pictures that a scorer has not scored are left out for all.
Beside the scorers stands every fixed level, and the choice by the real error itself.

Example:
  babeldraw score report --errors=errors.jsonl --scores=scores.jsonl,jpeg.jsonl --out=levels
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from babeldraw.commands.flags import make_folder, required
from babeldraw.complexity.comparison import Comparison, compare
from babeldraw.complexity.measured import Errors
from babeldraw.complexity.scoring import read_scores
from babeldraw.data.image import write_whole
from babeldraw.errors import UserError
from babeldraw.evaluation.intervals import Figure, mean_figure
from babeldraw.pages import render
from babeldraw.runs.folder import write_json
from babeldraw.say import say

# Fewer pictures have no interval worth the name.
MIN_PICTURES = 10
BY_ERROR = "the real error"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("errors", None, "A file of `score measure`.", flag_values=values)
    flags.DEFINE_list("scores", [], "Files of `score`, of the same records.", flag_values=values)
    flags.DEFINE_float(
        "target", 0.0, "Codes on average; 0: the middle level's.", flag_values=values
    )
    flags.DEFINE_integer(
        "num", 40, "Captions shown of each level.", flag_values=values, lower_bound=0
    )
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    errors, files = Errors.read(required(values, "errors")), required(values, "scores")
    out = Path(required(values, "out"))
    measured = errors.captions, errors.records, errors.data
    found = [read_scores(file, *measured) for file in files]
    kept = np.flatnonzero(np.all([np.isfinite(scores) for _, scores in found], axis=0))
    if len(kept) < MIN_PICTURES:
        raise UserError(
            f"{len(kept)} pictures of --errors={values.errors} have a score in all of --scores; at "
            f"least {MIN_PICTURES} are needed: score the data whose errors were measured"
        )
    codes, log_error = [*errors.codes.values()], errors.log_error_N[kept]
    target = values.target or codes[len(codes) // 2]
    scored = [*found, (BY_ERROR, errors.log_error_N)]
    rows = [
        compare(scorer, scores[kept], errors.error_NK[kept], log_error, codes, target)
        for scorer, scores in scored
    ]
    make_folder(out, f"--out={out}")
    write_json(out / "figures.json", _figures(errors, rows, kept))
    page = _page(errors, rows, [scores for _, scores in scored], kept, values.num)
    write_whole(out / "index.html", page.encode(errors="replace"))
    for row in rows[:-1]:
        say(f"{row.scorer}: correlation with log error {_said(row.correlations[0])}")
    say(f"{len(kept)} pictures; look at {out / 'index.html'}")
    return 0


def _fixed(errors: Errors, kept: np.ndarray) -> dict[str, Figure]:
    """The mean error where all pictures are of one level."""
    pairs = zip(errors.codes, errors.error_NK[kept].T, strict=True)
    return {name: mean_figure(error_N) for name, error_N in pairs}


def _figures(errors: Errors, rows: list[Comparison], kept: np.ndarray) -> dict[str, Any]:
    names = ("log", *errors.codes)
    scorers = {
        row.scorer: {
            "spearman": dict(zip(names, map(_with_ends, row.correlations), strict=True)),
            "thresholds": row.thresholds,
            "codes": row.codes,
            "error": _with_ends(row.error),
        }
        for row in rows
    }
    fixed = {name: _with_ends(error) for name, error in _fixed(errors, kept).items()}
    whole = {"pictures": len(kept), "data": errors.data, "measure": errors.measure}
    return {**whole, "codes": errors.codes, "fixed": fixed, "scorers": scorers}


def _with_ends(figure: Figure) -> list[float]:
    """The value and both ends of its interval."""
    return [float(figure), figure.interval.low, figure.interval.high]


def _said(figure: Figure) -> str:
    value, low, high = _with_ends(figure)
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _page(
    errors: Errors,
    rows: list[Comparison],
    scores: list[np.ndarray],
    kept: np.ndarray,
    shown: int,
) -> str:
    captions = [errors.captions[index] for index in kept]
    pairs = zip(rows, scores, strict=True)
    fixed = [
        {"scorer": f"all at {name}", "codes": errors.codes[name], "error": _said(error)}
        for name, error in _fixed(errors, kept).items()
    ]
    return render(
        "levels.html",
        count=len(kept),
        data=errors.data,
        measure=errors.measure,
        levels=[*errors.codes],
        columns=["log error, all levels", *errors.codes],
        fixed=[{**row, "thresholds": ""} for row in fixed],
        rows=[
            {
                "scorer": row.scorer,
                "correlations": [_said(figure) for figure in row.correlations],
                "codes": f"{row.codes:.2f}",
                "error": _said(row.error),
                "thresholds": ", ".join(f"{threshold:.4g}" for threshold in row.thresholds),
                "levels": _examples([*errors.codes], row.level_N, score_N[kept], captions, shown),
            }
            for row, score_N in pairs
        ],
    )


def _examples(
    names: list[str], level_N: np.ndarray, score_N: np.ndarray, captions: list[str], shown: int
) -> list[dict[str, Any]]:
    """Of each level captions with their scores, evenly over them, the most complex first."""
    found = []
    for number, name in enumerate(names):
        own = np.flatnonzero(level_N == number)
        own = own[np.argsort(-score_N[own], kind="stable")]
        places = np.linspace(0, len(own) - 1, min(shown, len(own))).astype(int)
        examples = [{"score": f"{score_N[i]:.3g}", "caption": captions[i]} for i in own[places]]
        found.append({"name": name, "count": len(own), "examples": examples})
    return found
